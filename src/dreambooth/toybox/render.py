"""A ray tracer for tables of painted solids: ellipsoids, boxes and (tapered, hollow) tubes, all in closed form.

Every solid is a unit shape in a local frame of its own, so that one affine map takes a ray there and distances
along the ray stay the same. Rays run along the last dimension; a handful of solids is tested per call and the
running nearest hit is carried along, which the compiler fuses into a single pass over the rays.
"""

import functools
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreambooth.toybox.parts import KINDS, PATTERNS, Part, Vec, cross, vec

FAR = 1e4
GROUP = {"ellipsoid": 4, "box": 2, "tube": 2}  # solids tested per call


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: `eye` and three orthonormal directions, each [3] float32, and tan(half the field)."""

    eye: Tensor
    right: Tensor
    up: Tensor
    forward: Tensor
    tan_half_fov: float

    def rays(self, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Unit directions [size * size, 3] through the pixel centres, row by row from the top left."""
        whole = slice(0, size)
        return self.rays_through(whole, whole, size, device).T

    def rays_through(self, rows: slice, columns: slice, size: int, device: torch.device | str) -> Tensor:
        """Unit directions [3, R] through the centres of some rows and columns of `size` x `size` pixels."""
        grid = ((torch.arange(size, device=device) + 0.5) * (2 / size) - 1) * self.tan_half_fov
        right, up, forward = (axis.to(device)[:, None, None] for axis in (self.right, self.up, self.forward))
        directions = forward + grid[columns] * right - grid[rows, None] * up
        return (directions * torch.rsqrt((directions * directions).sum(0))).reshape(3, -1)

    def project(self, points: Tensor) -> Tensor:
        """Picture coordinates [P, 2] of `points` [P, 3]: x to the right, y downwards, both -1..1 in the picture."""
        offset = points - self.eye
        depth = (offset @ self.forward).clamp_min(1e-2) * self.tan_half_fov
        return torch.stack([offset @ self.right / depth, -(offset @ self.up) / depth], dim=-1)


@dataclass(frozen=True)
class Light:
    """Direction to the sun (unit), its colour, and the light from everywhere else; each [3]."""

    sun: Tensor
    sun_colour: Tensor
    ambient: Tensor


@dataclass(frozen=True)
class Solids:
    """The solids of one picture as tables of N rows, kinds in the order of KINDS and padded to whole groups."""

    geometry: Tensor  # [N, 16]: inverse frame (9), inverse frame @ centre (3), taper, bore, kind, row number
    material: Tensor  # [N, 14]: colour, second colour, axis, pattern, gloss, bump, glow, ink
    groups: tuple[tuple[str, int], ...]  # (kind, first row) of every group
    corners: Tensor  # [N', 3]: corners of the boxes around the parts, on the cpu


def solids(parts: Sequence[Part], device: torch.device | str = "cpu") -> Solids:
    """Tabulate `parts` for the tracer."""
    geometry: list[list[float]] = []
    material: list[list[float]] = []
    groups: list[tuple[str, int]] = []
    corners: list[Vec] = []
    for number, kind in enumerate(KINDS):
        chosen = [part for part in parts if part.kind == kind]
        missing = -len(chosen) % GROUP[kind]
        groups += [(kind, len(geometry) + i) for i in range(0, len(chosen), GROUP[kind])]
        for part in chosen:
            inverse = _inverse(part)
            shift = [sum(row[i] * part.centre[i] for i in range(3)) for row in inverse]
            flat = [value for row in inverse for value in row]
            geometry.append([*flat, *shift, part.taper, part.bore, number, len(geometry)])
            paint = part.paint
            pattern = PATTERNS.index(paint.pattern)
            looks = (pattern, paint.gloss, paint.bump, paint.glow, paint.ink)
            material.append([*paint.colour, *paint.second, *paint.axis, *looks])
            corners += part.corners()
        for _ in range(missing):  # too small and too far below to be hit
            geometry.append([1e3, 0, 0, 0, 1e3, 0, 0, 0, 1e3, 0, -1e3 * FAR, 0, 1, 0, number, len(geometry)])
            material.append([0.0] * 14)
    return Solids(
        torch.tensor(geometry, dtype=torch.float32, device=device),
        torch.tensor(material, dtype=torch.float32, device=device),
        tuple(groups),
        torch.tensor(corners, dtype=torch.float32),
    )


def _inverse(part: Part) -> tuple[Vec, Vec, Vec]:
    x, y, z = part.frame
    yz, zx, xy = cross(y, z), cross(z, x), cross(x, y)
    volume = sum(a * b for a, b in zip(x, yz, strict=True))
    a, b, c = (vec(value / volume for value in row) for row in (yz, zx, xy))
    return a, b, c


def _local(row: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    """Origin and direction of the rays [3, R] in the frame of the solid `row`, one tensor [R] per coordinate."""
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    start = tuple(row[3 * i] * ox + row[3 * i + 1] * oy + row[3 * i + 2] * oz - row[9 + i] for i in range(3))
    along = tuple(row[3 * i] * dx + row[3 * i + 1] * dy + row[3 * i + 2] * dz for i in range(3))
    return (*start, *along)


def _closer(row: Tensor, hit: Tensor, t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    nearer = hit < t
    return torch.where(nearer, hit, t), torch.where(nearer, row[15], index)


def _ellipsoids(rows: Tensor, origin: Tensor, direction: Tensor, t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    for i in range(GROUP["ellipsoid"]):
        ox, oy, oz, dx, dy, dz = _local(rows[i], origin, direction)
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        # |o - (b/a) d|^2 instead of b^2 - a c: far-away eyes and small solids would cancel in float32.
        k = b / a
        px, py, pz = ox - k * dx, oy - k * dy, oz - k * dz
        inside = 1 - (px * px + py * py + pz * pz)
        root = torch.sqrt(inside.clamp_min(0) / a)
        near, far = -k - root, -k + root
        hit = torch.where(near > 1e-4, near, far)
        hit = torch.where((inside > 0) & (hit > 1e-4), hit, FAR)
        t, index = _closer(rows[i], hit, t, index)
    return t, index


def _boxes(rows: Tensor, origin: Tensor, direction: Tensor, t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    for i in range(GROUP["box"]):
        ox, oy, oz, dx, dy, dz = _local(rows[i], origin, direction)
        near, far = torch.full_like(t, -FAR), torch.full_like(t, FAR)
        for o, d in ((ox, dx), (oy, dy), (oz, dz)):
            inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
            one, two = (-1 - o) * inverse, (1 - o) * inverse
            near, far = torch.maximum(near, torch.minimum(one, two)), torch.minimum(far, torch.maximum(one, two))
        hit = torch.where(near > 1e-4, near, far)
        hit = torch.where((near < far) & (hit > 1e-4), hit, FAR)
        t, index = _closer(rows[i], hit, t, index)
    return t, index


def _tubes(rows: Tensor, origin: Tensor, direction: Tensor, t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    for i in range(GROUP["tube"]):
        ox, oy, oz, dx, dy, dz = _local(rows[i], origin, direction)
        slope, bore = (rows[i][12] - 1) / 2, rows[i][13]
        ro, rd = 1 + slope * (oy + 1), slope * dy  # the radius along the ray: ro + t rd
        flat, cross_, start = dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz
        hit = torch.full_like(t, FAR)
        for k in (1.0, bore * bore):  # the outside, then the inside wall
            a = flat - k * rd * rd
            a = torch.where(a.abs() < 1e-7, 1e-7, a)
            b = cross_ - k * ro * rd
            square = b * b - a * (start - k * ro * ro)
            root = torch.sqrt(square.clamp_min(0))
            for s in ((-b - root) / a, (-b + root) / a):
                real = (square > 0) & ((oy + s * dy).abs() <= 1) & (s > 1e-4)
                hit = torch.where(real & (s < hit), s, hit)
        inverse = 1 / torch.where(dy.abs() < 1e-9, 1e-9, dy)
        for height, radius in ((-1.0, 1.0), (1.0, rows[i][12])):
            s = (height - oy) * inverse
            x, z = ox + s * dx, oz + s * dz
            away = x * x + z * z
            rim = radius * radius
            real = (away <= rim) & (away >= bore * bore * rim) & (s > 1e-4)
            hit = torch.where(real & (s < hit), s, hit)
        t, index = _closer(rows[i], hit, t, index)
    return t, index


def _surface(
    geometry: Tensor, material: Tensor, jitter: Tensor, origin: Tensor, direction: Tensor, t: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Points [3, R], normals towards the eye [3, R] and looks [6, R] (colour, gloss, glow, ink) of hits."""
    row = geometry[index.long()].T
    looks = material[index.long()].T
    ox, oy, oz, dx, dy, dz = _local(row, origin, direction)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    taper, kind = row[12], row[14]
    ax, ay, az = x.abs(), y.abs(), z.abs()
    face_x, face_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    slope = (taper - 1) / 2
    cap = ay > 0.9995
    box, tube = kind == 1, kind == 2
    zero = torch.zeros_like(x)
    nx = torch.where(box, torch.where(face_x, x, zero), torch.where(tube & cap, zero, x))
    ny = torch.where(box, torch.where(face_y, y, zero), torch.where(tube & ~cap, -slope * (1 + slope * (y + 1)), y))
    nz = torch.where(box, torch.where(face_x | face_y, zero, z), torch.where(tube & cap, zero, z))
    normal = torch.stack([row[i] * nx + row[3 + i] * ny + row[6 + i] * nz for i in range(3)])
    normal = normal * torch.rsqrt((normal * normal).sum(0).clamp_min(1e-12))
    normal = torch.where((normal * direction).sum(0) > 0, -normal, normal)
    point = origin + t * direction
    away, rim = _cells(point * 14 + 64, jitter)
    normal = normal + away * (4 * looks[11] * (rim < 0.32))
    share = _pattern(looks[9], looks[6:9], jitter, point)
    colour = looks[0:3] + (looks[3:6] - looks[0:3]) * share
    phase = (point * looks[6:9]).sum(0)
    rainbow = 0.55 + 0.45 * torch.cos(6.2832 * (phase + torch.tensor([[0.0], [0.33], [0.67]], device=t.device)))
    colour = torch.where(looks[9] == PATTERNS.index("rainbow"), rainbow, colour)
    return point, normal, torch.cat([colour, looks[10:11], looks[12:14]])


def _cells(scaled: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """From each of `scaled` [3, R] the way from the blob in its unit cell, [3, R], and its size [R], in blobs."""
    cell = torch.floor(scaled)
    x, y, z = cell.to(torch.int32) % 16
    chance = jitter[(x * 256 + y * 16 + z).long()].T
    offset = scaled - cell - (0.36 + 0.28 * chance)
    return offset, torch.sqrt((offset * offset).sum(0)) / (0.55 + 0.45 * chance[0])


def _pattern(pattern: Tensor, axis: Tensor, jitter: Tensor, point: Tensor) -> Tensor:
    """How much [R] of the second colour shows at `point` [3, R], 0 or 1."""
    frequency = torch.sqrt((axis * axis).sum(0))
    scaled = point * frequency + 64.0
    cell = torch.floor(scaled)
    spots = _cells(scaled, jitter)[1] < 0.35
    phase = (point * axis).sum(0)
    stripes = torch.sin(3.1416 * phase + 0.5 * torch.sin(2 * scaled[0])) > 0.1
    waves = torch.sin(scaled[0] * 1.7 + scaled[1]) + torch.sin(scaled[1] * 1.5 - scaled[2] * 1.2 + 1.3)
    patches = waves + torch.sin(scaled[2] * 1.6 + scaled[0] * 0.8 + 4.1) > 0.45
    checks = torch.remainder(cell.sum(0), 2) < 0.5
    chosen = (pattern == 1) & spots | (pattern == 2) & stripes | (pattern == 3) & (phase > 1)
    return (chosen | (pattern == 4) & patches | (pattern == 5) & checks).to(point.dtype)


def _lit(normal: Tensor, looks: Tensor, direction: Tensor, shade: Tensor, light: Tensor) -> Tensor:
    """Colours [3, R] of surfaces under `light` [3, 3] (rows: sun, its colour, ambient); `shade` [R] is 0 in shadow."""
    sun, sun_colour, ambient = light[0][:, None], light[1][:, None], light[2][:, None]
    colour, gloss, glow, ink = looks[0:3], looks[3], looks[4], looks[5]
    facing = -(normal * direction).sum(0)
    mirror = direction + 2 * facing * normal
    sunny = (normal * sun).sum(0).clamp_min(0) * shade
    sky = 0.75 + 0.35 * normal[1]
    body = colour * (ambient * sky + sun_colour * sunny) * (0.72 + 0.28 * facing.clamp(0, 1).sqrt())
    highlight = (mirror * sun).sum(0).clamp_min(0) ** (12 + 40 * gloss) * (0.25 + 0.75 * shade)
    above = ((mirror[1] - 0.05) * 8).clamp(0, 1)
    around = (0.3 + (0.4 + 0.7 * mirror[1]) * above) * (ambient + 0.8 * sun_colour)
    fresnel = ((gloss - 0.3) * 1.4).clamp_min(0) * (0.5 + 0.5 * (1 - facing).clamp(0, 1) ** 2)
    pane = (mirror[0] + 0.3).abs()  # a window with two panes
    window = (mirror[1] > 0.3) & (mirror[1] < 0.8) & (pane < 0.3) & (pane > 0.04)
    around = around + 1.2 * window * (ambient + 0.5 * sun_colour)
    shiny = body * (1 - 0.8 * fresnel) + around * fresnel + 1.4 * gloss * highlight * sun_colour
    final = shiny + (colour - shiny) * glow
    outline = 1 - ink * (facing < 0.34).to(final.dtype)
    return (final * outline).clamp(0, 1)


@dataclass(frozen=True)
class Kernels:
    """The functions that do the work on rays, compiled or not."""

    nearest: dict[str, Callable[..., tuple[Tensor, Tensor]]]
    surface: Callable[..., tuple[Tensor, Tensor, Tensor]]
    lit: Callable[..., Tensor]


@functools.cache
def kernels(compiled: bool) -> Kernels:
    """The kernels; compiled ones need a C++ compiler, without which a warning is given and eager ones serve."""
    if compiled and not (shutil.which("g++") or shutil.which("clang++") or torch.cuda.is_available()):
        warnings.warn("no C++ compiler found: toybox renders without torch.compile, slowly", stacklevel=2)
        compiled = False

    def prepare(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=True) if compiled else function

    nearest = {"ellipsoid": prepare(_ellipsoids), "box": prepare(_boxes), "tube": prepare(_tubes)}
    return Kernels(nearest, prepare(_surface), prepare(_lit))


@functools.cache
def _jitter(device: str) -> Tensor:
    return torch.rand(4096, 3, generator=torch.Generator().manual_seed(7)).to(device)


def nearest(table: Solids, origin: Tensor, direction: Tensor, kernel: Kernels) -> tuple[Tensor, Tensor]:
    """Distance [R] to the first solid on each ray (FAR if none) and its row [R], for rays [3, R]."""
    t = torch.full_like(direction[0], FAR)
    index = torch.zeros_like(t)
    for kind, first in table.groups:
        rows = table.geometry[first : first + GROUP[kind]]
        t, index = kernel.nearest[kind](rows, origin, direction, t, index)
    return t, index


def radiance(
    table: Solids, origin: Tensor, direction: Tensor, light: Light, kernel: Kernels, floor: float = 0.0
) -> Tensor:
    """What rays [3, R] see of the solids above `floor`: colour times alpha, and alpha, [4, R]."""
    seen = torch.zeros(4, direction.shape[1], device=direction.device)
    t, index = nearest(table, origin, direction, kernel)
    hits = ((t < FAR) & (origin[1] + t * direction[1] > floor)).nonzero()[:, 0]
    if len(hits) < 2:
        return seen
    origin, direction = origin[:, hits].contiguous(), direction[:, hits].contiguous()
    point, normal, looks = kernel.surface(
        table.geometry, table.material, _jitter(str(t.device)), origin, direction, t[hits], index[hits]
    )
    sun = light.sun[:, None].expand_as(point).contiguous()
    blocked, _ = nearest(table, point + 2e-3 * normal, sun, kernel)
    rows = torch.stack([light.sun, light.sun_colour, light.ambient])
    seen[:3, hits] = kernel.lit(normal, looks, direction, (blocked >= FAR).to(t.dtype), rows)
    seen[3, hits] = 1.0
    return seen
