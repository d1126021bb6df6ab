"""Memory: what a process had at most, what is free, and what a full fine-tuning step needs."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

# Weight, gradient and AdamW's two moments, in float32.
BYTES_PER_TRAINED_PARAMETER = 16
# The frozen encoders of a published size, the activations of a small batch, and the libraries.
BESIDES_BYTES = 3_000_000_000


def peak_bytes(device: str) -> int:
    """What CUDA's allocator gave out at most, or what this process had in memory at most."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux that one starts at what the parent had when it forked.
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_bytes(device: str) -> int | None:
    """What a new process could take; None where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    facts = Path("/proc/meminfo")
    found = facts.is_file() and re.search(r"^MemAvailable:\s*(\d+) kB$", facts.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def shortage(parameters: int, device: str) -> str:
    """Why a full fine-tuning of so many parameters cannot be measured here, in a sentence; empty where it can."""
    needed, free = parameters * BYTES_PER_TRAINED_PARAMETER + BESIDES_BYTES, free_bytes(device)
    if free is None or needed < free:
        return ""
    return f"not measured: needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
