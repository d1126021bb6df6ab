"""The toybox's autoencoder: an AutoencoderKL of sixteen channels at an eighth of the size, trained from nothing."""

import copy
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from dreambooth.toybox.data import Corpus, dead_leaves, fractals, generator
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit, processes
from dreambooth.toybox.sheets import save_sheet

CHANNELS = 16
SYNTHETIC = 0.25
"""Share of dead leaves and fractals, whose statistics are those of photos, so that photos pass too."""
WHOLE = 0.85
"""Share of the budget after which whole pictures replace crops."""
WHITENED = (50, 100, 200, 400, 800, 1600)
"""Steps before which the latents are whitened."""
BALANCE = 0.7
KL = 1e-6
"""Weight of the divergence a latent value; more makes channels fall silent."""


def new(
    channels: tuple[int, ...] = (32, 64, 64, 96), size: int = 128, latent_channels: int = CHANNELS
) -> AutoencoderKL:
    """An untrained autoencoder; `channels` from the full size down to an eighth of it. Residual branches begin at
    zero, which halves the steps to the same error."""
    count = len(channels)
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * count,
        "up_block_types": ("UpDecoderBlock2D",) * count,
        "block_out_channels": channels,
    }
    vae = AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
    return vae


def reconstruction_error(restored: Tensor, pixels: Tensor) -> Tensor:
    """How far pictures are from what they should be, one value a picture; [B, 3, H, W] in -1..1.

    Absolute error at four scales, of the edges (Sobel) and of the colour (blue and red less luma) once more: an
    average over fine detail alone would wash small saturated areas out to grey.
    """
    error = torch.zeros(len(pixels), device=pixels.device)
    difference = restored - pixels
    for scale in range(4):
        luma = difference.mean(1, keepdim=True)
        chroma = difference - luma
        error = error + difference.abs().flatten(1).mean(1) + chroma.abs().flatten(1).mean(1)
        if scale < 2:
            edges = F.conv2d(difference.flatten(0, 1).unsqueeze(1), _sobel(difference))
            error = error + 0.5 * edges.abs().view(len(pixels), -1).mean(1)
        difference = F.avg_pool2d(difference, 2)
    return error


def _sobel(like: Tensor) -> Tensor:
    down = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]], device=like.device) / 8
    return torch.stack([down, down.T]).unsqueeze(1)


def train(
    corpus: Corpus, folder: Path, budget: Budget, rates: Optimisation, *, model: AutoencoderKL | None = None,
    further: bool = False, device: str = "cpu", seed: int = 0, resume: bool = True, log: Log = print,
) -> Fitted[AutoencoderKL]:  # fmt: skip
    """Train on crops of half the size, dead leaves and fractals, at last on whole pictures; returns them balanced.

    `further` goes on from a trained `model`: its latents are not whitened, and at the end mean what they meant to it,
    so that a denoiser of the old ones understands the new ones.
    """
    size = corpus.images.shape[-1]
    torch.manual_seed(seed)
    vae = model or new(size=size)
    torch.nn.Module.to(vae, device)
    start = copy.deepcopy(vae) if further else None
    rank, share = processes()
    shown = corpus.images[-8:].to(device).float() / 127.5 - 1

    def loss(step: int, progress: float) -> Tensor:
        if step in WHITENED and not further:
            whiten(vae, corpus.images[:64])
        draw = generator(seed, f"autoencoder/{rank}" if rank else "autoencoder", step, device)
        whole = progress > WHOLE
        batch = max(1, rates.batch // share)
        edge, count = (size, max(1, batch // 4)) if whole else (size // 2, batch)
        synthetic = round(SYNTHETIC * count)
        leaves = synthetic // 2 + step % 2 * (synthetic % 2)
        parts = [
            corpus.crops(draw, count - synthetic, edge),
            dead_leaves(draw, leaves, edge),
            fractals(draw, synthetic - leaves, edge),
        ]
        pixels = torch.cat(parts)
        with torch.autocast(device, torch.bfloat16):
            posterior = _posterior(vae, pixels)
            noise = torch.randn(posterior.mean.shape, generator=draw, device=device)
            restored = _decode(vae, posterior.mean + posterior.std * noise)
        return (
            reconstruction_error(restored.float(), pixels).mean()
            + KL * posterior.kl().float().mean() / posterior.mean[0].numel()
        )

    def sheet(average: AutoencoderKL, path: Path) -> None:
        restored = reconstruct(average, shown)
        log(f"autoencoder: {psnr(restored, shown).mean():.2f} dB on {len(shown)} pictures of the corpus")
        save_sheet(torch.cat([shown, restored]), path, columns=len(shown))

    fitted = fit("autoencoder", vae, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)
    if start is not None and not fitted.steps:
        return Fitted(start, 0, fitted.seconds, fitted.loss)
    typical = corpus.images[:512]
    standard = balanced(fitted.module, typical) if start is None else aligned(fitted.module, start, typical)
    return Fitted(standard, fitted.steps, fitted.seconds, fitted.loss)


def _posterior(vae: AutoencoderKL, pixels: Tensor) -> DiagonalGaussianDistribution:
    encoded: Any = vae.encode(pixels)
    return encoded.latent_dist


def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    decoded: Any = vae.decode(cast("torch.FloatTensor", latents))
    return decoded.sample


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode and decode [B, 3, H, W] in -1..1, without sampling the posterior."""
    parts = [_decode(vae, _posterior(vae, part).mean) for part in pixels.split(16)]
    return torch.cat(parts).clamp(-1, 1)


def psnr(restored: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each of [B, 3, H, W] in -1..1."""
    return -10 * ((restored - pixels) / 2).square().flatten(1).mean(1).log10()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents [N, C, H/8, W/8] of uint8 images [N, 3, H, W]: the means, float32, on the CPU."""
    device, batch = vae.device, 64
    if device.type == "cpu":  # a third of the time: what a few pictures need stays in the caches
        still: Any = copy.deepcopy(vae)
        vae, batch = still.to(memory_format=torch.channels_last), 4
    parts = [_posterior(vae, part.to(device).float() / 127.5 - 1).mean.float().cpu() for part in images.split(batch)]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def balanced(vae: AutoencoderKL, images: Tensor) -> AutoencoderKL:
    """The same autoencoder with latents scaled by what they mean to the picture.

    The channels become principal components, measured by how far pixels move with them, and the variance of each
    is what it moves to the power BALANCE, the greatest 2. With plain unit variances half of the denoiser's loss
    would fall on channels that carry under 4 % of the picture.
    """
    vae = copy.deepcopy(vae)
    latents = encode(vae, images).to(vae.device)
    mean = latents.mean((0, 2, 3))
    metric_values, metric_vectors = torch.linalg.eigh(_pixel_metric(vae, latents[:24]))
    metric = (metric_vectors * metric_values.clamp_min(1e-6 * metric_values[-1].item()).sqrt()) @ metric_vectors.T
    moved = metric @ (latents.transpose(0, 1).flatten(1) - mean.view(-1, 1))
    variances, components = torch.linalg.eigh(moved.cov(correction=0))
    variances = variances.clamp_min(1e-6 * variances[-1].item())  # of a silent channel it may come out below zero
    wanted = 2 * (variances / variances.max()).pow(BALANCE)
    _fold(vae, mean, torch.linalg.inv(((wanted / variances).sqrt() * components).T @ metric), images[:24])
    return vae


@torch.no_grad()
def aligned(vae: AutoencoderKL, start: AutoencoderKL, images: Tensor) -> AutoencoderKL:
    """The same autoencoder with the latents that are nearest to those of `start`, by a linear map (least squares)."""
    vae = copy.deepcopy(vae)
    mine, wanted = (encode(part, images).transpose(0, 1).flatten(1).to(vae.device) for part in (vae, start))
    constant = torch.ones_like(mine[:1])
    solution = torch.linalg.lstsq(torch.cat([mine, constant]).T, wanted.T).solution.T
    turn, shift = solution[:, :-1], solution[:, -1]
    spread = torch.linalg.inv(turn)
    _fold(vae, -spread @ shift, spread, images[:24])
    return vae


def _pixel_metric(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """[C, C]: the mean squared change of the decoded pixels is d M d for a small change d of the channels."""
    still = _decode(vae, latents)
    draw = torch.Generator().manual_seed(0)
    nudge = 0.3 * torch.randn(latents[:, 0].shape, generator=draw).to(latents)
    moves: list[Tensor] = []
    for channel in range(latents.shape[1]):
        nudged = latents.clone()
        nudged[:, channel] += nudge
        moves.append((_decode(vae, nudged) - still).flatten() / 0.3)
    stacked = torch.stack(moves)
    return stacked @ stacked.T / stacked.shape[1]


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Give the latents unit covariance over `images` in place, and change nothing else that the autoencoder does.

    Luma dominates the first latents; without this four of eight channels were still almost silent after 3000 steps.
    """
    latents = encode(vae, images).to(vae.device).transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(latents.cov(correction=0))
    spread = values.clamp_min(1e-4 * values[-1].item()).sqrt()
    _fold(vae, latents.mean(1), (vectors * spread) @ vectors.T, images)


def _fold(vae: AutoencoderKL, mean: Tensor, spread: Tensor, images: Tensor) -> None:
    """Replace latents z by spread^-1 (z - mean), exactly, in the 1x1 convolutions around them; spread is [C, C].

    The posterior's deviation becomes what it is on average over `images`, one number a channel.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert isinstance(quant, torch.nn.Conv2d) and isinstance(post, torch.nn.Conv2d)
    assert quant.bias is not None and post.bias is not None
    channels, inverse = len(mean), torch.linalg.inv(spread)
    noise = _posterior(vae, images.to(vae.device).float() / 127.5 - 1).var.mean((0, 2, 3))
    quant.weight[channels:] = 0
    quant.bias[channels:] = (inverse.square() @ noise).log()
    quant.weight[:channels, :, 0, 0] = inverse @ quant.weight[:channels, :, 0, 0]
    quant.bias[:channels] = inverse @ (quant.bias[:channels] - mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight[:, :, 0, 0] = post.weight[:, :, 0, 0] @ spread
