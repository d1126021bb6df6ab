"""What a benchmark compares: methods and ablations by name, each a change of the training configuration."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dreambooth.config import TrainConfig
from dreambooth.errors import ConfigError
from dreambooth.prompts import INSTANCE_TEMPLATE
from dreambooth.seeding import derive

DREAMBOOTH, TEXTUAL_INVERSION, BASE, TRUTH, REAL = "dreambooth", "textual-inversion", "base", "truth", "real"
ADAPTED = ("lora", "dora", "pivotal")
NO_NOUN_PHRASE = "{identifier}"
NO_PRIOR, WRONG_NOUN, NO_NOUN = "dreambooth-no-prior", "dreambooth-wrong-noun", "dreambooth-no-noun"
PHOTOS = {count: f"dreambooth-photos-{count}" for count in range(1, 6)}
DEFAULT_METHODS = (DREAMBOOTH, TEXTUAL_INVERSION, BASE)

DREAMBENCH_NOUNS = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "toy", "boot", "glasses",
    "cartoon", "teapot", "vase",
)  # fmt: skip

# Names that stand for several methods: what each of the paper's tables needs.
GROUPS: dict[str, tuple[str, ...]] = {
    "table-1": DEFAULT_METHODS,
    "table-3": (DREAMBOOTH, NO_PRIOR, BASE),
    "table-4": (DREAMBOOTH, WRONG_NOUN, NO_NOUN),
    "photos": (DREAMBOOTH, *PHOTOS.values()),
    "all": (*DEFAULT_METHODS, NO_PRIOR, WRONG_NOUN, NO_NOUN, *PHOTOS.values()),
}
TAKEN = (*GROUPS, REAL, "real.json")
"""Names in lists of methods, or beside the methods' folders, that stand for something else."""


@dataclass(frozen=True)
class Variant:
    """One way to personalise: a change of the configuration, and what stands for {subject} in the drawn prompts.

    `photos` is how many of the subject's photos it uses; all of them by default.
    """

    name: str
    change: Callable[[TrainConfig], TrainConfig]
    phrase: str = "{subject}"
    photos: int | None = None

    @property
    def trains(self) -> bool:
        """Whether a model is trained. The untouched one draws the class noun alone; the truth needs none."""
        return self.name not in (BASE, TRUTH)


def _same(config: TrainConfig) -> TrainConfig:
    return config


def _textual_inversion(config: TrainConfig) -> TrainConfig:
    """The paper's baseline, with its own rate, steps and batch size whatever those of the other methods are."""
    own = ("learning_rate", "max_train_steps", "train_batch_size", "train_text_encoder")
    own += ("identifier", "instance_prompt")
    off = ("with_prior_preservation", "probe_identifier")
    change = {"method": TEXTUAL_INVERSION} | dict.fromkeys(own) | dict.fromkeys(off, False)
    return config.model_copy(update=change)


def _adapted(method: str, config: TrainConfig) -> TrainConfig:
    """Adapters, with their own rate, steps and batch size; pivotal tuning's word is never one that was given."""
    own = ("learning_rate", "text_encoder_lr", "max_train_steps", "train_batch_size")
    change: dict[str, Any] = {"method": method} | dict.fromkeys(own)
    if method == "pivotal":
        change |= {"identifier": None, "probe_identifier": False}
    return config.model_copy(update=change)


def _without_prior(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"with_prior_preservation": False})


def _wrong_noun(config: TrainConfig) -> TrainConfig:
    """Another of DreamBench's nouns, a function of the subject's seed (Table 4: "incorrect class noun")."""
    others = [noun for noun in DREAMBENCH_NOUNS if noun != config.class_noun]
    chosen = random.Random(derive(config.seed, "wrong noun")).choice(others)
    return config.model_copy(update={"class_noun": chosen})


def _no_noun(config: TrainConfig) -> TrainConfig:
    """The identifier alone in the photos' caption; prior samples are of the class as ever, so only the noun differs."""
    caption = re.sub(r"\s*\{\s*class\s*\}", "", config.instance_prompt or INSTANCE_TEMPLATE)
    caption = re.sub(r"\{\s*subject\s*\}", NO_NOUN_PHRASE, caption)
    return config.model_copy(update={"instance_prompt": caption})


def _first_photos(count: int, config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"photos": config.photos[:count]})


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(DREAMBOOTH, _same),
        Variant(TEXTUAL_INVERSION, _textual_inversion),
        Variant(BASE, _same),
        Variant(TRUTH, _same),
        *(Variant(name, partial(_adapted, name)) for name in ADAPTED),
        Variant(NO_PRIOR, _without_prior),
        Variant(WRONG_NOUN, _wrong_noun),
        Variant(NO_NOUN, _no_noun, phrase=NO_NOUN_PHRASE),
        *(Variant(name, partial(_first_photos, count), photos=count) for count, name in PHOTOS.items()),
    )
}


def parse_methods(text: str, own: Mapping[str, Any]) -> list[str]:
    """The methods of a comma-separated list, groups spelled out, each once, in the order given.

    `own` are the methods that the configuration file defines. "real" is accepted and always there: the photos
    themselves need neither training nor drawing. Raises ConfigError for a name that does not exist, or cannot be one.
    """
    for name in own:
        if not is_method_name(name):
            raise ConfigError(
                f"[{name}] of the --config file cannot be a method's name; make it of letters, digits and _ . + = -, "
                f"beginning with a letter or digit, and none of {', '.join(TAKEN)}."
            )
    known = [*VARIANTS, *(name for name in own if name not in VARIANTS)]
    chosen: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name in GROUPS:
            chosen += GROUPS[name]
        elif name in known:
            chosen.append(name)
        elif name and name != REAL:
            near = difflib.get_close_matches(name, [*known, *GROUPS], n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join([*known, *GROUPS])}."
            raise ConfigError(f"There is no method {name!r}; {hint}")
    if not chosen:
        raise ConfigError(f"No method was given; choose from {', '.join([*known, *GROUPS])}.")
    return list(dict.fromkeys(chosen))


def is_method_name(name: str) -> bool:
    """Whether a method can be called so: the name of its folder, and an entry of a list of methods.

    >>> [is_method_name(name) for name in ("lr=1.5e-4", "a/b", "..", "real photos", "photos")]
    [True, False, False, False, False]
    """
    return re.fullmatch(r"\w[\w.+=-]*", name) is not None and name not in TAKEN


def variant_of(name: str, own: Mapping[str, Any] | None = None) -> Variant:
    """The built-in variant of that name, or a method of the configuration file with its `own` settings there.

    Such a method begins as DreamBooth, or as the method that its settings name.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    kind = (own or {}).get("method")
    if kind == TEXTUAL_INVERSION:
        return Variant(name, _textual_inversion)
    return Variant(name, partial(_adapted, kind) if kind in ADAPTED else _same)


def applies(name: str, photos: int, methods: Sequence[str]) -> bool:
    """Whether a method makes sense for a subject of so many photos.

    The first five of four photos do not exist, and the first five of five are what DreamBooth gets anyway.

    >>> [applies("dreambooth-photos-4", photos, ["dreambooth", "dreambooth-photos-4"]) for photos in (3, 4, 5)]
    [False, False, True]
    """
    wanted = variant_of(name).photos
    return wanted is None or photos > wanted or (photos == wanted and DREAMBOOTH not in methods)
