"""The vocabulary of the toybox: painted solids, and the few shapes that every subject is put together from.

Lengths are world units (a subject is about 1 high), angles radians; y is up and a subject faces +z.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Vec = tuple[float, float, float]
Frame = tuple[Vec, Vec, Vec]  # the three half-axes of a solid, as vectors
Kind = Literal["ellipsoid", "box", "tube"]
KINDS: tuple[Kind, ...] = ("ellipsoid", "box", "tube")
PATTERNS = ("solid", "spots", "stripes", "two-tone", "patches", "checks", "rainbow")


def vec(values: Iterable[float]) -> Vec:
    """Three numbers as a vector; raises ValueError for more or fewer."""
    x, y, z = values
    return x, y, z


@dataclass(frozen=True)
class Paint:
    """What a surface looks like: two colours, the pattern they make, and how it meets the light."""

    colour: Vec
    second: Vec = (1.0, 1.0, 1.0)
    pattern: str = "solid"
    axis: Vec = (0.0, 6.0, 0.0)  # direction of stripes; its length is the pattern's frequency
    gloss: float = 0.12  # 0 matt .. 1 mirror-like
    bump: float = 0.0  # 0 smooth .. 1 covered with drops
    glow: float = 0.0  # 0 lit from outside .. 1 a light of its own
    ink: float = 0.0  # 1: drawn with a dark outline


@dataclass(frozen=True)
class Part:
    """One solid. A tube runs along its second half-axis: radius 1 at the bottom, `taper` at the top."""

    kind: Kind
    centre: Vec
    frame: Frame
    paint: Paint
    taper: float = 1.0
    bore: float = 0.0  # share of a tube's radius that is hollow
    body: bool = False  # takes the colour of a property such as "a red dog"

    def moved(self, offset: Vec) -> "Part":
        return replace(self, centre=add(self.centre, offset))

    def scaled(self, factor: float) -> "Part":
        return replace(self, centre=scale(self.centre, factor), frame=tuple(scale(axis, factor) for axis in self.frame))

    def extent(self) -> Vec:
        """Half-sizes of the box around the part, along x, y and z."""
        x, y, z = self.frame
        if self.kind == "box":
            return vec(abs(x[i]) + abs(y[i]) + abs(z[i]) for i in range(3))
        if self.kind == "ellipsoid":
            return vec(math.sqrt(x[i] ** 2 + y[i] ** 2 + z[i] ** 2) for i in range(3))
        wide = max(1.0, self.taper)
        return vec(wide * math.hypot(x[i], z[i]) + abs(y[i]) for i in range(3))

    def corners(self) -> list[Vec]:
        """The eight corners of that box."""
        (x, y, z), (ex, ey, ez) = self.centre, self.extent()
        return [(x + i * ex, y + j * ey, z + k * ez) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]


@dataclass(frozen=True)
class Anchors:
    """Where a creature wears things."""

    head: Vec
    head_radii: Vec
    neck: Vec
    neck_radius: float
    chest: Vec
    chest_radii: Vec
    eyes: Vec  # the right eye; the left one mirrors it
    eye_radius: float

    def moved(self, offset: Vec) -> "Anchors":
        return replace(
            self,
            head=add(self.head, offset),
            neck=add(self.neck, offset),
            chest=add(self.chest, offset),
            eyes=add(self.eyes, offset),
        )

    def scaled(self, k: float) -> "Anchors":
        return Anchors(
            scale(self.head, k), scale(self.head_radii, k), scale(self.neck, k), self.neck_radius * k,
            scale(self.chest, k), scale(self.chest_radii, k), scale(self.eyes, k), self.eye_radius * k,
        )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """An individual: its solids, where it wears things, and the azimuth (degrees) it is best seen from."""

    parts: tuple[Part, ...]
    anchors: Anchors | None = None
    best_azimuth: float = 0.0

    def bounds(self) -> tuple[Vec, Vec]:
        """Lowest and highest corner of the box around all parts."""
        extents = [(part.centre, part.extent()) for part in self.parts]
        low = vec(min(centre[i] - extent[i] for centre, extent in extents) for i in range(3))
        high = vec(max(centre[i] + extent[i] for centre, extent in extents) for i in range(3))
        return low, high

    def normalised(self) -> "Subject":
        """Stood on the ground at the origin, its greatest extent 1."""
        low, high = self.bounds()
        offset = (-(low[0] + high[0]) / 2, -low[1], -(low[2] + high[2]) / 2)
        factor = 1.0 / max(high[i] - low[i] for i in range(3))
        anchors = self.anchors.moved(offset).scaled(factor) if self.anchors else None
        parts = tuple(part.moved(offset).scaled(factor) for part in self.parts)
        return replace(self, parts=parts, anchors=anchors)


def add(a: Vec, b: Vec) -> Vec:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def scale(a: Vec, k: float) -> Vec:
    return (a[0] * k, a[1] * k, a[2] * k)


def mix(a: Vec, b: Vec, share: float) -> Vec:
    """`a` with `share` of `b` mixed in."""
    return add(scale(a, 1 - share), scale(b, share))


def cross(a: Vec, b: Vec) -> Vec:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def unit(a: Vec) -> Vec:
    return scale(a, 1.0 / math.sqrt(a[0] ** 2 + a[1] ** 2 + a[2] ** 2))


def frame(half: Vec, tilt: Vec = (0.0, 0.0, 0.0)) -> Frame:
    """Half-axes of the lengths `half`, turned about x, then y, then z by `tilt`."""
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(angle), math.sin(angle)) for angle in tilt)
    return (
        scale((cy * cz, cy * sz, -sy), half[0]),
        scale((sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy), half[1]),
        scale((cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy), half[2]),
    )


def ball(centre: Vec, radii: Vec | float, paint: Paint, tilt: Vec = (0.0, 0.0, 0.0), body: bool = False) -> Part:
    half = radii if isinstance(radii, tuple) else (radii, radii, radii)
    return Part("ellipsoid", centre, frame(half, tilt), paint, body=body)


def block(centre: Vec, half: Vec, paint: Paint, tilt: Vec = (0.0, 0.0, 0.0), body: bool = False) -> Part:
    return Part("box", centre, frame(half, tilt), paint, body=body)


def limb(
    start: Vec, end: Vec, radius: float, end_radius: float, paint: Paint, *,
    bore: float = 0.0, flat: float = 1.0, body: bool = False,
) -> Part:  # fmt: skip
    """A tapered cylinder from `start` to `end`; `flat` squeezes it along z (or along x if it runs along z)."""
    along = scale(add(end, scale(start, -1.0)), 0.5)
    direction = unit(along)
    side = unit(cross(direction, (0.0, 0.0, 1.0) if abs(direction[2]) < 0.9 else (1.0, 0.0, 0.0)))
    other = cross(side, direction)
    radius = max(radius, 1e-3)
    axes = (scale(side, radius), along, scale(other, radius * flat))
    return Part("tube", mix(start, end, 0.5), axes, paint, end_radius / radius, bore, body)


def ring(
    centre: Vec, radius: float, thickness: float, depth: float, paint: Paint,
    axis: Vec = (0.0, 0.0, 1.0), stretch: float = 1.0, body: bool = False,
) -> Part:  # fmt: skip
    """A hollow cylinder of outer `radius` around `axis`, `depth` long; `stretch` scales it along y or z."""
    start, end = add(centre, scale(axis, -depth / 2)), add(centre, scale(axis, depth / 2))
    part = limb(start, end, radius, radius, paint, bore=1 - thickness / radius, body=body)
    side, along, other = part.frame
    tall = (
        (scale(side, stretch), along, other) if abs(side[1]) > abs(other[1]) else (side, along, scale(other, stretch))
    )
    return replace(part, frame=tall)


def mirrored(parts: Sequence[Part]) -> list[Part]:
    """The parts and their mirror images in the plane x = 0: both ears from one."""

    def flip(a: Vec) -> Vec:
        return (-a[0], a[1], a[2])

    twins = [
        replace(part, centre=flip(part.centre), frame=(flip(part.frame[0]), flip(part.frame[1]), flip(part.frame[2])))
        for part in parts
    ]
    return [*parts, *twins]
