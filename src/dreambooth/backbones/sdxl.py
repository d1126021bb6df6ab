"""Stable Diffusion XL (ε and v): two CLIP text encoders, pooled words and the picture's size beside them.

Podell et al. 2023, arXiv 2307.01952. The U-Net is told six numbers of every picture (section 2.2): its original size,
the corner of its crop and the size asked for. Photos come here as squares of the resolution R trained at, so a row is
told that it was never smaller and never cut: (R, R), (0, 0), (R, R), which is also what a pipeline asks for by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    from diffusers import StableDiffusionXLPipeline


def sdxl(pipeline: StableDiffusionXLPipeline, source: Source) -> LatentDiffusion:
    """A `StableDiffusionXLPipeline` as a backbone; in float32, since the autoencoder overflows in float16.

    Raises ModelError where one of its tokenizers cannot be used.
    """
    check_tokenizers(pipeline, source, TwoEncoders.encoders)
    return LatentDiffusion(pipeline, source, TwoEncoders(pipeline), _spec(pipeline))


class TwoEncoders:
    """`Words` of both encoders' last hidden states but one, side by side, and the second one's pooled projection.

    No prompt at all is what the pipeline makes of it: zeros where the model was trained with them
    (`force_zeros_for_empty_prompt`), else the encoders' own reading of an empty text.
    """

    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2")

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def read(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        for name in self.encoders:
            encoder = getattr(self.pipeline, name)
            ids = padded(self.pipeline, name, prompts).input_ids.to(encoder.device)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]  # the last encoder's projection
        assert pooled is not None
        told = torch.cat(hidden, dim=-1)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            unsaid = torch.tensor([not prompt for prompt in prompts], device=told.device)
            told, pooled = told.masked_fill(unsaid[:, None, None], 0), pooled.masked_fill(unsaid[:, None], 0)
        return Conditioning({"hidden": told, "pooled": pooled, "time_ids": time_ids(len(prompts), resolution, told)})

    def for_unet(self, conditioning: Conditioning) -> dict[str, Any]:
        told = conditioning.tensors
        added = {"text_embeds": told["pooled"], "time_ids": told["time_ids"]}
        return {"encoder_hidden_states": told["hidden"], "added_cond_kwargs": added}

    def for_pipeline(self, prompts: Sequence[str], sampling: Sampling, resolution: int) -> dict[str, Any]:
        said = self.read(prompts, resolution).tensors
        given = {"prompt_embeds": said["hidden"], "pooled_prompt_embeds": said["pooled"]}
        if sampling.guidance_scale > 1:
            unsaid = self.read([sampling.negative_prompt] * len(prompts), resolution).tensors
            given["negative_prompt_embeds"] = unsaid["hidden"]
            given["negative_pooled_prompt_embeds"] = unsaid["pooled"]
        return given


def time_ids(rows: int, resolution: int, like: Tensor) -> Tensor:
    """Original size, top left corner of the crop, and size asked for: [rows, 6].

    >>> time_ids(1, 1024, torch.zeros(1)).tolist()
    [[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]]
    """
    numbers = (resolution, resolution, 0, 0, resolution, resolution)
    return torch.tensor([numbers] * rows, dtype=like.dtype, device=like.device)


def _spec(pipeline: Any) -> Spec:
    resolution, native_size = native_sizes(pipeline)
    published = Spec(
        family="stable-diffusion-xl",
        resolution=resolution,
        native_size=native_size,
        max_tokens=min(pipeline.tokenizer.model_max_length, pipeline.tokenizer_2.model_max_length),
        trainable=("denoiser", "text_encoder", "text_encoder_2"),
        # The paper's rate and the steps for Stable Diffusion; public recipes for SDXL are of adapters.
        learning_rate=5e-6,
        max_train_steps=800,
        train_batch_size=1,
        num_class_images=200,
        num_inference_steps=30,
        guidance_scale=5.0,  # diffusers' default for SDXL
        sampler="euler",
        # diffusers' Textual Inversion of SDXL: 5e-4 for each row of a step, and 500 steps of four rows.
        textual_inversion=Recipe(5e-4, 2000, 1),
        # The rate and the steps of diffusers' DreamBooth LoRA recipe for SDXL.
        lora=Recipe(1e-4, 500, 1),
        lora_targets={
            "denoiser": DENOISER_LAYERS,
            "text_encoder": CLIP_LAYERS,
            "text_encoder_2": replace(CLIP_LAYERS, prefix="text_encoder_2"),
        },
        embedding_names=("clip_l", "clip_g"),
    )
    return suited(published, pipeline.unet)
