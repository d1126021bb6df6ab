"""Keeps what is freed with the process while it computes on a CPU.

A training step frees gigabytes and asks for them again. glibc gives large blocks back to the system at once, and the
system hands them out page by page, cleared: with Stable Diffusion 1.5 that took as long as the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Numbers of the settings in glibc's malloc.h, and the greatest threshold that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
GREATEST_THRESHOLD = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)

_lock = Lock()
_inside = 0


@contextmanager
def freed_memory_kept(device: torch.device) -> Generator[None]:
    """Inside, memory that is freed stays with the process and serves again; afterwards it goes back to the system.

    For a CPU under glibc; elsewhere nothing changes. May be nested, and entered from several threads.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _count(+1, libc)
    try:
        yield
    finally:
        _count(-1, libc)


def _count(change: int, libc: Any) -> None:
    global _inside
    with _lock:
        before, _inside = _inside, _inside + change
        if not before:
            libc.mallopt(MMAP_MAX, 0)
            libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        elif not _inside:
            # Not glibc's first values: these are where its own thresholds go in a process that frees large blocks.
            libc.mallopt(MMAP_MAX, 65536)
            libc.mallopt(MMAP_THRESHOLD, GREATEST_THRESHOLD)
            libc.mallopt(TRIM_THRESHOLD, 2 * GREATEST_THRESHOLD)
            trim()


def trim() -> None:
    """Returns what was freed to the system, where the C library (glibc) has kept it."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
