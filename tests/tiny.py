"""Tiny real components: the true classes of diffusers and transformers in small configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
WORDS = "a dog cat photo of in the jungle on beach snow red painting style".split()
RARE = ["zq", "xv", "qj", "zqk", "xvj", "qjz", "vqx", "jxq", "kzv", "wqz"]


def clip_tokenizer(folder: Path) -> Any:
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

    for word in [*WORDS, *RARE]:
        learn(word)
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=16, pad_token="<|endoftext|>"
    )


def stable_diffusion(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Any:
    """A `StableDiffusionPipeline` of 64 px with 16x16 latents and about 0.2 M parameters."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "tokenizer-source")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """The same, as a diffusers folder."""
    stable_diffusion(folder / "parts", prediction_type).save_pretrained(folder / "model")
    return folder / "model"
