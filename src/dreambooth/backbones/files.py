"""Reads the small files of a model, from a folder or the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Layout:
    """What the names of a single file's tensors say of it."""

    is_xl: bool
    is_refiner: bool
    takes_a_mask: bool


def layout_of(source: Source) -> Layout:
    """Read from the header of a single .safetensors file. Raises ModelError where it has none."""
    from safetensors import safe_open

    try:
        with safe_open(source.location, framework="pt") as file:
            names = list(file.keys())
            first = "model.diffusion_model.input_blocks.0.0.weight"
            channels = int(file.get_slice(first).get_shape()[1]) if first in names else 4
    except Exception as error:
        raise ModelError(f"The checkpoint {source.name} cannot be read: {first_line(error)}") from error
    # SDXL's embedders are CLIP ViT-L and, as OpenCLIP writes it, bigG; the refiner has the second alone.
    two = any(name.startswith("conditioner.embedders.1.") for name in names)
    alone = any(name.startswith("conditioner.embedders.0.model.") for name in names)
    return Layout(is_xl=two, is_refiner=alone, takes_a_mask=channels == 9)


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
