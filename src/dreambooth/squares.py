"""The run's own photos: the squares that the model sees, kept in the run folder, and read again by a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dreambooth.checkpoint import RunFolder
from dreambooth.errors import ModelError, RunError
from dreambooth.masks import to_tensor
from dreambooth.subject import MASK_SUFFIX, Subject, load_subject

INCOMPLETE = "{} is missing or broken; the run folder is incomplete. Begin anew from the photos."


def keep(folder: RunFolder, subject: Subject, facts: dict[str, Any]) -> None:
    """Writes the squares that the model will see, losslessly, and what is known of them. Raises OSError."""
    photos: list[dict[str, Any]] = []
    for index, (photo, entry) in enumerate(zip(subject.photos, facts["photos"], strict=True)):
        file = f"photos/{index:02d}.png"
        photo.image.save(folder.path / file)
        kept = {"file": file}
        if subject.masks is not None:
            kept["mask"] = f"photos/{index:02d}{MASK_SUFFIX}"
            subject.masks[index].save(folder.path / kept["mask"])
        # Without the full path: run folders are passed on, and nobody's folder names should be.
        photos.append(kept | {"source": photo.path.name} | {k: v for k, v in entry.items() if k != "path"})
    folder.write_json("subject.json", facts | {"photos": photos})


def read(folder: RunFolder, resolution: int) -> torch.Tensor:
    """The run's own photos [N, 3, R, R] in -1..1, so that a resumed run needs no original.

    Where it has masks, they are a fourth channel: what crops and mirrors the photos does the same to them.
    Raises RunError where one is missing or broken.
    """
    facts = folder.read_json("subject.json")
    files = [folder.path / entry["file"] for entry in facts["photos"]]
    there = [str(file) for file in files if file.is_file()]
    subject = load_subject(there, facts["class_noun"], resolution) if there else None
    read = {photo.path for photo in subject.photos} if subject else set[Path]()
    lost = [file for file in files if file not in read]
    if subject is None or lost:
        raise RunError(INCOMPLETE.format(lost[0]))
    pixels = subject.pixels()
    masks = [_mask(folder.path / entry["mask"], resolution) for entry in facts["photos"] if "mask" in entry]
    return torch.cat([pixels, to_tensor(masks).mul(2).sub(1)], 1) if masks else pixels


def refuse_broken(latents: torch.Tensor, files: list[str]) -> None:
    """Raises ModelError for latents [views · photos, ...] that are not finite: the loss would be blamed for them."""
    broken = (~latents.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise ModelError(
            f"The model's autoencoder makes of {files[broken[0] % len(files)]} what is not finite, so nothing can be "
            "learned from it. Leave that photo out, or give another --model if that does not help."
        )


def _mask(path: Path, resolution: int) -> Image.Image:
    try:
        with Image.open(path) as mask:
            return mask.convert("L").resize((resolution, resolution), Image.Resampling.BOX)
    except OSError as error:
        raise RunError(INCOMPLETE.format(path)) from error
