"""Every random number is a function of what it is for, so batch size, workers and resuming cannot change it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GREATEST_SEED = 2**63 - 1  # torch takes one bit more, which leaves room to count on from there


def derive(seed: int, *labels: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(seed, "noise", step, row)`.

    >>> derive(0, "noise", 1, 2) == derive(0, "noise", 1, 2) != derive(0, "noise", 2, 1)
    True
    """
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *labels: int | str) -> torch.Generator:
    """A CPU generator for one purpose; on the CPU so that every device draws the same numbers."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(seed, *labels))
