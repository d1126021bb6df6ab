"""A cascade without its weights, built from its configuration files alone: what a run would need is counted on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.backbones.cascade import PixelBase, SuperResolver
from dreambooth.backbones.cascade_files import WITHOUT_FILTERS, check_pair, read_notes, super_resolver_of
from dreambooth.backbones.files import first_line, read_json
from dreambooth.backbones.source import Source
from dreambooth.backbones.t5 import LONGEST
from dreambooth.errors import ModelError

META = torch.device("meta")


def outline(source: Source) -> PixelBase | SuperResolver:
    """The cascade on the meta device: sizes and shapes, and no number. Raises ModelError as loading does."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    later, notes = super_resolver_of(source), read_notes(source)
    if later is not None:
        check_pair(source, later)
    try:
        text: Any = TextOutline(read_json(source, "text_encoder/config.json"))
        parts = {"text_encoder": None, "tokenizer": None, "requires_safety_checker": False} | WITHOUT_FILTERS
        pipeline: Any = IFPipeline(**parts, unet=_unet(source), scheduler=_scheduler(source, "scheduler"))
        base = PixelBase(pipeline, text, source, notes)
        if later is None:
            return base
        parts |= {name: _scheduler(later, name) for name in ("scheduler", "image_noising_scheduler")}
        larger: Any = IFSuperResolutionPipeline(**parts, unet=_unet(later))
        return SuperResolver(larger, base, source, notes)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The configuration of {source.name} cannot be used: {first_line(error)}") from error


class TextOutline:
    """In the place of a `T5Text`: a T5 without weights, and hidden states without values."""

    def __init__(self, config: dict[str, Any]) -> None:
        from transformers import T5Config, T5EncoderModel

        self.tokenizer, self.max_tokens = None, LONGEST
        with META:
            self._encoder: Any = T5EncoderModel(T5Config(**config))

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"text_encoder": self._encoder}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return torch.empty(len(prompts), self.max_tokens, self._encoder.config.d_model, device=META)


def _unet(source: Source) -> Any:
    from diffusers import UNet2DConditionModel

    with META:
        return UNet2DConditionModel.from_config(read_json(source, "unet/config.json"))


def _scheduler(source: Source, name: str) -> Any:
    import diffusers

    config = read_json(source, f"{name}/scheduler_config.json")
    return getattr(diffusers, str(config["_class_name"])).from_config(config)
