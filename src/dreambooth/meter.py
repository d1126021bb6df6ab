"""How much memory there is, and how much was taken."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import torch

from dreambooth.heap import trim


def available_bytes(device: torch.device) -> int:
    """Memory of the device that this process could still take; for a CPU within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = [_physical_bytes()]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, min(free))


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows: the estimate is all there is
        return sys.maxsize


class Peak:
    """Greatest memory that was taken between entering and leaving, in bytes; None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        give_back(self.device)
        self._before = self._now()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            # What was there before counts as well: a step has to fit beside it, and free memory left it out.
            self.bytes = torch.cuda.max_memory_reserved(self.device) - self._before
        elif (greatest := _resident("VmHWM")) is not None:
            self.bytes = max(0, greatest - self._before)

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_reserved(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets this process's own peak
        except OSError:
            return 0
        return _resident("VmRSS") or 0


def _resident(name: str) -> int | None:
    """A line of /proc/self/status in bytes."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def give_back(device: torch.device) -> None:
    """Returns memory that is no longer used to the device, or to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        trim()
