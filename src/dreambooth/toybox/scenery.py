"""Scenery that several places share: skies, trees, houses, floors, people. `c` is the canvas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreambooth.toybox.textures import Canvas, mix, rainbow, zigzag


def sky(c: Canvas, top: str = "3f86d8", bottom: str = "cfe6f5", clouds: float = 0.8) -> None:
    """A sky that fills the picture, with soft clouds."""
    c.paint(mix(c.colour(bottom), c.colour(top), (c.h * 0.8).clamp(0, 1)))
    puffs = c.soft(c.noise(c.x * 0.8, c.h * 2) - 0.55, 0.25) * clouds
    c.paint(c.colour("ffffff", 0), puffs * c.soft(c.h - 0.3, 0.4))


def grass(c: Canvas, dark: str = "2f6b22", light: str = "86b441") -> None:
    """Mown grass all over the ground."""
    blades = c.noise(c.u * 6, c.v * 2.5) * 0.65 + c.noise(c.u, c.v) * 0.35
    c.ground(mix(c.colour(dark), c.colour(light), c.soft(blades - 0.5, 0.7)))


def foliage(c: Canvas, dark: Tensor, light: Tensor, top: float, size: float = 0.12, rough: float = 0.2) -> None:
    """A bank of leaves from the skyline up to about `top`."""
    edge = top + rough * (c.noise(c.x * 3, c.h * 3) - 0.5) * 2
    leaf = c.cells(c.x / size, c.h / size)
    along, across = leaf.turned(1.8)
    shade = leaf.random[2] * (1 - 1.3 * torch.hypot(along, across)).clamp(0, 1)
    shade = shade + c.noise(c.x * 2, c.h * 2) - 0.4
    c.paint(mix(dark, light, shade.clamp(0, 1)), c.soft(edge - c.h, 0.06))


def trunks(c: Canvas, width: float, thickness: float, colour: Tensor) -> None:
    """Tree trunks all the way up."""
    trunk = c.cells(c.x / width + 0.1 * c.noise(c.x * 0.2, c.h))
    side = trunk.dx / (thickness * (0.6 + 0.8 * trunk.random[2]))
    bark = colour * (0.75 + 0.5 * c.noise(c.x * 12, c.h * 1.5)) * (1 - 0.5 * side).clamp(0.4, 1.4)
    c.paint(bark, c.soft(1 - side.abs(), 0.3) * c.soft(c.h + 0.03 * trunk.random[3]))


def conifers(c: Canvas, width: float, height: float, green: Tensor, snow: float) -> None:
    """A row of fir trees, `snow` (0..1) on their branches."""
    tree = c.cells(c.x / width, jitter=0.2)
    level = c.h / (height * (0.7 + 0.5 * tree.random[2]))
    half = (1 - level) * (0.32 + 0.2 * (1 - (level * 4 - (level * 4).floor())))
    inside = c.soft(half - tree.dx.abs(), 0.06) * c.soft(1 - level) * c.soft(c.h)
    powder = c.soft((level * 4 - (level * 4).floor()) * -1 + 0.55 + tree.dx * 0.5, 0.4) * snow
    c.paint(mix(green * (0.7 + 0.5 * tree.random[3]), c.colour("f6faff", 0), powder), inside)


def facades(c: Canvas, width: float, height: float, palette: tuple[str, ...], window: Tensor) -> None:
    """A row of houses with windows, each `width` wide."""
    house = c.cells(c.x / width, jitter=0)
    colours = torch.cat([c.colour(code) for code in palette], 1)[..., 0]
    tall = height * (0.75 + 0.5 * house.random[3])
    inside = c.soft(tall - c.h) * c.soft(c.h)
    c.paint(colours[:, (house.random[2] * len(palette)).long()], inside)
    across, up = house.dx * 3, c.h / (0.55 * width) - 0.2
    frame = torch.maximum((across - across.floor() - 0.5).abs() * 1.3, (up - up.floor() - 0.5).abs())
    c.paint(window, c.soft(0.3 - frame, 0.1) * c.soft(tall - c.h - 0.06) * c.soft(c.h - 0.05))
    c.paint(c.colour("3a2f2a"), c.soft(house.dx.abs() - 0.485, 0.03) * inside * 0.5)


def planks(c: Canvas, dark: str, light: str, width: float = 0.34) -> None:
    """A floor of wooden boards, laid at any angle."""
    turn = c.random.uniform(-0.5, 0.5)
    cos, sin = math.cos(turn), math.sin(turn)
    across, along = c.u * cos + c.v * sin, c.v * cos - c.u * sin
    plank = c.cells(across / width, along / 2.5, jitter=0)
    grain = c.noise(across * 9, along * 0.7)
    c.ground(mix(c.colour(dark), c.colour(light), 0.55 * plank.random[2] + 0.6 * grain - 0.1))
    to_gap = torch.minimum(0.5 - plank.dx.abs(), (0.5 - plank.dy.abs()) * 2.5 / width)
    c.ground(c.colour("1c0f08", 0), c.soft(0.03 - to_gap, c.reach / width + 0.04) * 0.75)


def wall(c: Canvas, code: str, skirting: str = "f2efe8") -> None:
    """A painted wall, lit from one side, with a skirting board."""
    light = 0.92 + 0.12 * c.noise(c.x * 0.6, c.h * 0.6) + c.random.choice((-0.06, 0.06)) * c.x
    c.paint(c.colour(code) * light)
    c.paint(c.colour(skirting), c.soft(0.09 - c.h))
    c.paint(c.colour("444444") * 0.6, c.soft(0.012 - (c.h - 0.09).abs()) * 0.5)


def scatter_leaves(c: Canvas, density: float, hue: tuple[str, str], cover: Tensor | float = 1.0) -> None:
    """Fallen leaves on the ground, `density` per world unit."""
    leaf = c.cells(c.u * density, c.v * density)
    along, across = leaf.turned(2.0)
    shape = c.soft(0.3 - torch.hypot(along, across), c.reach * density + 0.08)
    shade = mix(c.colour(hue[0]), c.colour(hue[1]), leaf.random[2]) * (0.75 + along)
    c.ground(shade, shape * cover)


def rug(c: Canvas, half_width: float, half_depth: float) -> Tensor:
    """How far inside a rug with round corners under the subject every point of the ground is."""
    across, along = c.u.abs() / half_width, (c.v - 0.05).abs() / half_depth
    corner = torch.hypot(across.clamp(min=0.8) - 0.8, along.clamp(min=0.8) - 0.8)
    return torch.minimum(1 - torch.maximum(across, along), 0.2 - corner)


def waves(c: Canvas, dark: Tensor, light: Tensor, crest: float, stretch: float) -> None:
    """A liquid that fills the ground and the backdrop up to a far horizon."""
    swell = c.noise(c.u * 1.4, c.v * stretch) * 0.6 + c.noise(c.u * 0.7, c.v * stretch * 0.6) * 0.4
    c.ground(mix(dark, light, c.soft(swell - 0.5, 0.5)))
    c.ground(c.colour("ffffff", 0), c.soft(0.025 - (swell - 0.62).abs(), 0.05) * crest)


def frond(c: Canvas, x: float, h: float, angle: float, length: float) -> tuple[Tensor, Tensor]:
    """A palm frond from a point of the backdrop: its cover and its rib."""
    dx, dh = c.x - x, c.h - h
    along = (dx * math.cos(angle) + dh * math.sin(angle)) / length
    across = (dh * math.cos(angle) - dx * math.sin(angle)) / length + 0.25 * math.cos(angle) * along**2
    serrated = 0.45 + 0.55 * zigzag(along * 9 - across.abs() * 6)
    half = 0.34 * (along * (1 - along)).clamp(min=0).sqrt() * serrated
    return c.soft((half - across.abs()) * length - c.pixel), c.soft((0.015 - across.abs()) * length)


def forest(c: Canvas) -> None:
    """A clearing among brown and grey trunks."""
    c.paint(mix(c.colour("24502a"), c.colour("d6e8a0"), c.soft(c.noise(c.x * 0.8, c.h * 0.5) - 0.5, 0.6)))
    trunks(c, 0.22, 0.16, c.colour("7b7456"))
    trunks(c, 0.48, 0.14, c.colour("56402a"))
    foliage(c, c.colour("1a3d1c"), c.colour("5c8f3a"), 0.16, 0.1, 0.15)
    c.ground(mix(c.colour("3c2c18"), c.colour("6d7a35"), c.noise(c.u * 2, c.v * 2)))
    scatter_leaves(c, 4, ("6e4a22", "5c7a2c"))


def sunflower(c: Canvas, dx: Tensor, dy: Tensor, radius: Tensor | float, cover: Tensor) -> None:
    """A blossom around the point where dx = dy = 0."""
    far = torch.hypot(dx, dy) / radius
    petals = 0.72 + 0.28 * zigzag(torch.atan2(dy, dx) * (13 / (2 * math.pi)))
    c.paint(mix(c.colour("f08a00"), c.colour("ffdc1e", 0.02), far), c.soft(petals - far, 0.12) * cover)
    c.paint(c.colour("4a2508") * (0.8 + far), c.soft(0.42 - far, 0.1) * cover)


def people(c: Canvas, width: float, base: float) -> None:
    """A row of passers-by, each in a column `width` wide, with their feet at height `base`."""
    person = c.cells(c.x / width, jitter=0.15)
    dx, up = person.dx, (c.h - base) / width / (0.9 + 0.25 * person.random[2])
    trousers = mix(c.colour("22283c"), c.colour("6a5a4a"), person.random[3])
    legs = c.soft(0.17 - dx.abs(), 0.05) * c.soft(dx.abs() - 0.02 * up)
    c.paint(trousers, legs * c.soft(up) * c.soft(1.1 - up))
    shirt = rainbow(person.random[2] * 7 % 1) * 0.9
    c.paint(shirt, c.soft(0.07 - dx.square() - (0.45 * (up - 1.45)).square(), 0.03))
    hair = mix(c.colour("2a1a10"), c.colour("b08040"), person.random[1])
    c.paint(hair, c.soft(0.19 - torch.hypot(dx, up - 2.28), 0.05))
    skin = mix(c.colour("8a5a3c"), c.colour("f2c8a0"), person.random[3])
    c.paint(skin, c.soft(0.15 - torch.hypot(dx, up - 2.22), 0.05))
