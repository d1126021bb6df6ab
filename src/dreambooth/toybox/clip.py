"""toybox-clip: a small CLIP trained on toybox renders and captions, the judge of what a picture shows.

An ordinary `CLIPModel`. Two things differ from Radford et al. 2021. Captions of a batch are compared with *all* of its
pictures, and which of them are true is known exactly, so a caption that happens to fit another picture too is no
negative, and what cannot be known (whether a dog that nobody called brown is brown) is left out. And every picture has
four captions: all that can be said, a part of it, and both with one thing made wrong.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from dreambooth.errors import ModelError
from dreambooth.toybox import captions, claims, views
from dreambooth.toybox.data import generator
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit, processes
from dreambooth.toybox.tokenizer import rare_words
from dreambooth.toybox.views import cutouts, looking_at, patches_kept, relit
from dreambooth.toybox.world import Scene

BUDGET = Budget(steps=4_000)
RATES = Optimisation(rate=3e-3, batch=128, warmup=100, average=0.99)
CUT = (0.85, 1.0)
"""Shares of a side in cut-outs; tighter ones would make close-ups of everything."""
LIGHT = 0.1
"""How far brightness and contrast are changed in training. Colours are what captions speak of: they stay."""
NAMED = 0.1
"""Share of captions with a rare word before the class noun, so that an identifier stays harmless."""
SHARPEST = 100.0
CONTRASTED = 0.5
KEPT, WHOLE = 0.5, 0.92
"""Half of a picture's patches are looked at until this share of the budget is spent (FLIP: Li et al. 2023); that
shows twice as many pictures in the same time."""


@dataclass(frozen=True)
class Towers:
    """The sizes of the two towers."""

    size: int = 128
    patch: int = 8
    width: int = 144
    layers: int = 6
    head: int = 48
    text_width: int = 128
    text_layers: int = 2
    projection: int = 128


TOWERS = Towers()


def new(words: CLIPTokenizer, towers: Towers = TOWERS) -> CLIPModel:
    """An untrained toybox-clip for a tokenizer."""
    t = towers
    start, end = len(words) - 2, len(words) - 1
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=t.text_width,
        intermediate_size=4 * t.text_width,
        projection_dim=t.projection,
        num_hidden_layers=t.text_layers,
        num_attention_heads=max(1, t.text_width // t.head),
        max_position_embeddings=words.model_max_length,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = CLIPVisionConfig(
        hidden_size=t.width,
        intermediate_size=4 * t.width,
        projection_dim=t.projection,
        num_hidden_layers=t.layers,
        num_attention_heads=max(1, t.width // t.head),
        image_size=t.size,
        patch_size=t.patch,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=t.projection))


def finer(judge: CLIPModel, patch: int) -> CLIPModel:
    """The same judge looking at smaller patches, to be trained on: its first kernel by areas, the sum over a patch as
    it was where colours are even, and its places interpolated (as FlexiViT does: Beyer et al. 2023).

    Raises ModelError where larger patches are asked for, or a side is no multiple of them.
    """
    vision: Any = judge.config.vision_config
    old, size = vision.patch_size, vision.image_size
    if patch > old or size % patch:
        raise ModelError(f"A judge of {size} px with patches of {old} px cannot have patches of {patch} px.")
    config: Any = copy.deepcopy(judge.config)
    config.vision_config.patch_size = patch
    state = judge.state_dict()
    kernel = "vision_model.embeddings.patch_embedding.weight"
    state[kernel] = F.interpolate(state[kernel], size=patch, mode="area") * (old / patch) ** 2
    places = "vision_model.embeddings.position_embedding.weight"
    first, grid = state[places][:1], state[places][1:].T.unflatten(1, (size // old, -1))
    grid = F.interpolate(grid[None], size=size // patch, mode="bicubic")[0].flatten(1).T
    state[places] = torch.cat([first, grid])
    result = CLIPModel(config)
    result.load_state_dict(state)
    return result


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """Every true pair against all false ones of its row, one value a row: the mean over a row's true pairs of
    log(1 + sum of exp(false) / exp(true)). Unknown pairs count nowhere, rows without a true pair give 0.

    logits, true [N, T]; true holds FALSE, UNKNOWN and TRUE of `claims`. With one true pair a row and no unknown ones
    this is the InfoNCE of CLIP.

    >>> contrast(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item()  # log(1 + 1/e)
    0.3132616877555847
    """
    against = logits.masked_fill(true != claims.FALSE, -math.inf).logsumexp(1, keepdim=True)
    chosen = (true == claims.TRUE).to(logits.dtype)
    return (F.softplus(against - logits) * chosen).sum(1) / chosen.sum(1).clamp_min(1)


def said(scenes: Sequence[Scene], rare: Sequence[str], rng: random.Random) -> tuple[list[Scene], list[str]]:
    """Four captions of each scene, as scenes and as texts: everything, a part, and both with one thing made wrong."""
    claimed: list[Scene] = []
    for scene in scenes:
        part = claims.part_of(scene, rng)
        claimed += [scene, part, claims.changed(scene, rng), claims.changed(part, rng)]
    texts = [
        captions.caption(scene, rng.choice(rare) if rng.random() < NAMED else None, rng.randrange(2**31))
        for scene in claimed
    ]
    return claimed, texts


def look(model: CLIPModel, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """Unit rows [N, D] of pictures [N, 3, H, W] in -1..1; `kept` [N, K] names the patches that are looked at."""
    tower = model.vision_model
    with looking_at(tower.embeddings, kept):
        pooled = tower(pixel_values=pixels).pooler_output
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


def read(model: CLIPModel, tokens: Tensor) -> Tensor:
    """Unit rows [T, D] of tokens [T, L]."""
    return F.normalize(model.text_projection(model.text_model(input_ids=tokens).pooler_output).float(), dim=-1)


def train(
    images: Tensor, scenes: Sequence[Scene], words: CLIPTokenizer, folder: Path, budget: Budget = BUDGET,
    rates: Optimisation = RATES, *, contrasts: Tensor | None = None, model: CLIPModel | None = None,
    device: str = "cpu", seed: int = 0, resume: bool = True, watch: Callable[[CLIPModel], str] | None = None,
    log: Log = print,
) -> Fitted[CLIPModel]:  # fmt: skip
    """Train both towers on pictures [N, 3, H, W] (uint8) and the scenes that they show.

    `contrasts` [M, 2] names pictures that are hard to tell apart: CONTRASTED of a batch are such, both of them.
    `watch` measures the average at every checkpoint. Under torchrun each process compares its own share of the batch.
    """
    torch.manual_seed(seed)
    rank, shares = processes()
    name, count = f"clip/{rank}" if rank else "clip", max(2, rates.batch // shares)
    clip = model or new(words)
    torch.nn.Module.to(clip, device)
    clip.set_attn_implementation("eager")  # with so few tokens twice as fast on a CPU as the fused one
    rare, shown = rare_words(words)[::2], claims.rows(scenes)
    vision: Any = clip.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2

    def loss(step: int, progress: float) -> Tensor:
        draw, rng = generator(seed, name, step), random.Random(f"{seed}/{name}/{step}")
        chosen = torch.randint(len(images), (count,), generator=draw)
        if contrasts is not None:
            both = contrasts[torch.randint(len(contrasts), (round(CONTRASTED * count / 2),), generator=draw)]
            chosen[: both.numel()] = both.flatten()
        mirror = torch.rand(count, generator=draw) < 0.5
        pixels = cutouts(images[chosen].to(device), CUT, images.shape[-1], draw)
        pixels = relit(views.mirrored(pixels, mirror), LIGHT, draw)
        claimed, texts = said([scenes[row] for row in chosen.tolist()], rare, rng)
        true = claims.truth(claims.rows(claimed), claims.mirrored(shown[chosen], mirror)).to(device)
        tokens = words(texts, padding=True, truncation=True, return_tensors="pt").input_ids.to(device)
        kept = None if progress > WHOLE else patches_kept(count, patches, KEPT, draw).to(device)
        with torch.autocast(device, torch.bfloat16):
            cosines = look(clip, pixels, kept) @ read(clip, tokens).T
        logits = clip.logit_scale.exp().clamp(max=SHARPEST) * cosines.float()
        readable = (true == claims.TRUE).any(0)
        return (contrast(logits, true).mean() + contrast(logits.T[readable], true.T[readable]).mean()) / 2

    def sheet(average: CLIPModel, _path: Path) -> None:
        if watch is not None:
            log(f"clip: {watch(average)}")

    return fit("clip", clip, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)
