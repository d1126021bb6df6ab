"""Diffusers' pipelines of the IF family, as both stages of a cascade use them: run, and saved."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreambooth.backbones.latent_diffusion import make_scheduler
from dreambooth.backbones.protocol import Sampling
from dreambooth.backbones.t5 import T5Text
from dreambooth.precision import autocast

if TYPE_CHECKING:
    from PIL.Image import Image


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a picture, which goes through all stages: the same noise on any device and in any batch."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def to_pictures(pixels: Tensor) -> list[Image]:
    """Pixels [B, 3, H, W], cut to -1..1, as pictures."""
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor().postprocess(pixels.detach().clamp(-1, 1), output_type="pil")  # pyright: ignore[reportReturnType]


@torch.no_grad()
def run(
    pipeline: Any,
    text: T5Text,
    prompts: Sequence[str],
    draws: list[torch.Generator],
    sampling: Sampling,
    on_step: Callable[[], None] | None,
    **own: Any,
) -> Tensor:
    """Pixels [B, 3, H, W] that a pipeline of this family draws; its scheduler and training mode stay as they are."""
    scheduler, training = pipeline.scheduler, pipeline.unet.training
    hidden = text(prompts)
    guided = sampling.guidance_scale > 1
    unsaid = text([sampling.negative_prompt] * len(prompts)) if guided else None

    def tick(_step: int, _time: Any, _pixels: Tensor) -> None:
        if on_step is not None:
            on_step()

    pipeline.unet.eval()
    try:
        if sampling.sampler is not None:
            pipeline.scheduler = make_scheduler(sampling.sampler, fixed_variance(scheduler))
        with autocast(sampling.mixed_precision, pipeline.unet.device), channels_last(pipeline.unet):
            return pipeline(
                prompt_embeds=hidden,
                negative_prompt_embeds=unsaid,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                generator=draws,
                output_type="pt",
                callback=tick,
                **own,
            ).images
    finally:
        pipeline.scheduler = scheduler
        pipeline.unet.train(training)


@contextmanager
def channels_last(unet: Any) -> Generator[None]:
    """On a CPU a U-Net on pixels draws with the channels of each place side by side: half the time at 256 pixels.

    Its backward pass would be slower, so the weights lie as they did afterwards, in storage of their own.
    """
    if unet.device.type != "cpu":
        yield
        return
    unet.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        unet.to(memory_format=torch.contiguous_format)


def fixed_variance(scheduler: Any) -> Any:
    """The scheduler without the learned variance: fine-tuning trains the mean alone, so it fits no longer.

    Most samplers cannot use it at all.
    """
    return type(scheduler).from_config(dict(scheduler.config) | {"variance_type": "fixed_small"})


def save_tuned(pipeline: Any, folder: Path, text: T5Text | None) -> None:
    """The pipeline as a diffusers folder in safetensors, with the encoder and tokenizer of `text` if there is one."""
    components = dict(pipeline.components) | {"scheduler": fixed_variance(pipeline.scheduler)}
    if text is not None:
        components |= {"text_encoder": text.encoder(), "tokenizer": text.tokenizer}
    type(pipeline)(**components, requires_safety_checker=False).save_pretrained(folder, safe_serialization=True)
