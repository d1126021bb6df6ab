"""Folders that pictures go to, tried before the work and not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dreambooth.errors import ConfigError


def make_writable(folder: Path) -> None:
    """Makes the folder, with those above it, if it is not there. Raises ConfigError when nothing can be put into it."""
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if os.path.lexists(there) and not there.is_dir():
        raise ConfigError(f"{folder} cannot be written: {there} is no folder; give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; give another --out.") from error


def require_empty(folder: Path) -> None:
    """Raises ConfigError for a folder with files in it, which might be written over."""
    if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir() if path.name[0] != ".")):
        raise ConfigError(f"{folder} holds files already, such as {there[0]}; give an --out that is new or empty.")
