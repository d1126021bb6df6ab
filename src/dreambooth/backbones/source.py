"""Where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Source:
    """What the user wrote, and the folder, file or hub id that it stands for.

    `config` is a diffusers folder that lends a single file its configuration and tokenizer.
    """

    name: str
    location: str
    kind: Literal["embedded", "folder", "file", "hub"]
    config: Path | None = None
