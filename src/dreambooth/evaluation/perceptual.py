"""How different two pictures look, for DIV: LPIPS where it can be installed, else DINO's patch features.

Both follow Zhang et al. 2018 ("The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", eq. 1):
features of several layers, unit-normalised over the channels at every place, their squared difference averaged over
the places. LPIPS takes AlexNet's convolutions and weighs channels as people judged; the patch distance takes a ViT's
tokens and weighs nothing. Their figures are not comparable, so each carries its own name into every table.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambooth.errors import ConfigError, ModelError
from dreambooth.evaluation.vision import Dino
from dreambooth.prior import weights_fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of the ViT, as LPIPS spreads its five layers over AlexNet
PATCH = "dino-patch"


class PatchDistance:
    """Distance of a DINO encoder's patch tokens; 0 for equal pictures, 2 for unrelated features, 4 at most."""

    def __init__(self, encoder: Dino) -> None:
        self.encoder = encoder
        self.name = f"{PATCH}:{encoder.name}"
        self.fingerprint = encoder.fingerprint

    def distances(self, images: Sequence[Image]) -> Tensor:
        """[N, N] float32, symmetric, with a zero diagonal; the mean over layers and places."""
        if not images:
            return torch.zeros(0, 0)
        return patch_distances(self.encoder.patch_features(images, DEPTHS))


class Lpips:
    """LPIPS of the authors' package: `measure` is its network, for pictures [1, 3, H, W] in -1..1 (AlexNet, v0.1)."""

    name = "lpips-alex"

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor], fingerprint: str, device: torch.device) -> None:
        self.measure, self.fingerprint, self.device = measure, fingerprint, device

    @torch.no_grad()
    def distances(self, images: Sequence[Image]) -> Tensor:
        """[N, N] float32, symmetric, with a zero diagonal; pictures of several sizes are brought to the smallest."""
        size = (min((image.width for image in images), default=1), min((image.height for image in images), default=1))
        pixels = [_pixels(image, size).to(self.device) for image in images]
        matrix = torch.zeros(len(images), len(images))
        for i, one in enumerate(pixels):
            for j, other in enumerate(pixels[:i]):
                matrix[i, j] = matrix[j, i] = self.measure(one, other).float().cpu().reshape(())
        return matrix


def patch_distances(features: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of unit features (Zhang et al. 2018, eq. 1 with w = 1), averaged over the layers.

    Args:
        features: one tensor [N, places, channels] a layer.

    Returns:
        [N, N] float32 in 0..4, symmetric, with a zero diagonal.
    """
    total = torch.zeros(len(features[0]), len(features[0]), dtype=torch.float64)
    for layer in features:
        unit = normalize(layer.double(), dim=2).flatten(1)
        # |a - b|² = 2 - 2 a·b of unit vectors, so one product gives all pairs.
        total += 2 - 2 * (unit @ unit.T) / layer.shape[1]
    matrix = (total / len(features)).clamp(min=0)
    return ((matrix + matrix.T) / 2).fill_diagonal_(0).float()


def lpips_package() -> Any | None:
    """The package `lpips`, or None where it, or the torchvision it needs, cannot be imported."""
    try:
        return importlib.import_module("lpips")
    except (ImportError, RuntimeError):  # a torchvision of another build than torch's ends in a RuntimeError
        return None


def load_lpips(device: torch.device) -> Lpips:
    """LPIPS with AlexNet, its usual form. Raises ConfigError or ModelError where it cannot be had."""
    package = lpips_package()
    if package is None:
        raise ConfigError(
            f"LPIPS needs the packages lpips and torchvision, and they cannot be imported here; use {PATCH} instead."
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # it calls torchvision by outdated names
            network = package.LPIPS(net="alex", verbose=False).eval().to(device)
    except Exception as error:
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelError(
            f"The AlexNet weights of LPIPS cannot be had ({told}); check the connection, or use {PATCH}."
        ) from error
    return Lpips(network, weights_fingerprint({"lpips": network})[:16], device)


def _pixels(image: Image, size: tuple[int, int]) -> Tensor:
    """[1, 3, H, W] in -1..1."""
    import numpy as np

    plain = image.convert("RGB")
    resized = plain if plain.size == size else plain.resize(size)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 127.5 - 1
