"""A finished run in the hand: its model, its identifier, and pictures of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from dreambooth import drawing, kept, prompts
from dreambooth.backbones.protocol import Backbone, Enlarging, Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import TrainConfig, make_config
from dreambooth.errors import ConfigError, RunError

if TYPE_CHECKING:
    from PIL.Image import Image


class Run:
    """A finished run: `run.generate("a {subject} on the beach")`."""

    def __init__(self, folder: RunFolder, device: str = "auto") -> None:
        """Raises RunError when the run has no model yet."""
        if not folder.finished:
            raise RunError(f"{folder.path} has no model yet; finish it by `{folder.resume_command}`.")
        self.folder, self._device = folder, device
        facts = folder.read_json("subject.json")
        self.identifier: str = facts["identifier"]
        self.class_noun: str = facts["class_noun"]

    @property
    def is_background_process(self) -> bool:
        """Whether this process only helped another, the one that talks to the user."""
        return not PartialState().is_main_process

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @cached_property
    def backbone(self) -> Backbone:
        """The personalised model."""
        return kept.load(self.folder, choose_device(self._device))

    @property
    def sampling(self) -> Sampling:
        own = sampling_of(self.folder.config())
        return replace(own, enlarging=replace(own.enlarging, upscale=True))

    def generate(
        self, prompt: str | Sequence[str], count: int = 4, seed: int = 0, sampling: Sampling | None = None
    ) -> list[Image]:
        """`count` pictures of each prompt, with seeds `seed`, `seed` + 1, ...; {subject} and {class} are filled in.

        Raises ConfigError for a seed or a sampling that a run's own settings could not have.
        """
        sampling = sampling or self.sampling
        _require_settings(sampling, seed)
        templates = [prompt] if isinstance(prompt, str) else list(prompt)
        filled = [(template, self.fill(template)) for template in templates]
        seeds = range(seed, seed + count)
        pictures = drawing.draw(self.backbone, filled, seeds, sampling, 8)
        return [picture.image for picture in pictures]

    def fill(self, template: str) -> str:
        return prompts.fill(template, self.identifier, self.class_noun)


def world(device: str) -> PartialState:
    """The processes of this run, one or as many as `accelerate launch` started."""
    return PartialState(cpu=device == "cpu")


def choose_device(name: str) -> torch.device:
    """The device of that name, or the best there is for "auto". Raises ConfigError when it is not there."""
    if name == "auto":
        return world(name).device or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"The device {name!r} is not available here; use --device auto.") from error
    return device


def sampling_of(config: TrainConfig) -> Sampling:
    """How a resolved config draws previews and pictures."""
    return Sampling(
        num_inference_steps=config.num_inference_steps or Sampling.num_inference_steps,
        guidance_scale=Sampling.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        sampler=config.sampler,
        enlarging=Enlarging(config.sr_num_inference_steps, config.sr_guidance_scale, config.sr_noise_level),
        mixed_precision=config.mixed_precision,
    )


def _require_settings(sampling: Sampling, seed: int) -> None:
    """Raises ConfigError where a config would, of which `sampling_of` reads them."""
    make_config(
        {
            "seed": seed,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": sampling.guidance_scale,
            "sampler": sampling.sampler,
            "sr_num_inference_steps": sampling.enlarging.num_inference_steps,
            "sr_guidance_scale": sampling.enlarging.guidance_scale,
            "sr_noise_level": sampling.enlarging.noise_level,
            "mixed_precision": sampling.mixed_precision,
        }
    )
