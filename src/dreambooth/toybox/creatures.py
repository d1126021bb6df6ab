"""Toy animals: dog, cat, duck and fish."""

import random
from itertools import pairwise

from dreambooth.toybox.palette import (
    BLACK,
    DARK,
    WHITE,
    darker,
    decorated,
    fur,
    lighter,
    plain,
    vivid,
)
from dreambooth.toybox.parts import Anchors, Paint, Part, Subject, Vec, add, ball, limb, mirrored, ring

NOSE, TONGUE = plain(BLACK, 0.5), plain((0.93, 0.35, 0.42))


def pair_of_eyes(at: Vec, radius: float, iris: Vec | None = None, slit: bool = False) -> list[Part]:
    """A pair of eyes that look along +z; `at` is the right one. Without an iris: beads with a glint."""
    x, y, z = at
    pupil = plain(BLACK, 0.3)
    glint = ball((x - 0.35 * radius, y + 0.4 * radius, z + 0.92 * radius), radius * 0.26, Paint(WHITE, glow=0.8))
    if iris is None:
        return mirrored([ball(at, radius, pupil), glint])
    dark = (radius * (0.34 if slit else 0.55), radius * (0.85 if slit else 0.6), radius * 0.4)
    return mirrored([ball(at, radius, plain(iris, 0.3)), ball((x, y, z + 0.72 * radius), dark, pupil), glint])


def dog(rng: random.Random) -> Subject:
    """Four legs, a snout with a black nose, ears that hang or stand, a tail that points up."""
    coat = decorated(rng, fur(rng))
    second = plain(coat.second if coat.pattern != "solid" else coat.colour)
    trim = plain(coat.second if rng.random() < 0.6 else lighter(coat.colour, 0.6))
    width, length, leg = rng.uniform(0.17, 0.25), rng.uniform(0.27, 0.4), rng.uniform(0.22, 0.36)
    head = rng.uniform(0.23, 0.29)
    back = leg + width * 0.8
    skull: Vec = (0.0, back + width * 0.6 + head * 0.75, length * 0.85)
    hx, hy, hz = skull
    snout, thick = head * rng.uniform(0.55, 1.0), head * rng.uniform(0.42, 0.56)
    tip = hz + head * 0.75 + snout
    parts = [
        ball((0, back, 0), (width, width * 1.02, length), coat, body=True),
        limb((0, back, length * 0.55), (0, hy, hz), width * 0.8, head * 0.6, coat, body=True),
        ball(skull, (head, head * 0.94, head * 0.95), coat, body=True),
        limb((0, hy - head * 0.28, hz + head * 0.4), (0, hy - head * 0.32, tip - thick * 0.5),
             thick * 1.2, thick, trim),
        ball((0, hy - head * 0.32, tip - thick * 0.5), (thick, thick, thick * 0.8), trim),
        ball((0, hy - head * 0.14, tip + 0.01), (head * 0.24, head * 0.18, head * 0.16), NOSE),
        limb((0, back + width * 0.5, -length * 0.8), (0, back + width + rng.uniform(0.1, 0.3), -length - 0.1),
             0.05, 0.035, second, body=True),
    ]  # fmt: skip
    legs = [
        limb((width * 0.6, back, z), (width * 0.66, 0.04, z + 0.02), 0.085, 0.065, coat, body=True)
        for z in (length * 0.55, -length * 0.6)
    ]
    paws = [ball((width * 0.66, 0.045, z + 0.05), (0.075, 0.05, 0.1), trim) for z in (length * 0.55, -length * 0.6)]
    ear = rng.choice(("floppy", "floppy", "upright", "long"))
    if ear == "upright":
        top = (hx + head * 0.75, hy + head * rng.uniform(1.45, 1.8), hz - 0.05)
        ears = [limb((head * 0.55, hy + head * 0.45, hz), top, head * 0.4, head * 0.05, second, flat=0.5, body=True)]
    else:
        drop = head * (0.62 if ear == "floppy" else 0.95)
        ears = [ball((head * 1.02, hy + head * 0.35 - drop * 0.5, hz - 0.02), (head * 0.24, drop, head * 0.42),
                     second, (0, 0, 0.3), body=True)]  # fmt: skip
    parts += mirrored(legs + paws + ears)
    if rng.random() < 0.5:
        parts.append(
            ball((0, hy - head * 0.78, tip - thick * 0.7), (thick * 0.5, thick * 0.6, 0.04), TONGUE, (-0.4, 0, 0))
        )
    if rng.random() < 0.4:
        parts.append(
            ring((0, hy - head * 0.85, hz - head * 0.35), head * 0.78, 0.08, 0.07, plain(vivid(rng)), (0, 0.92, 0.39))
        )
    eye = (head * 0.42, hy + head * 0.22, hz + head * 0.8)
    parts += pair_of_eyes(eye, head * rng.uniform(0.17, 0.23), WHITE if rng.random() < 0.5 else None)
    neck = (0.0, hy - head * 0.85, hz - head * 0.35)
    anchors = Anchors(
        skull, (head, head * 0.94, head), neck, head * 0.8, (0, back, length * 0.1),
        (width * 1.1, width * 1.12, length * 0.85), eye, head * 0.24,
    )  # fmt: skip
    return Subject(tuple(parts), anchors, best_azimuth=0.0)


def cat(rng: random.Random) -> Subject:
    """A wide round face with pointed ears, whiskers and slit pupils; a long thin tail held up; mostly sitting."""
    coat = decorated(rng, fur(rng))
    light = plain(lighter(coat.colour, 0.65) if rng.random() < 0.6 else coat.second)
    head, plump = rng.uniform(0.26, 0.32), rng.uniform(0.9, 1.2)
    sits = rng.random() < 0.7
    tail = rng.choice((coat, plain(coat.second), coat))
    if sits:
        hy, hz, width = 0.50 + head * 0.8, 0.06, 0.25 * plump
        parts = [
            ball((0, 0.25, -0.08), (width, 0.27, 0.27), coat, body=True),
            ball((0, 0.42, 0.02), (width * 0.74, 0.24, 0.18), coat, body=True),
            ball((0, 0.42, 0.1), (width * 0.45, 0.18, 0.12), light),
        ]
        legs = [
            limb((0.09, 0.42, 0.1), (0.1, 0.03, 0.2), 0.075, 0.06, coat, body=True),
            ball((0.1, 0.045, 0.23), (0.07, 0.05, 0.09), light),
            ball((width * 0.9, 0.1, 0.08), (0.1, 0.1, 0.2), coat, body=True),
        ]
        root: Vec = (width * 0.5, 0.08, -0.28)
        chest: Vec = (0, 0.36, 0.0)
        chest_radii: Vec = (width * 1.04, 0.3, 0.26)
    else:
        hy, hz, width = 0.44 + head * 0.6, 0.3, 0.17 * plump
        parts = [
            ball((0, 0.36, -0.02), (width, 0.17, 0.36), coat, body=True),
            limb((0, 0.38, 0.2), (0, hy, hz), 0.13, 0.14, coat, body=True),
        ]
        legs = [
            part for z in (0.2, -0.26)
            for part in (limb((width * 0.6, 0.34, z), (width * 0.65, 0.03, z), 0.07, 0.05, coat, body=True),
                         ball((width * 0.65, 0.04, z + 0.04), (0.06, 0.045, 0.08), light))
        ]  # fmt: skip
        root, chest, chest_radii = (0, 0.45, -0.34), (0, 0.36, 0.0), (width * 1.1, 0.19, 0.3)
    ear_lean, ear_tall = rng.uniform(0.7, 0.95), rng.uniform(1.45, 1.75)
    ear_top = (head * ear_lean, hy + head * ear_tall, hz)
    ear = [
        limb((head * 0.62, hy + head * 0.35, hz), ear_top, head * 0.42, 0.0, coat, flat=0.6, body=True),
        limb((head * 0.62, hy + head * 0.5, hz + head * 0.14), add(ear_top, (0, -0.07, 0.035)), head * 0.26, 0.0,
             plain((0.95, 0.62, 0.64)), flat=0.6),
    ]  # fmt: skip
    muzzle = [ball((head * 0.2, hy - head * 0.38, hz + head * 0.84), (head * 0.26, head * 0.21, head * 0.2), light)]
    whisker = plain(WHITE if sum(coat.colour) < 1.8 else DARK)
    hairs = [
        limb((head * 0.3, hy - head * 0.34, hz + head * 0.95), (head * 1.3, hy - head * end, hz + head * 0.85),
             0.011, 0.008, whisker)
        for end in (0.12, 0.42)
    ]  # fmt: skip
    parts += mirrored(legs + ear + muzzle + hairs)
    parts += [
        ball((0, hy, hz), (head * 1.12, head * 0.92, head * 0.95), coat, body=True),
        ball(
            (0, hy - head * 0.2, hz + head * 0.98), (head * 0.13, head * 0.09, head * 0.1), plain((0.9, 0.4, 0.45), 0.4)
        ),
    ]
    side = rng.choice((-1, 1)) * rng.uniform(0.22, 0.34)
    path = [
        root,
        add(root, (side * 0.6, 0.12, -0.08)),
        add(root, (side, 0.38, -0.06)),
        add(root, (side * 0.7, 0.62, 0)),
    ]
    parts += [limb(a, b, 0.048, 0.045, tail, body=True) for a, b in pairwise(path)]
    parts += [ball(point, 0.048, tail, body=True) for point in path[1:]]
    iris = rng.choice(((0.55, 0.85, 0.25), (0.95, 0.8, 0.2), (0.35, 0.7, 0.95), (0.95, 0.6, 0.15)))
    eye = (head * 0.44, hy + head * 0.12, hz + head * 0.8)
    parts += pair_of_eyes(eye, head * 0.22, iris, slit=True)
    anchors = Anchors(
        (0, hy, hz), (head * 1.1, head * 0.92, head * 0.98), (0, hy - head * 0.85, hz - 0.02), head * 0.72,
        chest, chest_radii, eye, head * 0.26,
    )  # fmt: skip
    return Subject(tuple(parts), anchors)


def duck(rng: random.Random) -> Subject:
    """A plump body with wings and a turned-up tail, a round head, a flat broad beak."""
    coat = decorated(rng, rng.choice(((0.97, 0.83, 0.1), WHITE, vivid(rng), vivid(rng))))
    wing = plain(coat.second if coat.pattern != "solid" else darker(coat.colour, 0.2))
    beak = plain(rng.choice(((0.97, 0.5, 0.05), (0.95, 0.35, 0.1), (0.98, 0.75, 0.1))), 0.3)
    if sum(coat.colour) > 1.7 and abs(coat.colour[0] - 0.97) < 0.05:
        beak = plain((0.95, 0.35, 0.08), 0.3)
    head, plump, stretch = rng.uniform(0.2, 0.26), rng.uniform(0.24, 0.31), rng.uniform(1.15, 1.5)
    legs = rng.random() < 0.6
    base = 0.16 if legs else 0.0
    by = base + plump * 0.9
    hy, hz = by + plump * 0.75 + head * rng.uniform(0.6, 1.1), plump * 0.75
    bill = rng.uniform(0.6, 0.95) * head
    parts = [
        ball((0, by, 0), (plump * 0.95, plump * 0.9, plump * stretch), coat, body=True),
        limb((0, by, plump * 0.4), (0, hy, hz), plump * 0.6, head * 0.65, coat, body=True),
        ball((0, hy, hz), (head, head, head), coat, body=True),
        limb((0, by + plump * 0.2, -plump * stretch * 0.6), (0, by + plump * 0.85, -plump * stretch * 1.2),
             plump * 0.5, 0.02, coat, flat=0.7, body=True),
        ball((0, hy - head * 0.12, hz + head + bill * 0.3), (head * 0.5, head * 0.14, bill), beak, (-0.12, 0, 0)),
        ball((0, hy - head * 0.3, hz + head * 0.9 + bill * 0.2), (head * 0.4, head * 0.1, bill * 0.8),
             plain(darker(beak.colour, 0.25)), (0.1, 0, 0)),
    ]  # fmt: skip
    pairs = [
        ball(
            (plump * 0.92, by + 0.02, -0.03), (plump * 0.2, plump * 0.5, plump * 0.75), wing, (0.25, 0, 0.1), body=True
        )
    ]
    if legs:
        pairs += [
            limb((plump * 0.4, by - plump * 0.6, 0.02), (plump * 0.4, 0.03, 0.02), 0.035, 0.03, beak),
            ball((plump * 0.42, 0.03, 0.09), (0.1, 0.03, 0.14), beak),
        ]
    if rng.random() < 0.35:
        pairs.append(ball((0.04, hy + head, hz - 0.03), (0.03, 0.12, 0.05), coat, (-0.4, 0, -0.3), body=True))
    parts += mirrored(pairs)
    eye = (head * 0.5, hy + head * 0.28, hz + head * 0.76)
    parts += pair_of_eyes(eye, head * 0.2, WHITE if rng.random() < 0.5 else None)
    anchors = Anchors(
        (0, hy, hz), (head, head, head), (0, hy - head * 0.85, hz * 0.9), head * 0.8, (0, by, 0.03),
        (plump * 1.06, plump * 0.98, plump * stretch * 0.9), eye, head * 0.26,
    )  # fmt: skip
    return Subject(tuple(parts), anchors, best_azimuth=rng.choice((-25.0, 25.0)))


def fish(rng: random.Random) -> Subject:
    """A flat oval with a fan of a tail, fins above and below, round eyes at the sides; it hovers above a wave."""
    coat = decorated(rng, vivid(rng), plain=0.15)
    if coat.pattern == "stripes":
        coat = Paint(coat.colour, coat.second, "stripes", (0, 0, rng.uniform(6, 10)))
    fin = plain(coat.second)
    tall, long, thick = rng.uniform(0.24, 0.36), rng.uniform(0.36, 0.46), rng.uniform(0.15, 0.2)
    cy = tall + 0.12
    parts = [
        ball((0, cy, 0), (thick, tall, long), coat, body=True),
        limb((0, cy, -long * 0.75), (0, cy, -long - 0.26), 0.03, 0.26, fin, flat=1.0),
        ball((0, cy + tall * 0.95, -0.06), (0.03, tall * 0.45, long * 0.5), fin, (-0.2, 0, 0)),
        ball((0, cy - tall * 0.9, -0.1), (0.03, tall * 0.4, long * 0.28), fin, (0.5, 0, 0)),
        ball((0, cy - tall * 0.12, long * 0.97), (0.07, 0.045, 0.05), plain((0.9, 0.35, 0.4))),
    ]
    parts[1] = _flat(parts[1])
    ex, ez = thick * 0.72, long * 0.6
    parts += mirrored([
        ball((ex, cy + tall * 0.22, ez), 0.085, plain(WHITE, 0.3)),
        ball((ex + 0.045, cy + tall * 0.22, ez + 0.03), 0.055, NOSE),
        ball((thick * 1.05, cy - tall * 0.15, 0), (0.03, 0.09, 0.15), fin, (0.5, 0.5, 0)),
    ])  # fmt: skip
    return Subject(tuple(parts), best_azimuth=rng.choice((-60.0, 60.0)))


def _flat(part: Part) -> Part:
    """A tube squeezed thin along x: a fan."""
    first, along, last = part.frame
    thin = (0.25 * first[0], first[1], first[2]), along, (0.25 * last[0], last[1], last[2])
    return Part("tube", part.centre, thin, part.paint, part.taper)
