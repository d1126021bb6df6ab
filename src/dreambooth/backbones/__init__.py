"""Finds and loads a model by embedded name, local folder, single file or hub id."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.backbones.files import Layout, check_whole, layout_of, read_json, read_networks, reading, ways
from dreambooth.backbones.source import CascadeParts, Source
from dreambooth.errors import ModelError
from dreambooth.models import embedded

if TYPE_CHECKING:
    from dreambooth.backbones.protocol import Backbone, Stage

STABLE_DIFFUSION, SDXL, CASCADE = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "IFPipeline"
SUPPORTED = (STABLE_DIFFUSION, SDXL, CASCADE)
# Of single files, whose configuration is not at hand, by the published checkpoints.
SINGLE_FILE_RESOLUTIONS = {STABLE_DIFFUSION: 512, SDXL: 1024}
INPAINTING = "{} is an inpainting model, which draws into a hole of a picture; give the model that it was made from."
REFINER = "{} is a refiner, which only finishes what an SDXL base has begun; give the base."


def hush() -> None:
    """Keeps diffusers and transformers from writing bars and advice into our own output."""
    import transformers.utils.logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    import diffusers.utils.logging as diffusers_logging

    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)  # it writes errors out that it also raises
    diffusers_logging.disable_progress_bar()


def resolve(name: str, config: Path | None = None, parts: CascadeParts | None = None) -> Source:
    """What `name` stands for. Raises ModelError with the valid choices; nothing is loaded."""
    parts = parts or CascadeParts()
    for flag, named in (("--super-resolver", parts.super_resolver), ("--upscaler", parts.upscaler)):
        if named is not None and not Path(named).expanduser().is_dir() and not _is_hub_id(named):
            raise ModelError(
                f"There is no model {named!r} for {flag}. Give a folder with a diffusers pipeline, or a hub id such as "
                "owner/model."
            )
    if config is not None and not config.is_dir():
        raise ModelError(
            f"There is no folder {config} for --model-config. Give a diffusers folder of the same architecture."
        )
    return replace(_locate(name, config), parts=parts)


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".")


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
    if _is_hub_id(name):
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
    family = _check_family(source)
    if family == CASCADE:
        from dreambooth.backbones.cascade_files import load_cascade

        return load_cascade(source)
    _refuse_parts(source, f"a {family}")
    return of_pipeline(_from_single_file(source, family) if source.kind == "file" else _read(source, family), source)


def of_pipeline(pipeline: Any, source: Source) -> Backbone:
    """The backbone of a diffusers pipeline that draws from latents. Raises ModelError where it cannot be trained."""
    if type(pipeline).__name__ == SDXL:
        from dreambooth.backbones.sdxl import sdxl

        return sdxl(pipeline, source)
    from dreambooth.backbones.stable_diffusion import stable_diffusion

    return stable_diffusion(pipeline, source)


def load_for_counting(source: Source) -> Backbone:
    """The model, for a dry run: of one that may be huge its outline without weights. Raises as `load` does."""
    hush()
    if source.kind != "file" and (family := _check_family(source)) in (CASCADE, SDXL):
        from dreambooth.backbones.outline import outline, outline_xl

        if family == CASCADE:
            return outline(source)
        _refuse_parts(source, f"a {family}")
        return outline_xl(source)
    return load(source.name, source.config, source.parts)


def load_again(backbone: Backbone) -> Backbone:
    """The same model as it was before anything was trained, on the CPU. Raises as `load` does."""
    source = backbone.source
    return load(source.name, source.config, source.parts).stage(backbone.spec.stages[-1])


def native_resolution(source: Source) -> int:
    """Pixels a side that the model was made for, read from its configuration alone.

    Raises ModelError as `load` does, and as early: for a model that is missing or not supported.
    """
    family = _check_family(source)
    if family == CASCADE:
        from dreambooth.backbones.cascade_files import cascade_resolution

        return cascade_resolution(source)
    if source.kind == "file" and source.config is None:
        return SINGLE_FILE_RESOLUTIONS[family]
    folder = source if source.config is None else _lender(source.config)
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


NETWORKS: dict[str, tuple[str, ...]] = {
    STABLE_DIFFUSION: ("unet", "vae", "text_encoder"),
    SDXL: ("unet", "vae", "text_encoder", "text_encoder_2"),
}
# What of a pipeline is left out: it would black pictures out, or mark them.
WITHOUT: dict[str, dict[str, Any]] = {
    STABLE_DIFFUSION: {"safety_checker": None},
    SDXL: {"add_watermarker": False},
}


def _read(source: Source, family: str) -> Any:
    """The pipeline of a folder or of the hub, in float32."""
    import diffusers

    networks = read_networks(source, NETWORKS[family])
    with reading(f"The model {source.name} cannot be read"):
        return getattr(diffusers, family).from_pretrained(
            source.location, use_safetensors=True, **networks, **WITHOUT[family]
        )


def _from_single_file(source: Source, family: str) -> Any:
    """The pipeline of a single file, in float32."""
    import diffusers
    import torch

    layout = layout_of(source)
    kind = "Stable Diffusion XL" if family == SDXL else "Stable Diffusion 1.x or 2.x"
    hint = " Pass --model-config with a diffusers folder of the same architecture to load it without the hub."
    with reading(f"The checkpoint {source.name} cannot be read as {kind}", "" if source.config else hint):
        try:
            pipeline = getattr(diffusers, family).from_single_file(
                source.location,
                config=str(source.config) if source.config else None,
                dtype=torch.float32,
                local_files_only=source.config is not None,
                **WITHOUT[family],
            )
        except NotImplementedError as error:  # a layer was left without values
            lacking = f"The checkpoint {source.name} lacks some of its weights; fetch the model again."
            raise ModelError(lacking) from error
    prefix = next((name for name in CLIP_PREFIXES if any(key.startswith(name) for key in layout.names)), None)
    if prefix is not None:
        wanted = {prefix + key.removeprefix("text_model.") for key in pipeline.text_encoder.state_dict()}
        check_whole(f"The text encoder of {source.name}", wanted - layout.names)
    _mark(pipeline, layout)
    return pipeline


# Where a single file of either family keeps its CLIP ViT-L, in the names of transformers.
CLIP_PREFIXES = ("cond_stage_model.transformer.text_model.", "conditioner.embedders.0.transformer.text_model.")


def _mark(pipeline: Any, layout: Layout) -> None:
    """Gives the pipeline the scheduler that the file's marks ask for, which diffusers does not read."""
    import diffusers

    if not layout.predicts_v:
        return
    marked: dict[str, Any] = {"prediction_type": "v_prediction"}
    if layout.ends_in_noise:
        marked |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    kind = diffusers.EulerDiscreteScheduler if layout.is_xl else diffusers.DDIMScheduler
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **marked)


def _refuse_parts(source: Source, what: str) -> None:
    if source.parts.super_resolver or source.parts.upscaler:
        raise ModelError(
            f"{source.name} is {what}, which draws its pictures in one stage; leave --super-resolver and --upscaler "
            "out, or give an IFPipeline as --model."
        )


def _check_family(source: Source) -> str:
    """The pipeline's class. Raises ModelError before anything large is read when it cannot be trained."""
    if source.kind == "file":
        return _check_single_file(source)
    if source.kind != "hub" and not (Path(source.location) / "model_index.json").is_file():
        raise ModelError(
            f"The folder {source.location} is no diffusers pipeline: it has no model_index.json. Give {ways()}."
        )
    index = read_json(source, "model_index.json")
    family = str(index.get("_class_name"))
    if "Inpaint" in family:
        raise ModelError(INPAINTING.format(source.name))
    if family == "StableDiffusionXLImg2ImgPipeline" or (family == SDXL and index.get("text_encoder") == [None, None]):
        raise ModelError(REFINER.format(source.name))
    if family == "IFSuperResolutionPipeline":
        raise ModelError(f"{source.name} is a super-resolver; give its base as --model and it as --super-resolver.")
    if family not in SUPPORTED:
        raise ModelError(
            f"{source.name} is a {family}, a family that is not supported yet. Supported: {', '.join(SUPPORTED)}."
        )
    return family


def _check_single_file(source: Source) -> str:
    """As `_check_family`, by the names of the file's tensors alone."""
    layout = layout_of(source)
    if layout.is_edm:
        raise ModelError(f"{source.name} noises as EDM does; models whose noise has betas or a flow can be trained.")
    if layout.is_v2 and source.config is None:
        raise ModelError(
            f"{source.name} is of Stable Diffusion 2.x, whose files do not say whether they predict noise (512 pixels) "
            "or v (768); pass --model-config with a diffusers folder of the same model."
        )
    if layout.takes_a_mask:
        raise ModelError(INPAINTING.format(source.name))
    if layout.is_refiner:
        raise ModelError(REFINER.format(source.name))
    family = SDXL if layout.is_xl else STABLE_DIFFUSION
    if source.config is not None and (lent := _check_family(_lender(source.config))) != family:
        raise ModelError(
            f"The checkpoint {source.name} is a {family} and the folder of --model-config a {lent}; give one of the "
            "same architecture."
        )
    return family


def _lender(config: Path) -> Source:
    return Source(f"the folder {config} of --model-config", str(config), "folder")
