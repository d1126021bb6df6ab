"""True pictures of scenes to measure against, rendered once and kept in a work folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.toybox import world
from dreambooth.toybox.world import Scene

CHUNK = 128
"""Pictures in a file; at 128 px it has 6 MiB."""


def rendered(
    folder: Path, scenes: Sequence[Scene], *, size: int = 128, device: str = "cpu", compiled: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Pictures [N, 3, size, size], uint8, of the scenes; `advance` is told how many more are there.

    A file is named after its scenes, so the same scenes are never rendered twice; delete the folder after the world has
    changed.
    """
    parts: list[Tensor] = []
    for start in range(0, len(scenes), CHUNK):
        chunk = scenes[start : start + CHUNK]

        def draw(chunk: Sequence[Scene] = chunk) -> dict[str, Tensor]:
            images = world.draw(chunk, size=size, device=device, compiled=compiled).images
            return {"images": (images * 255).round().to(torch.uint8).cpu()}

        name = hashlib.sha256(repr((size, chunk)).encode()).hexdigest()[:16]
        parts.append(kept(folder / f"{name}.safetensors", draw)["images"])
        if advance is not None:
            advance(len(chunk))
    return torch.cat(parts)


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a file, which `make` gives if there is none yet; it is written whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(make(), draft)
        os.replace(draft, path)
    return load_file(path)
