"""Toy things: crockery, clothes, furniture and vehicles."""

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


def bowl(rng: random.Random) -> Subject:
    """A wide hollow dish on a foot, another colour inside, empty or full of berries."""
    outside = decorated(rng, vivid(rng), plain=0.25)
    inside = plain(rng.choice((WHITE, lighter(outside.colour, 0.6), outside.second)))
    foot, belly, tall = rng.uniform(0.18, 0.26), rng.uniform(0.36, 0.44), rng.uniform(0.3, 0.5)
    step = tall * rng.uniform(0.35, 0.55)
    parts = [
        limb((0, 0, 0), (0, 0.06, 0), foot * 1.05, foot * 0.95, plain(outside.second)),
        limb((0, 0.05, 0), (0, step, 0), foot, belly, outside, body=True),
        limb((0, step, 0), (0, tall, 0), belly, 0.5, outside, bore=0.9, body=True),
        limb((0, step - 0.02, 0), (0, tall + 0.004, 0), belly * 0.9, 0.455, inside, bore=0.96),
        limb((0, step, 0), (0, step + 0.01, 0), belly * 0.9, belly * 0.9, inside),
        ring((0, tall, 0), 0.51, 0.05, 0.03, plain(outside.second), axis=(0, 1, 0)),
    ]
    if rng.random() < 0.4:
        berry = plain(vivid(rng), 0.4)
        for i in range(11):
            spot: Vec = (rng.uniform(-0.27, 0.27), tall - rng.uniform(0.0, 0.03), rng.uniform(-0.27, 0.27))
            parts.append(ball(spot, rng.uniform(0.09, 0.12), berry if i % 3 else plain(lighter(berry.colour, 0.3), 0.4)))
        parts.append(limb((0, step, 0), (0, tall - 0.05, 0), belly * 0.88, 0.44, berry))
    return Subject(tuple(parts))


def can(rng: random.Random) -> Subject:
    """A drinks can or a tin: metal rims and lid with a tab, a label with a badge."""
    label = decorated(rng, vivid(rng), plain=0.25)
    label = Paint(label.colour, label.second, label.pattern, label.axis, gloss=0.45)
    metal = plain(METAL, 0.6)
    radius, tall = rng.uniform(0.22, 0.33), rng.uniform(0.8, 1.0)
    if rng.random() < 0.25:
        tall *= 0.7
    low, high = 0.07, tall - 0.09
    parts = [
        limb((0, 0, 0), (0, low, 0), radius * 0.85, radius, metal),
        limb((0, low, 0), (0, high, 0), radius, radius, label, body=True),
        limb((0, high, 0), (0, tall, 0), radius, radius * 0.84, metal),
        ring((0, tall, 0), radius * 0.86, 0.03, 0.035, metal, axis=(0, 1, 0)),
        ball((0, tall + 0.005, radius * 0.2), (radius * 0.22, 0.02, radius * 0.36), plain(darker(METAL, 0.35), 0.6)),
    ]
    badge = plain(apart(rng, label.colour), 0.3)
    shape, middle = rng.choice(("disc", "band", "oval", "band")), (low + high) / 2
    if shape == "band":
        half = rng.uniform(0.08, 0.16)
        parts.append(limb((0, middle - half, 0), (0, middle + half, 0), radius * 1.01, radius * 1.01, badge))
        badge = plain(apart(rng, badge.colour), 0.3)
    size = radius * rng.uniform(0.5, 0.65)
    stretch = 1.6 if shape == "oval" else 1.0
    parts.append(ball((0, middle, radius * 0.82), (size, size * stretch, radius * 0.24), badge))
    if rng.random() < 0.5:
        parts.append(ball((0, middle, radius * 0.98), (size * 0.55, size * 0.55 * stretch, radius * 0.13), plain(apart(rng, badge.colour))))
    return Subject(tuple(parts))


def candle(rng: random.Random) -> Subject:
    """Wax with a burning wick: a pillar with drips on a plate, or wax in a jar with a label."""
    wax = decorated(rng, rng.choice((vivid(rng), vivid(rng), (0.95, 0.9, 0.8))), plain=0.4)
    radius, tall = rng.uniform(0.15, 0.25), rng.uniform(0.42, 0.62)
    base = plain(rng.choice((METAL, (0.8, 0.6, 0.2), vivid(rng))), 0.5)
    kind = rng.choice(("pillar", "pillar", "jar", "stick"))
    if kind == "stick":
        radius, tall = radius * 0.5, tall * 1.15
    floor = 0.06
    parts = [limb((0, floor - 0.03, 0), (0, tall, 0), radius, radius * 0.94, wax, body=True)]
    if kind == "jar":
        glass = plain(lighter(wax.colour, 0.75), 0.7)
        radius *= 1.2
        parts = [
            limb((0, 0, 0), (0, tall * 0.75, 0), radius, radius, wax, body=True),
            limb((0, 0, 0), (0, tall, 0), radius * 1.08, radius * 1.08, glass, bore=0.9),
            ring((0, tall * 0.12, 0), radius * 1.1, 0.02, tall * 0.18, base, axis=(0, 1, 0)),
            ball((0, tall * 0.5, radius * 0.95), (radius * 0.62, radius * 0.5, radius * 0.22), plain(apart(rng, wax.colour))),
        ]
        tall *= 0.75
    else:
        parts += [
            limb((0, 0, 0), (0, floor, 0), 0.3, 0.36, base),
            limb((0, 0, 0), (0, 0.13, 0), radius * 1.2, radius * 1.3, base),
        ]
        drips = rng.sample([(-0.75, 0.6), (-0.2, 0.95), (0.4, 0.85), (0.85, 0.45)], 3)
        pale = plain(lighter(wax.colour, 0.3), 0.3)
        for x, z in drips:
            long = rng.uniform(0.06, 0.16)
            parts.append(ball((radius * x * 0.92, tall - long * 0.8, radius * z * 0.92), (radius * 0.2, long, radius * 0.2), pale))
        if rng.random() < 0.5:
            parts.append(ring((0.38, 0.1, 0), 0.1, 0.035, 0.05, base))
    parts += [
        limb((0, tall, 0), (0, tall + 0.08, 0), 0.014, 0.014, plain(BLACK)),
        ball((0, tall + 0.14, 0), (0.075, 0.09, 0.075), Paint((1.0, 0.6, 0.08), glow=1)),
        limb((0, tall + 0.16, 0), (0, tall + 0.33, 0), 0.07, 0.0, Paint((1.0, 0.6, 0.08), glow=1)),
        ball((0, tall + 0.13, 0.05), (0.042, 0.065, 0.042), Paint((1.0, 0.95, 0.55), glow=1)),
    ]
    return Subject(tuple(parts))


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
        block((x * radius * 0.7, cy + y * radius * 0.7, 0.117), (0.02 + 0.025 * abs(x), 0.02 + 0.025 * abs(y), 0.006), ink)
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
            parts.append(limb((-0.1, y, back + radius * 0.93), (0.1, y + 0.03, back + radius * 0.93), 0.022, 0.022, lace))
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


def teapot(rng: random.Random) -> Subject:
    """A round belly with a lid and knob, a curved spout towards +x, a loop of a handle behind."""
    glaze = decorated(rng, vivid(rng), plain=0.3)
    glaze = Paint(glaze.colour, glaze.second, glaze.pattern, glaze.axis, gloss=0.45)
    trim = plain(rng.choice((glaze.second, lighter(glaze.colour, 0.5), (0.85, 0.65, 0.2))), 0.4)
    wide, tall = rng.uniform(0.27, 0.34), rng.uniform(0.22, 0.36)
    cy = tall + 0.03
    mouth = wide * 0.55
    tip: Vec = (wide + rng.uniform(0.22, 0.32), cy + tall * rng.uniform(0.5, 0.95), 0)
    bend: Vec = (wide + 0.1, cy - tall * 0.05, 0)
    same = rng.choice((glaze, trim))
    parts = [
        ball((0, cy, 0), (wide, tall, wide), glaze, body=True),
        limb((0, 0, 0), (0, 0.07, 0), wide * 0.6, wide * 0.5, trim),
        ball((0, cy + tall * 0.86, 0), (mouth, tall * 0.28, mouth), trim),
        ball((0, cy + tall * 1.14 + 0.05, 0), rng.uniform(0.05, 0.07), same),
        ring((0, cy + tall * 0.84, 0), mouth * 1.06, 0.04, 0.04, same, axis=(0, 1, 0)),
        limb((wide * 0.7, cy - tall * 0.35, 0), bend, 0.12, 0.075, glaze, body=True),
        limb(bend, tip, 0.076, 0.05, glaze, bore=0.6, body=True),
        ball(bend, 0.078, glaze, body=True),
        ring((-wide - 0.02, cy + tall * 0.08, 0), rng.uniform(0.19, 0.23), 0.055, 0.075, same, stretch=rng.uniform(0.85, 1.15)),
    ]
    if rng.random() < 0.4:
        parts.append(limb((0, cy - 0.05, 0), (0, cy + 0.05, 0), wide * 1.01, wide * 1.01, trim))
    return Subject(tuple(parts), best_azimuth=0.0)


def vase(rng: random.Random) -> Subject:
    """A round belly on a foot, a narrow neck, a flared lip; some have handles, some hold flowers."""
    glaze = decorated(rng, vivid(rng), plain=0.25)
    glaze = Paint(glaze.colour, glaze.second, glaze.pattern, glaze.axis, gloss=0.4)
    trim = plain(rng.choice((glaze.second, darker(glaze.colour, 0.4), (0.85, 0.65, 0.2))), 0.4)
    wide, belly, neck = rng.uniform(0.2, 0.32), rng.uniform(0.24, 0.36), rng.uniform(0.08, 0.14)
    rise, lip = rng.uniform(0.12, 0.34), rng.uniform(0.13, 0.22)
    cy = 0.05 + belly * 0.95
    low, high = cy + belly * 0.75, cy + belly * 0.75 + rise
    parts = [
        limb((0, 0, 0), (0, 0.12, 0), wide * 0.7, wide * 0.55, trim),
        ball((0, cy, 0), (wide, belly, wide), glaze, body=True),
        limb((0, low - 0.06, 0), (0, high, 0), max(neck * 1.5, wide * 0.5), neck, glaze, bore=0.0, body=True),
        limb((0, high, 0), (0, high + 0.1, 0), neck, lip, glaze, bore=0.84, body=True),
        limb((0, high, 0), (0, high + 0.03, 0), neck * 0.9, neck * 0.95, plain(DARK)),
        ring((0, high, 0), neck * 1.15, 0.03, 0.035, trim, axis=(0, 1, 0)),
    ]
    if rng.random() < 0.35:
        parts.append(limb((0, cy - 0.03, 0), (0, cy + 0.05, 0), wide * 1.015, wide * 1.015, trim))
    if rng.random() < 0.4:
        parts += mirrored([ring((wide * 0.75, (cy + high) / 2 + 0.04, 0), 0.15, 0.04, 0.05, trim, stretch=1.2)])
    if rng.random() < 0.3:
        petal, stem = plain(vivid(rng)), plain((0.2, 0.55, 0.2))
        for x, y, z in ((-0.16, 0.3, 0.02), (0.15, 0.34, 0.0), (0.0, 0.42, 0.04)):
            top: Vec = (x, high + y, z)
            parts += [limb((0, high, 0), top, 0.018, 0.018, stem), ball(top, (0.1, 0.09, 0.09), petal),
                      ball(add(top, (0, 0, 0.07)), (0.04, 0.04, 0.04), plain((0.98, 0.85, 0.2)))]  # fmt: skip
    return Subject(tuple(parts))


def mug(rng: random.Random) -> Subject:
    """A hollow cylinder with a big handle at +x."""
    glaze = decorated(rng, vivid(rng), plain=0.25)
    inside = plain(rng.choice((WHITE, glaze.second)))
    radius, tall, flare = rng.uniform(0.26, 0.34), rng.uniform(0.55, 0.78), rng.uniform(0.9, 1.15)
    drink = plain(rng.choice(((0.3, 0.17, 0.08), (0.85, 0.7, 0.5), (0.75, 0.3, 0.1))), 0.4)
    parts = [
        limb((0, 0, 0), (0, tall, 0), radius, radius * flare, glaze, bore=0.88, body=True),
        limb((0, 0.02, 0), (0, tall - 0.02, 0), radius * 0.89, radius * 0.89 * flare, inside, bore=0.97),
        limb((0, 0, 0), (0, tall * 0.8, 0), radius * 0.87, radius * 0.86 * min(flare, 1.05), drink),
        ring((radius * 1.02, tall * 0.5, 0), tall * 0.3, 0.075, 0.1, rng.choice((glaze, plain(glaze.second))), body=True),
    ]
    if rng.random() < 0.5:
        parts.append(ball((0, tall * 0.5, radius * 0.8), (radius * 0.5, radius * 0.5, radius * 0.26), plain(apart(rng, glaze.colour))))
    return Subject(tuple(parts), best_azimuth=rng.choice((-15.0, 15.0)))


def car(rng: random.Random) -> Subject:
    """A toy car that drives towards +z: bonnet, cabin with windows all around, four big wheels, lamps."""
    paint = decorated(rng, vivid(rng), plain=0.4)
    paint = Paint(paint.colour, paint.second, paint.pattern, paint.axis, gloss=0.4)
    glass, tyre, hub = plain((0.25, 0.4, 0.55), 0.7), plain(DARK), plain(rng.choice((METAL, vivid(rng), WHITE)), 0.4)
    wide, long, wheel = rng.uniform(0.21, 0.26), rng.uniform(0.42, 0.5), rng.uniform(0.11, 0.14)
    floor, deck = wheel * 0.9, wheel * 0.9 + rng.uniform(0.17, 0.22)
    kind = rng.choice(("round", "box", "truck"))
    roof = deck + rng.uniform(0.17, 0.24)
    middle, cabin = {"round": (-0.05, long * 0.62), "box": (-0.1, long * 0.75), "truck": (long * 0.3, long * 0.42)}[kind]
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
             ball((wide * 0.7, (floor + deck) / 2 + 0.02, -long), (0.04, 0.04, 0.025), Paint((0.9, 0.1, 0.1), glow=0.4))]  # fmt: skip
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
    wide, deep, seat, top = rng.uniform(0.22, 0.3), rng.uniform(0.2, 0.26), rng.uniform(0.36, 0.46), rng.uniform(0.9, 1.0)
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
        parts.append(block((0, (seat + top) / 2 + 0.06, -deep + 0.03), (wide * 0.75, (top - seat) * 0.36, 0.03), cushion))
    elif kind == "oval":
        parts.append(ball((0, (seat + top) / 2 + 0.06, -deep), (wide * 1.05, (top - seat) * 0.55, 0.05), frame, body=True))
        parts.append(ball((0, (seat + top) / 2 + 0.06, -deep + 0.03), (wide * 0.8, (top - seat) * 0.42, 0.045), cushion))
    else:
        legs.append(limb((wide * 0.9, seat, -deep), (wide * 0.95, top, -deep - 0.04), thick, thick, frame, body=True))
        heights = (0.45, 0.9) if rng.random() < 0.5 else (0.3, 0.6, 0.92)
        parts += [block((0, seat + (top - seat) * h, -deep - 0.03), (wide * 0.92, 0.05, 0.02), frame, body=True) for h in heights]
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
            slope: Frame = ((side * (wide + eave) / 2, -(roof * (1 + eave / wide)) / 2, 0), (0, 0.035, 0), (0, 0, deep + eave))
            centre: Vec = (side * (wide + eave) / 2, top + roof * (1 - (1 + eave / wide) / 2) + 0.02, 0)
            parts.append(Part("box", centre, slope, tiles))
        parts.append(ball((0, top + roof * 0.4, deep), (0.08, 0.08, 0.02), glass))
    else:
        for i in range(2):
            half = 1.0 - 0.5 * i
            parts.append(limb((0, top + i * roof * 0.5, 0), (0, top + (i + 1) * roof * 0.5, 0), (wide + eave) * 1.25 * half,
                              (wide + eave) * 1.25 * (half - 0.5), tiles, flat=deep / wide))  # fmt: skip
    shift = rng.choice((-0.45, 0.0, 0.45)) * wide
    parts += [
        block((shift, 0.15, deep), (0.085, 0.15, 0.02), door),
        ball((shift + 0.05, 0.15, deep + 0.02), 0.018, plain((0.9, 0.75, 0.2), 0.6)),
    ]
    spots = [x * wide for x in (-0.55, 0.0, 0.55) if abs(x * wide - shift) > 0.16]
    for x in spots:
        parts += [block((x, tall * 1.2, deep), (0.085, 0.085, 0.012), trim), block((x, tall * 1.2, deep), (0.062, 0.062, 0.02), glass)]
    parts += mirrored([block((wide, tall * 1.1, 0), (0.012, 0.09, 0.09), trim), block((wide, tall * 1.1, 0), (0.02, 0.065, 0.065), glass)])
    parts.append(block((wide * 0.5, top + roof * 0.7, -deep * 0.4), (0.06, roof * 0.35, 0.06), plain(rng.choice(((0.6, 0.25, 0.18), (0.5, 0.5, 0.52))))))
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
