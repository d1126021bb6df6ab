"""From a class noun and a seed to an individual."""

import random
from collections.abc import Callable

from dreambooth.toybox import creatures, things
from dreambooth.toybox.palette import COLOURS as COLOURS
from dreambooth.toybox.parts import Subject

BUILDERS: dict[str, Callable[[random.Random], Subject]] = {
    "backpack": things.backpack,
    "stuffed animal": creatures.stuffed_animal,
    "bowl": things.bowl,
    "can": things.can,
    "candle": things.candle,
    "cat": creatures.cat,
    "clock": things.clock,
    "sneaker": things.sneaker,
    "dog": creatures.dog,
    "toy": creatures.toy,
    "boot": things.boot,
    "glasses": things.glasses,
    "cartoon": creatures.cartoon,
    "teapot": things.teapot,
    "vase": things.vase,
    "duck": creatures.duck,
    "car": things.car,
    "robot": creatures.robot,
    "chair": things.chair,
    "house": things.house,
    "fish": creatures.fish,
    "mug": things.mug,
    "lamp": things.lamp,
}


def individual(class_noun: str, seed: int) -> Subject:
    return BUILDERS[class_noun](random.Random(f"{class_noun}/{seed}")).normalised()


def dressed(class_noun: str, seed: int, accessory: str | None = None, property: str | None = None) -> Subject:
    return individual(class_noun, seed)
