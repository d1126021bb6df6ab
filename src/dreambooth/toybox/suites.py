"""The embedded world's own DreamBench: thirty individuals that nobody has seen, and thirty others to tune on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from dreambooth.evaluation.suite import Suite
    from dreambooth.toybox.world import Scene

# DreamBench's subjects by class: 21 objects and 9 live ones.
SPREAD = {
    "backpack": 2,
    "stuffed animal": 3,
    "bowl": 1,
    "can": 1,
    "candle": 1,
    "cat": 2,
    "clock": 1,
    "sneaker": 2,
    "dog": 7,
    "toy": 5,
    "boot": 1,
    "glasses": 1,
    "cartoon": 1,
    "teapot": 1,
    "vase": 1,
}
# Numbers among the individuals that are held out from all training, far from those of demos and examples.
FIRST = {"toybox": 500_000, "toybox-tuning": 700_000}
PHOTOS = 5


def suites() -> dict[str, Callable[[], Suite]]:
    """Both suites by name; nothing is rendered before a subject's photos are asked for."""
    return {name: partial(make_suite, name) for name in FIRST}


def make_suite(suite: str) -> Suite:
    """DreamBench's classes, each individual with a number of its own."""
    from dreambooth.evaluation.suite import Suite, SuiteSubject
    from dreambooth.subject import is_live

    members = [(noun, number) for noun, count in SPREAD.items() for number in range(1, count + 1)]
    return Suite(
        suite,
        tuple(
            SuiteSubject(
                f"{noun.replace(' ', '-')}-{number}",
                noun,
                is_live(noun),
                _photos(noun, individual),
                partial(true_pictures, noun, individual),
            )
            for individual, (noun, number) in enumerate(members, FIRST[suite])
        ),
    )


def true_pictures(
    class_noun: str, individual: int, size: int, templates: Sequence[str], seeds: Sequence[int]
) -> list[Image]:
    """What a perfect method would draw of a subject: renders, of `size` pixels a side, of DreamBench's templates.

    "{subject}" in a template is the individual itself, seen from anywhere in front; "{class}" is another of its class.
    Raises ConfigError for words that the world does not have.
    """
    from dreambooth.toybox.captions import HELD_OUT_INDIVIDUALS
    from dreambooth.toybox.pictures import rendered

    shown = HELD_OUT_INDIVIDUALS[individual]
    return rendered(size)([scene_of(*said, class_noun, shown) for said in zip(templates, seeds, strict=True)])


def scene_of(template: str, seed: int, class_noun: str, individual: int) -> Scene:
    """The scene that a template of one detail, or of none, speaks of: what `captions.caption` says, read backwards.

    >>> scene_of("a {subject} wearing a red hat", 0, "dog", individual=7).accessory
    'red hat'

    Raises ConfigError for words that the world does not have.
    """
    from dreambooth import prompts
    from dreambooth.errors import ConfigError
    from dreambooth.toybox import captions, claims
    from dreambooth.toybox.world import Scene

    if "{subject}" not in template:
        individual = random.Random(f"another/{seed}").choice(captions.HELD_OUT_INDIVIDUALS)
    plain = Scene(class_noun, individual, seed=seed)
    said = prompts.fill(template, None, class_noun)
    details: list[dict[str, str]] = [{}]
    for name in ("context", "accessory", "property"):
        details += [{name: value} for value in claims.VALUES[name]]
    for detail in details:
        if captions.caption(scene := replace(plain, **detail)) == said:
            return scene
    raise ConfigError(f"The embedded world cannot show {said!r}; it knows the prompts of DreamBench.")


def _photos(class_noun: str, individual: int) -> Callable[[Path], Sequence[Path]]:
    def render(folder: Path) -> Sequence[Path]:
        from dreambooth.toybox.cli import save_photos

        save_photos(folder, class_noun, individual, PHOTOS)
        return [folder]

    return render
