"""Where computing in bfloat16 pays, and how it is switched on: weights stay in float32, matrix products are rounded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

MixedPrecision = Literal["auto", "no", "bf16"]


def in_bf16(setting: MixedPrecision, device: torch.device) -> bool:
    """What a setting means on a device: "auto" is bfloat16 where the hardware multiplies it faster than float32."""
    if setting != "auto":
        return setting == "bf16"
    match device.type:
        case "cuda":
            import torch

            return torch.cuda.is_bf16_supported()
        case "cpu":
            return _cpu_multiplies_bf16()
        case _:
            return False


@lru_cache
def _cpu_multiplies_bf16() -> bool:
    import torch

    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def autocast(setting: MixedPrecision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a model computes as the setting says."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if in_bf16(setting, device) else nullcontext()
