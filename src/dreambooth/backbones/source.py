"""Where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreambooth.config import AUGMENTATIONS


@dataclass(frozen=True)
class CascadeParts:
    """What goes with a base model: other places where the later models are, and how a super-resolver is trained.

    `augmentation` is the range of levels drawn in training, as shares 0..1 of the super-resolver's noising schedule.
    """

    super_resolver: str | None = None
    upscaler: str | None = None
    augmentation: tuple[float, float] = AUGMENTATIONS["low"]


@dataclass(frozen=True)
class Source:
    """What the user wrote, and the folder, file or hub id that it stands for.

    `config` is a diffusers folder that lends a single file its configuration and tokenizer.
    """

    name: str
    location: str
    kind: Literal["embedded", "folder", "file", "hub"]
    config: Path | None = None
    parts: CascadeParts = CascadeParts()
