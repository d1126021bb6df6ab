"""The painter's tools: a canvas seen through a camera, noise, scattered cells, soft shapes.

A canvas has two coordinate systems, both turned with the camera so that whatever is painted stays in view:
the *backdrop* (`x` rightwards and `h` upwards from the skyline; the frame's top is at
about 1.2) and the *ground*
(`u` rightwards and `v` away from the camera, in world units, the subject standing at the origin).
As on a theatre stage the backdrop begins a little behind the subject, so that it shows at any camera angle.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from dreambooth.toybox.render import Camera

TABLE = 64  # the table of cell values repeats after so many cells
STAGE = 0.8  # how far behind the subject the backdrop may begin, in world units
TILE = 8  # a noise tile repeats after so many periods of its coarsest octave


@lru_cache(maxsize=4)
def noise_tile(device: torch.device) -> Tensor:
    """A tileable fractal noise [1, 1, 257, 257] with mean 0.5, in 0..1; the last row repeats the first."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(1, 1, 256, 256)
    for octave in range(5):
        cells = TILE * 2**octave
        grid = F.pad(torch.rand(1, 1, cells, cells, generator=generator) - 0.5, (2, 2, 2, 2), mode="circular")
        scale = 256 // cells
        fine = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        total += fine[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale] * 0.5**octave
    tile = (0.5 + 0.2 * total / total.std()).clamp(0, 1)
    return F.pad(tile, (0, 1, 0, 1), mode="circular").to(device)


@lru_cache(maxsize=4)
def cell_table(device: torch.device) -> Tensor:
    """Four uniform random numbers per cell, [4, 64 * 64]."""
    return torch.rand(4, TABLE * TABLE, generator=torch.Generator().manual_seed(2)).to(device)


def mix(start: Tensor, end: Tensor, amount: Tensor | float) -> Tensor:
    """`start` where amount is 0, `end` where it is 1."""
    return start + (end - start) * amount


def rainbow(hue: Tensor) -> Tensor:
    """Colours [3, ...] for hues in 0..1 [...]."""
    return torch.stack([0.5 + 0.4 * torch.cos(2 * math.pi * (hue + shift)) for shift in (0.0, 0.67, 0.33)])


def zigzag(x: Tensor) -> Tensor:
    """A triangle wave of period 1 in 0..1."""
    return 2 * (x - x.floor() - 0.5).abs()


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Cells:
    """A jittered grid: each pixel's offset from its cell's point, and the cell's four random numbers."""

    dx: Tensor
    dy: Tensor
    random: Tensor  # [4, H, W]

    def turned(self, stretch: float = 1.0) -> tuple[Tensor, Tensor]:
        """The offset in a frame turned at random per cell, its second axis `stretch` times as narrow."""
        angle = self.random[3] * (2 * math.pi)
        cos, sin = angle.cos(), angle.sin()
        return self.dx * cos + self.dy * sin, (self.dy * cos - self.dx * sin) * stretch


class Canvas:
    """A square image to paint on, with the geometry of one camera and a random generator of its own."""

    def __init__(self, camera: Camera, size: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.device = camera.eye.device
        self.pixel = 2 / size
        axis = (torch.arange(size, device=self.device) + 0.5) * self.pixel - 1
        self.frame_x, self.frame_y = axis.expand(size, size), -axis[:, None].expand(size, size)
        self.right = camera.right
        self.up = torch.tensor((0.0, 1.0, 0.0), device=self.device)
        self.heading = torch.linalg.cross(self.up, self.right)
        self._find_ground(camera)
        self.image = torch.zeros(3, size, size, device=self.device)
        self.front: Tensor | None = None
        warmth = self.random.uniform(-1, 1)
        self.tint = self.tensor(1 + 0.05 * warmth, 1.0, 1 - 0.06 * warmth) * self.random.uniform(0.88, 1.05)

    def _find_ground(self, camera: Camera) -> None:
        """Where the skyline is, and for every pixel its place on the backdrop and on the ground."""
        eye, up, forward, right, heading = (
            axis.tolist() for axis in (camera.eye, camera.up, camera.forward, self.right, self.heading)
        )
        tangent, eye_height = camera.tan_half_fov, max(eye[1], 0.02)
        horizon = -forward[1] / (max(up[1], 1e-3) * tangent)
        wall = [STAGE * axis - start for axis, start in zip(heading, eye, strict=True)]
        nearest = _dot(wall, up) / max(_dot(wall, forward), 1e-3) / tangent
        skyline = max(min(horizon - 0.05, self.random.uniform(-0.2, 0.15)), nearest, -1.2)
        if eye[1] < 0.02:  # a camera in or under the ground sees none of it
            skyline = -1.2
        self.on_ground = ((skyline - self.frame_y) / self.pixel + 0.5).clamp(0, 1)
        self.zoom = min(1.2, max(0.45, (1 - skyline) / 1.2))
        self.x, self.h = self.frame_x / self.zoom, (self.frame_y - skyline) / self.zoom
        y = self.frame_y.clamp(max=skyline + self.pixel)
        slope = (-forward[1] - tangent * up[1] * y).clamp(min=1e-2)
        distance = eye_height / slope
        self.u = distance * tangent * self.frame_x + _dot(eye, right)
        self.v = distance * (_dot(heading, forward) + tangent * _dot(heading, up) * y) + _dot(eye, heading)
        self.reach = distance * tangent * self.pixel / slope  # how much ground one pixel covers

    def tensor(self, *values: float) -> Tensor:
        """Numbers per channel, [C, 1, 1]."""
        return torch.tensor(values, device=self.device)[:, None, None]

    def colour(self, code: str, jitter: float = 0.05) -> Tensor:
        """The colour of a code such as "ff8000", each channel changed by up to 1.5 `jitter`; [3, 1, 1]."""
        shade = self.random.uniform(-jitter, jitter)
        return self.tensor(
            *(
                min(1, max(0, channel / 255 + shade + self.random.uniform(-jitter, jitter) / 2))
                for channel in bytes.fromhex(code)
            )
        )

    def soft(self, inside: Tensor, width: float | Tensor | None = None) -> Tensor:
        """1 where `inside` is positive, 0 where negative, blurred over `width` (one and a half pixels)."""
        return (inside / (1.5 * self.pixel if width is None else width) + 0.5).clamp(0, 1)

    def edge(self, inside: Tensor) -> Tensor:
        """`soft` for ground coordinates: the width follows the distance."""
        return self.soft(inside, self.reach + 0.5 * self.pixel)

    def noise(self, x: Tensor, y: Tensor) -> Tensor:
        """Fractal noise in 0..1 around 0.5 with coarsest features of size 1, at [H, W] coordinates."""
        shift_x, shift_y = self.random.uniform(0, TILE), self.random.uniform(0, TILE)
        grid = torch.stack(((x + shift_x) / TILE, (y + shift_y) / TILE), -1)
        grid = (grid - grid.floor()) * 2 - 1
        return F.grid_sample(noise_tile(self.device), grid[None], align_corners=True)[0, 0]

    def cells(self, x: Tensor, y: Tensor | None = None, jitter: float = 0.25) -> Cells:
        """Unit cells over [H, W] coordinates; without `y`, columns."""
        y = torch.full_like(x, 0.5) if y is None else y
        column, row = x.floor(), y.floor()
        shift = self.random.randrange(TABLE * TABLE)
        index = (column.long() % TABLE * TABLE + row.long() % TABLE + shift) % (TABLE * TABLE)
        values = cell_table(self.device)[:, index]
        dx = x - column - 0.5 - jitter * (2 * values[0] - 1)
        return Cells(dx, y - row - 0.5 - jitter * (2 * values[1] - 1), values)

    def paint(self, colour: Tensor, cover: Tensor | float = 1.0) -> None:
        """Lay a colour [3, 1, 1] or picture [3, H, W] over the image where `cover` [H, W] is 1."""
        self.image = mix(self.image, colour, cover)

    def ground(self, colour: Tensor, cover: Tensor | float = 1.0) -> None:
        """The same, on the ground only."""
        self.paint(colour, self.on_ground * cover)

    def hang(self, colour: Tensor, cover: Tensor) -> None:
        """Hang a colour in front of everything, outside the middle of the frame where the subject is."""
        cover = cover * self.soft(torch.maximum(self.frame_x.abs(), -self.frame_y) - 0.72, 0.1)
        self.front = torch.cat((colour.expand_as(self.image), cover[None]))

    def beside(self, low: float, high: float) -> float:
        """An `x` left or right of the subject, `low` to `high` half frames from the middle."""
        return self.random.choice((-1, 1)) * self.random.uniform(low, high) / self.zoom

    def disc(self, x: float, h: float, radius: float) -> Tensor:
        """The cover of a disc on the backdrop."""
        return self.soft(radius - torch.hypot(self.x - x, self.h - h))

    def box(self, x: float, h: float, half_width: float, half_height: float) -> Tensor:
        """The cover of an upright rectangle on the backdrop."""
        return self.soft(half_width - (self.x - x).abs()) * self.soft(half_height - (self.h - h).abs())
