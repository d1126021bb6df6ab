"""Finds and loads the encoders that judge: CLIP and DINO as transformers publishes them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from dreambooth.backbones import hush
from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.models import embedded
from dreambooth.prior import weights_fingerprint

# What decides how a picture reaches the model; the rest of a processor's file is bookkeeping.
PREPARATION = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """A kind of encoder: its name for people, transformers' `model_type`, and short names with their hub ids."""

    title: str
    model_type: str
    hub: dict[str, str]

    def embedded(self) -> dict[str, Path]:
        """Those that travel with the package."""
        return {name: path for name, path in embedded().items() if _model_type(path) == self.model_type}

    def choices(self) -> str:
        """Every way to name one, in words."""
        names = ", ".join([*self.embedded(), *self.hub])
        return f"{names}, a folder with a {self.title} model of transformers, or a hub id such as owner/model"


# ViT-B/32 and ViT-S/16 are what the paper and its peers measure with (section 4.2).
CLIP = Family(
    "CLIP", "clip", {"clip-vit-b-32": "openai/clip-vit-base-patch32", "clip-vit-l-14": "openai/clip-vit-large-patch14"}
)
DINO = Family("ViT (DINO)", "vit", {"dino-vits16": "facebook/dino-vits16"})


def resolve(name: str, family: Family) -> Source:
    """What an encoder's name stands for. Raises ModelError with the valid choices; nothing is loaded."""
    path = Path(os.path.expanduser(name))  # which, unlike Path's own, leaves a user that there is not as it is
    if name in family.embedded():
        return Source(name, str(family.embedded()[name]), "embedded")
    if name in family.hub:
        return Source(name, family.hub[name], "hub")
    if name and path.is_dir():
        return Source(name, str(path), "folder")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return Source(name, name, "hub")
    raise ModelError(f"There is no encoder {name!r}; give {family.choices()}.")


def label(source: Source) -> str:
    """The encoder's name in tables: as it was given, but a folder without the way to it."""
    return Path(source.location).resolve().name if source.kind == "folder" else source.name


def load_model(source: Source, family: Family, kind: Any, **settings: Any) -> Any:
    """The model, a `kind` of transformers, in float32 on the CPU, frozen.

    Raises ModelError where it cannot be had, is of another family, or lacks weights: those would be random.
    """
    from transformers import AutoConfig

    hush()
    found = _read(source, "config.json", partial(AutoConfig.from_pretrained, source.location)).model_type
    if found != family.model_type:
        raise ModelError(f"The encoder {source.name} is a {found} model, not {family.title}; give {family.choices()}.")

    def load() -> Any:
        model, report = kind.from_pretrained(
            source.location, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **settings
        )
        if report["missing_keys"]:
            raise ValueError(f"{len(report['missing_keys'])} weights are missing")
        return model.eval().requires_grad_(False)

    return _read(source, "weights", load)


def load_processor(source: Source, image_size: int) -> Any:
    """The model's own image processor (resize, crop, mean and deviation of its `preprocessor_config.json`).

    Always on its PIL path, so that one picture has one embedding whether torchvision is installed or not.
    Raises ModelError where it cannot be had, or makes pictures of another size than the model reads.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    def load() -> Any:
        processor = AutoImageProcessor.from_pretrained(source.location, backend="pil")
        shape = tuple(processor(images=[Image.new("RGB", (40, 50))], return_tensors="pt")["pixel_values"].shape[1:])
        if shape != (3, image_size, image_size):
            raise ValueError(f"it makes pictures of {shape[2]} x {shape[1]} pixels for a model of {image_size}")
        return processor

    return _read(source, "preprocessor_config.json", load)


def load_tokenizer(source: Source) -> Any:
    """The model's own tokenizer. Raises ModelError where it cannot be had."""
    from transformers import AutoTokenizer

    return _read(source, "tokenizer", partial(AutoTokenizer.from_pretrained, source.location))


def fingerprint(model: Any, processor: Any) -> str:
    """Short hash of the weights and of how a picture is prepared for them."""
    facts = processor.to_dict()
    prepared = json.dumps({key: facts.get(key) for key in PREPARATION}, sort_keys=True)
    return hashlib.sha256((weights_fingerprint({"model": model}) + prepared).encode()).hexdigest()[:16]


def _read(source: Source, what: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as error:
        place = source.name if source.name == source.location else f"{source.name} ({source.location})"
        remedy = "check the name and the connection, or give a folder" if source.kind == "hub" else "fetch it again"
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelError(f"The {what} of the encoder {place} cannot be read ({told}); {remedy}.") from error


def _model_type(folder: Path) -> str | None:
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
