"""The class noun from the photos: CLIP, asked without training (paper, section 3.1: from the user or a classifier)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambooth import backbones
from dreambooth import nouns as lists
from dreambooth.config import TrainConfig
from dreambooth.errors import ConfigError, ModelError
from dreambooth.evaluation.encoders import TOYBOX_CLIP, ImageTextEncoder, clip_encoder, clip_name
from dreambooth.run import choose_device, world
from dreambooth.subject import clean_class_noun, inspect, usable_photos
from dreambooth.ui import Display

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

# An ensemble in the manner of Radford et al. 2021 (CLIP), section 3.1.4; the embedded CLIP knows all these words too.
TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a good photo of a {}",
    "a picture of a {}",
    "an image of a {}",
)
RESOLUTION = 224  # of the squares that are looked at; every encoder scales them to its own
BAR = 30
SURE = 0.5
Ranking = list[tuple[str, float]]


def rank(photos: Sequence[Image], nouns: Sequence[str], encoder: ImageTextEncoder) -> Ranking:
    """The nouns with the probability that the photos show one, the likeliest first.

    A noun is the mean direction of its templates. Every photo gives each noun a probability by the encoder's own
    softmax, and the photos are averaged: each has one vote, so that one odd photo does not decide.

    Raises:
        ValueError: there is no photo, or no noun.
    """
    if not photos or not nouns:
        raise ValueError("a ranking needs at least one photo and one noun")
    texts = encoder.embed_texts([template.format(noun) for noun in nouns for template in TEMPLATES])
    directions = normalize(texts.unflatten(0, (len(nouns), len(TEMPLATES))).mean(dim=1), dim=1)
    logits: Tensor = encoder.logit_scale * encoder.embed_images(photos) @ directions.T
    probabilities = torch.softmax(logits.double(), dim=1).mean(dim=0)
    order: list[int] = torch.argsort(probabilities, descending=True, stable=True).tolist()
    return [(nouns[index], float(probabilities[index])) for index in order]


def nouns_for(encoder: str) -> tuple[str, ...]:
    """The nouns that are tried by default: the embedded world's own classes for its CLIP, else everyday ones."""
    return lists.TOYBOX if encoder == TOYBOX_CLIP else lists.EVERYDAY


def read_nouns(path: Path) -> tuple[str, ...]:
    """The nouns of a UTF-8 text file, one a line; empty lines and those that begin with # are skipped.

    Raises:
        ConfigError: the file cannot be read, holds no noun, or holds something else.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The nouns {path} cannot be read ({error}); name a text file with one a line.") from error
    found = [clean_class_noun(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ConfigError(f"{path} holds no noun; write one a line, such as dog.")
    return tuple(dict.fromkeys(found))


def look(
    photos: Sequence[str],
    encoder: str,
    nouns: Sequence[str],
    device: str = "auto",
    crop: Any = "center",
    background: str = "white",
) -> Ranking:
    """`rank` for photos in folders or files, and an encoder by name.

    Raises PhotoError or ModelError in one sentence; the photos are read before the model.
    """
    squares = [photo.image for photo in usable_photos(inspect(photos, RESOLUTION, crop, background))]
    return rank(squares, nouns, clip_encoder(encoder, str(choose_device(device))))


def table(ranking: Ranking, count: int) -> Table:
    """The first `count` nouns, each with its probability and a bar of it."""
    from rich.table import Table

    shown = Table("class noun", "probability", "")
    for noun, probability in ranking[:count]:
        shown.add_row(noun, f"{probability:6.1%}", "█" * round(BAR * probability))
    return shown


def settle(config: TrainConfig, accept: bool, display: Display) -> TrainConfig:
    """The config with a class noun: its own, or else the likeliest, taken if `accept`, else asked about.

    Raises:
        ConfigError: nobody can be asked, or no encoder is there to propose one; the message says how to give it.
        PhotoError: no photo can be used.
        ModelError: there is no such model to train.
    """
    if config.class_noun.strip() or not config.photos:
        return config
    backbones.resolve(config.model)
    display.quiet |= not world(config.device).is_main_process
    encoder = config.judge_clip or clip_name(config.model)
    display.say(f"No class noun was given; {encoder} looks at the photos.")
    try:
        ranking = look(config.photos, encoder, nouns_for(encoder), config.device, config.crop, config.background)
    except ModelError as error:
        raise ConfigError(
            f"Say what the subject is with --class-noun, such as --class-noun dog; none can be proposed: {error}"
        ) from error
    noun, probability = ranking[0]
    display.say(table(ranking, 5))
    if not accept:
        noun = _ask(noun, probability, config.device)
    elif probability < SURE:
        display.warn(f'"{noun}" is a guess ({probability:.0%}); if the photos show something else, give --class-noun.')
    display.say(f'The subject is a "{noun}".')
    return config.model_copy(update={"class_noun": noun})


def _ask(noun: str, probability: float, device: str) -> str:
    """The user's answer; Enter takes the proposal."""
    if not sys.stdin.isatty() or world(device).num_processes > 1:
        raise ConfigError(
            f'No class noun was given, and the photos look like "{noun}" ({probability:.0%}): '
            f'pass --class-noun "{noun}", or --yes to take what is proposed.'
        )
    import typer

    return clean_class_noun(typer.prompt("What is the subject, in one noun? Enter takes", default=noun))
