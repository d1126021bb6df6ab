"""Stable Diffusion 1.x and 2.x (ε and v): one CLIP text encoder, whose last hidden states are all the U-Net is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dreambooth.backbones.latent_diffusion import (
    CLIP_LAYERS,
    DENOISER_LAYERS,
    LatentDiffusion,
    check_tokenizers,
    native_sizes,
    padded,
    suited,
)
from dreambooth.backbones.protocol import Conditioning, Recipe, Sampling, Spec
from dreambooth.backbones.source import Source

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def stable_diffusion(pipeline: StableDiffusionPipeline, source: Source) -> LatentDiffusion:
    """A `StableDiffusionPipeline` as a backbone. Raises ModelError where its tokenizer cannot be used."""
    check_tokenizers(pipeline, source, OneEncoder.encoders)
    # The safety checker would black out prior samples, and a blacked-out sample would be trained on.
    pipeline.safety_checker = None
    pipeline.register_to_config(requires_safety_checker=False)
    return LatentDiffusion(pipeline, source, OneEncoder(pipeline), _spec(pipeline))


class OneEncoder:
    """`Words` of the last hidden states alone."""

    encoders: tuple[str, ...] = ("text_encoder",)

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def read(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        encoder = self.pipeline.text_encoder
        tokens = padded(self.pipeline, "text_encoder", prompts)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(encoder.device) if uses_mask else None
        return Conditioning({"hidden": encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]})

    def for_unet(self, conditioning: Conditioning) -> dict[str, Any]:
        return {"encoder_hidden_states": conditioning.tensors["hidden"]}

    def for_pipeline(self, prompts: Sequence[str], sampling: Sampling, resolution: int) -> dict[str, Any]:
        return {"prompt": list(prompts), "negative_prompt": [sampling.negative_prompt] * len(prompts)}


def _spec(pipeline: Any) -> Spec:
    resolution, native_size = native_sizes(pipeline)
    published = Spec(
        family="stable-diffusion",
        resolution=resolution,
        native_size=native_size,
        max_tokens=pipeline.tokenizer.model_max_length,
        trainable=("denoiser", "text_encoder"),
        # Section 4 of the paper, and the 200 to 300 class images of the public recipes.
        learning_rate=5e-6,
        max_train_steps=800,
        train_batch_size=1,
        num_class_images=200,
        num_inference_steps=50,
        guidance_scale=7.5,
        sampler="ddim",
        # The rate that the authors multiply by the batch size, at batch 1, and their steps.
        textual_inversion=Recipe(5e-3, 5000, 1),
        # The rate and the steps of diffusers' DreamBooth LoRA recipe.
        lora=Recipe(1e-4, 500, 1),
        lora_targets={"denoiser": DENOISER_LAYERS, "text_encoder": CLIP_LAYERS},
    )
    return suited(published, pipeline.unet)
