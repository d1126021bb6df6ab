"""Tiny real components: the true classes of diffusers and transformers in small configurations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreambooth import original

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
WORDS = "a dog cat photo of in the jungle on beach snow red painting style".split()
RARE = ["zq", "xv", "qj", "zqk", "xvj", "qjz", "vqx", "jxq", "kzv", "wqz"]


def clip_tokenizer(folder: Path, pad_token: str = "<|endoftext|>", rare: Sequence[str] = RARE) -> Any:
    """A CLIP byte-pair tokenizer: letters, common words by early merges, rare letter groups by late ones."""
    from transformers import CLIPTokenizer

    symbols = [*ALPHABET, ",", "'", "."]
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []

    def learn(word: str) -> None:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces = ["".join(pair), *pieces[2:]]

    for word in [*WORDS, *rare]:
        learn(word)
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=16,
        pad_token=pad_token,
    )


UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
}
AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 64,
}
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_config(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """A CLIP text encoder of two layers."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | changes


def stable_diffusion(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Any:
    """A `StableDiffusionPipeline` of 64 px with 16x16 latents and about 0.2 M parameters."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "tokenizer-source")
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(tokenizer)))
    unet = UNet2DConditionModel(**UNET, cross_attention_dim=32)
    vae = AutoencoderKL(**AUTOENCODER)
    scheduler = DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )
    pipeline = StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """The same, as a diffusers folder."""
    stable_diffusion(folder / "parts", prediction_type).save_pretrained(folder / "model")
    return folder / "model"


def stable_diffusion_xl(
    folder: Path, prediction_type: str = "epsilon", seed: int = 0, force_zeros: bool = True, **autoencoder: Any
) -> Any:
    """A `StableDiffusionXLPipeline` of 64 px and about 0.3 M parameters.

    Its encoders are of different widths and its tokenizers pad differently, as the published ones do.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "tokenizer-source")
    other = clip_tokenizer(folder / "tokenizer-source", pad_token="a")
    wider = text_config(other, hidden_size=40, num_hidden_layers=3, projection_dim=24, hidden_act="gelu")
    time_dim = 8
    pipeline = StableDiffusionXLPipeline(
        AutoencoderKL(**AUTOENCODER | {"scaling_factor": 0.13025, "force_upcast": True} | autoencoder),
        CLIPTextModel(CLIPTextConfig(**text_config(tokenizer))),
        CLIPTextModelWithProjection(CLIPTextConfig(**wider)),
        tokenizer,
        other,
        UNet2DConditionModel(
            **UNET,
            cross_attention_dim=32 + 40,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_dim,
            projection_class_embeddings_input_dim=24 + 6 * time_dim,
        ),
        EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading", prediction_type=prediction_type),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved_stable_diffusion_xl(folder: Path, prediction_type: str = "epsilon", **changes: Any) -> Path:
    """The same, as a diffusers folder."""
    stable_diffusion_xl(folder / "parts", prediction_type, **changes).save_pretrained(folder / "model")
    return folder / "model"


def t5_tokenizer(max_length: int = 77) -> Any:
    """A SentencePiece-like unigram tokenizer of T5's kind: common words first, letters, and rare words in its tail."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *ALPHABET, ",", "'", "."]
    pieces += [f"▁{word}" for word in RARE]
    scores = [(piece, 0.0 if index < 3 else -2.0 - 0.05 * index) for index, piece in enumerate(pieces)]
    return T5Tokenizer(vocab=scores, extra_ids=0, model_max_length=max_length)


def cascade(
    prediction_type: str = "epsilon", seed: int = 0, sides: tuple[int, int] = (16, 32), **super_resolver: Any
) -> tuple[Any, Any]:
    """An `IFPipeline` and an `IFSuperResolutionPipeline` of 16 and 32 px in DeepFloyd's architecture, untrained.

    `super_resolver` changes the configuration of the second U-Net.
    """
    from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer()
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    shared = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "act_fn": "gelu",
        "attention_head_dim": 8,
        "encoder_hid_dim": 24,
        "cross_attention_dim": 32,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "out_channels": 6,
    }
    base = UNet2DConditionModel(**shared | {"sample_size": sides[0], "in_channels": 3})
    larger = UNet2DConditionModel(
        **shared | {"sample_size": sides[1], "in_channels": 6, "class_embed_type": "timestep"} | super_resolver
    )
    thresholding = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}
    schedule = thresholding | {
        "beta_schedule": "squaredcos_cap_v2",
        "variance_type": "learned_range",
        "prediction_type": prediction_type,
    }
    none = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}
    first = IFPipeline(tokenizer, encoder, base, DDPMScheduler(**schedule), **none)
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    second = IFSuperResolutionPipeline(None, None, larger, DDPMScheduler(**schedule), noising, **none)
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
    return first, second


def saved_cascade(folder: Path, prediction_type: str = "epsilon", **changes: Any) -> Path:
    """The same, as one folder: the base with its super-resolver in `super_resolution`."""
    first, second = cascade(prediction_type, **changes)
    first.save_pretrained(folder / "model")
    second.save_pretrained(folder / "model" / "super_resolution")
    return folder / "model"


def outlined_deepfloyd(folder: Path) -> Path:
    """Configuration files, without weights, of a cascade of about the sizes of IF-I-XL, IF-II-L and T5-XXL."""
    first, second = cascade()
    blocks = {
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    }
    large = {"encoder_hid_dim": 4096, "addition_embed_type_num_heads": 64, "attention_head_dim": 64}
    large |= blocks | {"norm_num_groups": 32, "layers_per_block": 3}
    base = large | {"block_out_channels": [704, 1408, 2112, 2816], "cross_attention_dim": 2816, "sample_size": 64}
    larger = large | {
        "block_out_channels": [256, 512, 768, 1024, 1024],
        "cross_attention_dim": 1024,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["SimpleCrossAttnDownBlock2D"] * 2,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 2 + ["ResnetUpsampleBlock2D"] * 3,
        "layers_per_block": [2, 4, 6, 6, 6],
        "sample_size": 256,
    }
    t5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
    t5 |= {"feed_forward_proj": "gated-gelu"}
    files = {
        "model_index.json": {"_class_name": "IFPipeline"},
        "unet/config.json": dict(first.unet.config) | base,
        "scheduler/scheduler_config.json": dict(first.scheduler.config) | {"_class_name": "DDPMScheduler"},
        "text_encoder/config.json": t5,
        "super_resolution/model_index.json": {"_class_name": "IFSuperResolutionPipeline"},
        "super_resolution/unet/config.json": dict(second.unet.config) | larger,
    }
    for name in ("scheduler", "image_noising_scheduler"):
        schedule = dict(getattr(second, name).config) | {"_class_name": "DDPMScheduler"}
        files[f"super_resolution/{name}/scheduler_config.json"] = schedule
    for name, content in files.items():
        path = folder / "deepfloyd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, default=str))
    return folder / "deepfloyd"


def saved_clip(folder: Path, seed: int = 0) -> Path:
    """A folder with an untrained `CLIPModel` of 32 px, its tokenizer and its image processor's settings."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer(folder / "tokenizer-source")
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=small | text, vision_config=small | vision, projection_dim=24)).save_pretrained(
        folder / "clip"
    )
    tokenizer.save_pretrained(folder / "clip")
    save_preparation(folder / "clip", "CLIPImageProcessor", size=32, crop_size=32, do_center_crop=True)
    return folder / "clip"


def saved_dino(folder: Path, seed: int = 0, pooler: bool = False) -> Path:
    """A folder with an untrained `ViTModel` of 32 px, four layers deep, and its image processor's settings."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=24,
        intermediate_size=37,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=pooler).save_pretrained(folder / "dino")
    save_preparation(folder / "dino", "ViTImageProcessor", size=32)
    return folder / "dino"


def save_preparation(folder: Path, kind: str, **settings: Any) -> None:
    """A `preprocessor_config.json` with CLIP's mean and deviation."""
    facts = {
        "image_processor_type": kind,
        "do_resize": True,
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts | settings))


def single_file(model: Path, path: Path) -> Path:
    """The folder's weights under the names of the original checkpoints of Stable Diffusion, or of SDXL."""
    from diffusers import DiffusionPipeline
    from safetensors.torch import save_file

    weights = original.checkpoint(DiffusionPipeline.from_pretrained(model))
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path
