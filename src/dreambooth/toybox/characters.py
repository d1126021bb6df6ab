"""Toy characters: stuffed animal, cartoon, monster and robot."""

import random

from dreambooth.toybox.creatures import NOSE, pair_of_eyes
from dreambooth.toybox.palette import BLACK, DARK, METAL, WHITE, apart, decorated, fur, lighter, plain, vivid
from dreambooth.toybox.parts import Anchors, Paint, Subject, Vec, add, ball, block, limb, mirrored


def stuffed_animal(rng: random.Random) -> Subject:
    """A plush bear, bunny, elephant or monkey, sitting with its soles forward; seams, a belly patch, button eyes."""
    coat = decorated(rng, fur(rng), plain=0.5)
    light = plain(lighter(coat.colour, 0.55) if sum(coat.colour) < 2.4 else (0.9, 0.72, 0.6))
    inner = plain(rng.choice((light.colour, coat.second, (0.95, 0.65, 0.68))))
    kind = rng.choice(("bear", "bear", "bunny", "elephant", "monkey"))
    head, belly = rng.uniform(0.25, 0.31), rng.uniform(0.24, 0.32)
    by = belly * 0.95
    hy, hz = by + belly * 0.75 + head * 0.8, 0.03
    parts = [
        ball((0, by, 0), (belly, belly * 0.98, belly * 0.85), coat, body=True),
        ball((0, by - 0.01, belly * 0.3), (belly * 0.7, belly * 0.72, belly * 0.62), light),
        ball((0, hy, hz), (head * 1.06, head * 0.96, head * 0.92), coat, body=True),
    ]
    pairs = [
        limb((belly * 0.8, by + belly * 0.45, 0.02), (belly * 1.25, by - 0.08, 0.14), 0.085, 0.1, coat, body=True),
        ball((belly * 1.27, by - 0.1, 0.15), 0.1, coat, body=True),
        limb((belly * 0.6, 0.12, 0.1), (belly * 0.85, 0.12, 0.38), 0.12, 0.125, coat, body=True),
        ball((belly * 0.86, 0.125, 0.385), (0.13, 0.13, 0.06), inner),
    ]
    if kind == "bunny":
        long, lean = rng.uniform(0.24, 0.34), rng.uniform(0.1, 0.5)
        top = (head * 0.5 + lean * 0.2, hy + head * 0.8 + long * 0.8, hz)
        pairs += [
            ball(top, (0.085, long, 0.06), coat, (0, 0, -lean), body=True),
            ball(add(top, (0, 0, 0.035)), (0.05, long * 0.78, 0.04), inner, (0, 0, -lean)),
        ]
    elif kind == "elephant":
        pairs += [
            ball((head * 1.25, hy + 0.04, hz - 0.05), (head * 0.75, head * 0.85, 0.05), coat, (0, -0.5, 0), body=True),
            ball((head * 1.25, hy + 0.04, hz - 0.02), (head * 0.55, head * 0.65, 0.04), inner, (0, -0.5, 0)),
        ]
    else:
        side, up = (1.0, 0.15) if kind == "monkey" else (0.78, 0.78)
        ear = (head * side * 1.08, hy + head * up, hz)
        pairs += [
            ball(ear, (head * 0.42, head * 0.42, head * 0.2), coat, body=True),
            ball(add(ear, (0, 0, head * 0.12)), (head * 0.26, head * 0.26, head * 0.14), inner),
        ]
    if kind == "elephant":
        trunk: list[Vec] = [
            (0, hy - head * 0.1, hz + head * 0.8),
            (0, hy - head * 0.75, hz + head * 1.35),
            (0.05, hy - head * 0.9, hz + head * 1.9),
        ]
        parts += [
            limb(trunk[0], trunk[1], 0.1, 0.07, coat, body=True),
            limb(trunk[1], trunk[2], 0.07, 0.055, coat, body=True),
        ]
        parts.append(ball(trunk[1], 0.072, coat, body=True))
    else:
        parts += [
            ball((0, hy - head * 0.3, hz + head * 0.75), (head * 0.48, head * 0.38, head * 0.42), light),
            ball((0, hy - head * 0.13, hz + head * 1.13), (head * 0.17, head * 0.12, head * 0.1), NOSE),
            limb((0, hy - head * 0.2, hz + head * 1.14), (0, hy - head * 0.45, hz + head * 1.12), 0.014, 0.014, NOSE),
        ]
    if rng.random() < 0.4:
        bow, knot = plain(vivid(rng)), (0.0, hy - head * 0.9, hz + head * 0.75)
        pairs.append(limb(knot, add(knot, (0.16, 0.02, 0)), 0.02, 0.09, bow, flat=0.5))
        parts.append(ball(knot, 0.045, bow))
    parts += mirrored(pairs)
    eye = (head * 0.4, hy + head * 0.15, hz + head * 0.82)
    parts += pair_of_eyes(eye, head * 0.14)
    anchors = Anchors(
        (0, hy, hz), (head * 1.06, head * 0.96, head * 0.95), (0, hy - head * 0.85, hz), head * 0.8, (0, by, 0),
        (belly * 1.08, belly * 0.95, belly * 1.0), eye, head * 0.22,
    )  # fmt: skip
    return Subject(tuple(parts), anchors)


def cartoon(rng: random.Random) -> Subject:
    """A drawn character in flat colours and black outlines: huge eyes, a grin, white gloves, big shoes."""
    skin_colour, dress_colour = vivid(rng), vivid(rng)

    def ink(colour: Vec) -> Paint:
        return Paint(colour, ink=1.0, gloss=0.0)

    skin = Paint(
        skin_colour,
        apart(rng, skin_colour),
        rng.choice(("solid", "solid", "spots", "stripes")),
        (0, rng.uniform(7, 10), 0),
        ink=1.0,
        gloss=0.0,
    )
    dress, white, shoe, line = ink(dress_colour), ink(WHITE), ink(apart(rng, dress_colour)), plain(BLACK)
    wide, tall = rng.uniform(0.26, 0.36), rng.uniform(0.26, 0.38)
    body = rng.uniform(0.14, 0.24)
    hip = rng.uniform(0.2, 0.26)
    hy = hip + body * 1.5 + tall * 0.85
    parts = [
        ball((0, hip + body * 0.8, 0), (body * 0.9, body * 1.1, body * 0.75), dress, body=True),
        ball((0, hy, 0), (wide, tall, 0.26), skin, body=True),
        ball((0, hy - tall * 0.45, 0.21), (wide * 0.5, tall * 0.15, 0.06), plain((0.55, 0.05, 0.1))),
        ball((0, hy - tall * 0.36, 0.225), (wide * 0.5, tall * 0.06, 0.06), plain(WHITE)),
        ball((0, hy - tall * 0.08, 0.29), (0.05, 0.05, 0.05), ink(apart(rng, skin_colour))),
    ]
    reach = rng.uniform(-0.12, 0.22)
    hand: Vec = (body + 0.24, hip + body + reach, 0.08)
    eye_size = rng.uniform(0.105, 0.135)
    ex, ey = eye_size * 0.98, hy + tall * 0.28
    pairs = [
        limb((body * 0.7, hip + body * 1.2, 0), hand, 0.03, 0.03, line),
        ball(hand, (0.085, 0.085, 0.07), white),
        limb((body * 0.45, hip + 0.03, 0), (body * 0.55, 0.08, 0), 0.03, 0.03, line),
        ball((body * 0.65, 0.07, 0.06), (0.105, 0.07, 0.16), shoe),
        ball((ex, ey, 0.2), (eye_size, eye_size * 1.35, 0.09), white),
        ball((ex * 0.8, ey - 0.01, 0.28), (eye_size * 0.45, eye_size * 0.62, 0.03), line),
    ]
    crown = hy + tall
    extra = rng.choice(("antennae", "round ears", "hair", "pointed ears"))
    if extra == "antennae":
        pairs += [
            limb((0.06, crown - 0.05, 0), (0.14, crown + 0.16, 0), 0.018, 0.018, line),
            ball((0.14, crown + 0.17, 0), 0.055, shoe),
        ]
    elif extra == "round ears":
        pairs.append(ball((wide * 0.85, crown - 0.04, -0.02), (0.14, 0.14, 0.05), skin, body=True))
    elif extra == "pointed ears":
        pairs.append(
            limb(
                (wide * 0.8, hy + tall * 0.3, 0),
                (wide * 1.6, hy + tall * 0.75, 0),
                0.09,
                0.01,
                skin,
                flat=0.5,
                body=True,
            )
        )
    else:
        parts += [limb((0, crown - 0.05, 0), (x, crown + 0.13, 0), 0.06, 0.005, shoe) for x in (-0.12, 0.0, 0.12)]
    parts += mirrored(pairs)
    anchors = Anchors(
        (0, hy, 0), (wide, tall, 0.26), (0, hy - tall * 0.9, 0), wide * 0.6, (0, hip + body * 0.8, 0),
        (body * 1.0, body * 1.05, body * 0.85), (ex, ey, 0.27), eye_size * 1.2,
    )  # fmt: skip
    return Subject(tuple(parts), anchors)


def toy(rng: random.Random) -> Subject:
    """A little monster with horns, one to three eyes, teeth, stubby feet and a belly of another colour."""
    coat = decorated(rng, vivid(rng), plain=0.2)
    accent, belly = plain(apart(rng, coat.colour)), plain(lighter(coat.colour, 0.5))
    wide, tall = rng.uniform(0.28, 0.4), rng.uniform(0.34, 0.44)
    deep = wide * 0.85
    cy = 0.1 + tall
    shape = rng.choice(("egg", "pear", "tower"))
    parts = [ball((0, cy, 0), (wide, tall, deep), coat, body=True)]
    if shape == "pear":
        parts.append(ball((0, cy - tall * 0.4, 0), (wide * 1.2, tall * 0.62, deep * 1.15), coat, body=True))
    elif shape == "tower":
        parts.append(limb((0, 0.1, 0), (0, cy, 0), wide, wide, coat, flat=0.85, body=True))
    front = deep * (1.15 if shape == "pear" else 1.0)
    parts.append(ball((0, cy - tall * 0.5, front * 0.45), (wide * 0.66, tall * 0.4, front * 0.64), belly))
    eyes, ey, size = rng.choice((1, 1, 2, 3)), cy + tall * 0.38, rng.uniform(0.1, 0.13)
    size *= 1.5 if eyes == 1 else 1.0
    iris = plain(rng.choice(((0.2, 0.6, 0.95), (0.3, 0.75, 0.3), (0.85, 0.4, 0.1), (0.55, 0.25, 0.8))))
    for i in range(eyes):
        x = (i - (eyes - 1) / 2) * size * 1.7
        z = deep * 0.78 - abs(x) * 0.4
        y = ey + (size * 0.7 if eyes == 3 and i == 1 else 0)
        parts += [
            ball((x, y, z), size, plain(WHITE, 0.3)),
            ball((x, y, z + size * 0.72), (size * 0.55, size * 0.55, size * 0.4), iris),
            ball((x, y, z + size * 0.95), (size * 0.3, size * 0.3, size * 0.22), NOSE),
        ]
    my = cy - tall * 0.06
    parts.append(ball((0, my, deep * 0.9), (wide * 0.5, 0.05, 0.08), plain((0.35, 0.05, 0.1))))
    teeth = rng.choice(((-0.25, 0.25), (-0.3, 0.0, 0.3), (0.0,)))
    parts += [
        limb(
            (wide * x, my + 0.03, deep * 0.93 + 0.05),
            (wide * x, my - 0.06, deep * 0.93 + 0.05),
            0.035,
            0.004,
            plain(WHITE),
        )
        for x in teeth
    ]
    horn = rng.choice(("horns", "stalks", "ears"))
    top, spread = cy + tall * 0.8, wide * 0.55
    if horn == "horns":
        pairs = [limb((spread, top, 0), (spread * 1.6, top + 0.24, 0), 0.08, 0.005, accent)]
    elif horn == "stalks":
        pairs = [
            limb((spread * 0.7, top, 0), (spread, top + 0.2, 0), 0.03, 0.025, coat, body=True),
            ball((spread, top + 0.22, 0), 0.07, accent),
        ]
    else:
        pairs = [ball((wide * 0.95, top - 0.05, 0), (0.16, 0.1, 0.06), accent, (0, 0, 0.6))]
    pairs += [
        ball((wide * 0.5, 0.06, deep * 0.35), (0.13, 0.075, 0.17), accent),
        limb(
            (wide * 0.85, cy - 0.05, 0), (wide * 1.35, cy - rng.uniform(-0.15, 0.2), 0.1), 0.06, 0.075, coat, body=True
        ),
    ]
    parts += mirrored(pairs)
    anchors = Anchors(
        (0, cy + tall * 0.3, 0), (wide * 0.95, tall * 0.7, deep * 0.9), (0, cy - tall * 0.12, 0), wide * 1.0,
        (0, cy - tall * 0.5, 0), (wide * 1.08, tall * 0.55, front * 1.08), (size * 0.85, ey, deep * 0.8), size * 1.05,
    )  # fmt: skip
    return Subject(tuple(parts), anchors)


def robot(rng: random.Random) -> Subject:
    """Boxes and tubes of metal: a square head with lamps for eyes and an antenna, a panel of buttons."""
    shell = decorated(rng, rng.choice((METAL, vivid(rng), vivid(rng))), plain=0.55)
    shell = Paint(shell.colour, shell.second, shell.pattern, shell.axis, gloss=0.35)
    metal, trim = plain(METAL, 0.5), plain(apart(rng, shell.colour), 0.3)
    glow = Paint(vivid(rng), glow=0.7)
    wide, tall, deep = rng.uniform(0.18, 0.27), rng.uniform(0.17, 0.25), 0.16
    head = (rng.uniform(0.16, 0.25), rng.uniform(0.13, 0.18), 0.15)
    treads = rng.random() < 0.35
    base = 0.24 if not treads else 0.2
    cy = base + tall
    hy = cy + tall + 0.06 + head[1]
    parts = [
        block((0, cy, 0), (wide, tall, deep), shell, body=True),
        block((0, hy, 0), head, shell, body=True) if rng.random() < 0.7
        else limb((0, hy - head[1], 0), (0, hy + head[1], 0), head[0], head[0] * 0.85, shell, flat=0.8, body=True),
        limb((0, cy + tall, 0), (0, hy, 0), 0.07, 0.07, metal),
        block((0, cy, deep), (wide * 0.68, tall * 0.62, 0.015), plain(lighter(METAL, 0.5))),
        block((0, hy - head[1] * 0.5, head[2]), (head[0] * 0.55, 0.025, 0.012), plain(DARK)),
        limb((0, hy + head[1], 0), (0, hy + head[1] + 0.12, 0), 0.016, 0.016, metal),
        ball((0, hy + head[1] + 0.15, 0), 0.045, Paint(glow.colour, glow=0.5)),
    ]  # fmt: skip
    parts += [
        ball(((i - 1) * wide * 0.4, cy + tall * 0.25, deep + 0.02), 0.04, Paint(c, glow=0.4))
        for i, c in enumerate((vivid(rng), vivid(rng), vivid(rng)))
    ]
    parts.append(block((0, cy - tall * 0.28, deep + 0.015), (wide * 0.5, 0.03, 0.01), plain(DARK)))
    size = rng.uniform(0.055, 0.075)
    hand: Vec = (wide + 0.13, cy - tall * rng.uniform(-0.9, 0.9), 0.08)
    pairs = [
        ball((head[0] * 0.45, hy + head[1] * 0.25, head[2]), (size, size, 0.04), plain(WHITE)),
        ball(
            (head[0] * 0.45, hy + head[1] * 0.25, head[2] + 0.025),
            (size * 0.62, size * 0.62, 0.03),
            Paint(glow.colour, glow=0.5),
        ),
        limb((wide - 0.02, cy + tall * 0.6, 0), (wide + 0.1, cy + tall * 0.5, 0), 0.07, 0.06, metal),
        limb((wide + 0.1, cy + tall * 0.55, 0), hand, 0.05, 0.045, metal),
        ball(hand, 0.08, trim),
        limb((head[0] - 0.02, hy, 0), (head[0] + 0.05, hy, 0), 0.05, 0.04, trim),
    ]
    if treads:
        pairs += [block((wide * 0.85, 0.1, 0), (0.08, 0.1, 0.24), plain(DARK))]
    else:
        pairs += [
            limb((wide * 0.55, base, 0), (wide * 0.55, 0.06, 0), 0.065, 0.065, metal),
            block((wide * 0.58, 0.05, 0.05), (0.1, 0.05, 0.15), trim),
        ]
    parts += mirrored(pairs)
    anchors = Anchors(
        (0, hy, 0), (head[0] * 1.1, head[1] * 1.05, head[2] * 1.1), (0, cy + tall + 0.03, 0), wide * 0.75, (0, cy, 0),
        (wide * 1.35, tall * 1.2, deep * 1.4), (head[0] * 0.45, hy + head[1] * 0.25, head[2] + 0.02), size * 1.3,
    )  # fmt: skip
    return Subject(tuple(parts), anchors)
