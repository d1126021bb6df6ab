"""Where the time of a training step goes: seconds in torch's own kernels by kind."""

from __future__ import annotations

from typing import Any

from benchmarks.clock import Laps
from benchmarks.task import OURS, Outcome, Task

# By the first word that the kernel's name contains, in this order.
GROUPS = {
    "convolutions": ("conv", "mkldnn", "slow_conv"),
    "matrix products": ("addmm", "bmm", "::mm", "linear", "gemm"),
    "attention": ("attention", "softmax", "flash"),
    "normalisation": ("norm",),
    "optimizer": ("foreach", "fused_adam", "lerp", "addcdiv", "addcmul", "adamw"),
    "copies": ("copy", "clone", "cat", "contiguous", "_to_copy"),
}


class Watched(Laps):
    """Laps whose steps after the warm-up are seen by torch's profiler."""

    def __init__(self, device: str, warm_up: int) -> None:
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as watch

        super().__init__(device, warm_up)
        self.profiler = watch(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA][: device == "cuda"]])

    def __call__(self, number: int) -> None:
        super().__call__(number)
        if number == self.warm_up:
            self.profiler.start()

    def mean(self) -> dict[str, float]:
        mean = super().mean()
        self.profiler.stop()
        return mean


def profile(task: Task) -> Outcome:
    """Shares of the processor's (or the device's) own time by kind of kernel, over the steps after the warm-up."""
    from benchmarks import ours_side, plain_side

    side: Any = ours_side if task.side == OURS else plain_side
    laps = Watched(task.device, side.WARM_UP)
    side.step(task, laps)
    spent: dict[str, float] = {}
    for event in laps.profiler.key_averages():
        own: Any = event.self_device_time_total if task.device == "cuda" else event.self_cpu_time_total
        spent[group(event.key)] = spent.get(group(event.key), 0.0) + float(own) / 1e6 / task.steps
    return Outcome({f"{name}": seconds for name, seconds in sorted(spent.items(), key=lambda item: -item[1])})


def group(kernel: str) -> str:
    """The kind of a kernel.

    >>> group("aten::mkldnn_convolution"), group("aten::_foreach_lerp_"), group("aten::silu")
    ('convolutions', 'optimizer', 'everything else')
    """
    name = kernel.lower()
    return next((kind for kind, words in GROUPS.items() if any(word in name for word in words)), "everything else")
