"""Imagen-style cascades in DeepFloyd IF's layout: a base in pixel space, a super-resolver behind it, T5 before both.

The super-resolver is trained on what it is asked to do (Saharia et al. 2022, section 2.3; DreamBooth on
super-resolution): the photo made small, enlarged again, and noised at a level of its own, which the model is told as
its class label; and beside that the photo itself, noised at the timestep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dreambooth.backbones.if_pipelines import generators, run, save_tuned, to_pictures
from dreambooth.backbones.latent_diffusion import is_small
from dreambooth.backbones.protocol import Conditioning, Enlarging, Recipe, Sampling, Spec, Stage
from dreambooth.backbones.source import Source
from dreambooth.backbones.t5 import T5Text
from dreambooth.errors import ModelError
from dreambooth.process import Diffusion, from_scheduler
from dreambooth.transfer import onto

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_LEVEL = 0.25  # noise level of a super-resolver at sampling, as diffusers' pipeline and DeepFloyd have it


@dataclass(frozen=True)
class Notes:
    """What a cascade's folder says of itself beside its pipelines, in cascade.json.

    `noise_level` is the share of the noising schedule at which its super-resolver samples best; `unlearned` names, by
    stage, an identifier that only the other stage was trained on: this one is not told it.
    """

    noise_level: float = DEFAULT_LEVEL
    unlearned: Mapping[str, str] = field(default_factory=dict[str, str])

    def told(self, stage: str, prompts: Sequence[str]) -> list[str]:
        """The prompts, without the word that the stage has not learned.

        >>> Notes(unlearned={"sr": "zqk"}).told("sr", ["a zqk dog, zqks"])
        ['a dog, zqks']
        """
        word = self.unlearned.get(stage)
        if not word:
            return list(prompts)
        alone = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)\s*")
        return [alone.sub("", prompt).strip() for prompt in prompts]


class Upscaler(Protocol):
    """What makes the super-resolver's pictures larger still."""

    def __call__(self, pixels: Tensor, prompts: Sequence[str], draws: list[torch.Generator]) -> list[Image]:
        """Pictures of pixels [B, 3, H, W] in -1..1."""
        ...


class _PixelModel:
    """What both stages have in common: latents are the pixels themselves, -1..1, and T5 reads the prompts."""

    pipeline: Any
    text: T5Text
    source: Source
    spec: Spec

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return (self.text.tokenizer,)

    @tokenizers.setter
    def tokenizers(self, tokenizers: tuple[Any, ...]) -> None:
        (self.text.tokenizer,) = tokenizers

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode_latents(self, latents: Tensor) -> list[Image]:
        return to_pictures(latents)

    def count_tokens(self, prompt: str) -> int:
        return self.text.count(prompt)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"hidden": self.text(prompts)})

    def release_text_encoder(self) -> None:
        self.text.release()

    def set_resolution(self, resolution: int) -> None:
        """Raises ModelError for any but its own."""
        if resolution != self.spec.resolution:
            raise ModelError(
                f"{self.source.name} draws at {self.spec.resolution} pixels and no other size; leave --resolution out."
            )

    def spare_memory(self, on: bool) -> None:
        """Changes nothing: there is no autoencoder, and the small pictures take little."""

    def enable_gradient_checkpointing(self) -> None:
        self.pipeline.unet.enable_gradient_checkpointing()


class PixelBase(_PixelModel):
    """An `IFPipeline` behind the `Backbone` protocol: latents are the pixels themselves, -1..1."""

    def __init__(self, pipeline: Any, text: T5Text, source: Source, notes: Notes | None = None) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.text, self.source = pipeline, text, source
        self.notes = notes or Notes()
        self.process = from_scheduler(pipeline.scheduler)
        self.spec = _base_spec(pipeline.unet, text.max_tokens)
        pipeline.unet.requires_grad_(False).eval()

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.pipeline.unet} | self.text.modules

    def to(self, device: torch.device | str) -> None:
        self.pipeline.unet.to(device)
        self.text.to(device)

    def stage(self, name: Stage) -> PixelBase:
        return self

    def conditioned_on(
        self, conditioning: Conditioning, clean: Tensor, draws: Sequence[torch.Generator]
    ) -> Conditioning:
        return conditioning

    def denoise(self, noisy: Tensor, model_time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden"]
        predicted = self.pipeline.unet(noisy, model_time, encoder_hidden_states=hidden, return_dict=False)[0]
        return predicted[:, : noisy.shape[1]]  # the other half is the learned variance

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> list[Image]:
        return to_pictures(self.draw(prompts, generators(seeds), sampling, on_step))

    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        return self.draw(prompts, generators(seeds), sampling, on_step).clamp(-1, 1)

    def draw(
        self,
        prompts: Sequence[str],
        draws: list[torch.Generator],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Pixels as the sampler leaves them [B, 3, H, W]: near -1..1. `draws` go on where they stand."""
        told = self.notes.told("base", prompts)
        return run(self.pipeline, self.text, told, draws, sampling, on_step)

    def save_pipeline(self, folder: Path) -> None:
        """A whole `IFPipeline`; T5 is read again for it where it was released."""
        save_tuned(self.pipeline, folder, self.text)


class SuperResolver(_PixelModel):
    """An `IFSuperResolutionPipeline` and the base before it behind the `Backbone` protocol.

    It trains the super-resolver alone; drawing begins with the base.
    """

    def __init__(
        self,
        pipeline: Any,
        base: PixelBase,
        source: Source,
        notes: Notes | None = None,
        upscaler: Upscaler | None = None,
    ) -> None:
        """Raises ModelError where both cannot go together."""
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.base, self.text, self.source = pipeline, base, base.text, source
        self.notes, self.upscaler = notes or Notes(), upscaler
        self.process = from_scheduler(pipeline.scheduler)
        noising = from_scheduler(pipeline.image_noising_scheduler)
        if not isinstance(noising, Diffusion):
            raise ModelError(f"The super-resolver of {source.name} noises its small pictures in no known way.")
        self.noising = noising
        self.spec = _super_resolver_spec(pipeline.unet, base.spec, self.notes)
        pipeline.unet.requires_grad_(False).eval()

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.pipeline.unet, "base": self.base.pipeline.unet} | self.text.modules

    def to(self, device: torch.device | str) -> None:
        self.base.to(device)
        self.pipeline.unet.to(device)

    def stage(self, name: Stage) -> PixelBase | SuperResolver:
        return self.base if name == "base" else self

    def conditioned_on(
        self, conditioning: Conditioning, clean: Tensor, draws: Sequence[torch.Generator]
    ) -> Conditioning:
        """Adds `low` [B, 3, H, W], each row made small, enlarged and noised, and that noise's `level` [B].

        The level is drawn uniformly from the range trained on, whatever the timestep is.
        """
        low, high = self.source.parts.augmentation
        shares = [low + (high - low) * float(torch.rand((), generator=draw)) for draw in draws]
        level = torch.tensor([self.level(share) for share in shares])
        enlarged = self.enlarged(interpolate(clean, (self.base.spec.resolution,) * 2, mode="area"))
        noise = torch.stack([torch.randn(clean.shape[1:], generator=draw) for draw in draws])
        noise = onto(noise, clean.device, clean.dtype)
        noised = self.noising.corrupt(enlarged, noise, level)
        return Conditioning(conditioning.tensors | {"low": noised, "level": onto(level, clean.device)})

    def denoise(self, noisy: Tensor, model_time: Tensor, conditioning: Conditioning) -> Tensor:
        told = conditioning.tensors
        predicted = self.pipeline.unet(
            torch.cat([noisy, told["low"]], dim=1),
            model_time,
            encoder_hidden_states=told["hidden"],
            class_labels=told["level"],
            return_dict=False,
        )[0]
        return predicted[:, : noisy.shape[1]]  # the other half is the learned variance

    def level(self, share: float) -> int:
        """The number in the noising schedule of a share 0..1 of it, what the model is told as its class label."""
        return min(int(share * len(self.noising.alphas_cumprod)), len(self.noising.alphas_cumprod) - 1)

    def enlarged(self, low: Tensor) -> Tensor:
        """Small pictures [B, 3, h, w] at this model's size, as `IFSuperResolutionPipeline` enlarges them."""
        return interpolate(low, (self.spec.resolution,) * 2, mode="bilinear", align_corners=True)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> list[Image]:
        draws = generators(seeds)
        pixels = self.enlarge(self.base.draw(prompts, draws, sampling, on_step), prompts, draws, sampling, on_step)
        if self.upscaler is not None and sampling.enlarging.upscale:
            return self.upscaler(pixels.clamp(-1, 1), self.notes.told("upscaler", prompts), draws)
        return to_pictures(pixels)

    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        draws = generators(seeds)
        low = self.base.draw(prompts, draws, sampling, on_step)
        return self.enlarge(low, prompts, draws, sampling, on_step).clamp(-1, 1)

    def enlarge(
        self,
        low: Tensor,
        prompts: Sequence[str],
        draws: list[torch.Generator],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Small pictures [B, 3, h, w] in -1..1 drawn large under their prompts; pixels as the sampler leaves them."""
        own, asked = self.spec.enlarging or Enlarging(), sampling.enlarging
        share = own.noise_level if asked.noise_level is None else asked.noise_level
        guidance = own.guidance_scale if asked.guidance_scale is None else asked.guidance_scale
        steps = asked.num_inference_steps or own.num_inference_steps
        assert share is not None and guidance is not None and steps
        # Never the Euler samplers: diffusers' pipeline would scale the small picture along with the sample.
        sampler = None if sampling.sampler is None else self.spec.sampler
        chosen = replace(sampling, num_inference_steps=steps, guidance_scale=guidance, sampler=sampler)
        told = self.notes.told("sr", prompts)
        return run(self.pipeline, self.text, told, draws, chosen, on_step, image=low, noise_level=self.level(share))

    def save_pipeline(self, folder: Path) -> None:
        """A whole `IFPipeline` with this model in `super_resolution`, which borrows T5 from it."""
        self.base.save_pipeline(folder)
        save_tuned(self.pipeline, folder / "super_resolution", None)


def _base_spec(unet: Any, max_tokens: int) -> Spec:
    side = unet.config.sample_size
    small = is_small(unet)
    return Spec(
        family="deepfloyd-if",
        resolution=side,
        native_size=(3, side, side),
        max_tokens=max_tokens,
        trainable=("denoiser",),
        # DeepFloyd IF: the paper's rate and steps for Imagen.
        learning_rate=2e-4 if small else 1e-5,
        max_train_steps=450 if small else 1000,
        train_batch_size=4 if small else 1,
        num_class_images=64 if small else 200,
        averaged=small,
        unprompted_share=0.25 if small else 0.0,
        timestep_shift=3.5 if small else None,
        num_inference_steps=25 if small else 100,
        guidance_scale=5.0 if small else 7.0,
        sampler="dpm++" if small else "ddpm",
        textual_inversion=Recipe(5e-3, 400, 4) if small else Recipe(5e-3, 5000, 1),
        released=("text_encoder",),
    )


def _super_resolver_spec(unet: Any, base: Spec, notes: Notes) -> Spec:
    """Training as suits the super-resolver; sampling as suits the base, its own under `enlarging`."""
    side = unet.config.sample_size
    small = is_small(unet)
    step = 2 ** (len(unet.config.block_out_channels) - 1)
    return replace(
        base,
        family="deepfloyd-if super-resolver",
        resolution=side,
        native_size=(3, side, side),
        learning_rate=2e-4 if small else 5e-6,
        max_train_steps=200 if small else 1000,
        train_batch_size=2 if small else 1,
        timestep_shift=None,
        crop_size=side // 2 if small and side // 2 % step == 0 else None,
        crop_step=step,
        num_class_images=16 if small else 50,
        stages=(*base.stages, "sr"),
        enlarging=Enlarging(15, 1.0, notes.noise_level) if small else Enlarging(50, 4.0, notes.noise_level),
    )
