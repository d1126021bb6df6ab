"""Colours and patterns: what they are called, and how an individual draws its own."""

import colorsys
import random

from dreambooth.toybox.parts import Paint, Vec, mix, scale

COLOURS: dict[str, Vec] = {
    "red": (0.86, 0.10, 0.10),
    "purple": (0.52, 0.16, 0.72),
    "blue": (0.12, 0.28, 0.88),
    "green": (0.12, 0.62, 0.20),
    "yellow": (0.97, 0.83, 0.10),
    "orange": (0.97, 0.48, 0.06),
    "pink": (0.97, 0.48, 0.70),
    "brown": (0.45, 0.26, 0.13),
    "black": (0.09, 0.09, 0.10),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.52, 0.53, 0.55),
    "golden": (0.88, 0.66, 0.20),
}
FURS: tuple[Vec, ...] = (
    (0.80, 0.55, 0.27), (0.50, 0.31, 0.17), (0.93, 0.87, 0.75), (0.22, 0.20, 0.20), (0.60, 0.59, 0.60),
    (0.95, 0.94, 0.92), (0.88, 0.50, 0.20), (0.67, 0.43, 0.30), (0.35, 0.38, 0.46), (0.93, 0.74, 0.46),
)  # fmt: skip
WHITE, BLACK, DARK, METAL = (0.96, 0.96, 0.95), (0.04, 0.04, 0.05), (0.15, 0.14, 0.16), (0.72, 0.73, 0.76)


def vivid(rng: random.Random) -> Vec:
    """A saturated colour of any hue."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.62, 0.95), rng.uniform(0.72, 0.98))


def apart(rng: random.Random, colour: Vec) -> Vec:
    """A colour that is plainly another one than `colour`: another hue, white, or much darker or lighter."""
    if rng.random() < 0.3:
        return WHITE if sum(colour) < 1.9 else DARK
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    hue = (hue + rng.uniform(0.22, 0.78)) % 1.0
    value = rng.uniform(0.8, 1.0) if value < 0.6 else rng.choice((rng.uniform(0.3, 0.5), rng.uniform(0.85, 1.0)))
    return colorsys.hsv_to_rgb(hue, max(saturation, rng.uniform(0.5, 0.9)), value)


def fur(rng: random.Random) -> Vec:
    """An animal's colour: natural more often than not."""
    return rng.choice(FURS) if rng.random() < 0.6 else vivid(rng)


def decorated(rng: random.Random, colour: Vec, second: Vec | None = None, plain: float = 0.25) -> Paint:
    """`colour` with a pattern drawn at random; with probability `plain`, none."""
    second = second or apart(rng, colour)
    if rng.random() < plain:
        return Paint(colour, second)
    pattern = rng.choice(("spots", "stripes", "two-tone", "patches", "checks", "spots", "stripes"))
    if pattern == "stripes":
        frequency = rng.uniform(7, 15)
        axis = rng.choice(((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.7, 0.7, 0.0), (0.9, 0.0, 0.45)))
        return Paint(colour, second, pattern, scale(axis, frequency))
    if pattern == "two-tone":
        return Paint(colour, second, pattern, (0.0, 1 / rng.uniform(0.35, 0.65), 0.0))
    frequency = rng.uniform(4.5, 9) if pattern != "patches" else rng.uniform(5, 9)
    return Paint(colour, second, pattern, (0.0, frequency, 0.0))


def plain(colour: Vec, gloss: float = 0.12) -> Paint:
    return Paint(colour, gloss=gloss)


def lighter(colour: Vec, share: float = 0.5) -> Vec:
    return mix(colour, (1.0, 1.0, 1.0), share)


def darker(colour: Vec, share: float = 0.5) -> Vec:
    return scale(colour, 1 - share)
