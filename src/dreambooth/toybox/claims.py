"""What a caption claims about a picture, and whether it is true: the toybox knows what every picture shows.

Claims and contents are rows of indices, one column an attribute, 0 for what is left unsaid. The truth of one attribute
is looked up in a table [said, shown]; a caption is as true as its worst attribute:

>>> front, dog = Scene("dog", 1, view="from the front"), Scene("dog", 1)
>>> truth(rows([dog, front]), rows([dog, replace(dog, view="seen from behind")])).tolist()
[[1.0, 1.0], [0.5, 0.0]]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from dreambooth.toybox import subjects
from dreambooth.toybox.scenes import CONTEXTS
from dreambooth.toybox.styles import STYLES
from dreambooth.toybox.world import VIEWS, Scene

FALSE, UNKNOWN, TRUE = 0.0, 0.5, 1.0
VALUES: dict[str, tuple[str, ...]] = {
    "class_noun": tuple(subjects.CLASSES),
    "context": tuple(CONTEXTS),
    "accessory": subjects.accessory_names(),
    "property": subjects.PROPERTIES,
    "view": tuple(VIEWS),
    "style": tuple(STYLES),
}
"""The attributes of a scene and what each can be."""
DETAILS = {"accessory": 3, "property": 3, "view": 3}
"""How much likelier than others these are made wrong: they are the smallest things to see."""
BY_NATURE = ("shiny", *subjects.COLOURS)
"""Properties that an individual may have without a caption's saying so."""


def rows(scenes: Sequence[Scene]) -> Tensor:
    """[N, 6] indices of what scenes show or captions say, 0 for nothing."""
    return torch.tensor([[_index(name, getattr(scene, name)) for name in VALUES] for scene in scenes])


def _index(name: str, value: str | None) -> int:
    return 0 if value is None else VALUES[name].index(value) + 1


def mirrored(shown: Tensor, chosen: Tensor) -> Tensor:
    """What the mirror images of the pictures `chosen` [N] show, given what the pictures show [N, 6]. A camera "from
    the side" stands on the right."""
    column, left, right = list(VALUES).index("view"), _index("view", "seen from the left"), _right()
    view = shown[:, column]
    view = torch.where(view == _index("view", "from the side"), right, view)
    swapped = torch.where(view == left, right, torch.where(view == right, left, view))
    result = shown.clone()
    result[:, column] = torch.where(chosen, swapped, view)
    return result


def _right() -> int:
    return _index("view", "seen from the right")


def truth(said: Tensor, shown: Tensor) -> Tensor:
    """[N, T]: FALSE, UNKNOWN or TRUE for each of N pictures [N, 6] and T captions [T, 6]."""
    each = [table[said[:, column]][:, shown[:, column]].T for column, table in enumerate(_tables())]
    return torch.stack(each).amin(0)


@lru_cache
def _tables() -> tuple[Tensor, ...]:
    tables: dict[str, Tensor] = {}
    for name, values in VALUES.items():
        table = torch.eye(len(values) + 1)
        table[0] = TRUE
        tables[name] = table
    for name in BY_NATURE:
        tables["property"][_index("property", name), 0] = UNKNOWN
    views, front, side = tables["view"], _index("view", "from the front"), _index("view", "from the side")
    for shown in (None, "in a close-up", "from far away"):
        views[front, _index("view", shown)] = UNKNOWN
    for shown in ("seen from the left", "seen from the right"):
        views[side, _index("view", shown)] = TRUE
    views[_right(), side] = TRUE
    return tuple(tables.values())


def part_of(scene: Scene, rng: random.Random, share: float = 0.5) -> Scene:
    """The scene with each of its attributes but the class left unsaid now and then."""
    unsaid = {name: None for name in list(VALUES)[1:] if rng.random() >= share}
    return replace(scene, **unsaid)


def changed(scene: Scene, rng: random.Random, name: str | None = None) -> Scene:
    """The scene with one of the things that it says made another: `name`, or any, mostly a detail.

    Half of the time the new one shares a word with the old one, as "red hat" does with "red scarf" and "blue hat", if
    there is one. Accessories stay on those who can wear them.
    """
    said = [attribute for attribute in VALUES if getattr(scene, attribute) is not None]
    name = name or rng.choices(said, [DETAILS.get(attribute, 1) for attribute in said])[0]
    old = getattr(scene, name)
    if name == "class_noun" and scene.accessory is not None:
        others = [value for value in subjects.WEARERS if value != old]
    else:
        others = [value for value in VALUES[name] if value != old]
    near = [value for value in others if set(value.split()) & set(old.split())]
    return replace(scene, **{name: rng.choice(near if near and rng.random() < 0.5 else others)})
