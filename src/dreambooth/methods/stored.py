"""What methods keep in files beside the base model, read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dreambooth.errors import RunError


@torch.no_grad()
def put_back(own: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: str) -> None:
    """Copies `state` into the tensors `own`. Raises RunError(`misfit`) where names or shapes differ."""
    if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
        raise RunError(misfit)
    for key, value in own.items():
        value.copy_(state[key])


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises RunError when it is missing or cannot be read."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise RunError(f"{path} cannot be read ({error}); the run folder is incomplete.") from error
