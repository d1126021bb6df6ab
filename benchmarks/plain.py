"""The plain loop: DreamBooth as people run it today, written here from the public recipe.

What makes it plain, and what it has in common with diffusers' `train_dreambooth.py` (whose defaults it takes):
photos, prior images and prompts are read, prepared and encoded anew at every step; prior samples are drawn by the
pipeline with its own sampler, 50 steps and its own guidance, four at a time, and kept as image files; the halves of a
batch are cut apart for the two terms of the loss; AdamW is torch's; everything is eager. It writes no checkpoints and
no log, which the public scripts do, so it is a little faster than they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

SAMPLE_BATCH_SIZE = 4


def training_dtype(device: str) -> torch.dtype:
    """What the recipe trains in: bfloat16 on CUDA, float32 on the CPU."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def parts_of(pipeline: Any, name: str) -> list[Any]:
    """The pipeline's part of that name, and SDXL's second one."""
    return [part for ending in ("", "_2") if (part := getattr(pipeline, name + ending, None)) is not None]


class Files(Dataset[dict[str, Tensor]]):
    """Photo and prior image number i with their tokens, read from disk and prepared whenever they are asked for."""

    def __init__(self, photos: Path, prior: Path, prompts: tuple[str, str], pipeline: Any, resolution: int) -> None:
        self.photos, self.prior = sorted(photos.iterdir()), sorted(prior.iterdir())
        self.prompts, self.tokenizers, self.resolution = prompts, parts_of(pipeline, "tokenizer"), resolution

    def __len__(self) -> int:
        return max(len(self.photos), len(self.prior))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "photo": self._pixels(self.photos[index % len(self.photos)]),
            "photo_ids": self._tokens(self.prompts[0]),
            "prior": self._pixels(self.prior[index % len(self.prior)]),
            "prior_ids": self._tokens(self.prompts[1]),
        }

    def _pixels(self, path: Path) -> Tensor:
        """[3, R, R] in -1..1: the shorter side resized to R, then a random crop."""
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = self.resolution / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(side - self.resolution + 1, ())) for side in image.size)
        window = image.crop((left, top, left + self.resolution, top + self.resolution))
        return torch.from_numpy(np.array(window)).permute(2, 0, 1).float() / 127.5 - 1

    def _tokens(self, prompt: str) -> Tensor:
        """[E, T]: by each of the tokenizers."""
        return torch.cat(
            [
                tokenizer(
                    prompt,
                    padding="max_length",
                    truncation=True,
                    max_length=tokenizer.model_max_length,
                    return_tensors="pt",
                ).input_ids
                for tokenizer in self.tokenizers
            ]
        )


def collate(examples: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pixels [2B, 3, R, R] and tokens [2B, E, T]: all photos, then all prior images."""
    rows = {key: [example[key] for example in examples] for key in examples[0]}
    return torch.stack(rows["photo"] + rows["prior"]), torch.stack(rows["photo_ids"] + rows["prior_ids"])


def halved_loss(prediction: Tensor, target: Tensor, prior_loss_weight: float = 1.0) -> Tensor:
    """Mean square error of the first half plus that of the second, the prior images."""
    subject, prior = prediction.float().chunk(2)
    subject_target, prior_target = target.float().chunk(2)
    return mse_loss(subject, subject_target) + prior_loss_weight * mse_loss(prior, prior_target)


@dataclass
class Loop:
    """Denoiser in training, frozen encoders, the DDPM schedule and torch's AdamW; `seconds` by what they went to."""

    denoiser: Any
    autoencoder: Any
    text_encoders: list[Any]
    schedule: Any
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype
    seconds: dict[str, float]
    max_grad_norm: float = 1.0

    @classmethod
    def build(cls, pipeline: Any, device: str, dtype: torch.dtype, learning_rate: float) -> Loop:
        """Takes a pipeline's parts. In bfloat16 the frozen ones are cast and the denoiser computes under autocast.

        SDXL's autoencoder stays in float32, as the recipe has it.
        """
        from diffusers import DDPMScheduler

        denoiser = pipeline.unet.to(device).requires_grad_(True).train()
        encoders = parts_of(pipeline, "text_encoder")
        encoders = [part.to(device, dtype).requires_grad_(False).eval() for part in encoders]
        exact = dtype if len(encoders) == 1 else torch.float32
        autoencoder = pipeline.vae.to(device, exact).requires_grad_(False).eval()
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=learning_rate, weight_decay=1e-2)
        schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        return cls(denoiser, autoencoder, encoders, schedule, optimizer, torch.device(device), dtype, {})

    def step(self, pixels: Tensor, tokens: Tensor) -> float:
        """One step from pixels and tokens; returns its loss."""
        start = perf_counter()
        with torch.no_grad():
            latents = self.autoencoder.encode(pixels.to(self.device, self.autoencoder.dtype)).latent_dist.sample()
            latents = latents * self.autoencoder.config.scaling_factor
            encoded = perf_counter()
            hidden, added = self.read(tokens, pixels.shape[-1])
        self._spend("encode photos", encoded - start)
        self._spend("encode prompts", perf_counter() - encoded)
        noise = torch.randn_like(latents)
        steps = self.schedule.config.num_train_timesteps
        time = torch.randint(0, steps, (len(latents),), device=self.device)
        return self.step_from(latents, hidden, noise, time, added)

    def read(self, tokens: Tensor, resolution: int) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Hidden states of tokens [2B, E, T]; of two text encoders, SDXL's, also the pooled ones and the time ids."""
        ids = tokens.to(self.device).unbind(1)
        told = [encoder(own, output_hidden_states=True) for encoder, own in zip(self.text_encoders, ids, strict=True)]
        if len(told) == 1:
            return told[0][0], None
        size = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], device=self.device)
        added = {"text_embeds": told[-1][0], "time_ids": size.repeat(len(tokens), 1)}
        return torch.cat([one.hidden_states[-2] for one in told], dim=-1), added

    def step_from(
        self, latents: Tensor, hidden: Tensor, noise: Tensor, time: Tensor, added: dict[str, Tensor] | None = None
    ) -> float:
        """The rest of a step, from given latents [2B, ...], conditioning, noise and times [2B]."""
        start = perf_counter()
        noisy = self.schedule.add_noise(latents, noise, time)
        autocast = torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()
        with autocast:
            prediction = self.denoiser(noisy, time, hidden, added_cond_kwargs=added, return_dict=False)[0]
        if self.schedule.config.prediction_type == "v_prediction":
            target = self.schedule.get_velocity(latents, noise, time)
        else:
            target = noise
        loss = halved_loss(prediction, target)
        loss.backward()
        computed = perf_counter()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        told = loss.item()
        self._spend("forward and backward", computed - start)
        self._spend("optimizer", perf_counter() - computed)
        return told

    def _spend(self, what: str, seconds: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds


def train(
    loop: Loop, files: Files, rows: int, steps: int, on_step: Callable[[int], None] = lambda step: None
) -> list[float]:
    """`steps` steps of `rows` photos and as many prior images; returns their losses."""
    batches = _endless(DataLoader(files, batch_size=min(rows, len(files)), shuffle=True, collate_fn=collate))
    losses: list[float] = []
    for step in range(1, steps + 1):
        start = perf_counter()
        pixels, tokens = next(batches)
        loop.seconds["read files"] = loop.seconds.get("read files", 0.0) + perf_counter() - start
        losses.append(loop.step(pixels, tokens))
        on_step(step)
    return losses


def draw_prior(pipeline: Any, prompt: str, count: int, folder: Path) -> None:
    """Images of the bare class as PNG files, by the pipeline's own sampler, number of steps and guidance."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, SAMPLE_BATCH_SIZE):
        images = pipeline([prompt] * min(SAMPLE_BATCH_SIZE, count - start)).images
        for index, image in enumerate(images, start):
            image.save(folder / f"{index:06d}.png")


def draw(pipeline: Any, prompts: list[str], seed: int) -> list[Image.Image]:
    """One picture a prompt, with the pipeline's own sampler, number of steps and guidance."""
    generators = [torch.Generator("cpu").manual_seed(seed) for _ in prompts]
    return pipeline(prompts, generator=generators).images


def _endless(batches: DataLoader[dict[str, Tensor]]) -> Iterator[Any]:
    for _ in itertools.count():
        # As the recipe does: what is left over at an epoch's end makes a smaller batch.
        yield from batches
