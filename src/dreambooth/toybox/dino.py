"""toybox-dino: a small ViT that tells individuals of one class apart, trained without labels in the DINO manner.

Self-distillation (Caron et al. 2021): a student sees parts, a slowly following teacher sees whole pictures, and the
student must say what the teacher says, as a distribution over prototypes. As in DINOv2 (Oquab et al. 2023) the
teacher's distributions are balanced over the batch by Sinkhorn-Knopp, and KoLeo spreads the embeddings.

One thing differs from both. Cut-outs of a *single* picture share its background, so a network trained on them tells
backgrounds apart as gladly as subjects. Here the student's views and the teacher's view are of two *photos of one
individual*, in another place, from another side, in another light (`pairs`), as two moments of a video would show it.
No class and no caption is ever used; that two photos show one individual is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from dreambooth.toybox.data import generator
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit
from dreambooth.toybox.views import cutouts, looking_at, mirrored, patches_kept, relit

BUDGET = Budget(steps=1_000)
RATES = Optimisation(rate=3e-3, batch=128, warmup=60, average=0.98)
GLOBAL, LOCAL = (0.7, 1.0), (0.35, 0.65)
"""Shares of a side that global and local views show."""
LOCALS = 2
"""Local views of each photo, at half the size."""
LIGHT = 0.15
SMALL, WHOLE = 0.75, 0.8
"""Views have this share of the full size until this share of the budget is spent: nearly twice as many in that time."""
KEPT = 0.5
"""Share of the patches of a global view that the student sees."""
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05
CONTRAST_TEMPERATURE = 0.1
SINKHORN = 3
"""Rounds of balancing."""
SPREAD = 0.1
"""Weight of KoLeo."""
MOMENTUM = 0.98
"""Of the teacher at first; it rises to 1 on a cosine."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the network; `prototypes` are of training only."""

    size: int = 128
    patch: int = 16
    width: int = 144
    layers: int = 6
    head: int = 48
    hidden: int = 0
    prototypes: int = 2048


SIZES = Sizes()


class Head(nn.Module):
    """From an embedding to logits over prototypes: cosines with unit vectors. `hidden` 0 has no layers before them."""

    def __init__(self, width: int, hidden: int, prototypes: int) -> None:
        super().__init__()
        layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)] if hidden else []
        self.layers = nn.Sequential(*layers)
        self.prototypes_projection = nn.Parameter(F.normalize(torch.randn(prototypes, width), dim=-1))

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, C] -> cosines [B, K]."""
        return F.linear(
            F.normalize(self.layers(embedding).float(), dim=-1), F.normalize(self.prototypes_projection, dim=-1)
        )


class Pupil(nn.Module):
    """A ViT and its head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=sizes.width,
            intermediate_size=4 * sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=max(1, sizes.width // sizes.head),
            image_size=sizes.size,
            patch_size=sizes.patch,
        )
        self.backbone = ViTModel(config, add_pooling_layer=False)
        self.backbone.set_attn_implementation("eager")  # with so few tokens twice as fast on a CPU as the fused one
        self.head = Head(sizes.width, sizes.hidden, sizes.prototypes)


class Distillation(nn.Module):
    """Student and teacher, one module, so that one checkpoint holds both."""

    def __init__(self, sizes: Sizes = SIZES) -> None:
        super().__init__()
        self.student = Pupil(sizes)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


def embed(backbone: ViTModel, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """The CLS token [B, C] of pictures [B, 3, H, W] in -1..1; `kept` [B, K] names the patches that are looked at."""
    small = pixels.shape[-1] != backbone.config.image_size
    with looking_at(backbone.embeddings, kept):
        return backbone(pixel_values=pixels, interpolate_pos_encoding=small).last_hidden_state[:, 0]


def balanced(logits: Tensor, rounds: int = SINKHORN) -> Tensor:
    """Distributions over prototypes [B, K] that use every prototype equally often over the batch (Sinkhorn-Knopp:
    Caron et al. 2020, SwAV, section 3.1). logits [B, K] are already divided by the temperature; rows sum to 1."""
    log = logits.float()
    for _ in range(rounds):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()


def agreement(target: Tensor, cosines: Tensor) -> Tensor:
    """Cross-entropy between the teacher's distributions [B, K] and the student's, one value a row (DINO, eq. 3)."""
    return -(target * F.log_softmax(cosines / STUDENT_TEMPERATURE, dim=-1)).sum(-1)


def recognition(own: Tensor, other: Tensor) -> Tensor:
    """Which of the batch's photos shows the same individual? Cross-entropy, one value a row (MoCo v3: Chen et al. 2021,
    eq. 1), the photo itself left out.

    own [2B, C]: the student's embeddings of B first and B second photos; other [2B, C]: the teacher's of the other
    photo of each.
    """
    logits = F.normalize(own.float(), dim=-1) @ F.normalize(other.float(), dim=-1).T / CONTRAST_TEMPERATURE
    rows = torch.arange(len(own), device=own.device)
    itself = rows.roll(len(own) // 2)
    return F.cross_entropy(logits.index_put((rows, itself), logits.new_tensor(-math.inf)), rows, reduction="none")


def crowding(embeddings: Tensor) -> Tensor:
    """KoLeo, one value a row: minus the log distance to the nearest other of the batch, on the unit sphere
    (Sablayrolles et al. 2019, eq. 2). embeddings [B, C].

    >>> crowding(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # -log(sqrt(2)) each
    tensor([-0.3466, -0.3466])
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-math.inf).argmax(1)
    return -((unit - unit[nearest]).norm(dim=-1) + 1e-8).log()


def train(
    pairs: Tensor, folder: Path, budget: Budget = BUDGET, rates: Optimisation = RATES, *, sizes: Sizes = SIZES,
    device: str = "cpu", seed: int = 0, resume: bool = True, watch: Callable[[ViTModel], str] | None = None,
    log: Log = print,
) -> Fitted[Distillation]:  # fmt: skip
    """Train on photos [N, 2, 3, H, W], uint8, two of each individual; the result is `.module.teacher.backbone`."""
    torch.manual_seed(seed)
    model = Distillation(sizes).to(device)

    def view(photos: Tensor, shares: tuple[float, float], size: int, draw: torch.Generator) -> Tensor:
        pixels = cutouts(photos, shares, size, draw)
        return relit(mirrored(pixels, torch.rand(len(pixels), generator=draw) < 0.5), LIGHT, draw)

    def loss(step: int, progress: float) -> Tensor:
        draw = generator(seed, "dino", step)
        across = math.ceil((1.0 if progress > WHOLE else SMALL) * sizes.size / sizes.patch)  # patches a side
        edge, patches = across * sizes.patch, across**2
        model.follow(1 - (1 - MOMENTUM) * (math.cos(math.pi * progress) + 1) / 2)
        rows = torch.randint(len(pairs), (rates.batch,), generator=draw)
        photos = pairs[rows].transpose(0, 1).flatten(0, 1).to(device)  # all first photos, then all second ones
        whole = view(photos, GLOBAL, edge, draw)
        parts = torch.cat([view(photos, LOCAL, -(-across // 2) * sizes.patch, draw) for _ in range(LOCALS)])
        kept = patches_kept(len(whole), patches, KEPT, draw).to(device)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                known = embed(model.teacher.backbone, whole)
                taught = balanced(model.teacher.head(known) / TEACHER_TEMPERATURE)
            seen, glimpsed = (embed(model.student.backbone, *views) for views in ((whole, kept), (parts,)))
            said = model.student.head(torch.cat([seen, glimpsed]))
        known, taught = known.roll(rates.batch, 0), taught.roll(rates.batch, 0)  # of the other photo
        named = torch.cat([agreement(taught, views) for views in said.split(len(whole))])
        found = torch.cat([recognition(views, known) for views in (seen, *glimpsed.split(len(whole)))])
        spread = torch.cat([crowding(photo) for photo in seen.split(rates.batch)])
        return named.mean() + found.mean() + SPREAD * spread.mean()

    def sheet(average: Distillation, _path: Path) -> None:
        if watch is not None:
            log(f"dino: {watch(average.teacher.backbone)}")

    return fit("dino", model, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)
