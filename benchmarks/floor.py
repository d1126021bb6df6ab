"""What the machine itself allows: how fast it multiplies and copies, and what one training step must at least do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sizes
from dreambooth.precision import MixedPrecision, in_bf16

# AdamW in float32: weight, gradient and both moments are read; weight and both moments are written.
ADAMW_WORDS = 7
WORD_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What one step must do at least: multiplications and additions, and bytes that the optimizer moves."""

    flops: int
    optimizer_bytes: int
    parameters: int

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The floor: the arithmetic at the matrix rate, then the optimizer's bytes at the bandwidth.

        >>> Work(flops=200, optimizer_bytes=30, parameters=1).seconds(100.0, 10.0)
        5.0
        """
        return self.flops / flops_per_second + self.optimizer_bytes / bytes_per_second


def count_flops(compute: Callable[[], Any]) -> int:
    """Floating-point operations of `compute` (a multiply-add is two), backward passes inside it included.

    Attention goes by its plain formula, whose two products every kernel has to make; the fused kernel of the CPU is
    unknown to torch's counter and would count as nothing.
    """
    with sdpa_kernel([SDPBackend.MATH]), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def step_work(size: sizes.Size, resolution: int, rows: int) -> Work:
    """One full fine-tuning step of the denoiser on `rows` latents, forward and backward; counted on shapes alone.

    Neither the text encoder nor the autoencoder is in it: what they compute is the same at every step.
    """
    with torch.device("meta"):
        denoiser = sizes.denoiser(size.denoiser)
        noisy = torch.empty(rows, *size.latents(resolution))
        hidden = torch.empty(rows, size.tokens, size.denoiser["cross_attention_dim"])
        time = torch.zeros(rows, dtype=torch.long)
        added = sizes.added_conditioning(size.denoiser, rows)

        def step() -> None:
            prediction = denoiser(noisy, time, hidden, added_cond_kwargs=added, return_dict=False)[0]
            prediction.square().mean().backward()

        flops = count_flops(step)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    return Work(flops, parameters * ADAMW_WORDS * WORD_BYTES, parameters)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of a matrix product, in operations a second: over several widths, since no one width is best."""
    widths = (4096, 8192, 16384) if device == "cuda" else (1024, 1536, 2048)
    return max(_product_rate(width, device, dtype) for width in widths)


def bandwidth(device: str) -> float:
    """The best rate of STREAM's triad a = b + s·c over arrays far larger than any cache, in bytes a second."""
    count = 2**28 if device == "cuda" else 2**26
    a, b, c = (torch.full((count,), float(value), device=device) for value in range(3))
    return 3 * WORD_BYTES * count / _best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), device)


def dtype_of(mixed_precision: MixedPrecision, device: str) -> torch.dtype:
    """What our step computes in; at "auto" bfloat16 where the device multiplies it faster, else float32."""
    return torch.bfloat16 if in_bf16(mixed_precision, torch.device(device)) else torch.float32


def _product_rate(width: int, device: str, dtype: torch.dtype) -> float:
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    result = torch.empty(width, width, device=device, dtype=dtype)
    return 2 * width**3 / _best_seconds(lambda: torch.mm(left, right, out=result), device)


def _best_seconds(compute: Callable[[], Tensor], device: str, least_seconds: float = 0.5, least_runs: int = 5) -> float:
    """The shortest of many runs: a floor is what the machine can do, not what it does beside other work."""
    compute()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < least_runs or spent < least_seconds:
        synchronize(device)
        start = perf_counter()
        compute()
        synchronize(device)
        seconds = perf_counter() - start
        best, spent, runs = min(best, seconds), spent + seconds, runs + 1
    return best


def synchronize(device: str) -> None:
    """Waits for the device, so that a clock tells the truth."""
    if device == "cuda":
        torch.cuda.synchronize()
