"""Painters of places: the twenty contexts of DreamBench, then ordinary ones for casual photos.

Every painter fills its canvas `c` so that the place is known from the border alone, behind a big subject.
"""

from __future__ import annotations

import math

import torch

from dreambooth.toybox.scenery import (
    conifers,
    facades,
    foliage,
    forest,
    frond,
    grass,
    people,
    planks,
    rug,
    scatter_leaves,
    sky,
    sunflower,
    trunks,
    wall,
    waves,
)
from dreambooth.toybox.textures import Canvas, mix, zigzag


def jungle(c: Canvas) -> None:
    c.paint(mix(c.colour("0d3a16"), c.colour("a9cf6a"), c.soft(c.noise(c.x, c.h * 0.7) - 0.58, 0.3)))
    trunks(c, 0.5, 0.07, c.colour("4a3a22"))
    foliage(c, c.colour("0a3414"), c.colour("3fa03a"), 1.1, 0.2, 0.5)
    grass(c, "12330f", "4c7a1e")
    scatter_leaves(c, 3.5, ("0f5a1c", "5fae2e"))
    for _ in range(6):
        x = c.beside(0.8, 1.1)
        lean = math.copysign(c.random.uniform(-0.3, 1.4), x)
        cover, rib = frond(c, x, c.random.uniform(-0.2, 0.9), math.pi / 2 + lean, c.random.uniform(0.5, 0.9))
        c.paint(c.colour("2b8c2a", 0.12), cover)
        c.paint(c.colour("9ad04e"), cover * rib)


def snow(c: Canvas) -> None:
    sky(c, "9db9d6", "e6eef6", 0.3)
    conifers(c, 0.42, 1.0, c.colour("2c5148"), 0.75)
    conifers(c, 0.3, 0.5, c.colour("1f4038"), 0.95)
    drift = c.noise(c.u * 0.8, c.v * 1.2)
    c.ground(mix(c.colour("b9cfea", 0.02), c.colour("fbfdff", 0.01), c.soft(drift - 0.4, 0.4)))
    flake = c.cells(c.frame_x * 7, c.frame_y * 7, 0.35)
    cover = c.soft(0.06 + 0.1 * flake.random[2] - torch.hypot(flake.dx, flake.dy), 0.08)
    c.paint(c.colour("ffffff", 0), cover)
    c.hang(c.colour("ffffff", 0), cover)


def beach(c: Canvas) -> None:
    sky(c, "3a9be8", "d8f1fb")
    c.paint(mix(c.colour("1fb5b5"), c.colour("0d63a8"), c.h * 4), c.soft(0.27 - c.h))
    c.paint(c.colour("ffffff", 0), c.soft(c.noise(c.x * 2, c.h * 22) - 0.7, 0.1) * c.soft(0.25 - c.h) * 0.8)
    ripple = c.noise(c.u * 1.2, c.v * 5) * 0.6 + c.noise(c.u * 9, c.v * 9) * 0.4
    c.ground(mix(c.colour("c99a5c"), c.colour("f7dfa8"), c.soft(ripple - 0.48, 0.7)))
    shore = c.h + 0.12 * c.noise(c.x * 1.2, c.x * 0)
    c.paint(c.colour("a87d48"), c.soft(shore + 0.05, 0.08) * c.on_ground)
    c.paint(c.colour("ffffff", 0), c.soft(0.035 - (shore - 0.03).abs(), 0.02))
    place = c.beside(0.72, 0.9)
    lean = 0.12 * c.h * c.h
    stem = c.soft(0.035 - (c.x - place + lean).abs())
    c.paint(c.colour("7b5a36"), stem * c.soft(0.95 - c.h) * c.soft(c.h + 0.1))
    for spoke in range(5):
        cover, _ = frond(c, place - 0.11, 0.95, math.pi * (0.05 + 0.23 * spoke), 0.5)
        c.paint(c.colour("2f7d32", 0.08), cover)


def cobblestone(c: Canvas) -> None:
    sky(c)
    palette = ("d8a45c", "c97b57", "e6cf9f", "b6646a", "9fae8f")
    facades(c, c.random.uniform(0.55, 0.75), 1.6, palette, c.colour("4b3d38"))
    row = c.v * 4.2
    stone = c.cells(c.u * 3.2 + 0.5 * (row.floor() % 2), row, jitter=0.05)
    c.ground(c.colour("38332f"))
    rounding = 0.45 - (stone.dx.abs() ** 4 + stone.dy.abs() ** 4) ** 0.25
    shade = mix(c.colour("6f6a68"), c.colour("b3a79a"), stone.random[2])
    shade = shade * (0.75 + 1.2 * rounding.clamp(0, 0.3))
    c.ground(shade, c.soft(rounding, c.reach * 4 + 0.06))


def pink_fabric(c: Canvas) -> None:
    dark, light = c.colour("c23a78"), c.colour("ffa9cf")
    fold = c.noise(c.x * 0.5, c.h * 0.3)
    c.paint(mix(dark, light, zigzag(c.x * 1.6 + fold * 1.5) * 0.8 + 0.2 * fold))
    turn = c.random.uniform(-1, 1)
    fold = c.noise(c.u * 0.7, c.v * 0.7)
    crease = zigzag(c.u * 0.6 * turn + c.v * 0.6 + fold * 1.5)
    c.ground(mix(dark, light, 0.15 + 0.8 * crease + 0.1 * (c.noise(c.u * 3, c.v * 3) - 0.5)))


def wooden_floor(c: Canvas) -> None:
    wall(c, c.random.choice(("e9e2d2", "cfd8d3", "dcd3e0")))
    planks(c, "6e3d1a", "c98d4f")


def city(c: Canvas) -> None:
    night = c.random.random() < 0.4
    if night:
        sky(c, "0b1030", "4a3f78", 0.1)
    else:
        sky(c, "5f86d8", "ffba8c", 0.4)
    for depth in range(3):
        width, near = 0.34 - 0.06 * depth, depth / 2
        tower = c.cells(c.x / width, jitter=0)
        tall = (1.25 - 0.35 * near) * (0.45 + 0.65 * tower.random[2])
        inside = c.soft(tall - c.h) * c.soft(0.46 - tower.dx.abs(), 0.05)
        far, close = ("2a2a58", "15152e") if night else ("a9a6d0", "46507e")
        c.paint(mix(c.colour(far), c.colour(close), near) * (0.85 + 0.3 * tower.random[3]), inside)
        pane = c.cells(tower.dx * 6, c.h / 0.075, jitter=0)
        glass = c.soft(0.28 - pane.dx.abs(), 0.1) * c.soft(0.28 - pane.dy.abs(), 0.15)
        glass = glass * c.soft(tall - c.h - 0.06)
        lit = c.soft(pane.random[2] - (0.55 if night else 0.35), 0.1)
        c.paint(c.colour("ffd76a" if night else "dcecf8"), inside * glass * lit * 0.9)
    c.ground(c.colour("34353f" if night else "62666f") * (0.85 + 0.3 * c.noise(c.u * 5, c.v * 5)))
    dash = c.edge(0.07 - (c.u.abs() - 1.05).abs()) * c.soft(zigzag(c.v * 0.8) - 0.35, 0.1)
    c.ground(c.colour("f3e9c4"), dash)


def mountain(c: Canvas) -> None:
    sky(c)
    place = c.beside(0.45, 0.65)
    for x, tall, slope, code in ((-place, 0.85, 0.9, "8f9cb8"), (place, 1.15, 1.25, "66708c")):
        offset = c.x - x
        rock = c.noise(c.x * 3, c.h * 3)
        summit = tall - slope * offset.abs() + 0.25 * (c.noise(c.x * 2, c.x * 0) - 0.5)
        sunny = c.soft(offset + 0.35 * (rock - 0.5) + 0.02, 0.06)
        stone = c.colour(code) * (0.75 + 0.4 * sunny) * (0.8 + 0.4 * rock)
        cap = c.soft(c.h - tall * 0.55 + 0.5 * (rock - 0.5) + 0.12 * zigzag(c.x * 5), 0.05)
        c.paint(mix(stone, c.colour("f7faff", 0.02) * (0.82 + 0.18 * sunny), cap), c.soft(summit - c.h))
    foliage(c, c.colour("234a2c"), c.colour("3f7a3c"), 0.13, 0.07, 0.08)
    grass(c, "4c8a2e", "a5c95a")
    scatter_leaves(c, 2.2, ("ffffff", "ffd94a"), 0.8 * c.soft(c.noise(c.u, c.v) - 0.5, 0.1))


def blue_house(c: Canvas) -> None:
    sky(c, "8cc3ee", "f1f4ec")
    foliage(c, c.colour("2d5a2c"), c.colour("6fa04a"), 0.35)
    x = c.beside(0.5, 0.62)
    blue, white = c.colour(c.random.choice(("2f6fd0", "3f8fe0", "2456b8"))), c.colour("fbfbf7", 0)
    boards = 0.88 + 0.12 * zigzag(c.h * 14)
    c.paint(blue * boards, c.box(x, 0.35, 0.6, 0.37))
    gable = 1.17 - 0.75 * (c.x - x).abs()
    c.paint(blue * boards * 0.92, c.soft(gable - c.h) * c.soft(c.h - 0.7))
    c.paint(c.colour("59424a"), c.soft(0.06 - (c.h - gable).abs()) * c.soft(0.72 - (c.x - x).abs()))
    c.paint(c.colour(c.random.choice(("b8352c", "f4f0e6", "e8b62c"))), c.box(x, 0.2, 0.11, 0.22))
    for window, h in ((-0.36, 0.38), (0.36, 0.38), (0.0, 0.8)):
        c.paint(white, c.box(x + window, h, 0.15, 0.17))
        c.paint(c.colour("bfe0ee"), c.box(x + window, h, 0.115, 0.135))
        c.paint(white, c.box(x + window, h, 0.014, 0.18) + c.box(x + window, h, 0.14, 0.014))
    grass(c, "3a7d2a", "8fc04e")
    path = c.edge(0.28 - (c.u - x * (0.6 + 0.4 * c.v)).abs())
    c.ground(c.colour("cdbfa4") * (0.85 + 0.3 * c.noise(c.u * 4, c.v * 4)), path)


def purple_rug(c: Canvas) -> None:
    forest(c)
    inside = rug(c, 1.35, 0.85)
    cover = c.edge(inside)
    weave = 0.9 + 0.2 * c.noise(c.u * 12, c.v * 12)
    c.ground(c.colour("8030c4") * weave, cover)
    c.ground(c.colour("e3b7ff"), cover * c.edge(0.025 - (inside - 0.1).abs()))
    diamonds = zigzag(c.u * 1.6) + zigzag(c.v * 1.6)
    lines = c.soft(0.12 - (diamonds - 1).abs(), c.reach * 3 + 0.05)
    c.ground(c.colour("c07af0"), lines * c.edge(inside - 0.16))


def wheat_field(c: Canvas) -> None:
    sky(c, "3f8fe0", "dff0fb")
    for top, code in ((0.3, "c58f2a"), (0.18, "e0b040"), (0.04, "f0c95e")):
        ear = c.cells(c.x / 0.055 + 0.6 * c.noise(c.x, c.h), jitter=0.1)
        tall = top + 0.12 * ear.random[2]
        tip = ((tall - c.h) / 0.13).clamp(0, 1)
        stalk = c.soft(0.2 + 0.55 * (tip * (1 - tip)).sqrt() - ear.dx.abs(), 0.3)
        c.paint(c.colour("8a5f1c"), c.soft(top - 0.04 - c.h, 0.06) * 0.8)
        c.paint(c.colour(code) * (0.8 + 0.4 * ear.random[3]), stalk * c.soft(tall - c.h))
    straw = c.noise(c.u * 8, c.v * 1.6)
    c.ground(mix(c.colour("a0742a"), c.colour("f0d080"), c.soft(straw - 0.5, 0.6)))


def autumn(c: Canvas) -> None:
    sky(c, "b9cfe0", "f7e6c8", 0.4)
    foliage(c, c.colour("8a4a1c"), c.colour("dba03c"), 0.25, 0.1, 0.25)
    c.ground(mix(c.colour("7a4a1e"), c.colour("b0702c"), c.noise(c.u * 2, c.v * 2)))
    scatter_leaves(c, 3, ("b5301a", "f0a020"))
    scatter_leaves(c, 4.5, ("e05a18", "ffd040"))
    x = c.beside(0.6, 0.8)
    flare = 0.09 + 0.12 * (0.25 - c.h).clamp(min=0) ** 2 * 8
    bark = c.colour("4a2f20") * (0.7 + 0.6 * c.noise(c.x * 8, c.h))
    c.paint(bark, c.soft(flare - (c.x - x).abs()) * c.soft(c.h + 0.08))
    crown = 0.62 - torch.hypot(c.x - x, (c.h - 1.05) * 1.1) + 0.5 * (c.noise(c.x * 3, c.h * 3) - 0.5)
    leaf = c.cells(c.x / 0.09, c.h / 0.09)
    along, across = leaf.turned(1.8)
    shade = (0.2 + 1.3 * leaf.random[2] - 1.6 * torch.hypot(along, across)).clamp(0, 1)
    red = c.colour(c.random.choice(("a8301a", "c05a10")))
    c.paint(mix(red, c.colour("ffb52e"), shade), c.soft(crown, 0.05))


def eiffel_tower(c: Canvas) -> None:
    top, bottom = c.random.choice((("6fa8dc", "f0e2d0"), ("8f7fc0", "ffc9a0"), ("9cc4e8", "eef2f4")))
    sky(c, top, bottom, 0.6)
    x, tall = c.beside(0.5, 0.62), 1.45
    level, dx = c.h / tall, (c.x - x).abs()
    half = 0.42 * torch.exp(-4.2 * level.clamp(min=0)) + 0.012
    arch = torch.where(level < 0.2, 0.72 - 9 * level**2, 0.55 - 1.6 * (level - 0.2)) * half
    legs = c.soft(half - dx) * c.soft(dx - arch.clamp(min=0) + 0.01) * c.soft(1 - level, 0.03)
    lattice = 0.62 + 0.38 * torch.maximum(zigzag(level * 22 + dx * 7), zigzag(level * 22 - dx * 7))
    iron = c.colour("5a4636")
    c.paint(iron * 1.25 * lattice, legs * c.soft(c.h))
    for platform, extra in ((0.2, 0.04), (0.4, 0.025), (0.9, 0.012)):
        c.paint(iron * 0.8, c.soft(half + extra - dx) * c.soft(0.018 - (level - platform).abs(), 0.02))
    foliage(c, c.colour("2e5a2c"), c.colour("5d8f45"), 0.1, 0.07, 0.08)
    grass(c, "4f8a38", "93bb5a")
    c.ground(c.colour("d9c9a6") * (0.9 + 0.2 * c.noise(c.u * 6, c.v * 6)), c.edge(0.85 - c.u.abs()))


def water(c: Canvas) -> None:
    sky(c, "5aa8e8", "e4f3fb")
    c.paint(mix(c.colour("2f8fc8"), c.colour("1565a8"), c.noise(c.x * 1.5, c.h * 16)), c.soft(0.3 - c.h))
    waves(c, c.colour("07406f"), c.colour("4fc0e0"), 0.7, 2.2)


def milk(c: Canvas) -> None:
    c.paint(mix(c.colour("ffd9c0"), c.colour("b9a4dc"), (c.h * 0.8).clamp(0, 1)))
    cream, shade = c.colour("fffefa", 0), c.colour("e0d2bc", 0.02)
    c.paint(mix(cream, shade, zigzag(c.h * 9 + c.noise(c.x * 0.5, c.h * 4))), c.soft(0.22 - c.h))
    for x in (c.beside(0.7, 0.9), c.beside(0.5, 1.0)):
        across = (c.x - x) / 0.3
        jet = c.cells(c.x / 0.1, jitter=0.1)
        crown = (0.3 + 0.45 * jet.random[2]) * (1 - across**2).clamp(min=0) * (1 - 4 * jet.dx.square())
        splash = c.soft(crown + 0.1 * (across.abs() < 1) - c.h) * c.soft(c.h + 0.06)
        c.paint(mix(cream, shade, 0.5 + across * 0.5), splash)
        drop = torch.hypot(jet.dx * 0.1, c.h - crown - 0.1 - 0.25 * jet.random[3])
        c.paint(cream, c.soft(0.035 - drop) * (across.abs() < 1.2))
    swirl = zigzag(0.7 * torch.hypot(c.u, c.v) + c.noise(c.u * 0.3, c.v * 0.3))
    c.ground(mix(shade, cream, (0.2 + 1.1 * swirl).clamp(0, 1)))


def sunflowers(c: Canvas) -> None:
    sky(c, "58aef0", "e8f6fb")
    foliage(c, c.colour("1f5a1c"), c.colour("5fae32"), 0.4, 0.1, 0.15)
    grass(c, "2c8a1e", "7fd040")
    for width, h in ((0.3, 0.45), (0.45, 0.15)):
        head = c.cells(c.x / width, jitter=0.12)
        dy = c.h / width - h / width - 0.5 * (head.random[2] - 0.5)
        stem = c.soft(0.04 - head.dx.abs(), 0.05) * c.soft(-dy) * c.soft(c.h + 0.15)
        c.paint(c.colour("2f7a1c"), stem)
        sunflower(c, head.dx, dy, 0.42, torch.ones_like(dy))
    bloom = c.cells(c.u * 1.4, c.v * 1.4, jitter=0.15)
    sunflower(c, bloom.dx, bloom.dy, 0.26, c.on_ground * c.soft(c.u.abs() - 0.7, 0.1))


def mirror(c: Canvas) -> None:
    teal = c.colour(c.random.choice(("3f9fa6", "b0607a", "5f86c8")))
    glow = c.disc(c.beside(0.5, 0.8), 0.8, 0.4)
    c.paint(teal * (0.75 + 0.35 * (c.h * 0.5).clamp(-0.5, 1)))
    c.paint(c.colour("fff0c8"), glow * 0.25)
    c.ground(c.colour("2a2024") * (0.8 + 0.4 * c.noise(c.u * 5, c.v * 1)))
    far = torch.hypot(c.u / 1.1, (c.v - 0.05) / 0.9)
    c.ground(c.colour("d8ab3c") * (0.7 + 0.5 * zigzag(far * 12)), c.edge(1 - far))
    streak = zigzag((c.u + c.v) * 0.45 + 0.2)
    silver = mix(c.colour("9fb4c2"), c.colour("eef6fa", 0.02), c.soft(streak - 0.6, 0.5))
    c.ground(mix(silver, teal, 0.2), c.edge(0.9 - far))


def crowded_street(c: Canvas) -> None:
    sky(c)
    facades(c, 0.6, 1.8, ("9a8f86", "b5a08a", "7c8894", "8f6a5a"), c.colour("d8e4ea"))
    slab = c.cells(c.u * 1.3, c.v * 1.3, jitter=0)
    c.ground(c.colour("b4b2ac") * (0.85 + 0.2 * slab.random[2]) * (0.9 + 0.2 * c.noise(c.u * 6, c.v * 6)))
    joint = torch.maximum(slab.dx.abs(), slab.dy.abs()) - 0.47
    c.ground(c.colour("6a6864"), c.soft(joint, c.reach * 1.3 + 0.03))
    for width, base in ((0.19, 0.12), (0.26, 0.03), (0.34, -0.08)):
        people(c, width, base)


def dirt_road(c: Canvas) -> None:
    sky(c, "4f97dc", "f0ead8")
    for tall, code in ((0.38, "7fa06a"), (0.2, "5f8a3c")):
        ridge = tall + 0.25 * (c.noise(c.x * 0.7, c.x * 0) - 0.5)
        c.paint(c.colour(code), c.soft(ridge - c.h))
    grass(c, "557a2a", "a9b450")
    bend = 0.12 * (c.noise(c.v, c.v * 0) - 0.5)
    offset = (c.u + bend).abs()
    soil = c.noise(c.u * 2.5, c.v * 2.5) * 0.6 + c.noise(c.u * 8, c.v * 5) * 0.4
    c.ground(mix(c.colour("7a4a24"), c.colour("c48a54"), soil), c.edge(1.05 - offset + 0.3 * (soil - 0.5)))
    c.ground(c.colour("5c3518"), c.soft(0.16 - (offset - 0.62).abs(), 0.15) * 0.7)
    pebble = c.cells(c.u * 5, c.v * 5)
    stone = c.soft(0.12 * pebble.random[2] - torch.hypot(pebble.dx, pebble.dy), 0.06)
    c.ground(c.colour("d8c4a4"), stone * 0.8)


def white_rug(c: Canvas) -> None:
    wall(c, c.random.choice(("5f7f74", "b0604a", "4f6486")))
    x = c.beside(0.6, 0.75)
    c.paint(c.colour("f5efe2"), c.box(x, 0.75, 0.24, 0.3))
    shapes = c.soft(c.noise(c.x * 2, c.h * 2) - 0.5, 0.1)
    c.paint(mix(c.colour("d06a3a", 0.2), c.colour("2f6a8a", 0.2), shapes), c.box(x, 0.75, 0.18, 0.24))
    planks(c, "3f2413", "7a4c2a", 0.4)
    fluff = c.noise(c.u * 5, c.v * 5)
    c.ground(c.colour("fbf9f4", 0.01) * (0.78 + 0.3 * fluff), c.edge(rug(c, 1.3, 0.9) + 0.1 * (fluff - 0.5)))


# --- ordinary places -------------------------------------------------------------------------------------


def studio(c: Canvas) -> None:
    tone = c.colour(c.random.choice(("d9d9d6", "b8bcc4", "e6ddd0", "9aa3a0")), 0.08)
    c.paint(tone * (1.05 - 0.25 * torch.hypot(c.frame_x, c.frame_y)))


def table(c: Canvas) -> None:
    wall(c, c.random.choice(("d8cdb8", "b7c4cc", "c8b8b0")))
    grain = c.noise(c.u * 0.8, c.v * 10)
    c.ground(mix(c.colour("8a5a30"), c.colour("c99a62"), grain))


def brick_wall(c: Canvas) -> None:
    row = c.h * 9
    brick = c.cells(c.x * 4 + 0.5 * (row.floor() % 2), row, jitter=0)
    c.paint(c.colour("c9bfb2"))
    face = c.soft(0.45 - brick.dx.abs(), 0.06) * c.soft(0.4 - brick.dy.abs(), 0.12)
    c.paint(mix(c.colour("8a4030"), c.colour("b8694c"), brick.random[2]), face)
    c.ground(c.colour("8d8a86") * (0.85 + 0.3 * c.noise(c.u * 5, c.v * 5)))


def lawn(c: Canvas) -> None:
    sky(c)
    foliage(c, c.colour("264f22"), c.colour("5c8a3a"), 0.6, 0.1, 0.1)
    grass(c)


def room(c: Canvas) -> None:
    wall(c, c.random.choice(("cfe0e6", "e9d8b4", "e4c8c0")))
    c.paint(c.colour("ffffff"), c.soft(zigzag(c.x * 3) - 0.75, 0.05) * c.soft(c.h - 0.1) * 0.3)
    carpet = c.colour(c.random.choice(("8a8f9a", "a58f78", "6f8a80")))
    c.ground(carpet * (0.8 + 0.4 * c.noise(c.u * 9, c.v * 9)))


def kitchen(c: Canvas) -> None:
    tile = c.cells(c.x * 3, c.h * 3, jitter=0)
    c.paint(c.colour("e8ecec") * (0.92 + 0.08 * tile.random[2]))
    c.paint(c.colour("a8b0b0"), c.soft(torch.maximum(tile.dx.abs(), tile.dy.abs()) - 0.47, 0.04))
    c.ground(mix(c.colour("6a6e72"), c.colour("8a9094"), c.noise(c.u * 12, c.v * 12)))


def pavement(c: Canvas) -> None:
    c.paint(c.colour("b9b4a8") * (0.85 + 0.3 * c.noise(c.x, c.h)))
    c.paint(c.colour("6f8a5a"), c.soft(0.25 - c.h + 0.2 * (c.noise(c.x * 5, c.h * 3) - 0.5), 0.05))
    c.ground(c.colour("9c9a96") * (0.8 + 0.4 * c.noise(c.u * 7, c.v * 7)))
