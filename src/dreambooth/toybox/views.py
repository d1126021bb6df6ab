"""Cut-outs of pictures for the judges' training, a little lighter or darker. Colours stay: they are what is judged."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32
"""So many pictures of a batch are cut out at one size, which scales them in one operation."""


def cutouts(images: Tensor, shares: tuple[float, float], size: int, draw: torch.Generator) -> Tensor:
    """Square cut-outs of uint8 pictures [B, 3, H, H], scaled to [B, 3, size, size] in -1..1, on their device.

    A side is between the two `shares` of the picture's, drawn for every GROUP of pictures; places near the middle are
    the likelier ones.
    """
    parts: list[Tensor] = []
    for group in images.split(GROUP):
        share = shares[0] + (shares[1] - shares[0]) * torch.rand(1, generator=draw).item()
        edge = max(1, round(share * images.shape[-1]))
        places = torch.rand(len(group), 2, 2, generator=draw).mean(-1) * (images.shape[-1] - edge)
        corners = places.round().long().tolist()
        cuts = [image[:, y : y + edge, x : x + edge] for image, (y, x) in zip(group, corners, strict=True)]
        pixels = torch.stack(cuts).float() / 127.5 - 1
        smaller = edge > size
        parts.append(F.interpolate(pixels, size=size, mode="bilinear", antialias=smaller))
    return torch.cat(parts)


def mirrored(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Pictures [B, 3, H, W], those of `chosen` [B] as their mirror images."""
    return torch.where(chosen.view(-1, 1, 1, 1).to(pixels.device), pixels.flip(-1), pixels)


def relit(pixels: Tensor, amount: float, draw: torch.Generator) -> Tensor:
    """Contrast and brightness of pictures in -1..1 changed by up to `amount`."""
    gain, offset = (amount * (2 * torch.rand(2, len(pixels), 1, 1, 1, generator=draw) - 1)).to(pixels.device)
    return (pixels * (1 + gain) + offset).clamp(-1, 1)


def patches_kept(count: int, patches: int, share: float, draw: torch.Generator) -> Tensor:
    """[count, share * patches]: which patches of each picture are looked at, at random."""
    return torch.rand(count, patches, generator=draw).argsort(1)[:, : max(1, round(share * patches))]


@contextmanager
def looking_at(embeddings: nn.Module, kept: Tensor | None) -> Generator[None]:
    """Within it a vision transformer sees of its token embeddings [B, 1 + P, C], which the module `embeddings` makes,
    the first one and the patches `kept` [B, K] alone; None keeps them all."""

    def pick(_module: nn.Module, _arguments: object, states: Tensor) -> Tensor:
        if kept is None:
            return states
        chosen = (kept + 1).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        return torch.cat([states[:, :1], states.gather(1, chosen)], 1)

    handle = embeddings.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()
