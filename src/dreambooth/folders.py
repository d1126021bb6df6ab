"""Folders that pictures go to, tried before the work and not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dreambooth.errors import ConfigError


def make_writable(folder: Path) -> None:
    """Makes the folder, with those above it, if it is not there. Raises ConfigError when nothing can be put into it."""
    _refuse_files(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; give another --out.") from error


def require_empty(folder: Path) -> None:
    """Raises ConfigError for a folder with files in it, with which new ones would mix, or one that cannot be read."""
    _refuse_files(folder)
    try:
        there = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; give another --out.") from error
    if there:
        raise ConfigError(f"{folder} holds other files, such as {there[0]}; give an --out that is new or empty.")


def _refuse_files(folder: Path) -> None:
    """Raises ConfigError where it, or what it would lie in, is there and is no folder."""
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), None)
    if there is not None and not there.is_dir():
        raise ConfigError(f"{folder} cannot be written: {there} is no folder; give another --out.")
