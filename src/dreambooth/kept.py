"""What a run keeps of its training: a whole pipeline, or an adapter that goes on the untouched base model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from dreambooth import backbones, prompts, stages
from dreambooth.backbones.protocol import Backbone
from dreambooth.backbones.source import CascadeParts
from dreambooth.checkpoint import RunFolder
from dreambooth.errors import ModelError, RunError
from dreambooth.fitting import read_tier
from dreambooth.lending import originals, place
from dreambooth.methods import make_method
from dreambooth.methods.protocol import Adapter, Method
from dreambooth.prior import fingerprint


def keep(backbone: Backbone, method: Method, folder: RunFolder) -> None:
    """Writes what was trained, at once: the run is finished when this is done, and not before."""
    if isinstance(method, Adapter):
        method.save(folder.path, header(folder))
        return
    method.save(folder.path)
    temporary = folder.path / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    with originals(backbone.modules.values()):
        backbone.save_pipeline(temporary)
    stages.finish(temporary, folder.config(), folder.read_json("subject.json"), backbone)
    folder.publish_model(temporary)


def load(folder: RunFolder, device: torch.device) -> Backbone:
    """The finished run's model, frozen, on `device`, on loan where the run computes in bfloat16.

    Raises ModelError when the base model that an adapter goes on is not there any more, RunError when it is another.
    """
    config, on_base = folder.config(), folder.adapter.is_file()
    lender = Path(config.model_config_folder) if config.model_config_folder else None
    try:
        name, lender = (config.model, lender) if on_base else (str(folder.model), None)
        parts = stages.parts_of(config) if on_base else CascadeParts(upscaler=config.upscaler)
        backbone = backbones.load(name, lender, parts)
    except ModelError as error:
        needs = f"{folder.path} keeps an adapter, which needs its base model. " if on_base else ""
        raise ModelError(f"{needs}{error}") from error
    facts = folder.read_json("subject.json")
    if on_base and fingerprint(backbone) != facts["fingerprint"]:
        raise RunError(
            f"The model {config.model} is not the one that {folder.path} was trained on: its weights differ. "
            "Put the old one back, or train again."
        )
    if config.resolution:
        backbone.set_resolution(config.resolution)
    place(backbone, device, None, config.mixed_precision)
    tier = read_tier(folder)
    backbone.spare_memory(tier is not None and tier.spares_drawing)
    if on_base:
        method = make_method(config, facts["class_noun"])
        method.prepare(backbone)
        assert isinstance(method, Adapter)
        method.load(folder.path)
        for module in backbone.modules.values():
            module.requires_grad_(False).eval()
    return backbone


def header(folder: RunFolder) -> dict[str, str]:
    """What a stranger has to know of a file of this run, also by the names of modelspec, which galleries read."""
    facts = folder.read_json("subject.json")
    phrase = prompts.fill("{subject}", facts["identifier"], facts["class_noun"])
    return {
        "identifier": facts["identifier"],
        "class_noun": facts["class_noun"],
        "base_model": facts["model"],
        "base_model_fingerprint": facts["fingerprint"],
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": phrase,
        "modelspec.trigger_phrase": phrase,
    }
