"""Art styles as image operations: what a finished picture looks like painted, drawn, tiled or carved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Style:
    """An art style: its words, {} standing for the scene, and its effect(picture, mask, generator)."""

    template: str
    effect: Callable[[Tensor, Tensor, torch.Generator], Tensor]


def apply_style(style: str, image: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Turn a picture [3, H, W] in 0..1 into the art style of that name (a key of `STYLES`).

    `mask` [1, H, W] is 1 on the subject. The result depends on nothing but the arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    return STYLES[style].effect(image, mask, generator).clamp(0, 1)


# --- tools -----------------------------------------------------------------------------------------------


def luma(image: Tensor) -> Tensor:
    """Brightness [1, H, W]."""
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)


def saturate(image: Tensor, amount: float) -> Tensor:
    """Colours `amount` times as far from grey."""
    grey = luma(image)
    return grey + (image - grey) * amount


def colour(image: Tensor, code: str) -> Tensor:
    """The colour of a code such as "ff8000", [3, 1, 1]."""
    return image.new_tensor([channel / 255 for channel in bytes.fromhex(code)])[:, None, None]


def blur(image: Tensor, radius: int) -> Tensor:
    """Two box blurs, [C, H, W]."""
    for _ in range(2):
        padded = F.pad(image[None], (radius,) * 4, mode="replicate")
        image = F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0]
    return image


def noise(image: Tensor, cell: int, generator: torch.Generator) -> Tensor:
    """Smooth noise [1, H, W] in 0..1 with features of `cell` pixels."""
    size = image.shape[-1]
    grid = torch.rand(1, 1, size // cell + 2, size // cell + 2, generator=generator).to(image.device)
    return F.interpolate(grid, size=(size, size), mode="bicubic")[0].clamp(0, 1)


def gradient(field: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [1, H, W] along x and y."""
    padded = F.pad(field[None], (1, 1, 1, 1), mode="replicate")[0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def outlines(image: Tensor, mask: Tensor, strength: float) -> Tensor:
    """Dark lines [1, H, W] in 0..1 where brightness or the subject's outline jumps."""
    scale = image.shape[-1] / 128
    edges = torch.zeros_like(mask)
    for field, weight in ((blur(luma(image), 1), 1.0), (mask, 0.5)):
        along_x, along_y = gradient(field)
        edges = torch.maximum(edges, weight * torch.hypot(along_x, along_y))
    return (edges * strength * scale).clamp(0, 1)


def sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The picture [C, H, W] at pixel positions x, y [H, W]."""
    size = image.shape[-1]
    grid = torch.stack((x, y), -1) * (2 / size) + (1 / size - 1)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]


def positions(image: Tensor) -> tuple[Tensor, Tensor]:
    """Every pixel's column and row, [H, W] each."""
    axis = torch.arange(image.shape[-1], device=image.device, dtype=torch.float32)
    return axis.expand(len(axis), -1), axis[:, None].expand(-1, len(axis))


def smear(image: Tensor, angle: Tensor, length: Tensor | float, steps: int) -> Tensor:
    """Average the picture [C, H, W] along strokes of `length` pixels in direction `angle` [H, W]."""
    x, y = positions(image)
    offsets = torch.linspace(-0.5, 0.5, steps).tolist()
    step_x, step_y = length * angle.cos(), length * angle.sin()
    return torch.stack([sample(image, x + s * step_x, y + s * step_y) for s in offsets]).mean(0)


def kuwahara(image: Tensor, radius: int) -> Tensor:
    """Every pixel takes the mean of the calmest of the four squares around it: flat patches, crisp edges."""
    size = image.shape[-1]
    fields = torch.cat((image, luma(image).square()))
    padded = F.pad(fields[None], (radius,) * 4, mode="replicate")
    means = F.avg_pool2d(padded, radius + 1, stride=1)[0]
    corners = [means[:, top : top + size, left : left + size] for top in (0, radius) for left in (0, radius)]
    squares = torch.stack(corners)
    variance = squares[:, 3:] - torch.stack([luma(square) for square in squares[:, :3]]).square()
    calmest = variance.argmin(0, keepdim=True).expand(1, 3, size, size)
    return squares[:, :3].gather(0, calmest)[0]


def tiles(image: Tensor, cell: float, jitter: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles of about `cell` pixels: their centres x, y [H, W] and the depth inside the edge [1, H, W]."""
    x, y = positions(image)
    count = math.ceil(image.shape[-1] / cell) + 3
    shifts = ((torch.rand(2, count, count, generator=generator) - 0.5) * jitter).to(image.device)
    column, row = (x / cell).floor().long() + 1, (y / cell).floor().long() + 1
    centres: list[Tensor] = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            i, j = (row + down).clamp(0, count - 1), (column + across).clamp(0, count - 1)
            centres.append(torch.stack((j - 0.5 + shifts[0, i, j], i - 0.5 + shifts[1, i, j])) * cell)
    stacked = torch.stack(centres)
    distance = torch.hypot(stacked[:, 0] - x, stacked[:, 1] - y)
    two = distance.topk(2, dim=0, largest=False)
    nearest = stacked.gather(0, two.indices[:1, None].expand(1, 2, *x.shape))[0]
    return nearest[0], nearest[1], (two.values[1:] - two.values[:1]) / 2


# --- the styles ------------------------------------------------------------------------------------------


def van_gogh(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Thick swirling strokes; night blues and chrome yellows."""
    scale = image.shape[-1] / 128
    field = noise(image, round(40 * scale), generator)
    along_x, along_y = gradient(field + 0.15 * blur(luma(image), max(1, round(3 * scale))))
    angle = torch.atan2(along_x[0], -along_y[0])
    x, y = positions(image)
    patch_x, patch_y, _ = tiles(image, 6 * scale, 0.9, generator)
    hold = 0.75 - 0.6 * mask[0]  # the subject keeps its details
    daubs = sample(image, torch.lerp(x, patch_x, hold), torch.lerp(y, patch_y, hold))
    bristles = noise(image, max(1, round(2 * scale)), generator)
    strokes = smear(torch.cat((daubs, bristles)), angle, (10 - 6.5 * mask[0]) * scale, 7)
    picture, relief = saturate(strokes[:3], 1.7), strokes[3:] - 0.5
    bright = ((luma(picture) - 0.3) * 1.8).clamp(0, 1)
    push = torch.lerp(colour(image, "1c3f94"), colour(image, "ffd447"), bright)
    painted = torch.lerp(picture, push, 0.4 - 0.3 * mask + 0.8 * relief * (1 - 0.7 * mask))
    return (painted + relief * (1.1 - 0.65 * mask)) * (1 - 0.6 * outlines(image, mask, 3))


def oil_painting(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Broad flat strokes of rich colour on a canvas."""
    scale = image.shape[-1] / 128
    flat = kuwahara(kuwahara(image, max(1, round(2 * scale))), max(1, round(3 * scale)))
    bristles = torch.rand(1, *image.shape[1:], generator=generator).to(image.device)
    angle = noise(image, round(24 * scale), generator)[0] * math.pi * 2
    relief = smear(bristles, angle, 9 * scale, 6) - 0.5
    rich = saturate(flat, 1.35)
    return (rich - 0.5) * 1.12 + 0.49 + 0.28 * relief + colour(image, "100800")


def pencil_sketch(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Graphite outlines and hatching on paper."""
    scale = image.shape[-1] / 128
    x, y = positions(image)
    dark = 1 - blur(luma(image), 1)
    wobble = noise(image, round(12 * scale), generator) * 4
    hatch = torch.zeros_like(dark)
    for slope, threshold in ((1.0, 0.45), (-1.0, 0.62), (0.2, 0.78)):
        line = 0.5 + 0.5 * torch.cos((x * slope + y) / scale * 1.25 + wobble)
        hatch = hatch + line * ((dark - threshold) * 3).clamp(0, 1) * 0.45
    grain = torch.rand(1, *image.shape[1:], generator=generator).to(image.device)
    graphite = torch.maximum(outlines(image, mask, 11), hatch * 0.75 + 0.3 * mask * dark)
    graphite = graphite * (0.75 + 0.35 * grain) * (0.55 + 0.45 * mask)
    return colour(image, "f7f5ef") * (1 - graphite) + colour(image, "2b2b30") * graphite


def pixel_art(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Thirty-two coarse pixels a side, few colours, a dark outline."""
    size = image.shape[-1]
    coarse = F.adaptive_avg_pool2d(torch.cat((image, mask)), 32)
    solid = (coarse[3:] > 0.5).float()
    rim = solid - (1 - F.max_pool2d(1 - solid, 3, stride=1, padding=1))
    palette = ((saturate(coarse[:3], 1.4) * 5).round() / 5).clamp(0, 1)
    palette = palette * (1 - 0.45 * rim)
    return F.interpolate(palette[None], size=(size, size), mode="nearest")[0]


def watercolour(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Pale washes that pool darker at their edges and fade into the paper."""
    scale = image.shape[-1] / 128
    x, y = positions(image)
    bend_x, bend_y = (noise(image, round(9 * scale), generator)[0] - 0.5 for _ in range(2))
    bend = (9 - 6 * mask[0]) * scale
    bled = sample(image, x + bend * bend_x, y + bend * bend_y)
    wash = torch.lerp(kuwahara(bled, max(2, round(4 * scale))), bled, 0.75 * mask)
    pooled = outlines(wash, mask, 2.2)
    pigment = (
        noise(image, round(18 * scale), generator) * 0.35 + noise(image, max(2, round(3 * scale)), generator) * 0.15
    )
    border = torch.maximum((x / image.shape[-1] * 2 - 1).abs(), (y / image.shape[-1] * 2 - 1).abs())
    ragged = ((0.98 - border - 0.4 * (pigment[0] - 0.15)) * 7).clamp(0, 1)
    strength = (0.62 + 0.3 * mask - pigment * (1 - 0.5 * mask)) * torch.maximum(ragged, mask[0])
    paper = colour(image, "fdfaf2")
    washed = paper + (saturate(wash, 1.25) * 1.08 - paper) * strength
    return washed * (1 - 0.3 * pooled * ragged)


def mosaic(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Coloured stone tiles with pale grout between them."""
    scale = image.shape[-1] / 128
    x, y, inside = tiles(image, max(4.6 * scale, 3.6), 0.5, generator)
    stone = saturate(sample(blur(image, 1), x, y), 1.35)
    shade = 0.9 + 0.2 * torch.sin(x * 12.9 + y * 78.2)
    grout = (1.0 - inside / max(0.5 * scale, 0.4)).clamp(0, 1)
    return torch.lerp(stone * shade, colour(image, "d9d2c4") * (0.6 + 0.25 * mask), grout * 0.85)


def statue(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """The subject in white marble with grey veins; everything else as it was."""
    scale = image.shape[-1] / 128
    inside = blur(luma(image) * mask, 2) / blur(mask, 2).clamp(min=0.05)
    mean = (luma(image) * mask).sum() / mask.sum().clamp(min=1)
    shade = 0.82 + 0.5 * (inside - mean) + 0.25 * (luma(image) - inside)
    veins = noise(image, round(26 * scale), generator) * 0.7 + noise(image, round(9 * scale), generator) * 0.3
    veins = (1 - (veins - 0.5).abs() * 16).clamp(0, 1)
    marble = colour(image, "fbf8f1") * (shade - 0.12 * veins).clamp(0.3, 1)
    return torch.lerp(image, marble, mask)


def pop_art(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Warhol's silk screen: flat loud colours by brightness, the subject in a palette of its own."""
    palettes = (
        ("3d1a78", "e8308a", "ffe14a"), ("1b2a6b", "00a7c7", "fff04d"), ("6b0f3c", "ff5a1f", "ffe9b0"),
        ("0b4f3c", "3fc45f", "ffd1ea"), ("101010", "f02f2f", "ffe14a"), ("2a1060", "ff4fc0", "9ff0ff"),
    )  # fmt: skip
    first, second = torch.randperm(len(palettes), generator=generator)[:2].tolist()
    bright = blur(luma(image), 1)
    result = torch.zeros_like(image)
    for palette, part in ((palettes[first], mask), (palettes[second], 1 - mask)):
        mean = (bright * part).sum() / part.sum().clamp(min=1)
        spread = ((bright - mean).square() * part).sum().div(part.sum().clamp(min=1)).sqrt()
        level = (bright - mean) / spread.clamp(min=0.03)
        low, middle, high = (colour(image, code) for code in palette)
        flat = torch.lerp(low, middle, ((level + 0.75) * 6).clamp(0, 1))
        result = result + part * torch.lerp(flat, high, ((level - 0.45) * 6).clamp(0, 1))
    return result * (1 - outlines(image, mask, 3) * mask)


def woodblock(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Ukiyo-e: a few muted flat inks on rice paper, black key lines, wood grain."""
    scale = image.shape[-1] / 128
    flat = kuwahara(kuwahara(image, max(1, round(2 * scale))), max(1, round(3 * scale)))
    ink = torch.lerp((flat * 4).round() / 4, saturate(image, 1.2), 0.25 + 0.4 * mask)
    paper = colour(image, "f0dfb8")
    tinted = paper * (0.28 + 0.72 * saturate(ink, 1.2)) + 0.06 * ink
    _, y = positions(image)
    grain = torch.sin(y / scale * 1.6 + 7 * noise(image, round(30 * scale), generator)) * 0.025
    return (tinted + grain) * (1 - 0.92 * outlines(flat, mask, 6))


STYLES: dict[str, Style] = {
    "van gogh": Style("a painting of {} in the style of Vincent van Gogh", van_gogh),
    "oil painting": Style("an oil painting of {}", oil_painting),
    "pencil sketch": Style("a pencil sketch of {}", pencil_sketch),
    "pixel art": Style("pixel art of {}", pixel_art),
    "watercolour": Style("a watercolour painting of {}", watercolour),
    "mosaic": Style("a mosaic of {}", mosaic),
    "statue": Style("a marble statue of {}", statue),
    "pop art": Style("pop art of {} in the style of Andy Warhol", pop_art),
    "woodblock": Style("a Japanese woodblock print of {}", woodblock),
}
