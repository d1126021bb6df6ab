"""What methods keep in files beside the base model, read again."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dreambooth.errors import RunError


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises RunError when it is missing or cannot be read."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise RunError(f"{path} cannot be read ({error}); the run folder is incomplete.") from error
