"""Numbers made on the CPU, brought to the device that computes with them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def has_own_memory(device: torch.device) -> bool:
    """Whether what is in host memory takes none of the device's."""
    return device.type == "cuda"


@contextmanager
def waiting(modules: Iterable[nn.Module], device: torch.device) -> Generator[None]:
    """Inside, those of the modules that are on the device wait in host memory."""
    there = [module for module in modules if all(value.device == device for value in module.parameters())]
    for module in there:
        module.to("cpu")
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for module in there:
            module.to(device)


def onto(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`values` on the device; the same tensor where it is there already.

    On CUDA by way of pinned memory: from any other, the host would first wait for all that the device has to do.
    """
    values = values if dtype is None else values.to(dtype)
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
