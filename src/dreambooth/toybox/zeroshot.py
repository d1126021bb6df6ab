"""What a picture shows, chosen by words: the nearest of all captions that differ in one attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dreambooth.toybox import captions, claims, subjects
from dreambooth.toybox.world import Scene


def candidates(scene: Scene, attribute: str) -> list[Scene]:
    """Everything that could be said of `attribute` about a scene: "a dog in the snow", "a dog on the beach" ..."""
    plain = Scene(scene.class_noun, scene.individual)
    values = claims.VALUES[attribute]
    if attribute == "accessory":
        values = tuple(value for value in values if subjects.wears(scene.class_noun, value))
    return [replace(plain, **{attribute: value}) for value in values]


def prompt(scene: Scene, attribute: str) -> str:
    """How a candidate is said: "a photo of a dog" for a class, else as captions say it."""
    text = captions.caption(scene)
    return f"a photo of {text}" if attribute == "class_noun" else text


def judged(
    images: Tensor, scenes: Sequence[Scene], attribute: str, read: Callable[[Sequence[str]], Tensor]
) -> list[bool]:
    """Whether the nearest candidate is true of each scene that has the attribute.

    images [N, D]: unit embeddings of pictures of the scenes; `read` embeds texts in the same space.
    """
    texts: dict[str, Tensor] = {}
    right: list[bool] = []
    for image, scene in zip(images, scenes, strict=True):
        if getattr(scene, attribute) is None:
            continue
        options = candidates(scene, attribute)
        said = [prompt(option, attribute) for option in options]
        if fresh := [text for text in said if text not in texts]:
            texts |= dict(zip(fresh, read(fresh), strict=True))
        best = int((torch.stack([texts[text] for text in said]) @ image).argmax())
        true = claims.truth(claims.rows([options[best]]), claims.rows([scene])).item()
        right.append(true == claims.TRUE)
    return right
