"""The names of tensors in single files: those of Stable Diffusion's authors, and those of kohya's LoRAs.

ComfyUI, A1111 and their like read these. Diffusers reads them too, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

# Diffusers' name of a part, and the authors'.
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
AUTOENCODER_PARTS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
OPEN_CLIP_ENDS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_parts(config: Any) -> dict[str, str]:
    """Where each part of a `UNet2DConditionModel` of this config is with the authors, who number blocks on end."""
    parts = dict(UNET_ENDS)
    levels = len(config["down_block_types"])
    layers = config["layers_per_block"]
    counts = [layers] * levels if isinstance(layers, int) else list(layers)
    block = 1
    for level, count in enumerate(counts):
        for layer in range(count):
            parts[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{block}.0"
            parts[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
            block += 1
        if level < levels - 1:
            parts[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
            block += 1
    block = 0
    for level, (count, kind) in enumerate(zip(reversed(counts), config["up_block_types"], strict=True)):
        for layer in range(count + 1):
            parts[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{block}.0"
            parts[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
            if layer == count and level < levels - 1:
                beside = 2 if "CrossAttn" in kind else 1
                parts[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block}.{beside}.conv"
            block += 1
    return parts


def unet_name(name: str, parts: Mapping[str, str]) -> str:
    """A parameter's name with the authors; `parts` are those of `unet_parts`.

    >>> unet_name("mid_block.resnets.0.conv1.weight", UNET_ENDS)
    'middle_block.0.in_layers.2.weight'
    """
    words = name.split(".")
    # A part's name has up to five words, and none is the beginning of another's.
    head = next(head for length in range(1, 6) if (head := ".".join(words[:length])) in parts)
    rest = name.removeprefix(head)
    if ".resnets." in head:
        part, _, kind = rest[1:].partition(".")
        rest = f".{RESNET[part]}.{kind}"
    return parts[head] + rest


def autoencoder_name(name: str, levels: int) -> str:
    """A parameter's name with the authors, who number the decoder's levels from the largest pictures down.

    >>> autoencoder_name("decoder.up_blocks.0.resnets.1.conv_shortcut.weight", 4)
    'decoder.up.3.block.1.nin_shortcut.weight'
    """
    words = name.split(".")
    if len(words) > 3 and words[1] in ("down_blocks", "up_blocks"):
        side = words[1].removesuffix("_blocks")
        level = int(words[2]) if side == "down" else levels - 1 - int(words[2])
        inside = ["block", words[4]] if words[3] == "resnets" else [f"{side}sample"]
        name = ".".join([words[0], side, str(level), *inside, *words[5:]])
    for ours, theirs in AUTOENCODER_PARTS.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    return name


def open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text encoder as OpenCLIP has it: queries, keys and values in one matrix, the projection transposed."""
    plain = {name.removeprefix("text_model."): value for name, value in weights.items()}
    result: dict[str, Tensor] = {}
    for name, value in plain.items():
        if name in OPEN_CLIP_ENDS:
            result[OPEN_CLIP_ENDS[name]] = value
        elif name == "text_projection.weight":
            result["text_projection"] = value.T
        elif ".q_proj." in name:
            joined = [plain[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            layer, _, kind = name.removeprefix("encoder.layers.").partition(".self_attn.q_proj.")
            result[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(joined)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for ours, theirs in OPEN_CLIP_LAYER.items():
                name = name.replace(ours, theirs)
            result[name.replace("encoder.layers.", "transformer.resblocks.")] = value
    return result


def checkpoint(pipeline: Any) -> dict[str, Tensor]:
    """All weights of a Stable Diffusion pipeline (1.x, 2.x, XL) under the authors' names.

    A model that predicts v is marked, since nothing else in such a file says so.
    """
    parts, levels = unet_parts(pipeline.unet.config), len(pipeline.vae.config.block_out_channels)
    result = {UNET + unet_name(name, parts): value for name, value in pipeline.unet.state_dict().items()}
    for name, value in pipeline.vae.state_dict().items():
        original = autoencoder_name(name, levels)
        is_matrix = ".attn_1." in original and ".norm." not in original and original.endswith(".weight")
        result[AUTOENCODER + original] = value[..., None, None] if is_matrix else value
    second = getattr(pipeline, "text_encoder_2", None)
    first = pipeline.text_encoder.state_dict()
    if second is None and pipeline.text_encoder.config.hidden_size == 1024:  # 2.x has OpenCLIP's ViT-H
        result |= {OPEN_CLIP + name: value for name, value in open_clip(first).items()}
    else:
        place = CLIP if second is None else XL_CLIP
        result |= {f"{place}text_model.{name.removeprefix('text_model.')}": value for name, value in first.items()}
    if second is not None:
        result |= {XL_OPEN_CLIP + name: value for name, value in open_clip(second.state_dict()).items()}
    scheduler = pipeline.scheduler.config
    if scheduler.get("prediction_type") == "v_prediction":
        result["v_pred"] = torch.zeros(0)
        if scheduler.get("rescale_betas_zero_snr"):
            result["ztsnr"] = torch.zeros(0)
    return result


def kohya(weights: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Tensor]:
    """An adapter's tensors as kohya's scripts name them; `alphas` by the part of the pipeline they are of.

    >>> sorted(kohya({"unet.mid.to_out.0.lora_A.weight": torch.zeros(4, 8)}, {"unet": 8.0}))
    ['lora_unet_mid_to_out_0.alpha', 'lora_unet_mid_to_out_0.lora_down.weight']
    """
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        path, _, kind = rest.rpartition(".lora_")
        layer = f"{kohya_part(part, alphas)}_{path.replace('.', '_')}"
        if kind.startswith("magnitude_vector"):
            # One number an output, in as many dimensions as the layer's weight has.
            result[f"{layer}.dora_scale"] = value.reshape(-1, *[1] * max(1, value.ndim - 1))
        else:
            result[f"{layer}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = value
            result[f"{layer}.alpha"] = torch.tensor(float(alphas[part]))
    return result


def kohya_part(part: str, parts: Iterable[str]) -> str:
    """What kohya's scripts call a part of a pipeline, one of `parts`; of two text encoders each has a number.

    >>> [kohya_part("text_encoder", parts) for parts in (["unet"], ["unet", "text_encoder_2"])]
    ['lora_te', 'lora_te1']
    """
    if part == "unet":
        return "lora_unet"
    if part == "text_encoder_2":
        return "lora_te2"
    return "lora_te1" if "text_encoder_2" in parts else "lora_te"
