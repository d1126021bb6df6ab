"""Finds and loads a model by embedded name, local folder, single file or hub id."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.backbones.files import first_line, read_json, ways
from dreambooth.backbones.source import CascadeParts, Source
from dreambooth.errors import ModelError
from dreambooth.models import embedded

if TYPE_CHECKING:
    from dreambooth.backbones.protocol import Backbone, Stage

SINGLE_FILE_RESOLUTION = 512
CASCADE = "IFPipeline"
SUPPORTED = ("StableDiffusionPipeline", CASCADE)


def hush() -> None:
    """Keeps diffusers and transformers from writing bars and advice into our own output."""
    import transformers.utils.logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    import diffusers.utils.logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def resolve(name: str, config: Path | None = None, parts: CascadeParts | None = None) -> Source:
    """What `name` stands for. Raises ModelError with the valid choices; nothing is loaded."""
    return replace(_locate(name, config), parts=parts or CascadeParts())


def _locate(name: str, config: Path | None) -> Source:
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
    raise ModelError(f"There is no model {name!r}. Give {ways()}.")


def load(name: str, config: Path | None = None, parts: CascadeParts | None = None) -> Backbone:
    """The model in float32 on the CPU, frozen.

    `config` is a diffusers folder of the same architecture, from which a single file takes its
    configuration and tokenizer; without it they come from the hub. `parts` are about a cascade's other models.
    Raises ModelError where the model cannot be read or its family is not supported.
    """
    hush()
    source = resolve(name, config, parts)
    if source.kind == "file":
        _refuse_parts(source, "a Stable Diffusion checkpoint")
        return _load_single_file(source)
    family = _check_family(source)
    if family == CASCADE:
        from dreambooth.backbones.cascade_files import load_cascade

        return load_cascade(source)
    _refuse_parts(source, f"a {family}")
    return _wrap(source, _from_pretrained(source))


def load_for_counting(source: Source) -> Backbone:
    """The model, for a dry run: of a cascade, which may be huge, its outline without weights. Raises as `load` does."""
    hush()
    if is_cascade(source):
        from dreambooth.backbones.outline import outline

        return outline(source)
    return load(source.name, source.config, source.parts)


def load_again(backbone: Backbone) -> Backbone:
    """The same model as it was before anything was trained, on the CPU. Raises as `load` does."""
    source = backbone.source
    return load(source.name, source.config, source.parts).stage(backbone.spec.stages[-1])


def native_resolution(source: Source) -> int:
    """Pixels a side that the model was made for, read from its configuration alone.

    Raises ModelError as `load` does, and as early: for a model that is missing or not supported.
    """
    if source.kind == "file" and source.config is None:
        return SINGLE_FILE_RESOLUTION
    folder = source if source.config is None else Source(source.name, str(source.config), "folder")
    if _check_family(folder) == CASCADE:
        from dreambooth.backbones.cascade_files import cascade_resolution

        return cascade_resolution(source)
    unet, vae = (read_json(folder, name) for name in ("unet/config.json", "vae/config.json"))
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def is_cascade(source: Source) -> bool:
    """Whether the model is the base of a cascade. Raises ModelError as `load` does, and as early."""
    return source.kind != "file" and _check_family(source) == CASCADE


def stages(source: Source) -> tuple[Stage, ...]:
    """What can be trained of the model, read from its files alone. Raises ModelError as `load` does."""
    if is_cascade(source):
        from dreambooth.backbones.cascade_files import super_resolver_of

        return ("base", "sr") if super_resolver_of(source) else ("base",)
    return ("base",)


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
        raise ModelError(f"The model {source.name} cannot be read: {first_line(error)}") from error


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
            f"The checkpoint {source.name} cannot be read as Stable Diffusion 1.x or 2.x: {first_line(error)}"
            + ("" if source.config else hint)
        ) from error
    return _wrap(source, pipeline)


def _refuse_parts(source: Source, what: str) -> None:
    if source.parts.super_resolver or source.parts.upscaler:
        raise ModelError(
            f"{source.name} is {what}, which draws its pictures in one stage; leave --super-resolver and --upscaler "
            "out, or give an IFPipeline as --model."
        )


def _check_family(source: Source) -> str:
    """The pipeline's class. Raises ModelError before anything large is read when it is of no known family."""
    if source.kind != "hub" and not (Path(source.location) / "model_index.json").is_file():
        raise ModelError(
            f"The folder {source.location} is no diffusers pipeline: it has no model_index.json. Give {ways()}."
        )
    family = str(read_json(source, "model_index.json").get("_class_name"))
    if family == "IFSuperResolutionPipeline":
        raise ModelError(f"{source.name} is a super-resolver; give its base as --model and it as --super-resolver.")
    if family not in SUPPORTED:
        raise ModelError(
            f"{source.name} is a {family}, a family that is not supported yet. Supported: {', '.join(SUPPORTED)}."
        )
    return family
