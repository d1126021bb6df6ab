"""Where in each photo the subject is, so that the loss can count its background less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dreambooth.errors import ConfigError, PhotoError
from dreambooth.photo import Photo, Refusal, read_mask
from dreambooth.subject import MASK_SUFFIX, Subject

WHITE_ENOUGH = 128  # a mask without a pixel this light shows no subject
WAYS = (
    "put NAME.mask.png beside each photo (white where the subject is), give --masks FOLDER with files named as the "
    "photos, use photos with a transparent background, or give --segmenter"
)


def with_masks(
    subject: Subject,
    folder: Path | None,
    segment: Callable[[Sequence[Image.Image]], Sequence[Image.Image]] | None = None,
) -> Subject:
    """The subject with a mask of every photo: from `folder`, else beside it, else its transparency, else `segment`.

    `segment` gets the square photos that have no mask. Raises PhotoError for a photo without a mask, or whose mask
    cannot be used; ConfigError where there is no `folder`.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"There is no folder {folder} for --masks; give one that holds masks named as the photos.")
    found = [mask_of(photo, subject, folder) for photo in subject.photos]
    bare = [photo for photo, mask in zip(subject.photos, found, strict=True) if mask is None]
    if bare and segment is None:
        names = ", ".join(photo.path.name for photo in bare)
        raise PhotoError(f"There is no mask for {names}: {WAYS}; or leave --masked-loss out.")
    drawn = iter(segment([photo.image for photo in bare]) if bare and segment else [])
    masks = tuple(next(drawn) if mask is None else mask for mask in found)
    for photo, mask in zip(subject.photos, masks, strict=True):
        if int(np.asarray(mask).max()) < WHITE_ENOUGH:
            raise PhotoError(
                f"The mask of {photo.path.name} shows no subject in the square that is kept; it has to be white where "
                "the subject is. Correct it, or leave this photo out."
            )
    return replace(subject, masks=masks)


def mask_of(photo: Photo, subject: Subject, folder: Path | None) -> Image.Image | None:
    """The mask that comes with a photo, if there is one."""
    places = [photo.path.with_name(photo.path.stem + MASK_SUFFIX)]
    if folder is not None:
        names, photos = (photo.path.stem + ".mask", photo.path.stem), {each.path.resolve() for each in subject.photos}
        there = [path for path in sorted(folder.iterdir()) if path.is_file() and path.resolve() not in photos]
        places = [*(path for name in names for path in there if path.stem == name), *places]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        return photo.alpha
    try:
        return read_mask(file, photo.size, subject.resolution, subject.crop)
    except Refusal as refusal:
        raise PhotoError(f"The mask {file} cannot be used: {refusal.reason}.") from None


def coverage(masks: Sequence[Image.Image]) -> float:
    """The share of the photos that the subject fills, 0..1."""
    return float(np.mean([np.asarray(mask) for mask in masks])) / 255


def to_tensor(masks: Sequence[Image.Image]) -> Tensor:
    """Grey masks of R pixels a side as one float32 tensor [N, 1, R, R] in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(mask.convert("L")) for mask in masks]))[:, None].float().div(255)


def pixel_weights(masks: Tensor, native_size: tuple[int, ...], background: float) -> Tensor:
    """What each place of a training example counts in its row's error: 1 on the subject, `background` beside it.

    `masks` [N, 1, R, R] in 0..1; result [N, 1, *native_size[1:]]. A place that the subject's edge goes through counts
    by the share of it that the subject covers.

    >>> pixel_weights(torch.tensor([[[[1.0, 1.0, 0.0, 0.0]] * 4]]), (4, 2, 2), background=0.25)
    tensor([[[[1.0000, 0.2500],
              [1.0000, 0.2500]]]])
    """
    height, width = native_size[-2:]
    return background + (1 - background) * adaptive_avg_pool2d(masks.clamp(0, 1), (height, width))
