"""From a class noun and a seed to an individual, in its clothes and with its properties."""

import functools
import random
from collections.abc import Callable
from dataclasses import replace

from dreambooth.toybox import characters, creatures, things, vessels
from dreambooth.toybox.palette import COLOURS as COLOURS
from dreambooth.toybox.parts import Subject
from dreambooth.toybox.properties import PROPERTIES as PROPERTIES
from dreambooth.toybox.properties import with_property
from dreambooth.toybox.wardrobe import ACCESSORIES as ACCESSORIES
from dreambooth.toybox.wardrobe import accessory_names as accessory_names

CLASSES: dict[str, Callable[[random.Random], Subject]] = {
    "backpack": things.backpack,
    "stuffed animal": characters.stuffed_animal,
    "bowl": vessels.bowl,
    "can": vessels.can,
    "candle": vessels.candle,
    "cat": creatures.cat,
    "clock": things.clock,
    "sneaker": things.sneaker,
    "dog": creatures.dog,
    "toy": characters.toy,
    "boot": things.boot,
    "glasses": things.glasses,
    "cartoon": characters.cartoon,
    "teapot": vessels.teapot,
    "vase": vessels.vase,
    "duck": creatures.duck,
    "car": things.car,
    "robot": characters.robot,
    "chair": things.chair,
    "house": things.house,
    "fish": creatures.fish,
    "mug": vessels.mug,
    "lamp": things.lamp,
}
DREAMBENCH = tuple(CLASSES)[:15]
LIVE = ("cat", "dog")
WEARERS = ("cat", "dog", "stuffed animal", "cartoon", "duck", "toy", "robot")  # the classes with anchors


@functools.lru_cache(maxsize=512)
def individual(class_noun: str, seed: int) -> Subject:
    """The individual number `seed` of a class: always the same one, 1 high or wide, on the ground, facing +z."""
    return CLASSES[class_noun](random.Random(f"{class_noun}/{seed}")).normalised()


def wears(class_noun: str, accessory: str) -> bool:
    """Whether an individual of this class can put this accessory on."""
    return class_noun in WEARERS and accessory in ACCESSORIES


def dressed(class_noun: str, seed: int, accessory: str | None = None, property: str | None = None) -> Subject:
    """An individual with one of PROPERTIES and one of `accessory_names()`.

    Raises:
        ValueError: if the class has nowhere to wear the accessory.
    """
    subject = individual(class_noun, seed)
    if property is not None:
        subject = with_property(subject, property)
    if accessory is None:
        return subject
    if subject.anchors is None or not wears(class_noun, accessory):
        raise ValueError(f"a {class_noun} cannot wear {accessory!r}; the classes that can: {', '.join(WEARERS)}")
    return replace(subject, parts=(*subject.parts, *ACCESSORIES[accessory](subject.anchors)))
