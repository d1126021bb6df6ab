"""Attention without the fused kernel, which on a CPU is slow in the backward pass where there are few positions."""

from __future__ import annotations

from typing import Any

from torch import nn

MOST_POSITIONS = 1024
"""Up to so many the whole matrix of weights is small; above, the fused kernel saves the memory that it is made for."""


class PlainAttention:
    """Attention of a denoiser as two matrix products and a softmax while it is switched on.

    Takes a 16 x 16 denoiser on a CPU from 198 to 162 ms a step. Denoisers with other attention than diffusers' usual
    one, or on a GPU, or with more than MOST_POSITIONS, are left alone.
    """

    def __init__(self, denoiser: nn.Module, positions: int) -> None:
        """`positions` are those of the largest picture that attention may see."""
        from diffusers.models.attention_processor import AttnProcessor2_0

        self._denoiser: Any = denoiser
        self._fused: dict[str, Any] = dict(getattr(denoiser, "attn_processors", {}))
        usual = all(type(processor) is AttnProcessor2_0 for processor in self._fused.values())
        on_cpu = next(denoiser.parameters()).device.type == "cpu"
        if not (usual and on_cpu and positions <= MOST_POSITIONS):
            self._fused = {}

    def switch(self, on: bool) -> None:
        if not self._fused:
            return
        from diffusers.models.attention_processor import AttnProcessor

        self._denoiser.set_attn_processor(AttnProcessor() if on else dict(self._fused))
