"""The toybox's denoiser: a small U-Net and its CLIP text encoder, trained together from nothing on latents."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth.toybox import autoencoder
from dreambooth.toybox.data import SIDED, Corpus, generator, pick_captions
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit
from dreambooth.toybox.sheets import save_sheet
from dreambooth.toybox.tokenizer import rare_words

SUBJECT_WEIGHT = 4.0
"""A latent pixel that shows the subject weighs 1 + this."""
MIN_SNR = 5.0
PROMPTS = (
    "a dog", "a cat", "a teapot", "a robot", "a red car", "a backpack", "a stuffed animal", "a sneaker", "a duck",
    "a dog in the snow", "a cat on the beach", "a teapot on top of a wooden floor", "a robot in the jungle",
    "a clock with a city in the background", "a vase with the Eiffel Tower in the background", "a blue boot",
    "a cat wearing a santa hat", "a dog wearing a red hat", "a painting of a dog", "a dog seen from behind",
    "a duck floating on top of water", "a shiny can", "a zqk dog", "a zqk teapot on the beach",
)  # fmt: skip
"""What the sample sheets show."""


@dataclass(frozen=True)
class Latents:
    """A corpus as the denoiser sees it: latents [2, N, C, h, w] in float16, the second half of mirrored pictures."""

    values: Tensor
    masks: Tensor
    captions: list[list[str]]


class Denoiser(nn.Module):
    """U-Net and text encoder as one module, so that one optimiser and one average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy [B, C, h, w], timesteps [B] in 0..999, tokens [B, L] -> predicted v [B, C, h, w]."""
        return self.unet(noisy, timesteps, self.text_encoder(tokens)[0], return_dict=False)[0]


def new(
    tokenizer: CLIPTokenizer, *, size: int = 128, channels: tuple[int, ...] = (96, 192), width: int = 192,
    layers: int = 3, head: int = 32,
) -> Denoiser:  # fmt: skip
    """An untrained denoiser for pictures of `size` pixels. Attention stands at a 16th of the size and below: at an
    eighth it would halve the images a second."""
    lower = len(channels) - 1
    heads: Any = tuple(max(1, count // head) for count in channels)
    unet = UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=8,
        out_channels=8,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * lower),
        up_block_types=(*["CrossAttnUpBlock2D"] * lower, "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=heads,
    )
    start, end = len(tokenizer) - 2, len(tokenizer) - 1
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 48),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return Denoiser(unet, CLIPTextModel(text))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v as the target; trailing steps begin at pure noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [B, L], padded to the tokenizer's length as Stable Diffusion pads them."""
    return tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def encode_corpus(corpus: Corpus, vae: AutoencoderKL, path: Path, log: Log = print) -> Latents:
    """Encode the pictures and their mirror images once; `path` keeps the result for the same corpus and weights."""
    weight = sum(float(value.double().abs().sum()) for value in vae.state_dict().values())
    stamp = {"pictures": str(len(corpus)), "weights": f"{weight:.6f}"}
    if path.exists():
        stored = load_file(path)
        if stored["stamp"].numpy().tobytes().decode() == str(stamp):
            return Latents(stored["values"], corpus.masks, corpus.captions)
    log(f"latents: encoding {len(corpus)} pictures, both ways round")
    with torch.autocast(vae.device.type, torch.bfloat16):
        halves = [autoencoder.encode(vae, images).half() for images in (corpus.images, corpus.images.flip(-1))]
    values = torch.stack(halves)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    save_file({"values": values, "stamp": torch.tensor(list(str(stamp).encode()), dtype=torch.uint8)}, draft)
    os.replace(draft, path)
    return Latents(values, corpus.masks, corpus.captions)


def batch(latents: Latents, rare: list[str], draw: torch.Generator, count: int) -> tuple[Tensor, Tensor, list[str]]:
    """Clean latents [B, C, h, w], masks [B, 1, h, w] in 0..1 and captions; mirrored where no caption says a side."""
    rows = torch.randint(latents.values.shape[1], (count,), generator=draw)
    chosen = pick_captions([latents.captions[row] for row in rows.tolist()], rare, torch.rand(count, 3, generator=draw))
    sided = torch.tensor([SIDED.search(text) is not None for text in chosen])
    mirrored = (torch.rand(count, generator=draw) < 0.5) & ~sided
    clean = latents.values[mirrored.long(), rows].float()
    masks = latents.masks[rows].float() / 255
    return clean, torch.where(mirrored.view(-1, 1, 1, 1), masks.flip(-1), masks), chosen


def v_error(predicted: Tensor, target: Tensor, masks: Tensor, snr: Tensor) -> Tensor:
    """Squared error of v, one value a row: the subject's pixels weigh 1 + SUBJECT_WEIGHT, and a step weighs
    min(SNR, 5) / (SNR + 1) (Hang et al. 2023, eq. 5 for v).

    predicted, target [B, C, h, w]; masks [B, 1, h, w]; snr [B].
    """
    weights = 1 + SUBJECT_WEIGHT * masks
    squared = (predicted - target).square().mean(1, keepdim=True)
    rows = (squared * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return rows * snr.clamp(max=MIN_SNR) / (snr + 1)


def train(
    latents: Latents, tokenizer: CLIPTokenizer, vae: AutoencoderKL, folder: Path, budget: Budget, rates: Optimisation,
    *, model: Denoiser | None = None, device: str = "cpu", seed: int = 0, compiled: bool = False, resume: bool = True,
    snapshot: Callable[[Denoiser], None] | None = None, log: Log = print,
) -> Fitted[Denoiser]:  # fmt: skip
    """Train U-Net and text encoder together; `snapshot` is given the averaged weights at every checkpoint."""
    torch.manual_seed(seed)
    denoiser = (model or new(tokenizer, size=8 * latents.values.shape[-1])).to(device)
    noise_schedule = scheduler()
    alphas = noise_schedule.alphas_cumprod
    rare = rare_words(tokenizer)[::2]  # every other one is never seen in training, as an identifier should be
    forward = torch.compile(denoiser) if compiled else denoiser

    def loss(step: int, _progress: float) -> Tensor:
        draw = generator(seed, "denoiser", step)
        clean, masks, texts = batch(latents, rare, draw, rates.batch)
        noise = torch.randn(clean.shape, generator=draw)
        timesteps = cast("torch.IntTensor", torch.randint(1000, (len(clean),), generator=draw))
        noisy = noise_schedule.add_noise(clean, noise, timesteps)
        target = noise_schedule.get_velocity(clean, noise, timesteps)
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        with torch.autocast(device, torch.bfloat16):
            predicted = forward(noisy.to(device), timesteps.to(device), tokens(tokenizer, texts).to(device))
        return v_error(predicted.float(), target.to(device), masks.to(device), snr.to(device)).mean()

    def sheet(average: Denoiser, path: Path) -> None:
        save_sheet(sample(pipeline(vae, average, tokenizer), list(PROMPTS), seed=seed), path, columns=8)
        if snapshot is not None:
            snapshot(average)

    return fit("denoiser", denoiser, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)


def pipeline(vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as an ordinary StableDiffusionPipeline."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def sample(pipe: StableDiffusionPipeline, prompts: list[str], *, steps: int = 25, guidance: float = 4.0,
           seed: int = 0) -> Tensor:  # fmt: skip
    """One picture a prompt, [N, 3, H, W] in -1..1, in bfloat16 autocast."""
    pipe.set_progress_bar_config(disable=True)
    draws = [torch.Generator().manual_seed(seed * 1000 + index) for index in range(len(prompts))]
    with torch.inference_mode(), torch.autocast(pipe.device.type, torch.bfloat16):
        output: Any = pipe(
            prompts, num_inference_steps=steps, guidance_scale=guidance, generator=draws, output_type="pt"
        )
    return output.images.float() * 2 - 1
