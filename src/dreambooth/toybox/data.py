"""The corpus: toybox pictures, their masks and captions, rendered once and kept in shards that can be extended."""

import json
import multiprocessing
import os
import random
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
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
        device = generator.device
        rows = torch.randint(len(self), (count,), generator=generator, device=device).tolist()
        room = self.images.shape[-1] - size + 1
        corners = torch.randint(room, (count, 2), generator=generator, device=device).tolist()
        cuts = [
            self.images[row, :, top : top + size, left : left + size]
            for row, (top, left) in zip(rows, corners, strict=True)
        ]
        mirrored = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
        pixels = torch.stack(cuts).to(device).float() / 127.5 - 1
        return torch.where(mirrored, pixels.flip(-1), pixels)


def _render(first: int, count: int, size: int, compiled: bool) -> tuple[dict[str, Tensor], list[list[str]]]:
    scenes = [captions.sample_scene(seed) for seed in range(first, first + count)]
    pictures = world.draw(scenes, size=size, compiled=compiled)
    shares = F.avg_pool2d(pictures.masks, 8)
    images, masks = ((part * 255).round().to(torch.uint8) for part in (pictures.images, shares))
    texts = [
        [captions.caption(scene, seed=8 * seed + variant) for variant in range(VARIANTS)]
        + [captions.caption(scene, identifier=PLACEHOLDER, seed=8 * seed + VARIANTS)]
        for seed, scene in enumerate(scenes, first)
    ]
    return {"images": images, "masks": masks}, texts


def extend(
    folder: Path, images: int, *, size: int = 128, workers: int | None = None, compiled: bool = True,
    log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Render what is missing until `folder` holds `images` pictures (rounded up to whole shards), in `workers`
    processes, one a core by default. Shard k shows the scenes of seeds k * SHARD onwards, so an interrupted corpus
    goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-images // SHARD)
    missing = [index for index in range(shards) if not _shard(folder, index).exists()]
    workers = min(workers or usable_cores(), len(missing))
    done = shards - len(missing)
    for _ in rendered(missing, folder, size, compiled, workers):
        done += 1
        log(f"corpus: {done * SHARD} of {shards * SHARD} pictures")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rendered(shards: Sequence[int], folder: Path, size: int, compiled: bool, workers: int) -> Generator[int]:
    """Render shards into `folder`; yields each one's number as it is done. Closing the generator stops the workers."""
    if workers < 2:
        for index in shards:
            _write_shard(folder, index, SHARD, size, compiled)
            yield index
        return
    # Not forked: a process that has used threads or a GPU must not be.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(_write_shard, folder, index, SHARD, size, compiled): index for index in shards}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _shard(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _write_shard(folder: Path, index: int, count: int, size: int, compiled: bool) -> None:
    tensors, texts = _render(index * count, count, size, compiled)
    draft = _shard(folder, index).with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, draft, metadata={"captions": json.dumps(texts)})
    os.replace(draft, _shard(folder, index))


class Stream:
    """Fresh pictures while a GPU trains: worker processes render scenes of new seeds on the cores that the GPU leaves
    idle, a few shards ahead. What it yields depends on how fast they are, so a training that uses it is not
    repeatable bit by bit.
    """

    def __init__(self, first: int, size: int, workers: int, compiled: bool = True) -> None:
        self._next, self._size, self._compiled = first, size, compiled
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        self._pending: list[Future[tuple[dict[str, Tensor], list[list[str]]]]] = []
        self._ahead = 2 * workers

    def take(self) -> list[Corpus]:
        """The shards that are ready, perhaps none; never waits."""
        while len(self._pending) < self._ahead:
            self._pending.append(self._pool.submit(_render, self._next * SHARD, SHARD, self._size, self._compiled))
            self._next += 1
        ready = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        return [Corpus(tensors["images"], tensors["masks"], texts) for tensors, texts in map(Future.result, ready)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


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


def generator(seed: int, stage: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step: a function of the seed, the stage and the step alone (on one kind of device)."""
    return torch.Generator(device).manual_seed(random.Random(f"{seed}/{stage}/{step}").getrandbits(63))


def dead_leaves(generator: torch.Generator, count: int, size: int, shapes: int = 60) -> Tensor:
    """Overlapping discs and boxes of random colour, shade and grain, with power-law sizes (the dead-leaves model of
    natural images: Lee, Mumford and Huang 2001). Returns [count, 3, size, size], -1..1."""

    device = generator.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    axis = torch.linspace(0, 1, size, device=device)
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
        grain = torch.randn(count, 1, size, size, generator=generator, device=device) * 0.06 * rand(count, 1, 1, 1)
        canvas = torch.where(inside, rand(count, 3, 1, 1) + shade + grain, canvas)
    return canvas.clamp(0, 1) * 2 - 1


def fractals(generator: torch.Generator, count: int, size: int) -> Tensor:
    """Clouds whose amplitude falls with frequency as f^-a, a in 0.8..1.8, around the 1 / f of photographs (Field
    1987), in random colours. Returns [count, 3, size, size], -1..1."""
    device = generator.device
    if not count:  # MKL refuses an empty transform
        return torch.empty(0, 3, size, size, device=device)
    vertical, horizontal = torch.fft.fftfreq(size, device=device), torch.fft.rfftfreq(size, device=device)
    frequency = (vertical.view(-1, 1).square() + horizontal.square()).sqrt()
    slope = 0.8 + torch.rand(count, 1, 1, 1, generator=generator, device=device)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, size, size, generator=generator, device=device))
    clouds = torch.fft.irfft2(spectrum * frequency.clamp_min(1 / size).pow(-slope), s=(size, size))
    clouds = clouds / clouds.std((1, 2, 3), keepdim=True)
    mixing = torch.eye(3, device=device) * 0.3 + torch.rand(count, 3, 3, generator=generator, device=device) * 0.6
    colours = torch.einsum("nij,njhw->nihw", mixing, clouds)
    shift = torch.rand(count, 3, 1, 1, generator=generator, device=device) - 0.5
    return (0.6 * colours + 0.8 * shift).clamp(-1, 1)
