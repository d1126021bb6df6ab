"""Toy creatures: dog, cat, duck, stuffed animal, cartoon, toy monster, robot and fish."""

import random

from dreambooth.toybox.palette import (
    BLACK,
    DARK,
    METAL,
    WHITE,
    apart,
    darker,
    decorated,
    fur,
    lighter,
    plain,
    vivid,
)
from dreambooth.toybox.parts import Anchors, Paint, Part, Subject, Vec, add, ball, block, limb, mirrored, ring

NOSE, TONGUE = plain(BLACK, 0.5), plain((0.93, 0.35, 0.42))


def _eyes(at: Vec, radius: float, iris: Vec | None = None, slit: bool = False) -> list[Part]:
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
        limb((0, hy - head * 0.28, hz + head * 0.4), (0, hy - head * 0.32, tip - thick * 0.5), thick * 1.2, thick, trim),
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
        parts.append(ball((0, hy - head * 0.78, tip - thick * 0.7), (thick * 0.5, thick * 0.6, 0.04), TONGUE, (-0.4, 0, 0)))
    if rng.random() < 0.4:
        parts.append(ring((0, hy - head * 0.85, hz - head * 0.35), head * 0.78, 0.08, 0.07, plain(vivid(rng)), (0, 0.92, 0.39)))
    eye = (head * 0.42, hy + head * 0.22, hz + head * 0.8)
    parts += _eyes(eye, head * rng.uniform(0.17, 0.23), WHITE if rng.random() < 0.5 else None)
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
        ball((0, hy - head * 0.2, hz + head * 0.98), (head * 0.13, head * 0.09, head * 0.1), plain((0.9, 0.4, 0.45), 0.4)),
    ]
    side = rng.choice((-1, 1)) * rng.uniform(0.22, 0.34)
    path = [root, add(root, (side * 0.6, 0.12, -0.08)), add(root, (side, 0.38, -0.06)), add(root, (side * 0.7, 0.62, 0))]
    parts += [limb(a, b, 0.048, 0.045, tail, body=True) for a, b in zip(path, path[1:], strict=False)]
    parts += [ball(point, 0.048, tail, body=True) for point in path[1:]]
    iris = rng.choice(((0.55, 0.85, 0.25), (0.95, 0.8, 0.2), (0.35, 0.7, 0.95), (0.95, 0.6, 0.15)))
    eye = (head * 0.44, hy + head * 0.12, hz + head * 0.8)
    parts += _eyes(eye, head * 0.22, iris, slit=True)
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
        ball((0, hy - head * 0.3, hz + head * 0.9 + bill * 0.2), (head * 0.4, head * 0.1, bill * 0.8), plain(darker(beak.colour, 0.25)), (0.1, 0, 0)),
    ]  # fmt: skip
    pairs = [ball((plump * 0.92, by + 0.02, -0.03), (plump * 0.2, plump * 0.5, plump * 0.75), wing, (0.25, 0, 0.1), body=True)]
    if legs:
        pairs += [
            limb((plump * 0.4, by - plump * 0.6, 0.02), (plump * 0.4, 0.03, 0.02), 0.035, 0.03, beak),
            ball((plump * 0.42, 0.03, 0.09), (0.1, 0.03, 0.14), beak),
        ]
    if rng.random() < 0.35:
        pairs.append(ball((0.04, hy + head, hz - 0.03), (0.03, 0.12, 0.05), coat, (-0.4, 0, -0.3), body=True))
    parts += mirrored(pairs)
    eye = (head * 0.5, hy + head * 0.28, hz + head * 0.76)
    parts += _eyes(eye, head * 0.2, WHITE if rng.random() < 0.5 else None)
    anchors = Anchors(
        (0, hy, hz), (head, head, head), (0, hy - head * 0.85, hz * 0.9), head * 0.8, (0, by, 0.03),
        (plump * 1.06, plump * 0.98, plump * stretch * 0.9), eye, head * 0.26,
    )  # fmt: skip
    return Subject(tuple(parts), anchors, best_azimuth=rng.choice((-25.0, 25.0)))


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
        trunk: list[Vec] = [(0, hy - head * 0.1, hz + head * 0.8), (0, hy - head * 0.75, hz + head * 1.35), (0.05, hy - head * 0.9, hz + head * 1.9)]
        parts += [limb(trunk[0], trunk[1], 0.1, 0.07, coat, body=True), limb(trunk[1], trunk[2], 0.07, 0.055, coat, body=True)]
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
    parts += _eyes(eye, head * 0.14)
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

    skin = Paint(skin_colour, apart(rng, skin_colour), rng.choice(("solid", "solid", "spots", "stripes")), (0, rng.uniform(7, 10), 0), ink=1.0, gloss=0.0)
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
        pairs += [limb((0.06, crown - 0.05, 0), (0.14, crown + 0.16, 0), 0.018, 0.018, line), ball((0.14, crown + 0.17, 0), 0.055, shoe)]
    elif extra == "round ears":
        pairs.append(ball((wide * 0.85, crown - 0.04, -0.02), (0.14, 0.14, 0.05), skin, body=True))
    elif extra == "pointed ears":
        pairs.append(limb((wide * 0.8, hy + tall * 0.3, 0), (wide * 1.6, hy + tall * 0.75, 0), 0.09, 0.01, skin, flat=0.5, body=True))
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
    parts += [limb((wide * x, my + 0.03, deep * 0.93 + 0.05), (wide * x, my - 0.06, deep * 0.93 + 0.05), 0.035, 0.004, plain(WHITE)) for x in teeth]
    horn = rng.choice(("horns", "stalks", "ears"))
    top, spread = cy + tall * 0.8, wide * 0.55
    if horn == "horns":
        pairs = [limb((spread, top, 0), (spread * 1.6, top + 0.24, 0), 0.08, 0.005, accent)]
    elif horn == "stalks":
        pairs = [limb((spread * 0.7, top, 0), (spread, top + 0.2, 0), 0.03, 0.025, coat, body=True), ball((spread, top + 0.22, 0), 0.07, accent)]
    else:
        pairs = [ball((wide * 0.95, top - 0.05, 0), (0.16, 0.1, 0.06), accent, (0, 0, 0.6))]
    pairs += [
        ball((wide * 0.5, 0.06, deep * 0.35), (0.13, 0.075, 0.17), accent),
        limb((wide * 0.85, cy - 0.05, 0), (wide * 1.35, cy - rng.uniform(-0.15, 0.2), 0.1), 0.06, 0.075, coat, body=True),
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
    parts += [ball(((i - 1) * wide * 0.4, cy + tall * 0.25, deep + 0.02), 0.04, Paint(c, glow=0.4)) for i, c in enumerate((vivid(rng), vivid(rng), vivid(rng)))]
    parts.append(block((0, cy - tall * 0.28, deep + 0.015), (wide * 0.5, 0.03, 0.01), plain(DARK)))
    size = rng.uniform(0.055, 0.075)
    hand: Vec = (wide + 0.13, cy - tall * rng.uniform(-0.9, 0.9), 0.08)
    pairs = [
        ball((head[0] * 0.45, hy + head[1] * 0.25, head[2]), (size, size, 0.04), plain(WHITE)),
        ball((head[0] * 0.45, hy + head[1] * 0.25, head[2] + 0.025), (size * 0.62, size * 0.62, 0.03), Paint(glow.colour, glow=0.5)),
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
