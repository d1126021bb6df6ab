"""DreamBooth: a few photos of a subject in, a text-to-image model that knows it by a rare word out.

>>> import dreambooth as db
>>> run = db.personalize("photos/", class_noun="dog")  # doctest: +SKIP
>>> run.generate("a {subject} on the beach")  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import DreamBoothError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from dreambooth.run import Run

__version__ = "0.1.0"
__all__ = ["DreamBoothError", "generate", "load", "personalize"]


def personalize(
    photos: str | Path | Sequence[str | Path], class_noun: str, *, quiet: bool = False, **settings: Any
) -> Run:
    """Fine-tunes a model on photos of one subject and returns the finished run.

    `settings` are those of the configuration (`model`, `max_train_steps`, `out`, ...).
    Raises DreamBoothError, whose message says what to do.
    """
    from dreambooth.config import make_config
    from dreambooth.ui import Display
    from dreambooth.workflow import start

    given = [photos] if isinstance(photos, str | Path) else list(photos)
    config = make_config({"photos": [str(path) for path in given], "class_noun": class_noun, **settings})
    return start(config, Display(quiet))


def load(run: str | Path, device: str = "auto") -> Run:
    """A finished run by its folder, to draw on `device`. Raises RunError when there is none."""
    from dreambooth.checkpoint import RunFolder
    from dreambooth.run import Run

    return Run(RunFolder.open(Path(run)), device)


def generate(run: str | Path, prompt: str | Sequence[str], count: int = 4, seed: int = 0) -> list[Image]:
    """`count` pictures of each prompt by a finished run; {subject} stands for the subject."""
    return load(run).generate(prompt, count, seed)
