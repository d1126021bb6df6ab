"""The seam between one family of models and everything else: trainer, prior and generator know only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dreambooth.backbones.source import Source
from dreambooth.precision import MixedPrecision
from dreambooth.process import NoiseProcess
from dreambooth.transfer import onto

if TYPE_CHECKING:
    from PIL.Image import Image

Sampler = Literal["ddim", "dpm++", "unipc", "euler", "ancestral", "ddpm"]
Stage = Literal["base", "sr"]
LayerKind = Literal["attention", "linear", "all"]


@dataclass(frozen=True)
class Conditioning:
    """What tells the denoiser about its prompts: named tensors whose first dimension is the row.

    Opaque outside the backbone that made it, but that a tensor of four dimensions [B, C, H, W] lies over the latents,
    place by place.
    """

    tensors: dict[str, Tensor]

    def take(self, rows: Tensor | Sequence[int]) -> Conditioning:
        """The given rows, in the given order (a row may repeat)."""
        index = torch.as_tensor(rows)
        return Conditioning({name: value[onto(index, value.device)] for name, value in self.tensors.items()})

    def to(self, device: torch.device | str) -> Conditioning:
        return Conditioning({name: value.to(device) for name, value in self.tensors.items()})

    def cut(self, corners: Sequence[tuple[int, int]], side: int) -> Conditioning:
        """What lies over the latents cut as they are by `windows`."""
        cut = {name: windows(value, corners, side) for name, value in self.tensors.items() if value.ndim == 4}
        return Conditioning(self.tensors | cut)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of all parts, one after the other."""
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


def windows(maps: Tensor, corners: Sequence[tuple[int, int]], side: int) -> Tensor:
    """From each row of maps [B, C, H, W] the square of `side` whose upper left corner is (top, left).

    >>> windows(torch.arange(16.0).view(1, 1, 4, 4), [(1, 2)], 2).flatten().tolist()
    [6.0, 7.0, 10.0, 11.0]
    """
    cut = [row[:, top : top + side, left : left + side] for row, (top, left) in zip(maps, corners, strict=True)]
    return torch.stack(cut)


@dataclass(frozen=True)
class Recipe:
    """The defaults of one way of training."""

    learning_rate: float
    max_train_steps: int
    train_batch_size: int


@dataclass(frozen=True)
class Enlarging:
    """How a super-resolver draws; a field at None takes the model's own.

    `noise_level` is the share 0..1 of the model's noising schedule up to which the low-resolution picture is noised.
    With `upscale`, a model that has an upscaler behind its super-resolver uses it.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    noise_level: float | None = None
    upscale: bool = False


@dataclass(frozen=True)
class LoraTargets:
    """Layers of one module that adapters may go on, by the ends of their names; `prefix` is the module's in files."""

    prefix: str
    attention: tuple[str, ...]
    linear: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()

    def of(self, kind: LayerKind) -> list[str]:
        """The attention projections; with "linear" the other linear layers too; with "all" also convolutions.

        >>> LoraTargets("unet", ("to_q",), ("ff.net.2",), ("conv1",)).of("linear")
        ['to_q', 'ff.net.2']
        """
        linear = () if kind == "attention" else self.linear
        return [*self.attention, *linear, *(self.convolutions if kind == "all" else ())]


@dataclass(frozen=True)
class Spec:
    """What a family needs to know about itself: sizes, and the defaults that suit it.

    `resolution` is in pixels, `max_tokens` counts a prompt's tokens with its start and end markers.
    `native_size` is one training example's shape, e.g. (4, 64, 64) for latents. `textual_inversion` are the defaults
    of that method: unless said otherwise its authors' base rate, which they multiply by the batch size, and steps.
    `stages` are those of a cascade up to this one, `enlarging` how its super-resolver draws, and `released` the modules
    that `release_text_encoder` frees.
    `text_encoder_share` is the text encoder's rate as a share of the denoiser's, for a model that is trained with it by
    default; `lora_text_share` the same for its adapters. `averaged` has full fine-tuning keep a moving average of the
    weights by default. `unprompted_share` is its share of prior rows that are samples of no prompt.
    `composed_share` is the share of the photos' rows that are composed examples.
    `timestep_shift` moves training times, towards noise where it is above 1.
    `crop_size` is the side of the cut-outs that a super-resolver trains on, a multiple of `crop_step` as their corners.
    `lora` are those of the adapters, and `lora_targets` the layers they go on, by module; none where unknown.
    `embedding_names` are those that a learned word has in files, one for each text encoder; by default the word itself.
    """

    family: str
    resolution: int
    native_size: tuple[int, ...]
    max_tokens: int
    trainable: tuple[str, ...]
    learning_rate: float
    max_train_steps: int
    train_batch_size: int
    num_class_images: int
    num_inference_steps: int
    guidance_scale: float
    sampler: Sampler
    textual_inversion: Recipe = Recipe(learning_rate=5e-3, max_train_steps=5000, train_batch_size=1)
    text_encoder_share: float | None = None
    lora_text_share: float | None = None
    averaged: bool = False
    unprompted_share: float = 0.0
    composed_share: float = 0.0
    timestep_shift: float | None = None
    crop_size: int | None = None
    crop_step: int = 1
    stages: tuple[Stage, ...] = ("base",)
    enlarging: Enlarging | None = None
    released: tuple[str, ...] = ()
    lora: Recipe = Recipe(learning_rate=1e-4, max_train_steps=500, train_batch_size=1)
    lora_targets: Mapping[str, LoraTargets] = field(default_factory=dict[str, LoraTargets])
    embedding_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn. `guidance_scale` 1 is none; `sampler` None keeps the model's own scheduler.

    In a cascade all but `enlarging` is about its base. `mixed_precision` is the denoiser's; images are always decoded
    as the weights are.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    sampler: Sampler | None = None
    negative_prompt: str = ""
    enlarging: Enlarging = Enlarging()
    mixed_precision: MixedPrecision = "no"


def is_text_encoder(name: str) -> bool:
    """Whether a module of that name reads prompts: "text_encoder", and "text_encoder_2" where there are two."""
    return name.startswith("text_encoder")


class Backbone(Protocol):
    """One family of models. Latents are whatever the denoiser trains in: pixels for a pixel-space model."""

    spec: Spec
    process: NoiseProcess
    source: Source

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """One for each text encoder, in the order of `modules`."""
        ...

    @tokenizers.setter
    def tokenizers(self, tokenizers: tuple[Any, ...]) -> None: ...

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Named torch modules: "denoiser", "text_encoder", and frozen ones such as "autoencoder"."""
        ...

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device | str) -> None:
        """Moves all modules."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1 to latents [B, *native_size]; no gradient."""
        ...

    def decode_latents(self, latents: Tensor) -> list[Image]:
        """Latents [B, *native_size] to pictures."""
        ...

    def stage(self, name: Stage) -> Backbone:
        """The part of a cascade that trains under this name; a model of one stage is its own."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """How many tokens the prompt is, its start and end markers too, even those that `encode_prompts` cuts off."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """One row of conditioning a prompt; carries a gradient when the text encoder trains."""
        ...

    def release_text_encoder(self) -> None:
        """Frees a text encoder that is large and never trained; prompts that were encoded before stay known.

        From here on it is loaded for a new prompt alone. Does nothing where prompts are cheap to encode.
        """
        ...

    def conditioned_on(
        self, conditioning: Conditioning, clean: Tensor, draws: Sequence[torch.Generator]
    ) -> Conditioning:
        """The conditioning of training rows `clean` [B, *native_size], with what is made of the rows themselves.

        Such as a super-resolver's small noisy pictures; `draws` has a generator of its own for each row. Most families
        are told nothing but the prompt and return `conditioning`.
        """
        ...

    def denoise(self, noisy: Tensor, model_time: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction for noisy latents [B, ...] at `model_time` [B], shaped like the target."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> list[Image]:
        """One picture for each prompt and seed; picture i depends on prompt i and seed i alone."""
        ...

    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """As `generate`, but the latents [B, *native_size] that the pictures would be decoded from."""
        ...

    def set_resolution(self, resolution: int) -> None:
        """Train and draw at this many pixels a side; raises ModelError where the model cannot."""
        ...

    def spare_memory(self, on: bool) -> None:
        """Whether pictures are drawn and coded with as little of a device's own memory as can be, in more time."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes activations in the backward pass: less memory, about a third more time."""
        ...

    def save_pipeline(self, folder: Path) -> None:
        """A plain diffusers pipeline folder, in safetensors."""
        ...
