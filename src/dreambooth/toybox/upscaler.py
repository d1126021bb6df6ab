"""The super-resolver of toybox's cascade, 64 -> 256 px: trained on what it is asked to do.

It sees the small picture, enlarged bilinearly and noised at an augmentation level of its own, is told that level, and
removes noise from the large picture (Ho et al. 2022, "Cascaded Diffusion Models", section 4; Saharia et al. 2022, 2.4).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFSuperResolutionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from dreambooth.backbones.protocol import windows
from dreambooth.toybox import pixels
from dreambooth.toybox.data import Corpus, generator
from dreambooth.toybox.denoiser import draw_timesteps
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit
from dreambooth.toybox.pixels import CHANNELS

SIZE = 256
LOG_SNR = (0.0, 2.6)
"""Most of a large picture is known from the small one; what is learned is fine detail, which little noise hides."""
CROP = 64
BLOCKS = (16, 32, 64, 64)
EMPTY = 0.1
PRESENT = 0.1
"""The share of the noising schedule at which pictures are drawn unless told otherwise."""


class Upscaler(nn.Module):
    """The U-Net; it reads the frozen text encoder of the base."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, low: Tensor, timesteps: Tensor, levels: Tensor, hidden: Tensor) -> Tensor:
        """noisy, low [B, 3, H, W], timesteps and augmentation levels [B] in 0..999, hidden [B, L, D] -> v."""
        together = torch.cat([noisy, low], 1)
        return self.unet(together, timesteps, hidden, class_labels=levels, return_dict=False)[0][:, :CHANNELS]


def new(width: int = 128, channels: tuple[int, ...] = BLOCKS, size: int = SIZE) -> Upscaler:
    """An untrained super-resolver. Attention only at the smallest size: it is trained on cut-outs."""
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=2 * CHANNELS,
        out_channels=2 * CHANNELS,
        block_out_channels=channels,
        down_block_types=cast(Any, ("DownBlock2D",) * len(channels)),
        up_block_types=cast(Any, ("UpBlock2D",) * len(channels)),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=width,
        attention_head_dim=16,
        class_embed_type="timestep",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    pixels.no_variance(unet)
    return Upscaler(unet)


def scheduler() -> DDPMScheduler:
    """As the base's, without thresholding: the small picture leaves little to exaggerate.

    DPM-Solver++ reads from it to go down in even steps of log SNR: in even steps of time the last one begins at so much
    noise that a third of it stays in the picture as grain.
    """
    schedule = pixels.scheduler(thresholding=False)
    schedule.register_to_config(use_lu_lambdas=True)
    return schedule


def enlarged(large: Tensor, small: int = pixels.SIZE) -> Tensor:
    """Pictures [B, 3, H, W] made `small` and enlarged again as `IFSuperResolutionPipeline` enlarges."""
    low = F.interpolate(large, (small, small), mode="area")
    return F.interpolate(low, large.shape[-2:], mode="bilinear", align_corners=True)


def draw_levels(count: int, draw: torch.Generator) -> Tensor:
    """Augmentation levels [B] in 0..999, over the whole range and more often low, where pictures are drawn."""
    return (1000 * torch.rand(count, generator=draw, device=draw.device).square()).long()


def train(
    corpus: Corpus, text_encoder: T5EncoderModel, tokenizer: T5Tokenizer, folder: Path, budget: Budget,
    rates: Optimisation, *, model: Upscaler | None = None, device: str = "cpu", seed: int = 0, resume: bool = True,
    snapshot: Callable[[Upscaler], None] | None = None, log: Log = print,
) -> Fitted[Upscaler]:  # fmt: skip
    """Train the U-Net on cut-outs of large pictures; the text encoder stays as it is."""
    torch.manual_seed(seed)
    upscaler = (model or new(text_encoder.config.d_model)).to(device)
    torch.nn.Module.to(text_encoder, device).eval()
    schedule = scheduler()
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(device)
    log_snr = pixels.log_snr_of(schedule)
    said = pixels.encode_captions(corpus.captions, tokenizer)[0].long()
    empty = pixels.words_of(tokenizer).empty

    def loss(step: int, _progress: float) -> Tensor:
        draw = generator(seed, "upscaler", step)
        rows = torch.randint(len(corpus), (rates.batch,), generator=draw)
        variants = torch.randint(said.shape[1] - 1, (rates.batch,), generator=draw)
        text = torch.where(torch.rand(rates.batch, 1, generator=draw) < EMPTY, empty, said[rows, variants]).to(device)
        whole = corpus.images[rows].to(device).float() / 127.5 - 1
        clean, low = cut(torch.cat([whole, enlarged(whole)], 1), CROP, draw).chunk(2, 1)
        noise, blur = torch.randn(2, *clean.shape, generator=draw).to(device)
        timesteps = cast("torch.IntTensor", draw_timesteps(log_snr.cpu(), rates.batch, draw, LOG_SNR).to(device))
        levels = cast("torch.IntTensor", draw_levels(rates.batch, draw).to(device))
        noisy, seen = schedule.add_noise(clean, noise, timesteps), schedule.add_noise(low, blur, levels)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                hidden = pixels.read(text_encoder, text)
            predicted = upscaler(noisy, seen, timesteps, levels, hidden)
        return F.mse_loss(predicted.float(), schedule.get_velocity(clean, noise, timesteps))

    def sheet(average: Upscaler, path: Path) -> None:
        if snapshot is not None:
            snapshot(average)

    return fit("upscaler", upscaler, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)


def cut(images: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """A square of `size` from each of [B, C, H, W], anywhere, on a multiple of eight pixels."""
    corners = torch.randint((images.shape[-1] - size) // 8 + 1, (len(images), 2), generator=draw) * 8
    return windows(images, corners.tolist(), size)


def pipeline(model: Upscaler, text_encoder: T5EncoderModel | None, tokenizer: T5Tokenizer | None) -> Any:
    """The parts as an ordinary IFSuperResolutionPipeline."""
    return IFSuperResolutionPipeline(
        tokenizer=cast(Any, tokenizer),
        text_encoder=cast(Any, text_encoder),
        unet=model.unet,
        scheduler=scheduler(),
        image_noising_scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
