"""Where what was made once is kept for other runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(of: str) -> Path:
    """The folder `of` one kind of thing: in $DREAMBOOTH_CACHE, else in the user's cache folder."""
    own = os.environ.get("DREAMBOOTH_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dreambooth"
    return base / of
