"""From nothing to `toybox-if`, the embedded cascade in the manner of Imagen: pictures, tokenizer, base, super-resolver.

Every stage leaves its result in the work folder and is skipped, or goes on, when it is there already.
"""

from __future__ import annotations

import copy
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Tokenizer

from dreambooth.backbones.cascade import Notes
from dreambooth.backbones.cascade_files import SUPER_RESOLUTION, write_notes
from dreambooth.toybox import captions, cards, data, pixels, unigram, upscaler
from dreambooth.toybox.fit import Budget, Fitted, Log, Module, Optimisation
from dreambooth.toybox.pixels import Pixels
from dreambooth.toybox.upscaler import Upscaler

BASE_BUDGET, UPSCALER_BUDGET = Budget(steps=6_000), Budget(steps=4_000)
BASE_RATES = Optimisation(rate=2e-3, batch=48, warmup=150)
UPSCALER_RATES = Optimisation(rate=2e-3, batch=24, warmup=100, average=0.998)


@dataclass(frozen=True)
class CascadeConfig:
    """What is trained, on how much, for how long; the defaults take about three hours on a free core."""

    images: int = 20_480
    large_images: int = 3_072
    size: int = upscaler.SIZE
    seed: int = 0
    base: Budget = BASE_BUDGET
    super_resolution: Budget = UPSCALER_BUDGET
    base_rates: Optimisation = BASE_RATES
    upscaler_rates: Optimisation = UPSCALER_RATES
    base_channels: tuple[int, ...] = pixels.BLOCKS
    upscaler_channels: tuple[int, ...] = upscaler.BLOCKS
    width: int = 128
    """Of the text encoder."""
    layers: int = 3
    compiled: bool = True
    """Render through torch.compile; on CUDA train the base through it as well."""

    def on_cuda(self) -> CascadeConfig:
        """The same with batches that fill a GPU, and as many times the pictures seen."""
        return replace(
            self,
            base_rates=replace(self.base_rates, batch=8 * self.base_rates.batch),
            upscaler_rates=replace(self.upscaler_rates, batch=8 * self.upscaler_rates.batch),
        )


def train(
    out: Path, config: CascadeConfig | None = None, *, work: Path = Path(".toybox"), device: str = "auto",
    resume: bool = True, log: Log = print,
) -> None:  # fmt: skip
    """Train both stages and save them at `out`: an IFPipeline with its super-resolver in a folder inside, float16.

    The state lies in `work`. Raises TrainingError when a loss is not finite.
    """
    config = config or CascadeConfig()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = config.on_cuda() if device.startswith("cuda") else config
    render: dict[str, Any] = {"compiled": config.compiled, "log": log}
    data.extend(work / "corpus", config.images, size=config.size // 2, **render)
    data.extend(work / "large", config.large_images, size=config.size, **render)
    words = learn_words()
    torch.manual_seed(config.seed)
    model = pixels.new(
        words, size=config.size // 4, channels=config.base_channels, width=config.width, layers=config.layers
    )
    examples = pixels.examples(data.load(work / "corpus", config.images), words, config.size // 4)
    base = pixels.train(
        examples, words, work, config.base, config.base_rates, model=model, device=device, seed=config.seed,
        compiled=config.compiled and device.startswith("cuda"), resume=resume, log=log,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    large = upscaler.train(
        data.load(work / "large", config.large_images), base.module.text_encoder, words, work, config.super_resolution,
        config.upscaler_rates, model=upscaler.new(config.width, config.upscaler_channels, config.size), device=device,
        seed=config.seed, resume=resume, log=log,
    )  # fmt: skip
    save(out, base.module, large.module, words)
    write_card(out, config, base, large, device)
    log(f"saved {out}")


def learn_words(scenes: int = 20_000) -> T5Tokenizer:
    """The tokenizer of the captions of as many scenes; however many pictures there are, it is the same."""
    return unigram.build(captions.caption(captions.sample_scene(seed), seed=seed) for seed in range(scenes))


def save(out: Path, base: Pixels, large: Upscaler, words: T5Tokenizer) -> None:
    """Write both pipelines in float16, whole or not at all; the text encoder stands in the base's folder alone. Its
    configuration asks for float32: transformers 5 loads what that says."""
    draft = out.with_name(out.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    halves = _half(base), _half(large)
    pixels.pipeline(halves[0], words).save_pretrained(draft)
    upscaler.pipeline(halves[1], None, None).save_pretrained(draft / SUPER_RESOLUTION)
    write_notes(draft, Notes(noise_level=upscaler.PRESENT))
    config = draft / "text_encoder" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"float16"', '"float32"'), "utf-8")
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def _half(module: Module) -> Module:
    return copy.deepcopy(module).to("cpu", torch.float16)


def write_card(out: Path, config: CascadeConfig, base: Fitted[Pixels], large: Fitted[Upscaler], device: str) -> None:
    """The model card; its numbers are measured later, by `dreambooth toybox assess`."""
    card = cards.CASCADE.format(
        images=config.images,
        large_images=config.large_images,
        base_size=_millions(base.module.unet),
        text_size=_millions(base.module.text_encoder),
        vocabulary=base.module.text_encoder.config.vocab_size,
        large_size=_millions(large.module),
        base_steps=base.steps,
        base_batch=config.base_rates.batch,
        base_minutes=base.seconds / 60,
        base_loss=base.loss,
        large_steps=large.steps,
        large_batch=config.upscaler_rates.batch,
        large_minutes=large.seconds / 60,
        large_loss=large.loss,
        device=f"{device}, {platform.machine()}, {torch.get_num_threads()} threads",
        base_log_snr="mean {:g}, deviation {:g}".format(*pixels.LOG_SNR),
        large_log_snr="mean {:g}, deviation {:g}".format(*upscaler.LOG_SNR),
        numbers="\n".join((cards.NUMBERS[0], cards.UNMEASURED_CASCADE, cards.NUMBERS[1])),
    )
    (out / "README.md").write_text(card, "utf-8")


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
