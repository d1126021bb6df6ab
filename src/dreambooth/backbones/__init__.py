"""Finds and loads a model by embedded name, local folder, single file or hub id."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.models import embedded

if TYPE_CHECKING:
    from dreambooth.backbones.protocol import Backbone

SINGLE_FILE_RESOLUTION = 512
SUPPORTED = ("StableDiffusionPipeline",)
WAYS = (
    "an embedded name ({}), a folder with a diffusers pipeline, a .safetensors checkpoint, "
    "or a hub id such as owner/model"
)


def hush() -> None:
    """Keeps diffusers and transformers from writing bars and advice into our own output."""
    import transformers.utils.logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    import diffusers.utils.logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def resolve(name: str, config: Path | None = None) -> Source:
    """What `name` stands for. Raises ModelError with the valid choices; nothing is loaded."""
    path = Path(name).expanduser()
    if name in embedded():
        return Source(name, str(embedded()[name]), "embedded", config)
    if path.is_dir():
        return Source(name, str(path), "folder", config)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(
                f"{name} is not a .safetensors file. Only safetensors are read, because other formats can run "
                "code when they are opened; convert it first."
            )
        return Source(name, str(path), "file", config)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return Source(name, name, "hub", config)
    raise ModelError(f"There is no model {name!r}. Give {WAYS.format(', '.join(embedded()) or 'none installed')}.")


def load(name: str, config: Path | None = None) -> Backbone:
    """The model in float32 on the CPU, frozen.

    `config` is a diffusers folder of the same architecture, from which a single file takes its
    configuration and tokenizer; without it they come from the hub.
    Raises ModelError where the model cannot be read or its family is not supported.
    """
    hush()
    source = resolve(name, config)
    if source.kind == "file":
        return _load_single_file(source)
    _check_family(source)
    return _wrap(source, _from_pretrained(source))


def native_resolution(source: Source) -> int:
    """Pixels a side that the model was made for, read from its configuration alone.

    Raises ModelError as `load` does, and as early: for a model that is missing or not supported.
    """
    if source.kind == "file" and source.config is None:
        return SINGLE_FILE_RESOLUTION
    folder = source if source.config is None else Source(source.name, str(source.config), "folder")
    _check_family(folder)
    unet, vae = (_read_json(folder, name) for name in ("unet/config.json", "vae/config.json"))
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def _wrap(source: Source, pipeline: Any) -> Backbone:
    from dreambooth.backbones.stable_diffusion import StableDiffusion

    return StableDiffusion(pipeline, source)


def _from_pretrained(source: Source) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    try:
        return StableDiffusionPipeline.from_pretrained(
            source.location, dtype=torch.float32, use_safetensors=True, safety_checker=None
        )
    except Exception as error:
        raise ModelError(f"The model {source.name} cannot be read: {_first_line(error)}") from error


def _load_single_file(source: Source) -> Backbone:
    import torch
    from diffusers import StableDiffusionPipeline

    hint = " Pass --model-config with a diffusers folder of the same architecture to load it without the hub."
    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            source.location,
            config=str(source.config) if source.config else None,
            dtype=torch.float32,
            local_files_only=source.config is not None,
            safety_checker=None,
        )
    except Exception as error:
        raise ModelError(
            f"The checkpoint {source.name} cannot be read as Stable Diffusion 1.x or 2.x: {_first_line(error)}"
            + ("" if source.config else hint)
        ) from error
    return _wrap(source, pipeline)


def _check_family(source: Source) -> None:
    """Raises ModelError before anything large is read when the folder or repository is of no known family."""
    if source.kind != "hub" and not (Path(source.location) / "model_index.json").is_file():
        raise ModelError(
            f"The folder {source.location} is no diffusers pipeline: it has no model_index.json. "
            f"Give {WAYS.format(', '.join(embedded()))}."
        )
    family = str(_read_json(source, "model_index.json").get("_class_name"))
    if family not in SUPPORTED:
        raise ModelError(
            f"{source.name} is a {family}, a family that is not supported yet. Supported: {', '.join(SUPPORTED)}."
        )


def _read_json(source: Source, name: str) -> dict[str, Any]:
    """One configuration file of a pipeline. Raises ModelError where it cannot be had."""
    path = Path(source.location) / name
    if source.kind == "hub":
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source.location, name))
        except Exception as error:
            raise ModelError(
                f"The hub model {source.name} cannot be fetched ({type(error).__name__}: {_first_line(error)}). "
                f"Check the name and the connection, or give {WAYS.format(', '.join(embedded()))}."
            ) from error
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{name} of {source.name} cannot be read; fetch the model again.") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
