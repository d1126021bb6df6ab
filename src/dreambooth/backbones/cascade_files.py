"""Where the parts of a cascade lie, whether they fit each other, and how they are read.

An ordinary `IFPipeline` folder, and in it, or elsewhere if the user says so:

super_resolution/  an `IFSuperResolutionPipeline`, which may lack T5 and then borrows the base's
upscaler/          a `StableDiffusionUpscalePipeline` or a second `IFSuperResolutionPipeline`; optional
cascade.json       what the folder says of itself: `backbones.cascade.Notes`; optional
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreambooth.backbones.cascade import Notes, PixelBase, SuperResolver
from dreambooth.backbones.files import read_json, read_networks, read_tokenizer, reading
from dreambooth.backbones.if_pipelines import to_pictures
from dreambooth.backbones.source import Source
from dreambooth.backbones.t5 import T5Text
from dreambooth.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

SUPER_RESOLUTION, UPSCALER, NOTES = "super_resolution", "upscaler", "cascade.json"
SUPER_RESOLVER_FAMILY = "IFSuperResolutionPipeline"
UPSCALER_FAMILIES = ("StableDiffusionUpscalePipeline", SUPER_RESOLVER_FAMILY)
WITHOUT_FILTERS = {"safety_checker": None, "feature_extractor": None, "watermarker": None}


def load_cascade(source: Source) -> PixelBase | SuperResolver:
    """The base, with its super-resolver where there is one. Raises ModelError where the parts do not fit."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    later = super_resolver_of(source)
    if later is not None:
        check_pair(source, later)
    notes = read_notes(source)
    base = PixelBase(_read(IFPipeline, source), _text(source), source, notes)
    if later is None:
        if source.parts.upscaler:
            raise ModelError(f"{source.name} has no super-resolver, and --upscaler needs one before it.")
        return base
    pipeline = _read(IFSuperResolutionPipeline, later)
    upscaler = upscaler_of(source)
    return SuperResolver(pipeline, base, source, notes, upscaler and LazyUpscaler(upscaler, base.text))


def cascade_resolution(source: Source) -> int:
    """Pixels a side of what the cascade draws before any upscaler, from configuration files alone."""
    later = super_resolver_of(source)
    if later is not None:
        check_pair(source, later)
    return int(read_json(later or source, "unet/config.json")["sample_size"])


def super_resolver_of(source: Source) -> Source | None:
    """Where the super-resolver is: the one that was named, else the folder's own, else none."""
    return _part(source, source.parts.super_resolver, SUPER_RESOLUTION)


def upscaler_of(source: Source) -> Source | None:
    """Where the upscaler is: the one that was named, else the folder's own, else none. Raises for another family."""
    found = _part(source, source.parts.upscaler, UPSCALER)
    if found is not None:
        family = str(read_json(found, "model_index.json").get("_class_name"))
        if family not in UPSCALER_FAMILIES:
            raise ModelError(f"{found.name} is a {family}, no upscaler; give one of {', '.join(UPSCALER_FAMILIES)}.")
    return found


def _part(source: Source, named: str | None, subfolder: str) -> Source | None:
    if named is not None:
        folder = Path(named).expanduser()
        kind = "folder" if folder.is_dir() else "hub"
        return Source(named, str(folder) if kind == "folder" else named, kind)
    inside = Path(source.location) / subfolder
    if source.kind != "hub" and (inside / "model_index.json").is_file():
        return Source(f"{source.name}/{subfolder}", str(inside), "folder")
    return None


def check_pair(base: Source, later: Source) -> None:
    """Raises ModelError, in a sentence, for a super-resolver that is none, or not one for this base."""
    family = str(read_json(later, "model_index.json").get("_class_name"))
    if family != SUPER_RESOLVER_FAMILY:
        hint = ""
        if family == "StableDiffusionUpscalePipeline":
            hint = "; it enlarges what a super-resolver has drawn: give it by --upscaler"
        raise ModelError(f"{later.name} is a {family}, not an {SUPER_RESOLVER_FAMILY}{hint}.")
    small, large = (read_json(one, "unet/config.json") for one in (base, later))
    if large.get("class_embed_type") != "timestep":
        raise ModelError(
            f"The super-resolver {later.name} is not told how much its small picture was noised (its class_embed_type "
            f"is {large.get('class_embed_type')!r}, not 'timestep'), so it cannot be trained as the paper does."
        )
    if large.get("in_channels") != 2 * small["in_channels"]:
        raise ModelError(
            f"The super-resolver {later.name} takes {large.get('in_channels')} channels; a picture and a small picture "
            f"of {base.name} beside it have {2 * small['in_channels']}."
        )
    sides = int(small["sample_size"]), int(large["sample_size"])
    if sides[1] <= sides[0] or sides[1] % sides[0]:
        raise ModelError(
            f"The base {base.name} draws {sides[0]} pixels a side and the super-resolver {later.name} {sides[1]}, "
            "which is no whole multiple; give a base and a super-resolver that belong together."
        )
    if large.get("encoder_hid_dim") != small.get("encoder_hid_dim"):
        raise ModelError(
            f"The base {base.name} and the super-resolver {later.name} were made for different text encoders "
            f"({small.get('encoder_hid_dim')} and {large.get('encoder_hid_dim')} wide); give two that belong together."
        )


def read_notes(source: Source) -> Notes:
    """What the folder says of itself, or what holds for every model. Raises ModelError for what cannot be read."""
    path = Path(source.location) / NOTES
    if source.kind == "hub" or not path.is_file():
        return Notes()
    try:
        return Notes(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read; delete it, and the usual settings are taken.") from error


def write_notes(folder: Path, notes: Notes) -> None:
    (folder / NOTES).write_text(json.dumps(asdict(notes), indent=2) + "\n", encoding="utf-8")


def _read(family: Any, source: Source) -> Any:
    """The pipeline in float32, without T5, filters and watermark."""
    networks = read_networks(source, ("unet",))
    with reading(f"The model {source.name} cannot be read"):
        return family.from_pretrained(
            source.location,
            use_safetensors=True,
            **networks,
            text_encoder=None,
            tokenizer=None,
            requires_safety_checker=False,
            **WITHOUT_FILTERS,
        )


def _text(source: Source) -> T5Text:
    def load() -> Any:
        return read_networks(source, ("text_encoder",))["text_encoder"]

    return T5Text(read_tokenizer(source, "tokenizer"), load)


class LazyUpscaler:
    """The last stage, read when its first picture is drawn: training and previews never need it."""

    def __init__(self, source: Source, text: T5Text) -> None:
        self.source, self.text = source, text
        self._pipeline: Any = None

    def __call__(self, pixels: Tensor, prompts: Sequence[str], draws: list[torch.Generator]) -> list[Image]:
        """Raises ModelError where the upscaler cannot be read."""
        pipeline = self._pipeline = self._pipeline or self._load()
        pipeline.to(pixels.device)
        if hasattr(pipeline, "image_noising_scheduler"):
            drawn = pipeline(
                prompt_embeds=self.text(prompts),
                negative_prompt_embeds=self.text([""] * len(prompts)),
                image=pixels,
                generator=draws,
                output_type="pt",
            ).images
            return to_pictures(drawn)
        return pipeline(prompt=list(prompts), image=pixels, generator=draws).images

    def _load(self) -> Any:
        import diffusers

        family = str(read_json(self.source, "model_index.json")["_class_name"])
        if family == SUPER_RESOLVER_FAMILY:
            pipeline = _read(diffusers.IFSuperResolutionPipeline, self.source)
        else:
            with reading(f"The upscaler {self.source.name} cannot be read"):
                pipeline = diffusers.StableDiffusionUpscalePipeline.from_pretrained(
                    self.source.location, dtype=torch.float32, use_safetensors=True
                )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
