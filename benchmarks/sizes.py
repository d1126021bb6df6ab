"""The models that are measured: the embedded one, any diffusers folder, and the published sizes with random weights.

What a step costs does not depend on the values of the weights, so no checkpoint has to be downloaded: the
configurations below are those of Stable Diffusion 1.5 and SDXL, and the tests count their parameters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.errors import ConfigError
from dreambooth.models import embedded

NAMES = ("sd15", "sdxl")

UNET_15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE_15: dict[str, Any] = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
TEXT_15: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SCHEDULER_15: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
UNET_XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


TEXT_XL: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


@dataclass(frozen=True)
class Size:
    """A model by name. `denoiser` is the U-Net's configuration; `folder` is where its weights are, if they are on disk.

    Resolutions are in pixels a side.
    """

    name: str
    denoiser: dict[str, Any]
    latent_scale: int
    resolution_cpu: int
    resolution_cuda: int
    tokens: int
    folder: Path | None = None

    def resolution(self, device: str) -> int:
        return self.resolution_cuda if device == "cuda" else self.resolution_cpu

    def latents(self, resolution: int) -> tuple[int, int, int]:
        """The shape [C, h, w] of one example."""
        side = resolution // self.latent_scale
        return (self.denoiser.get("in_channels", 4), side, side)


def size_of(name: str) -> Size:
    """A size by name, or by the path of a diffusers folder. Raises ConfigError with the choices."""
    if name == "sd15":
        return Size("sd15", UNET_15, 8, 256, 512, 77)
    if name == "sdxl":
        return Size("sdxl", UNET_XL, 8, 512, 1024, 77)
    folder = embedded().get(name, Path(name))
    if not all((folder / part / "config.json").is_file() for part in ("unet", "vae")):
        raise ConfigError(
            f"There is no size {name!r}. Give {', '.join(embedded_pipelines())}, sd15, sdxl, or a diffusers folder."
        )
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    resolution = unet["sample_size"] * scale
    text = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    tokens = text["max_position_embeddings"]
    return Size(name if name in embedded() else folder.name, unet, scale, resolution, resolution, tokens, folder)


def embedded_pipelines() -> list[str]:
    """The embedded models that draw from latents, as the plain loop does; no cascades."""
    return [name for name, folder in embedded().items() if (folder / "vae").is_dir()]


def denoiser(config: dict[str, Any]) -> Any:
    """A U-Net of this configuration, with random weights, on torch's current default device."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(config)


def added_conditioning(config: dict[str, Any], rows: int) -> dict[str, torch.Tensor] | None:
    """SDXL's pooled text embedding and time ids, or None for a model without them."""
    if config.get("addition_embed_type") != "text_time":
        return None
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return {"text_embeds": torch.zeros(rows, pooled), "time_ids": torch.zeros(rows, 6)}


def pipeline(size: Size) -> Any:
    """The pipeline in float32 on the CPU: from its folder, or with random weights. Seed 0 gives every side the same."""
    from diffusers import DiffusionPipeline

    if size.folder is not None:
        loaded: Any = DiffusionPipeline.from_pretrained(size.folder, dtype=torch.float32, safety_checker=None)
    else:
        torch.manual_seed(0)
        loaded = _random_xl() if size.name == "sdxl" else _random_15()
    loaded.set_progress_bar_config(disable=True)
    return loaded


def _random_15() -> Any:
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    return StableDiffusionPipeline(
        AutoencoderKL.from_config(VAE_15),
        CLIPTextModel(CLIPTextConfig(**TEXT_15)),
        _tokenizer(),
        denoiser(UNET_15),
        PNDMScheduler(**SCHEDULER_15),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _random_xl() -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    schedule = {name: SCHEDULER_15[name] for name in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    with torch.device("cpu"):  # it computes at once, which without weights cannot be
        scheduler = EulerDiscreteScheduler(**schedule, timestep_spacing="leading")
    return StableDiffusionXLPipeline(
        AutoencoderKL.from_config(VAE_15 | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}),
        CLIPTextModel(CLIPTextConfig(**TEXT_15)),
        CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_XL)),
        _tokenizer(),
        _tokenizer(),
        denoiser(UNET_XL),
        scheduler,
        add_watermarker=False,
    )


def _tokenizer() -> Any:
    """Which words the ids stand for costs nothing, so the embedded tokenizer serves, padded to CLIP's 77."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded()["toybox-sd"] / "tokenizer", model_max_length=77)


def saved(size: Size, work: Path) -> Path:
    """The folder of the size's weights; random ones are written under `work` once."""
    if size.folder is not None:
        return size.folder
    folder = work / size.name
    if not (folder / "model_index.json").is_file():
        pipeline(size).save_pretrained(folder)
    return folder
