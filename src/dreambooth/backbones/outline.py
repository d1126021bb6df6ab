"""Large models without their weights, built from configuration files: what a run would need is counted on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from dreambooth.backbones.cascade import PixelBase, SuperResolver
from dreambooth.backbones.cascade_files import WITHOUT_FILTERS, check_pair, read_notes, super_resolver_of
from dreambooth.backbones.files import read_json, read_tokenizer, reading
from dreambooth.backbones.latent_diffusion import LatentDiffusion
from dreambooth.backbones.source import Source
from dreambooth.backbones.t5 import LONGEST

META = torch.device("meta")


def outline(source: Source) -> PixelBase | SuperResolver:
    """The cascade on the meta device: sizes and shapes, and no number. Raises ModelError as loading does."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    later, notes = super_resolver_of(source), read_notes(source)
    if later is not None:
        check_pair(source, later)
    with reading(f"The configuration of {source.name} cannot be used"):
        text: Any = TextOutline(read_json(source, "text_encoder/config.json"))
        parts: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "requires_safety_checker": False}
        parts |= WITHOUT_FILTERS
        pipeline: Any = IFPipeline(**parts, unet=_unet(source), scheduler=_scheduler(source, "scheduler"))
        base = PixelBase(pipeline, text, source, notes)
        if later is None:
            return base
        parts |= {name: _scheduler(later, name) for name in ("scheduler", "image_noising_scheduler")}
        larger: Any = IFSuperResolutionPipeline(**parts, unet=_unet(later))
        return SuperResolver(larger, base, source, notes)


def outline_xl(source: Source) -> LatentDiffusion:
    """Stable Diffusion XL of a folder or the hub on the meta device. Raises ModelError as loading does."""
    import diffusers
    import transformers

    from dreambooth.backbones.sdxl import sdxl

    def clip(name: str, kind: Any) -> Any:
        with META:
            return kind(transformers.CLIPTextConfig(**read_json(source, f"{name}/config.json")))

    with reading(f"The configuration of {source.name} cannot be used"):
        tokenizers = [read_tokenizer(source, name) for name in ("tokenizer", "tokenizer_2")]
        with META:
            vae = diffusers.AutoencoderKL.from_config(read_json(source, "vae/config.json"))
        family: Any = diffusers.StableDiffusionXLPipeline
        pipeline = family(
            vae,
            clip("text_encoder", transformers.CLIPTextModel),
            clip("text_encoder_2", transformers.CLIPTextModelWithProjection),
            *tokenizers,
            _unet(source),
            _scheduler(source, "scheduler"),
            add_watermarker=False,
        )
        return sdxl(pipeline, source)


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


class FusedAttention(TorchFunctionMode):
    """Attention on the meta device, which has no fused kernel, keeps what a fused kernel keeps: no matrix of weights.

    For counting; nothing can be differentiated through it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention and args[0].device == META:
            return _Attended.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result


def _unet(source: Source) -> Any:
    from diffusers import UNet2DConditionModel

    with META:
        return UNet2DConditionModel.from_config(read_json(source, "unet/config.json"))


def _scheduler(source: Source, name: str) -> Any:
    import diffusers

    config = read_json(source, f"{name}/scheduler_config.json")
    return getattr(diffusers, str(config["_class_name"])).from_config(config)
