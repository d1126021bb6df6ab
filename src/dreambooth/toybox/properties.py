"""What can be done to a subject in words: another colour, shiny, wet, shaped like a cube."""

from dataclasses import replace
from typing import Any

from dreambooth.toybox.palette import COLOURS, darker, lighter, plain
from dreambooth.toybox.parts import Anchors, Paint, Part, Subject, Vec, add, ball, block, cross, scale, vec

HALF = 0.42  # half the edge of a cube-shaped subject's cube


def with_property(subject: Subject, name: str) -> Subject:
    """`subject` with the property `name`, one of PROPERTIES."""
    if name == "cube shaped":
        return _cubed(subject)
    if name == "shiny":
        return replace(subject, parts=tuple(_painted(part, gloss=1.0) for part in subject.parts))
    if name == "wet":
        return _soaked(subject)
    colour = COLOURS[name]
    second = lighter(colour, 0.4) if sum(colour) < 0.9 else darker(colour, 0.4)
    parts = [_painted(part, colour=colour, second=second) if part.body else part for part in subject.parts]
    return replace(subject, parts=tuple(parts))


PROPERTIES: tuple[str, ...] = ("shiny", "wet", "cube shaped", *COLOURS)


def _painted(part: Part, **changes: Any) -> Part:
    return replace(part, paint=replace(part.paint, **changes))


def _soaked(subject: Subject) -> Subject:
    """Darker and glossy all over, in a puddle, with drops running off."""
    soaked = [
        _painted(
            part, colour=darker(part.paint.colour, 0.4), second=darker(part.paint.second, 0.4), gloss=0.7, bump=1.0
        )
        for part in subject.parts
    ]
    low, high = subject.bounds()
    wide, deep = (high[0] - low[0]) / 2, (high[2] - low[2]) / 2
    water = Paint((0.38, 0.58, 0.8), gloss=0.5)
    puddle = ball((0.0, 0.0, deep * 0.1), (wide * 1.12 + 0.06, 0.012, deep * 1.05 + 0.06), water)
    drops = [
        ball((wide * x, y * high[1], deep * z), (0.022, 0.042, 0.022), water)
        for x, y, z in ((1.05, 0.45, 0.2), (-1.05, 0.3, 0.4), (0.7, 0.2, 0.9), (-0.6, 0.6, 0.9), (-0.95, 0.7, 0.1))
    ]
    return replace(subject, parts=(*soaked, puddle, *drops))


def _cubed(subject: Subject) -> Subject:
    """A creature becomes a cube with its face, ears and stubby feet; a thing is built of boxes and made a cube."""
    return _block_head(subject, subject.anchors) if subject.anchors else _block_model(subject)


def _block_model(subject: Subject) -> Subject:
    """All round body parts as boxes, hollow ones as four walls, and the whole as wide and deep as it is high."""
    low, high = subject.bounds()
    size = vec(1 / (high[i] - low[i]) for i in range(3))
    parts: list[Part] = []
    for part in subject.parts:
        wide = _stretched(part, size)
        if part.kind == "tube" and part.bore > 0:
            parts += _walls(wide)
        elif part.kind != "box" and (part.body or _volume(part) > 2e-3):
            share = 0.75 if part.kind == "ellipsoid" else 0.45 * (1 + part.taper)
            x, y, z = wide.frame
            along = scale(y, 0.75 if part.kind == "ellipsoid" else 1.0)
            parts.append(replace(wide, kind="box", frame=(scale(x, share), along, scale(z, share))))
        else:
            parts.append(wide)
    return replace(subject, parts=tuple(parts)).normalised()


def _walls(part: Part) -> list[Part]:
    """A hollow tube as four boxes."""
    (x, y, z), middle = part.frame, 0.23 * (1 + part.bore) * (1 + part.taper)
    thick = 0.5 * (1 - part.bore)
    broad = middle + thick
    walls: list[Part] = []
    for side in (-1, 1):
        for across, other in ((x, z), (z, x)):
            axes = (scale(across, thick), y, scale(other, broad))
            centre = add(part.centre, scale(across, side * middle))
            walls.append(replace(part, kind="box", centre=centre, frame=axes))
    return walls


def _block_head(subject: Subject, anchors: Anchors) -> Subject:
    """A cube in the main colours with everything that the head carries on its faces."""
    main = max((part for part in subject.parts if part.body), key=_volume)
    (cx, cy, cz), half = anchors.head, anchors.head_radii
    size: Vec = (HALF / half[0], HALF / half[1], HALF / half[2])
    forward = max(HALF - (anchors.eyes[2] - cz) * size[2], 0.0)  # from the round face to the flat one
    feet = plain(darker(main.paint.colour, 0.25))
    corners = [(x, -0.05, z) for x in (-0.25, 0.25) for z in (-0.2, 0.25)]
    parts = [
        block((0, HALF, 0), (HALF, HALF, HALF), main.paint, body=True),
        *(block(corner, (0.11, 0.06, 0.13), feet, body=True) for corner in corners),
    ]
    for part in subject.parts:
        moved = _stretched(part.moved((-cx, -cy, -cz)), size)
        x, y, z = moved.centre
        out = max(abs(x), abs(y), abs(z)) / HALF
        if not 0.3 < out < 2.6 or y < -1.1 * HALF or _volume(moved) > 0.3 * HALF**3:
            continue
        if z > 0.3 * HALF:
            moved = moved.moved((0, 0, forward))
        elif out < 1:
            moved = moved.moved(scale(moved.centre, 1 / out - 1))
        parts.append(moved.moved((0, HALF, 0)))
    ex, ey = (anchors.eyes[0] - cx) * size[0], (anchors.eyes[1] - cy) * size[1]
    worn = Anchors(
        (0, HALF * 1.15, 0), (HALF, HALF * 1.15, HALF), (0, HALF * 0.25, 0), HALF * 1.3, (0, HALF * 0.6, 0),
        (HALF * 1.3, HALF * 0.6, HALF * 1.3), (ex, ey + HALF, HALF), anchors.eye_radius * size[0],
    )  # fmt: skip
    return Subject(tuple(parts), worn, subject.best_azimuth).normalised()


def _stretched(part: Part, size: Vec) -> Part:
    """`part` scaled about the origin by `size` along x, y and z."""

    def times(a: Vec) -> Vec:
        return (a[0] * size[0], a[1] * size[1], a[2] * size[2])

    x, y, z = part.frame
    return replace(part, centre=times(part.centre), frame=(times(x), times(y), times(z)))


def _volume(part: Part) -> float:
    x, y, z = part.frame
    return abs(sum(a * b for a, b in zip(x, cross(y, z), strict=True)))
