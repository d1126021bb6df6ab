"""What a small latent denoiser is best made of: designs trained from nothing on equally many pictures, in turn.

    python -m benchmarks.designs --work .toybox --steps 120 --out runs/designs

`--work` is the folder of `dreambooth toybox pretrain`, with its corpus; latents are made by the embedded autoencoder
and kept there. Each design differs from the first one in one thing. Reported is how far the clean latents of unseen
individuals, estimated from noisy ones under their captions, are from the true ones (mean squared error over their
variance, averaged weights) at four log signal-to-noise ratios; this asks the same of every target and weighting.
Beside it stands the processor time of a picture, with its share of the optimiser's.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import ViTModel

from dreambooth.backbones import hush
from dreambooth.models import embedded
from dreambooth.toybox import autoencoder, captions, data, denoiser, judges, references
from dreambooth.toybox.denoiser import Denoiser, Latents, Words
from dreambooth.toybox.fit import Optimisation, Optimizer, parameter_groups

JUDGED_AT = (-4.0, -2.0, 0.0, 2.0)
UNSEEN = 256


@dataclass(frozen=True)
class Design:
    """What is tried. `log_snr` None draws times uniformly; `min_snr` is γ of that weighting (Hang et al. 2023).

    `repa` weighs the alignment of the middle block with toybox-dino's patches (Yu et al. 2025). `empty` is the share of
    captions left out. `hidden` is the share of 2 x 2 places of the noisy latents that the model does not see, and has
    to make up (as in Gao et al. 2023, MDT). `progressive` replaces the first half of the batches by four times as many
    of half the size, which take as long. `average` 0 judges the last weights.
    """

    target: str = "v"
    log_snr: tuple[float, float] | None = denoiser.LOG_SNR
    min_snr: float | None = None
    subject_weight: float = denoiser.SUBJECT_WEIGHT
    repa: float = 0.0
    channels: tuple[int, ...] = (96, 160)
    attention_everywhere: bool = False
    frozen_text: bool = False
    adam: bool = False
    rate: float = 2e-3
    batch: int = 64
    average: float = 0.999
    empty: float = denoiser.EMPTY
    hidden: float = 0.0
    progressive: bool = False
    latent_channels: int = autoencoder.CHANNELS


DESIGNS = {
    "the embedded one's": Design(),
    "epsilon instead of v": Design(target="epsilon"),
    "rectified flow": Design(target="flow"),
    "uniform times, min-SNR 5": Design(log_snr=None, min_snr=5.0),
    "times of less noise, mean 0": Design(log_snr=(0.0, 2.2)),
    "no weight on the subject": Design(subject_weight=0.0),
    "aligned with toybox-dino (REPA 0.5)": Design(repa=0.5),
    "AdamW 6e-4 instead of Muon": Design(adam=True, rate=6e-4),
    "rate 4e-3": Design(rate=4e-3),
    "batch 32": Design(batch=32),
    "batch 128": Design(batch=128),
    "text encoder frozen as it begins": Design(frozen_text=True),
    "64-128 channels": Design(channels=(64, 128)),
    "128-192 channels": Design(channels=(128, 192)),
    "attention at 16 x 16 too": Design(attention_everywhere=True),
    "no empty captions": Design(empty=0.0),
    "a quarter of the captions empty": Design(empty=0.25),
    "a quarter of the places hidden": Design(hidden=0.25),
    "half of the time at half the size": Design(progressive=True),
    "the last weights, not their average": Design(average=0.0),
}


class Trial:
    """One design in training; everything random follows from the step."""

    def __init__(self, design: Design, latents: Latents, images: Tensor, pipe: StableDiffusionPipeline) -> None:
        torch.manual_seed(0)
        self.design, self.latents, self.images = design, latents, images
        self.words = Words.of(pipe.tokenizer)
        self.model = _denoiser(design, pipe)
        schedule = denoiser.scheduler()
        self.keep = schedule.alphas_cumprod
        self.log_snr = (self.keep / (1 - self.keep)).log()
        self.teacher = ViTModel.from_pretrained(embedded()["toybox-dino"]).eval() if design.repa else None
        width = self.teacher.config.hidden_size if self.teacher else 1
        self.head = nn.Conv2d(design.channels[-1], width, 1)
        self.small = _half_size(latents, images, pipe.vae) if design.progressive else latents
        self.middle: list[Tensor] = []
        self.model.unet.mid_block.register_forward_hook(lambda _module, _inputs, output: self.middle.append(output))

    def corrupt(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, the model's times, the target, and the shares of picture and noise, at wanted ratios [B]."""
        if self.design.target == "flow":
            share = torch.sigmoid(-log_snr / 2).view(-1, 1, 1, 1)
            return (1 - share) * clean + share * noise, 1000 * share.flatten(), noise - clean, 1 - share, share
        times = denoiser.times_at(self.log_snr, log_snr)
        a, s = (value.sqrt().view(-1, 1, 1, 1) for value in (self.keep[times], 1 - self.keep[times]))
        target = noise if self.design.target == "epsilon" else a * noise - s * clean
        return a * clean + s * noise, times, target, a, s

    def cleaned(self, noisy: Tensor, predicted: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The clean latents that a prediction stands for."""
        if self.design.target == "flow":
            return noisy - s * predicted
        return (noisy - s * predicted) / a if self.design.target == "epsilon" else a * noisy - s * predicted

    def loss(self, step: int, latents: Latents) -> Tensor:
        design, draw = self.design, data.generator(0, "designs", step)
        clean, masks, text = denoiser.batch(latents, self.words, draw, design.batch, design.empty)
        noise = torch.randn(clean.shape, generator=draw)
        if design.log_snr is None:
            ratios = self.log_snr[torch.randint(len(self.log_snr), (design.batch,), generator=draw)]
        else:
            ratios = design.log_snr[0] + design.log_snr[1] * torch.randn(design.batch, generator=draw)
            ratios = ratios.clamp(float(self.log_snr[-1]), float(self.log_snr[0]))
        noisy, times, target, _, _ = self.corrupt(clean, noise, ratios)
        if design.hidden:
            places = torch.rand(len(clean), 1, clean.shape[-2] // 2, clean.shape[-1] // 2, generator=draw)
            noisy = noisy * F.interpolate((places >= design.hidden).float(), scale_factor=2)
        self.middle.clear()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.model(noisy, times, text)
        errors = denoiser.v_error(predicted.float(), target, masks, design.subject_weight)
        if design.min_snr is not None:
            snr = ratios.exp()
            errors = errors * snr.clamp(max=design.min_snr) / (snr + 1)
        return errors.mean() + (design.repa * self._misaligned(step, clean) if design.repa else 0)

    def _misaligned(self, step: int, clean: Tensor) -> Tensor:
        """1 - cosine between the middle's places and the teacher's patches of the clean pictures."""
        assert self.teacher is not None
        rows = torch.randint(len(self.latents.masks), (len(clean),), generator=data.generator(0, "designs", step))
        mirrored = (self.latents.values[0, rows].float() != clean).flatten(1).any(1).view(-1, 1, 1, 1)
        pictures = self.images[rows].float() / 127.5 - 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen = self.teacher(pixel_values=torch.where(mirrored, pictures.flip(-1), pictures)).last_hidden_state
        side = int((seen.shape[1] - 1) ** 0.5)
        wanted = seen[:, 1:].float().transpose(1, 2).unflatten(2, (side, side))
        return 1 - F.cosine_similarity(self.head(self.middle[0].float()), wanted, dim=1).mean()

    def fit(self, pictures: int) -> tuple[Denoiser, float]:
        """The averaged weights after so many pictures, and the processor time that one took, in seconds.

        Where sizes are progressive, four small pictures count as one.
        """
        design, average = self.design, copy.deepcopy(self.model).requires_grad_(False)
        both = nn.ModuleList([self.model, self.head])
        rates = Optimisation(rate=design.rate, batch=design.batch, warmup=50)
        update = adam(both, rates) if design.adam else Optimizer(both, rates).step
        whole = pictures // design.batch
        small = 4 * (whole // 2) if design.progressive else 0
        start, steps = time.process_time(), small + whole - small // 4
        for step in range(steps):
            self.loss(step, self.small if step < small else self.latents).backward()
            nn.utils.clip_grad_norm_(both.parameters(), 1.0)
            update(rates.at(step, step / steps))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), self.model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - min(design.average, (step + 1) / (step + 11)))
        return average, (time.process_time() - start) / (whole * design.batch)

    @torch.no_grad()
    def errors(self, average: Denoiser, clean: Tensor, tokens: Tensor) -> list[float]:
        """Mean squared error of the estimated clean latents over their variance, at each of JUDGED_AT."""
        denoiser.without_fused_attention(average)
        found: list[float] = []
        for ratio in JUDGED_AT:
            noise = torch.randn(clean.shape, generator=data.generator(1, "designs", int(ratio)))
            noisy, times, _, a, s = self.corrupt(clean, noise, torch.full((len(clean),), ratio))
            parts = zip(noisy.split(64), times.split(64), tokens.split(64), strict=True)
            with torch.autocast("cpu", torch.bfloat16):
                predicted = torch.cat([average(*part).float() for part in parts])
            missed = (self.cleaned(noisy, predicted, a, s) - clean).square().mean()
            found.append(float(missed / clean.var()))
        return found


def adam(module: nn.Module, rates: Optimisation) -> Callable[[float], None]:
    """A step at a learning rate by AdamW alone, as `Optimizer.step` is one by Muon; the gradients go with it."""
    first, second, plain = parameter_groups(module)
    decayed = {"params": [*first, *second], "weight_decay": rates.decay}
    groups = [decayed, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rates.rate, betas=(0.9, 0.99), fused=True)

    def step(rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()

    return step


def _denoiser(design: Design, pipe: StableDiffusionPipeline) -> Denoiser:
    size = 8 * int(pipe.unet.config["sample_size"])
    model = denoiser.new(pipe.tokenizer, size=size, channels=design.channels, latent_channels=design.latent_channels)
    if design.attention_everywhere:
        down, up = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
        config = dict(model.unet.config) | {"down_block_types": down, "up_block_types": up}
        model.unet = UNet2DConditionModel.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
    if design.frozen_text:
        model.text_encoder.requires_grad_(False)
    denoiser.without_fused_attention(model)
    return model


def _half_size(latents: Latents, images: Tensor, vae: AutoencoderKL) -> Latents:
    """The same pictures at half their size, encoded anew, for latents of small pictures are not small latents."""
    shrunk = F.interpolate(images.float(), scale_factor=0.5, mode="area").round().to(torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        values = torch.stack([autoencoder.encode(vae, way) for way in (shrunk, shrunk.flip(-1))]).half()
    masks = F.avg_pool2d(latents.masks.float(), 2).round().to(torch.uint8)
    return Latents(values, masks, latents.tokens, latents.sided)


def prepared(work: Path, images: int, pipe: StableDiffusionPipeline) -> tuple[Latents, Tensor, Tensor, Tensor]:
    """The corpus as latents and as pictures; latents and captions of unseen individuals."""
    corpus = data.load(work / "corpus", images)
    latents = denoiser.encode_corpus(corpus, pipe.vae, pipe.tokenizer, work / f"designs-{images}.safetensors", print)
    scenes = [captions.sample_scene(seed, held_out=True) for seed in judges.UNSEEN_SEEDS[:UNSEEN]]
    with torch.autocast("cpu", torch.bfloat16):
        unseen = autoencoder.encode(pipe.vae, references.rendered(work / "references", scenes))
    texts = [captions.caption(scene, seed=index) for index, scene in enumerate(scenes)]
    return latents, corpus.images, unseen, denoiser.tokens(pipe.tokenizer, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".toybox"))
    parser.add_argument("--out", type=Path, default=Path("runs/designs"))
    parser.add_argument("--images", type=int, default=10_240)
    parser.add_argument("--steps", type=int, default=120, help="How many batches of 64 each design sees.")
    parser.add_argument("--only", nargs="*", choices=list(DESIGNS), default=list(DESIGNS))
    options = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(str(embedded()["toybox-sd"]), local_files_only=True)
    latents, images, clean, tokens = prepared(options.work, options.images, pipe)
    options.out.mkdir(parents=True, exist_ok=True)
    print("| design | M parameters | ms a picture | " + " | ".join(f"{ratio:+g}" for ratio in JUDGED_AT) + " |")
    print("|---" * (3 + len(JUDGED_AT)) + "|")
    for name in options.only:
        trial = Trial(DESIGNS[name], latents, images, pipe)
        average, seconds = trial.fit(64 * options.steps)
        errors = trial.errors(average, clean, tokens)
        millions = sum(parameter.numel() for parameter in average.parameters()) / 1e6
        print(
            f"| {name} | {millions:.1f} | {1000 * seconds:.0f} | " + " | ".join(f"{e:.4f}" for e in errors) + " |",
            flush=True,
        )
        with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"design": name, "steps": options.steps, "seconds": seconds, "errors": errors}) + "\n"
            )


if __name__ == "__main__":
    main()
