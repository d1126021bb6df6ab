"""Reads the small files of a model, from a folder or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.models import embedded

WAYS = (
    "an embedded name ({}), a folder with a diffusers pipeline, a .safetensors checkpoint, "
    "or a hub id such as owner/model"
)


def ways() -> str:
    """What --model takes, for an error's sentence."""
    return WAYS.format(", ".join(embedded()) or "none installed")


def read_json(source: Source, name: str) -> dict[str, Any]:
    """One configuration file of a pipeline. Raises ModelError where it cannot be had."""
    path = Path(source.location) / name
    if source.kind == "hub":
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source.location, name))
        except Exception as error:
            raise ModelError(
                f"The hub model {source.name} cannot be fetched ({type(error).__name__}: {first_line(error)}). "
                f"Check the name and the connection, or give {ways()}."
            ) from error
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{name} of {source.name} cannot be read; fetch the model again.") from error


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
