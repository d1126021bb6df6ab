"""The corpus: toybox pictures, their masks and captions, rendered once and kept in shards that can be extended."""

import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.toybox import captions, world

SHARD = 256
"""Pictures in a shard file."""
VARIANTS = 3
"""Captions of each picture, beside the one that names the identifier."""
PLACEHOLDER = "[v]"
"""Stands for a rare word in a stored caption."""
SIDED = re.compile(r"\b(left|right)\b")


@dataclass(frozen=True)
class Corpus:
    """Rendered pictures in memory.

    images: [N, 3, size, size], uint8.
    masks: [N, 1, size/8, size/8], the subject's share of each latent pixel, uint8 of 255ths.
    captions: N lists of VARIANTS captions and one that says PLACEHOLDER before the class noun.
    """

    images: Tensor
    masks: Tensor
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def crops(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Random square cut-outs, half of them mirrored: [count, 3, size, size], -1..1."""
        rows = torch.randint(len(self), (count,), generator=generator).tolist()
        room = self.images.shape[-1] - size + 1
        corners = torch.randint(room, (count, 2), generator=generator).tolist()
        cuts = [
            self.images[row, :, top : top + size, left : left + size]
            for row, (top, left) in zip(rows, corners, strict=True)
        ]
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        pixels = torch.stack(cuts).float() / 127.5 - 1
        return torch.where(mirrored, pixels.flip(-1), pixels)


def _render(first: int, size: int, device: str, compiled: bool) -> tuple[dict[str, Tensor], list[list[str]]]:
    scenes = [captions.sample_scene(seed) for seed in range(first, first + SHARD)]
    pictures = world.draw(scenes, size=size, device=device, compiled=compiled)
    shares = F.avg_pool2d(pictures.masks, 8)
    images, masks = ((part * 255).round().to(torch.uint8).cpu() for part in (pictures.images, shares))
    texts = [
        [captions.caption(scene, seed=8 * seed + variant) for variant in range(VARIANTS)]
        + [captions.caption(scene, identifier=PLACEHOLDER, seed=8 * seed + VARIANTS)]
        for seed, scene in enumerate(scenes, first)
    ]
    return {"images": images, "masks": masks}, texts


def extend(
    folder: Path, images: int, *, size: int = 128, device: str = "cpu", compiled: bool = True,
    log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Render what is missing until `folder` holds `images` pictures (rounded up to whole shards). Shard k shows the
    scenes of seeds k * SHARD onwards, so an interrupted corpus goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-images // SHARD)
    for index in range(shards):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            continue
        tensors, texts = _render(index * SHARD, size, device, compiled)
        draft = path.with_suffix(".tmp")
        save_file(tensors, draft, metadata={"captions": json.dumps(texts)})
        os.replace(draft, path)
        log(f"corpus: {(index + 1) * SHARD} of {shards * SHARD} pictures")


def load(folder: Path, images: int | None = None) -> Corpus:
    """Read the shards of a folder, at most `images` pictures."""
    pixels: list[Tensor] = []
    masks: list[Tensor] = []
    texts: list[list[str]] = []
    for path in sorted(folder.glob("*.safetensors")):
        if images is not None and len(texts) >= images:
            break
        with safe_open(path, framework="pt") as shard:
            pixels.append(shard.get_tensor("images"))
            masks.append(shard.get_tensor("masks"))
            texts += json.loads(shard.metadata()["captions"])
    return Corpus(torch.cat(pixels)[:images], torch.cat(masks)[:images], texts[:images])


def generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The random numbers of one step: a function of the seed, the stage and the step alone."""
    return torch.Generator().manual_seed(random.Random(f"{seed}/{stage}/{step}").getrandbits(63))


def pick_captions(options: Sequence[list[str]], rare: Sequence[str], draws: Tensor) -> list[str]:
    """One caption a row. draws: [B, 3] in 0..1 choose: a tenth empty (for guidance), a tenth with a rare word before
    the class noun (so that an unknown word stays harmless), else one of the variants."""
    chosen: list[str] = []
    for texts, (kind, variant, word) in zip(options, draws.tolist(), strict=True):
        if kind < 0.1:
            chosen.append("")
        elif kind < 0.2:
            chosen.append(texts[-1].replace(PLACEHOLDER, rare[int(word * len(rare))]))
        else:
            chosen.append(texts[int(variant * (len(texts) - 1))])
    return chosen


def dead_leaves(generator: torch.Generator, count: int, size: int, shapes: int = 60) -> Tensor:
    """Overlapping discs and boxes of random colour, shade and grain, with power-law sizes (the dead-leaves model of
    natural images: Lee, Mumford and Huang 2001). Returns [count, 3, size, size], -1..1."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    axis = torch.linspace(0, 1, size)
    y, x = axis.view(1, size, 1), axis.view(1, 1, size)
    canvas = rand(count, 3, 1, 1).expand(count, 3, size, size).clone()
    for _ in range(shapes):
        u, v = x - rand(count, 1, 1), y - rand(count, 1, 1)
        angle = rand(count, 1, 1) * 6.3
        along, across = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
        radius = 0.02 * (1 - rand(count, 1, 1)).clamp_min(2e-3).pow(-0.6)
        stretch = 1 + 2 * rand(count, 1, 1)
        disc = (along**2 + (across * stretch) ** 2) < radius**2
        box = torch.maximum(along.abs(), across.abs() * stretch) < radius
        inside = torch.where(rand(count, 1, 1) < 0.5, disc, box).unsqueeze(1)
        shade = ((rand(count, 1, 1) - 0.5) * along / radius * 0.4).unsqueeze(1)
        grain = torch.randn(count, 1, size, size, generator=generator) * 0.06 * rand(count, 1, 1, 1)
        canvas = torch.where(inside, rand(count, 3, 1, 1) + shade + grain, canvas)
    return canvas.clamp(0, 1) * 2 - 1
