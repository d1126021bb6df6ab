"""Toy vessels: what holds tea, berries, flowers, lemonade or wax."""

import random

from dreambooth.toybox.palette import BLACK, DARK, METAL, WHITE, apart, darker, decorated, lighter, plain, vivid
from dreambooth.toybox.parts import Paint, Subject, Vec, add, ball, limb, mirrored, ring


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
            parts.append(
                ball(spot, rng.uniform(0.09, 0.12), berry if i % 3 else plain(lighter(berry.colour, 0.3), 0.4))
            )
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
        parts.append(
            ball(
                (0, middle, radius * 0.98),
                (size * 0.55, size * 0.55 * stretch, radius * 0.13),
                plain(apart(rng, badge.colour)),
            )
        )
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
            ball(
                (0, tall * 0.5, radius * 0.95),
                (radius * 0.62, radius * 0.5, radius * 0.22),
                plain(apart(rng, wax.colour)),
            ),
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
            parts.append(
                ball(
                    (radius * x * 0.92, tall - long * 0.8, radius * z * 0.92), (radius * 0.2, long, radius * 0.2), pale
                )
            )
        if rng.random() < 0.5:
            parts.append(ring((0.38, 0.1, 0), 0.1, 0.035, 0.05, base))
    parts += [
        limb((0, tall, 0), (0, tall + 0.08, 0), 0.014, 0.014, plain(BLACK)),
        ball((0, tall + 0.14, 0), (0.075, 0.09, 0.075), Paint((1.0, 0.6, 0.08), glow=1)),
        limb((0, tall + 0.16, 0), (0, tall + 0.33, 0), 0.07, 0.0, Paint((1.0, 0.6, 0.08), glow=1)),
        ball((0, tall + 0.13, 0.05), (0.042, 0.065, 0.042), Paint((1.0, 0.95, 0.55), glow=1)),
    ]
    return Subject(tuple(parts))


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
        ring(
            (-wide - 0.02, cy + tall * 0.08, 0),
            rng.uniform(0.19, 0.23),
            0.055,
            0.075,
            same,
            stretch=rng.uniform(0.85, 1.15),
        ),
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
        ring(
            (radius * 1.02, tall * 0.5, 0), tall * 0.3, 0.075, 0.1, rng.choice((glaze, plain(glaze.second))), body=True
        ),
    ]
    if rng.random() < 0.5:
        parts.append(
            ball(
                (0, tall * 0.5, radius * 0.8),
                (radius * 0.5, radius * 0.5, radius * 0.26),
                plain(apart(rng, glaze.colour)),
            )
        )
    return Subject(tuple(parts), best_azimuth=rng.choice((-15.0, 15.0)))
