"""Toy things: a bag, shoes, glasses, a clock, furniture, a car and a house."""

import random

from dreambooth.toybox.palette import (
    BLACK,
    DARK,
    METAL,
    WHITE,
    apart,
    darker,
    decorated,
    lighter,
    plain,
    vivid,
)  # fmt: skip
from dreambooth.toybox.parts import Frame, Paint, Part, Subject, Vec, add, ball, block, limb, mirrored, ring

WOOD = (0.62, 0.40, 0.22)


def backpack(rng: random.Random) -> Subject:
    """A bag with a rounded top, a front pocket with a zip, a carrying loop, straps that stick out behind."""
    cloth = decorated(rng, vivid(rng), plain=0.3)
    trim = plain(apart(rng, cloth.colour))
    pocket = plain(rng.choice((cloth.second, darker(cloth.colour, 0.35), lighter(cloth.colour, 0.4))))
    wide, tall, deep = rng.uniform(0.3, 0.38), rng.uniform(0.3, 0.4), 0.2
    top = tall * 1.25
    dome = rng.uniform(0.6, 1.0) * wide
    arch: Frame = ((wide, 0, 0), (0, 0, deep), (0, dome, 0))
    pw, ph = wide * rng.uniform(0.62, 0.8), tall * rng.uniform(0.42, 0.55)
    front = deep + 0.06
    pocket_arch: Frame = ((pw, 0, 0), (0, 0, 0.075), (0, ph * 0.6, 0))
    parts = [
        block((0, top / 2, 0), (wide, top / 2, deep), cloth, body=True),
        Part("tube", (0, top, 0), arch, cloth, body=True),
        block((0, 0.04 + ph / 2, front), (pw, ph / 2, 0.075), pocket),
        Part("tube", (0, 0.04 + ph, front), pocket_arch, pocket),
        block((0, 0.06 + ph, front + 0.08), (pw * 0.85, 0.018, 0.01), trim),
        block((pw * 0.6, 0.02 + ph, front + 0.085), (0.022, 0.06, 0.015), plain(METAL, 0.4)),
        ring((0, top + dome, -0.03), 0.13, 0.05, 0.07, trim, stretch=0.9),
        block((0, top + dome * 0.3, deep), (wide * 0.75, 0.02, 0.012), trim),
    ]
    if rng.random() < 0.5:
        parts.append(ball((0, 0.05 + ph * 0.55, front + 0.075), (0.1, 0.1, 0.02), plain(apart(rng, pocket.colour))))
    if rng.random() < 0.45:
        parts.append(ring((0, top + dome * 0.0, 0), wide * 1.01, 0.05, deep * 2.04, trim, stretch=dome / wide))
    straps = [
        ring((wide * 0.7, top * 0.52, -deep), top * 0.5, 0.06, 0.1, trim, axis=(0.94, 0, -0.34)),
        ball((wide * 1.02, 0.18, 0.02), (0.08, 0.17, 0.14), pocket),
    ]
    return Subject((*parts, *mirrored(straps)))


def clock(rng: random.Random) -> Subject:
    """A round or square face with four marks and two hands; alarm clocks have bells, feet and a handle."""
    rim = decorated(rng, vivid(rng), plain=0.5)
    face = plain(rng.choice((WHITE, (0.98, 0.94, 0.8), lighter(rim.colour, 0.75), DARK)))
    ink = plain(WHITE if face.colour == DARK else BLACK)
    accent = plain(apart(rng, rim.colour), 0.4)
    radius, cy = 0.36, 0.46
    kind = rng.choice(("alarm", "alarm", "alarm", "mantel", "square"))
    parts: list[Part] = []
    if kind == "alarm":
        bell = rng.choice((accent, plain(METAL, 0.6)))
        parts += [limb((0, cy, -0.13), (0, cy, 0.1), radius * 0.94, radius, rim, body=True)]
        parts += mirrored([
            ball((0.25, cy + radius * 0.98, -0.01), (0.16, 0.12, 0.13), bell, (0, 0, -0.6)),
            limb((0.2, 0.18, 0), (0.3, 0.0, 0), 0.04, 0.045, accent),
        ])  # fmt: skip
        parts.append(ring((0, cy + radius + 0.12, 0), 0.1, 0.035, 0.05, plain(METAL, 0.5)))
    elif kind == "mantel":
        parts += [
            limb((0, cy, -0.12), (0, cy, 0.1), radius, radius, rim, body=True),
            block((0, 0.06, 0), (0.46, 0.06, 0.16), accent),
            block((0, 0.2, -0.02), (0.34, 0.16, 0.1), rim, body=True),
        ]
    else:
        parts += [block((0, cy, -0.02), (radius * 1.12, radius * 1.12, 0.12), rim, body=True)]
        parts += mirrored([block((0.26, 0.04, 0), (0.06, 0.05, 0.1), accent)])
        parts.append(limb((0, cy + radius * 1.1, 0), (0, cy + radius * 1.3, 0), 0.08, 0.08, accent))
    parts += [
        limb((0, cy, 0.1), (0, cy, 0.115), radius * 0.84, radius * 0.84, face),
        ring((0, cy, 0.115), radius * 1.01, radius * 0.16, 0.05, rim, body=True),
    ]
    parts += [
        block(
            (x * radius * 0.7, cy + y * radius * 0.7, 0.117), (0.02 + 0.025 * abs(x), 0.02 + 0.025 * abs(y), 0.006), ink
        )
        for x, y in ((0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    hour, minute = rng.uniform(0, 6.28), rng.uniform(0, 6.28)
    for angle, long, thick, depth in ((hour, 0.42, 0.024, 0.125), (minute, 0.66, 0.017, 0.132)):
        hand = block((0, 0, 0), (thick, radius * long / 2, 0.006), ink, (0, 0, angle))
        up = hand.frame[1]
        parts.append(hand.moved((up[0], cy + up[1], depth)))
    parts.append(ball((0, cy, 0.135), (0.035, 0.035, 0.02), accent))
    return Subject(tuple(parts))


def sneaker(rng: random.Random) -> Subject:
    """A low shoe that points along +z: thick white sole, toe cap, laces, a stripe on the side, a dark opening."""
    cloth = decorated(rng, vivid(rng), plain=0.45)
    accent, sole = plain(apart(rng, cloth.colour)), plain(rng.choice((WHITE, WHITE, apart(rng, cloth.colour))))
    high = rng.uniform(0.3, 0.52)
    heel, toe = -0.36, 0.4
    parts = [
        Part("tube", (0, 0.055, 0.02), ((0.19, 0, 0), (0, 0.055, 0), (0, 0, 0.48)), sole, 0.95),
        ball((0, 0.1, 0.2), (0.175, 0.17, 0.3), cloth, body=True),
        ball((0, 0.13, -0.2), (0.15, 0.2, 0.22), cloth, body=True),
        limb((0, 0.1, -0.2), (0, high, -0.2), 0.155, 0.14, cloth, flat=1.3, bore=0.78, body=True),
        limb((0, 0.1, -0.2), (0, high - 0.05, -0.2), 0.125, 0.12, plain(DARK), flat=1.25),
        limb((0, 0.12, 0.26), (0, high + 0.04, -0.06), 0.12, 0.09, accent, flat=0.35),
        limb((0, 0.14, 0.2), (0, high - 0.04, -0.03), 0.15, 0.13, cloth, flat=0.6, body=True),
        ball((0, 0.1, toe - 0.07), (0.155, 0.105, 0.17), rng.choice((sole, accent, cloth))),
        ball((0, high * 0.8, heel - 0.02), (0.05, 0.1, 0.05), accent),
    ]  # fmt: skip
    lace = plain(WHITE if sum(cloth.colour) < 2 else DARK)
    for share in (0.25, 0.5, 0.75):
        y, z = 0.2 + (high - 0.15) * share, 0.27 - 0.27 * share
        parts.append(limb((-0.11, y, z), (0.11, y + 0.015, z), 0.02, 0.02, lace))
    parts += mirrored([
        limb((0.155, 0.12, -0.12), (0.145, high * 0.75, 0.0 + x), 0.028, 0.02, accent) for x in (-0.04, 0.06)
    ])  # fmt: skip
    return Subject(tuple(parts), best_azimuth=rng.choice((-60.0, 60.0)))


def boot(rng: random.Random) -> Subject:
    """A tall shaft on a foot that points along +z, a dark sole with a heel; laces or buckles, a cuff."""
    leather = decorated(rng, rng.choice((WOOD, (0.4, 0.2, 0.1), (0.2, 0.18, 0.2), vivid(rng), vivid(rng))), plain=0.4)
    leather = Paint(leather.colour, leather.second, leather.pattern, leather.axis, gloss=rng.choice((0.1, 0.45)))
    accent, sole = plain(apart(rng, leather.colour)), plain(rng.choice((DARK, (0.35, 0.2, 0.1), (0.9, 0.8, 0.6))))
    tall, radius = rng.uniform(0.65, 0.95), rng.uniform(0.16, 0.19)
    heel = rng.choice((0.06, 0.06, 0.15))
    back = -0.16
    parts = [
        limb((0, heel, back), (0, tall, back - 0.02), radius * 0.95, radius * 1.12, leather, bore=0.84, body=True),
        limb((0, heel, back), (0, tall - 0.04, back - 0.02), radius * 0.82, radius * 0.95, plain(DARK)),
        ball((0, heel + 0.06, 0.1), (0.165, 0.17, 0.32), leather, (-0.12, 0, 0), body=True),
        ball((0, heel + 0.05, 0.25), (0.16, 0.12, 0.2), leather, body=True),
        ball((0, heel + 0.1, back), (radius, 0.13, radius * 1.05), leather, body=True),
        block((0, heel * 0.62 + 0.01, 0.12), (0.15, heel * 0.3 + 0.02, 0.2), sole, (0.04 if heel > 0.1 else 0, 0, 0)),
        ball((0, heel * 0.62 + 0.01, 0.28), (0.155, heel * 0.3 + 0.02, 0.19), sole),
        block((0, heel * 0.5 + 0.01, back - 0.01), (0.14, heel * 0.5 + 0.015, 0.14), sole),
        ring((0, tall - 0.03, back - 0.02), radius * 1.2, 0.05, rng.uniform(0.06, 0.16), accent, axis=(0, 1, 0)),
    ]
    if rng.random() < 0.5:
        lace = plain(apart(rng, leather.colour))
        for i in range(4):
            y = 0.3 + i * (tall - 0.42) / 4
            parts.append(
                limb((-0.1, y, back + radius * 0.93), (0.1, y + 0.03, back + radius * 0.93), 0.022, 0.022, lace)
            )
    else:
        for y in (0.3, 0.3 + (tall - 0.3) * 0.45)[: rng.choice((1, 2))]:
            parts.append(ring((0, y, back), radius * 1.09, 0.03, 0.06, accent, axis=(0, 1, 0)))
            parts.append(block((0, y, back + radius * 1.08), (0.05, 0.05, 0.02), plain(METAL, 0.6)))
    return Subject(tuple(parts), best_azimuth=rng.choice((-60.0, 60.0)))


def glasses(rng: random.Random) -> Subject:
    """Two lenses in thick rims, a bridge, temples that run back; round, oval, square or cat-eyed."""
    rim = decorated(rng, rng.choice((vivid(rng), vivid(rng), BLACK)), plain=0.5)
    rim = Paint(rim.colour, rim.second, rim.pattern, (0, 11, 0) if rim.pattern != "solid" else rim.axis, gloss=0.4)
    lens = plain(rng.choice(((0.1, 0.1, 0.13), vivid(rng), (0.75, 0.88, 0.95), darker(vivid(rng), 0.5))), 0.8)
    shape = rng.choice(("round", "oval", "square", "cat"))
    thick = rng.uniform(0.035, 0.065)
    if shape == "square":
        w, h = rng.uniform(0.19, 0.22), rng.uniform(0.13, 0.19)
        half = thick * 0.6
        side = [
            block((0.26, h, 0), (w, h, 0.012), lens),
            block((0.26, 2 * h, 0), (w + half, half, 0.035), rim, body=True),
            block((0.26, 0, 0), (w + half, half, 0.035), rim, body=True),
            block((0.26 - w, h, 0), (half, h, 0.035), rim, body=True),
            block((0.26 + w, h, 0), (half, h, 0.035), rim, body=True),
        ]
        high = h
    else:
        r = rng.uniform(0.19, 0.225)
        stretch = {"round": 1.0, "oval": rng.uniform(0.65, 0.8), "cat": 0.75}[shape]
        high = r * stretch
        side = [
            ring((0.26, high, 0), r, thick, 0.07, rim, stretch=stretch, body=True),
            limb((0.26, high, -0.01), (0.26, high, 0.01), r * 0.95, r * 0.95, lens, flat=stretch),
        ]
        side[1] = Part("tube", side[1].centre, ((r * 0.93, 0, 0), (0, 0, 0.012), (0, high * 0.93, 0)), lens)
        if shape == "cat":
            side.append(limb((0.3, high * 1.55, 0), (0.56, high * 2.35, 0), 0.075, 0.0, rim, flat=0.5, body=True))
    hinge = (0.26 + 0.21, high * 1.25, -0.01)
    side += [
        limb(hinge, add(hinge, (0.02, 0, -0.5)), 0.026, 0.024, rim, body=True),
        limb(add(hinge, (0.02, 0, -0.5)), add(hinge, (0.0, -high * 0.8, -0.68)), 0.024, 0.03, rim, body=True),
        ball((0.07, high * 0.75, 0), (0.02, 0.05, 0.04), plain(lighter(rim.colour, 0.5))),
    ]
    bridge = limb((-0.08, high * 1.25, 0), (0.08, high * 1.25, 0), 0.03, 0.03, rim, body=True)
    return Subject((bridge, *mirrored(side)))


def car(rng: random.Random) -> Subject:
    """A toy car that drives towards +z: bonnet, cabin with windows all around, four big wheels, lamps."""
    paint = decorated(rng, vivid(rng), plain=0.4)
    paint = Paint(paint.colour, paint.second, paint.pattern, paint.axis, gloss=0.4)
    glass, tyre, hub = plain((0.25, 0.4, 0.55), 0.7), plain(DARK), plain(rng.choice((METAL, vivid(rng), WHITE)), 0.4)
    wide, long, wheel = rng.uniform(0.21, 0.26), rng.uniform(0.42, 0.5), rng.uniform(0.11, 0.14)
    floor, deck = wheel * 0.9, wheel * 0.9 + rng.uniform(0.17, 0.22)
    kind = rng.choice(("round", "box", "truck"))
    roof = deck + rng.uniform(0.17, 0.24)
    middle, cabin = {"round": (-0.05, long * 0.62), "box": (-0.1, long * 0.75), "truck": (long * 0.3, long * 0.42)}[
        kind
    ]
    parts = [block((0, (floor + deck) / 2, 0), (wide, (deck - floor) / 2, long), paint, body=True)]
    if kind == "round":
        parts += [
            ball((0, deck, middle), (wide * 0.92, roof - deck, cabin), paint, body=True),
            ball((0, deck + 0.01, middle), (wide * 0.96, (roof - deck) * 0.8, cabin * 0.82), glass),
            ball((0, deck - 0.03, middle), (wide * 0.7, (roof - deck) * 0.86, cabin * 1.03), glass),
            ball((0, deck - 0.06, long * 0.7), (wide * 0.92, 0.12, long * 0.36), paint, body=True),
        ]
    else:
        half = (roof - deck) / 2
        parts += [
            block((0, deck + half, middle), (wide * 0.9, half, cabin), paint, body=True),
            block((0, deck + half, middle), (wide * 0.92, half * 0.6, cabin * 0.82), glass),
            block((0, deck + half, middle), (wide * 0.75, half * 0.6, cabin * 1.02), glass),
        ]
    if kind == "truck":
        parts.append(block((0, deck + 0.07, -long * 0.55), (wide, 0.08, long * 0.42), plain(paint.second)))
    parts.append(block((0, floor + 0.04, 0), (wide * 0.95, 0.035, long * 1.05), plain(METAL, 0.5)))
    sides = [ball((wide * 0.68, (floor + deck) / 2 + 0.03, long), (0.05, 0.05, 0.03), Paint((1, 0.95, 0.6), glow=0.5)),
             ball((wide * 0.7, (floor + deck) / 2 + 0.02, -long), (0.04, 0.04, 0.025),
                  Paint((0.9, 0.1, 0.1), glow=0.4))]  # fmt: skip
    for z in (long * 0.6, -long * 0.6):
        sides += [
            limb((wide * 0.75, wheel, z), (wide + 0.06, wheel, z), wheel, wheel, tyre),
            limb((wide, wheel, z), (wide + 0.07, wheel, z), wheel * 0.55, wheel * 0.5, hub),
        ]
    return Subject((*parts, *mirrored(sides)), best_azimuth=rng.choice((-48.0, 48.0)))


def chair(rng: random.Random) -> Subject:
    """Four legs, a seat with or without a cushion, a back of slats, a board, or an oval."""
    frame = decorated(rng, rng.choice((WOOD, WHITE, vivid(rng), vivid(rng))), plain=0.55)
    cushion = decorated(rng, vivid(rng), plain=0.3)
    wide, deep, seat, top = (
        rng.uniform(0.22, 0.3),
        rng.uniform(0.2, 0.26),
        rng.uniform(0.36, 0.46),
        rng.uniform(0.9, 1.0),
    )
    kind, thick = rng.choice(("slats", "board", "oval", "armchair")), rng.uniform(0.03, 0.045)
    parts = [block((0, seat, 0), (wide, 0.035, deep), frame, body=True)]
    if kind != "slats" or rng.random() < 0.5:
        parts.append(ball((0, seat + 0.05, 0.01), (wide * 0.95, 0.06, deep * 0.95), cushion))
    legs = [
        limb((wide * 0.85, seat, z * 0.85), (wide * 0.98, 0, z), thick, thick * 0.75, frame, body=True)
        for z in (deep, -deep)
    ]
    if kind == "board":
        parts.append(block((0, (seat + top) / 2 + 0.05, -deep), (wide, (top - seat) / 2, 0.03), frame, body=True))
        parts.append(
            block((0, (seat + top) / 2 + 0.06, -deep + 0.03), (wide * 0.75, (top - seat) * 0.36, 0.03), cushion)
        )
    elif kind == "oval":
        parts.append(
            ball((0, (seat + top) / 2 + 0.06, -deep), (wide * 1.05, (top - seat) * 0.55, 0.05), frame, body=True)
        )
        parts.append(
            ball((0, (seat + top) / 2 + 0.06, -deep + 0.03), (wide * 0.8, (top - seat) * 0.42, 0.045), cushion)
        )
    else:
        legs.append(limb((wide * 0.9, seat, -deep), (wide * 0.95, top, -deep - 0.04), thick, thick, frame, body=True))
        heights = (0.45, 0.9) if rng.random() < 0.5 else (0.3, 0.6, 0.92)
        parts += [
            block((0, seat + (top - seat) * h, -deep - 0.03), (wide * 0.92, 0.05, 0.02), frame, body=True)
            for h in heights
        ]
    if kind == "armchair":
        legs += [
            block((wide + 0.02, seat + 0.2, 0), (0.045, 0.03, deep * 1.05), frame, body=True),
            limb((wide, seat, deep * 0.8), (wide + 0.02, seat + 0.2, deep * 0.8), thick, thick, frame, body=True),
        ]
    return Subject((*parts, *mirrored(legs)), best_azimuth=rng.choice((-20.0, 20.0)))


def house(rng: random.Random) -> Subject:
    """A toy house: walls, a gable or pyramid roof that overhangs, a door, windows, a chimney."""
    wall = decorated(rng, rng.choice((vivid(rng), (0.95, 0.9, 0.78), vivid(rng))), plain=0.55)
    tiles = plain(apart(rng, wall.colour))
    if sum(tiles.colour) > 2.6:
        tiles = plain((0.75, 0.2, 0.15))
    trim, glass = plain(WHITE), plain((0.55, 0.8, 0.95), 0.6)
    door = plain(rng.choice((WOOD, vivid(rng))))
    wide, tall, deep = rng.uniform(0.28, 0.4), rng.uniform(0.2, 0.34), rng.uniform(0.26, 0.34)
    roof, eave = rng.uniform(0.26, 0.4), 0.07
    top = 2 * tall
    parts = [block((0, tall, 0), (wide, tall, deep), wall, body=True)]
    if rng.random() < 0.7:
        gable: Frame = ((wide / 2, roof / 2, 0), (-wide / 2, roof / 2, 0), (0, 0, deep))
        parts.append(Part("box", (0, top, 0), gable, wall, body=True))
        for side in (-1, 1):
            slope: Frame = (
                (side * (wide + eave) / 2, -(roof * (1 + eave / wide)) / 2, 0),
                (0, 0.035, 0),
                (0, 0, deep + eave),
            )
            centre: Vec = (side * (wide + eave) / 2, top + roof * (1 - (1 + eave / wide) / 2) + 0.02, 0)
            parts.append(Part("box", centre, slope, tiles))
        parts.append(ball((0, top + roof * 0.4, deep), (0.08, 0.08, 0.02), glass))
    else:
        for i in range(2):
            half = 1.0 - 0.5 * i
            parts.append(limb((0, top + i * roof * 0.5, 0), (0, top + (i + 1) * roof * 0.5, 0),
                              (wide + eave) * 1.25 * half,
                              (wide + eave) * 1.25 * (half - 0.5), tiles, flat=deep / wide))  # fmt: skip
    shift = rng.choice((-0.45, 0.0, 0.45)) * wide
    parts += [
        block((shift, 0.15, deep), (0.085, 0.15, 0.02), door),
        ball((shift + 0.05, 0.15, deep + 0.02), 0.018, plain((0.9, 0.75, 0.2), 0.6)),
    ]
    spots = [x * wide for x in (-0.55, 0.0, 0.55) if abs(x * wide - shift) > 0.16]
    for x in spots:
        parts += [
            block((x, tall * 1.2, deep), (0.085, 0.085, 0.012), trim),
            block((x, tall * 1.2, deep), (0.062, 0.062, 0.02), glass),
        ]
    parts += mirrored(
        [
            block((wide, tall * 1.1, 0), (0.012, 0.09, 0.09), trim),
            block((wide, tall * 1.1, 0), (0.02, 0.065, 0.065), glass),
        ]
    )
    parts.append(
        block(
            (wide * 0.5, top + roof * 0.7, -deep * 0.4),
            (0.06, roof * 0.35, 0.06),
            plain(rng.choice(((0.6, 0.25, 0.18), (0.5, 0.5, 0.52)))),
        )
    )
    return Subject(tuple(parts), best_azimuth=rng.choice((-28.0, 28.0)))


def lamp(rng: random.Random) -> Subject:
    """A table lamp: a base, a stem, a glowing shade like a cut cone."""
    shade_colour = vivid(rng)
    shade = decorated(rng, lighter(shade_colour, 0.25), plain=0.3)
    shade = Paint(shade.colour, shade.second, shade.pattern, shade.axis, glow=0.45)
    stem = decorated(rng, rng.choice((METAL, (0.8, 0.6, 0.2), vivid(rng))), plain=0.4)
    low, high = rng.uniform(0.3, 0.4), rng.uniform(0.14, 0.26)
    bottom = rng.uniform(0.48, 0.6)
    parts = [
        limb((0, 0, 0), (0, 0.05, 0), 0.22, 0.19, stem, body=True),
        limb((0, 0, 0), (0, 0.75, 0), 0.035, 0.03, plain(stem.colour, 0.4)),
        limb((0, bottom, 0), (0, 1.0, 0), low, high, shade, bore=0.93, body=True),
        ball((0, bottom + 0.13, 0), 0.1, Paint((1, 0.95, 0.7), glow=1)),
        ring((0, bottom + 0.015, 0), low * 1.01, 0.03, 0.04, plain(shade.second), axis=(0, 1, 0)),
    ]
    if rng.random() < 0.75:
        fat = rng.uniform(0.1, 0.19)
        parts.append(ball((0, 0.05 + fat, 0), (fat, rng.uniform(0.8, 1.1) * fat, fat), stem, body=True))
        parts.append(ball((0, 0.32, 0), (0.07, 0.09, 0.07), plain(stem.second, 0.4)))
    return Subject(tuple(parts))
