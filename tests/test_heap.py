"""Freed memory that serves again, and goes back in the end."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# In a process of its own: what a process has freed before decides where the next block comes from.
PROGRAM = """
import resource
from pathlib import Path
import torch
from dreambooth.heap import freed_memory_kept

CPU, BYTES = torch.device("cpu"), 256 << 20

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

outside = faults(4)
with freed_memory_kept(torch.device("meta")):
    elsewhere = faults(4)
with freed_memory_kept(CPU):
    with freed_memory_kept(CPU):
        faults(12)
    inside, kept = faults(4), resident()
print(outside, elsewhere, inside, kept - resident())
"""


def test_large_blocks_come_from_what_was_freed_and_go_back_at_the_end():
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    outside, elsewhere, inside, given_back = map(int, told.split())
    assert inside < outside / 20 and elsewhere > outside / 2
    assert given_back > 200 << 20
