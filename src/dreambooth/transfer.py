"""Numbers made on the CPU, brought to the device that computes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def has_own_memory(device: torch.device) -> bool:
    """Whether what is in host memory takes none of the device's."""
    return device.type == "cuda"


def onto(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`values` on the device; the same tensor where it is there already.

    On CUDA by way of pinned memory: from any other, the host would first wait for all that the device has to do.
    """
    values = values if dtype is None else values.to(dtype)
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
