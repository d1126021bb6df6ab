"""Tiny real components: the true classes of diffusers and transformers in small configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

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
    from safetensors.torch import load_file, save_file

    def weights(part: str) -> dict[str, torch.Tensor]:
        merged: dict[str, torch.Tensor] = {}
        for file in (model / part).glob("*.safetensors"):
            merged |= load_file(file)
        return merged

    result = {f"model.diffusion_model.{original_unet_name(key)}": value for key, value in weights("unet").items()}
    for key, value in weights("vae").items():
        name = original_vae_name(key)
        is_attention = ".attn_1." in name and name.endswith("weight") and "norm" not in name
        result[f"first_stage_model.{name}"] = value[..., None, None] if is_attention else value
    is_xl = (model / "text_encoder_2").is_dir()
    for key, value in weights("text_encoder").items():
        key = key if key.startswith("text_model.") else f"text_model.{key}"
        result[f"{'conditioner.embedders.0' if is_xl else 'cond_stage_model'}.transformer.{key}"] = value
    if is_xl:
        result |= {f"conditioner.embedders.1.model.{key}": value for key, value in open_clip(weights("text_encoder_2"))}
    save_file(result, path)
    return path


def open_clip(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """A `CLIPTextModelWithProjection` as OpenCLIP writes it: queries, keys and values in one."""
    fixed = {
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj", "self_attn": "attn"}
    for key, value in weights.items():
        if key in fixed:
            yield fixed[key], value
        elif key == "text_projection.weight":
            yield "text_projection", value.T.contiguous()
        elif key.startswith("text_model.encoder.layers."):
            name = key.replace("text_model.encoder.layers.", "transformer.resblocks.")
            for ours, theirs in parts.items():
                name = name.replace(ours, theirs)
            if ".q_proj." in name:
                joined = [weights[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                yield name.replace(".q_proj.", ".in_proj_"), torch.cat(joined)
            elif ".k_proj." not in name and ".v_proj." not in name:
                yield name, value


def original_unet_name(name: str) -> str:
    """For block_out_channels of two levels with one layer each, as `stable_diffusion` makes them."""
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    prefix = next(prefix for prefix in fixed if name.startswith(prefix + "."))
    rest = name.removeprefix(prefix)
    if ".resnets." in name:
        part, _, last = rest[1:].partition(".")
        rest = f".{resnet[part]}.{last}"
    return fixed[prefix] + rest


def original_vae_name(name: str) -> str:
    """For three levels with one layer each."""
    for side, blocks in (("encoder", "down"), ("decoder", "up")):
        for level in range(3):
            original = level if side == "encoder" else 2 - level
            name = name.replace(f"{side}.{blocks}_blocks.{level}.resnets.", f"{side}.{blocks}.{original}.block.")
            name = name.replace(f"{blocks}_blocks.{level}.{blocks}samplers.0.", f"{blocks}.{original}.{blocks}sample.")
    for ours, theirs in (
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(ours, theirs)
    return name
