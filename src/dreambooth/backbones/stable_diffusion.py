"""Stable Diffusion 1.x and 2.x (ε and v): latents of an AutoencoderKL, a CLIP text encoder, one U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dreambooth.backbones.protocol import Conditioning, LoraTargets, Recipe, Sampler, Sampling, Spec, Stage
from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.precision import autocast
from dreambooth.process import from_scheduler

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

# Below this many parameters a denoiser is an embedded one, and a higher rate and fewer steps serve it better.
SMALL_DENOISER = 100_000_000


class StableDiffusion:
    """A `StableDiffusionPipeline` behind the `Backbone` protocol."""

    def __init__(self, pipeline: StableDiffusionPipeline, source: Source) -> None:
        # The safety checker would black out prior samples, and a blacked-out sample would be trained on.
        pipeline.safety_checker = None
        pipeline.register_to_config(requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline: Any = pipeline
        self.source = source
        self.process = from_scheduler(pipeline.scheduler)
        self.spec = _spec(pipeline)
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {
            "denoiser": self.pipeline.unet,
            "text_encoder": self.pipeline.text_encoder,
            "autoencoder": self.pipeline.vae,
        }

    @property
    def tokenizer(self) -> Any:
        return self.pipeline.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.pipeline.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    def to(self, device: torch.device | str) -> None:
        self.pipeline.to(device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        # The posterior's mode: its standard deviation is far below the smallest noise level trained on.
        return posterior.mode() * vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> list[Image]:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    def stage(self, name: Stage) -> StableDiffusion:
        return self

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenizer(self.pipeline.maybe_convert_prompt(prompt, self.tokenizer)).input_ids)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        encoder = self.pipeline.text_encoder
        tokens = self.tokenizer(
            # As the pipeline does: a learned word of several vectors is written out.
            self.pipeline.maybe_convert_prompt(list(prompts), self.tokenizer),
            padding="max_length",
            max_length=self.spec.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(encoder.device) if uses_mask else None
        return Conditioning({"hidden": encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]})

    def release_text_encoder(self) -> None:
        """Keeps it: it is small, and may be trained."""

    def conditioned_on(
        self, conditioning: Conditioning, clean: Tensor, draws: Sequence[torch.Generator]
    ) -> Conditioning:
        return conditioning

    def denoise(self, noisy: Tensor, model_time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden"]
        return self.pipeline.unet(noisy, model_time, encoder_hidden_states=hidden, return_dict=False)[0]

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> list[Image]:
        return self.decode_latents(self.sample_latents(prompts, seeds, sampling, on_step))

    @torch.no_grad()
    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        pipeline, own_scheduler = self.pipeline, self.pipeline.scheduler

        def tick(_pipe: Any, _step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step()
            return kwargs

        if sampling.sampler is not None:
            pipeline.scheduler = make_scheduler(sampling.sampler, own_scheduler)
        training = [module for module in self.modules.values() if module.training]
        for module in training:
            module.eval()
        try:
            with autocast(sampling.mixed_precision, self.device):
                return pipeline(
                    prompt=list(prompts),
                    negative_prompt=[sampling.negative_prompt] * len(prompts),
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                    # One CPU generator a picture: the same noise on any device and in any batch.
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                    height=self.spec.resolution,
                    width=self.spec.resolution,
                    output_type="latent",
                    callback_on_step_end=tick,
                ).images
        finally:
            pipeline.scheduler = own_scheduler
            for module in training:
                module.train()

    def set_resolution(self, resolution: int) -> None:
        scale = self.spec.resolution // self.spec.native_size[-1]
        step = scale * 2 ** (len(self.pipeline.unet.config.down_block_types) - 1)
        if resolution % step:
            raise ModelError(f"The resolution must be a multiple of {step} for this model; {resolution} is not.")
        size = resolution // scale
        self.spec = replace(self.spec, resolution=resolution, native_size=(self.spec.native_size[0], size, size))

    def enable_gradient_checkpointing(self) -> None:
        self.pipeline.unet.enable_gradient_checkpointing()
        if any(parameter.requires_grad for parameter in self.pipeline.text_encoder.parameters()):
            self.pipeline.text_encoder.gradient_checkpointing_enable()

    def save_pipeline(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder, safe_serialization=True)


def make_scheduler(sampler: Sampler, scheduler: Any) -> Any:
    """The diffusers scheduler of that name with the model's own noise schedule."""
    import diffusers

    name, extra = {
        "ddim": ("DDIMScheduler", {}),
        "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        "unipc": ("UniPCMultistepScheduler", {}),
        "euler": ("EulerDiscreteScheduler", {}),
        "ancestral": ("EulerAncestralDiscreteScheduler", {}),
        "ddpm": ("DDPMScheduler", {}),
    }[sampler]
    return getattr(diffusers, name).from_config(scheduler.config, **extra)


def _spec(pipeline: Any) -> Spec:
    unet, vae = pipeline.unet, pipeline.vae
    size = unet.config.sample_size
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    small = parameters < SMALL_DENOISER
    return Spec(
        family="stable-diffusion",
        resolution=size * scale,
        native_size=(unet.config.in_channels, size, size),
        max_tokens=pipeline.tokenizer.model_max_length,
        trainable=("denoiser", "text_encoder"),
        # Stable Diffusion: section 4 of the paper and the 200 to 300 class images of the public recipes.
        learning_rate=2e-4 if small else 5e-6,
        max_train_steps=300 if small else 800,
        # Without it a small denoiser can tell the rare word from the bare class only by unlearning the class.
        text_encoder_share=1.0 if small else None,
        lora_text_share=0.25 if small else None,
        averaged=small,  # at so high a rate one step's weights differ from the next one's in what they draw
        unprompted_share=0.25 if small else 0.0,
        train_batch_size=4 if small else 1,
        num_class_images=64 if small else 200,
        num_inference_steps=25 if small else 50,
        guidance_scale=5.0 if small else 7.5,
        sampler="dpm++" if small else "ddim",
        # Stable Diffusion: the rate that the authors multiply by the batch size, at batch 1, and their steps.
        textual_inversion=Recipe(5e-3, 400, 4) if small else Recipe(5e-3, 5000, 1),
        # Stable Diffusion: the rate and the steps of diffusers' DreamBooth LoRA recipe.
        lora=Recipe(1e-3, 300, 4) if small else Recipe(1e-4, 500, 1),
        lora_targets={
            "denoiser": LoraTargets(
                "unet",
                attention=("to_q", "to_k", "to_v", "to_out.0"),
                linear=("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
                convolutions=("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
            ),
            "text_encoder": LoraTargets(
                "text_encoder", attention=("q_proj", "k_proj", "v_proj", "out_proj"), linear=("fc1", "fc2")
            ),
        },
    )
