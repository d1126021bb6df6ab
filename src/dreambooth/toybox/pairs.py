"""Two pictures of one individual, rendered once and kept in shards that can be extended.

`photographed`: two photos in other places, from other sides, in other light. They are what toybox-dino learns from, and
all that it is told; toybox-clip learns from them with their captions. `contrasted`: two pictures that differ in one
thing that can be said, for toybox-clip alone. A shard holds pictures only: no class, no caption, no mask.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.toybox import claims, subjects, world
from dreambooth.toybox.captions import HELD_OUT_INDIVIDUALS, TRAINING_INDIVIDUALS
from dreambooth.toybox.scenes import CONTEXTS
from dreambooth.toybox.world import VIEWS, Scene

SHARD = 128
"""Individuals in a shard file."""
DETAILS = ("accessory", "accessory", "property", "property", "view", "style")
"""What contrasted pictures differ in, the hardest to see more often."""
IN_CONTEXT, IN_VIEW, DRESSED = 0.75, 0.6, 0.15
"""Shares of photos with a named place, with a named view, and (of those who can wear something) with an accessory."""


def photographed(seed: int, count: int = 2, *, held_out: bool = False, dressed: float = DRESSED) -> list[Scene]:
    """`count` photos of one individual, drawn independently of each other; a function of the arguments."""
    rng = random.Random(f"pairs/{seed}/{held_out}")
    class_noun = rng.choice(list(subjects.CLASSES))
    individual = rng.choice(HELD_OUT_INDIVIDUALS if held_out else TRAINING_INDIVIDUALS)
    return [photograph(class_noun, individual, rng, dressed) for _ in range(count)]


def photograph(class_noun: str, individual: int, rng: random.Random, dressed: float = DRESSED) -> Scene:
    """A photo of an individual anywhere, from anywhere."""
    wardrobe = [name for name in subjects.accessory_names() if subjects.wears(class_noun, name)]
    return Scene(
        class_noun,
        individual,
        context=rng.choice(tuple(CONTEXTS)) if rng.random() < IN_CONTEXT else None,
        view=rng.choice(tuple(VIEWS)) if rng.random() < IN_VIEW else None,
        accessory=rng.choice(wardrobe) if wardrobe and rng.random() < dressed else None,
        seed=rng.randrange(2**31),
    )


def contrasted(seed: int) -> list[Scene]:
    """Two scenes that differ in one detail, an accessory, a property, a view or a style, and in nothing else."""
    rng = random.Random(f"contrasts/{seed}")
    name = rng.choice(DETAILS)
    class_noun = rng.choice(subjects.WEARERS if name == "accessory" else list(subjects.CLASSES))
    plain = Scene(class_noun, rng.choice(TRAINING_INDIVIDUALS), seed=rng.randrange(2**31))
    if rng.random() < 0.5:
        plain = replace(plain, context=rng.choice(tuple(CONTEXTS)))
    first = replace(plain, **{name: rng.choice(claims.VALUES[name])})
    return [first, claims.changed(first, rng, name)]


def extend(
    folder: Path, individuals: int, scenes_of: Callable[[int], list[Scene]] = photographed, *, size: int = 128,
    device: str = "cpu", compiled: bool = True, log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Render what is missing until `folder` shows `individuals` individuals twice (rounded up to whole shards);
    individual k in the scenes that `scenes_of` gives for k."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-individuals // SHARD)
    for index in range(shards):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            continue
        scenes = [scene for seed in range(index * SHARD, (index + 1) * SHARD) for scene in scenes_of(seed)]
        images = world.draw(scenes, size=size, device=device, compiled=compiled).images
        draft = path.with_suffix(".tmp")
        save_file({"pairs": (images * 255).round().to(torch.uint8).cpu().unflatten(0, (SHARD, 2))}, draft)
        os.replace(draft, path)
        log(f"{folder.name}: {(index + 1) * SHARD} of {shards * SHARD} individuals")


def load(folder: Path, individuals: int | None = None) -> Tensor:
    """Photos [N, 2, 3, size, size], uint8, of at most `individuals` individuals."""
    parts: list[Tensor] = []
    for path in sorted(folder.glob("*.safetensors")):
        if individuals is not None and len(parts) * SHARD >= individuals:
            break
        parts.append(load_file(path)["pairs"])
    return torch.cat(parts)[:individuals]
