"""Those who judge, by name: CLIP for CLIP-I and CLIP-T, DINO for DINO and PRES, a perceptual distance for DIV.

The embedded world is judged by its own `toybox-clip` and `toybox-dino`, real models by what the paper names
(section 4.2): CLIP ViT-B/32 and DINO ViT-S/16. Scores of different judges are not comparable; every record of
`scores.py` therefore carries the judge's name and fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from dreambooth.errors import ConfigError
from dreambooth.evaluation import pretrained
from dreambooth.evaluation.perceptual import PATCH, PatchDistance, load_lpips, lpips_package
from dreambooth.evaluation.vision import Clip, Dino
from dreambooth.models import embedded
from dreambooth.run import choose_device

if TYPE_CHECKING:
    from PIL.Image import Image

TOYBOX_CLIP, TOYBOX_DINO = "toybox-clip", "toybox-dino"
PAPER_CLIP, PAPER_DINO = "clip-vit-b-32", "dino-vits16"


class ImageEncoder(Protocol):
    """Pictures to points; `fingerprint` is a short hash of the weights and the preprocessing."""

    name: str
    fingerprint: str

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """[N, D] float32 on the CPU, unit rows."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """Pictures and texts to points of one space; `logit_scale` turns their cosines into logits, as in its training."""

    logit_scale: float

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32 on the CPU, unit rows."""
        ...


class Perceptual(Protocol):
    """How different pictures look."""

    name: str
    fingerprint: str

    def distances(self, images: Sequence[Image]) -> Tensor:
        """[N, N] float32, symmetric, with a zero diagonal."""
        ...


@dataclass(frozen=True)
class Judges:
    """All that the paper's five metrics need. Loading takes seconds: build them once for many subjects."""

    dino: ImageEncoder
    clip: ImageTextEncoder
    perceptual: Perceptual


def clip_encoder(name: str, device: str = "cpu") -> ImageTextEncoder:
    """CLIP by embedded name, short name (clip-vit-b-32, clip-vit-l-14), folder or hub id.

    Raises ModelError or ConfigError in one sentence, with the valid choices.
    """
    return Clip(pretrained.resolve(name, pretrained.CLIP), choose_device(device))


def dino_encoder(name: str, device: str = "cpu") -> ImageEncoder:
    """DINO by embedded name, short name (dino-vits16), folder or hub id.

    Raises ModelError or ConfigError in one sentence, with the valid choices.
    """
    return _dino(name, device)


def perceptual(name: str, device: str = "cpu") -> Perceptual:
    """A perceptual distance: "lpips", or "dino-patch" on the paper's DINO, or "dino-patch:ENCODER" on another.

    Raises ModelError or ConfigError in one sentence, with the valid choices.
    """
    kind, _, encoder = name.partition(":")
    if name == "lpips":
        return load_lpips(choose_device(device))
    if kind == PATCH:
        return PatchDistance(_dino(encoder or PAPER_DINO, device))
    raise ConfigError(f"There is no perceptual distance {name!r}; give lpips, {PATCH} or {PATCH}:ENCODER.")


def clip_name(model: str) -> str:
    """The CLIP that judges what `model` draws: the embedded world's own, or the paper's."""
    return TOYBOX_CLIP if _of_the_toybox(model) else PAPER_CLIP


def dino_name(model: str) -> str:
    """The DINO that judges what `model` draws: the embedded world's own, or the paper's."""
    return TOYBOX_DINO if _of_the_toybox(model) else PAPER_DINO


def judges_for(
    model: str,
    device: str = "cpu",
    *,
    dino: str | None = None,
    clip: str | None = None,
    distance: str | None = None,
) -> Judges:
    """The judges of what `model` draws: the embedded world's own for an embedded model, else the paper's.

    `dino`, `clip` and `distance` name others. The distance is LPIPS outside the embedded world, where it can be
    imported, and else that of the DINO encoder's patches.
    Raises ModelError or ConfigError in one sentence where one of them cannot be had.
    """
    encoder = _dino(dino or dino_name(model), device)
    if distance is not None:
        measure = perceptual(distance, device)
    elif _of_the_toybox(model) or lpips_package() is None:
        measure = PatchDistance(encoder)
    else:
        measure = load_lpips(choose_device(device))
    return Judges(encoder, clip_encoder(clip or clip_name(model), device), measure)


def _of_the_toybox(model: str) -> bool:
    return model in embedded()


def _dino(name: str, device: str) -> Dino:
    return Dino(pretrained.resolve(name, pretrained.DINO), choose_device(device))
