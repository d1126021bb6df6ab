"""The embedded world's own DreamBench: thirty individuals that nobody has seen, and thirty others to tune on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth.evaluation.suite import Suite

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
REPORTED_FROM, TUNING_FROM = 500_000, 700_000
PHOTOS = 5


def suites() -> dict[str, Callable[[], Suite]]:
    """Both suites by name; nothing is rendered before a subject's photos are asked for."""
    return {
        "toybox": lambda: make_suite("toybox", REPORTED_FROM),
        "toybox-tuning": lambda: make_suite("toybox-tuning", TUNING_FROM),
    }


def make_suite(name: str, first_individual: int) -> Suite:
    """DreamBench's classes, each individual with a number of its own from `first_individual` on."""
    from dreambooth.evaluation.suite import Suite, SuiteSubject
    from dreambooth.subject import is_live

    members = [(noun, number) for noun, count in SPREAD.items() for number in range(1, count + 1)]
    return Suite(
        name,
        tuple(
            SuiteSubject(f"{noun.replace(' ', '-')}-{number}", noun, is_live(noun), _photos(noun, individual))
            for individual, (noun, number) in enumerate(members, first_individual)
        ),
    )


def _photos(class_noun: str, individual: int) -> Callable[[Path], Sequence[Path]]:
    def render(folder: Path) -> Sequence[Path]:
        from dreambooth.toybox.cli import save_photos

        save_photos(folder, class_noun, individual, PHOTOS)
        return [folder]

    return render
