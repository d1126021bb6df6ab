"""What a benchmark is to do: its settings, its methods, its subjects, and the configuration of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dreambooth.config import TrainConfig, make_config
from dreambooth.errors import ConfigError
from dreambooth.evaluation.suite import is_plain_name
from dreambooth.evaluation.variants import VARIANTS, Variant, is_method_name, variant_of
from dreambooth.seeding import derive

SEEDS = 2**31  # so that a seed is readable in a table and fits every program's seed field
# Settings of the runs that are the benchmark's own to decide.
DECIDED = (
    "photos", "class_noun", "model", "model_config", "device", "out", "seed", "applications", "images_per_prompt",
    "preview_steps", "preview_prompts", "prior_dir", "identifier", "resolution", "masks",
)  # fmt: skip


def _subject_name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(f"{name!r} is no subject's name")
    return name


def _method_name(name: str) -> str:
    if not is_method_name(name):
        raise ValueError(f"{name!r} is no method's name")
    return name


class Settings(BaseModel):
    """What the scores depend on; two benchmarks with equal settings give equal scores for a subject and method.

    `train` are training settings of every method, `own` those of one method, `last` those that overrule both.
    """

    model_config = ConfigDict(extra="forbid")

    suite: str
    model: str = "toybox-sd"
    model_config_folder: str | None = None
    prompts: int = Field(25, ge=1, le=25)
    images_per_prompt: int = Field(4, ge=1)
    class_images: int = Field(16, ge=0)
    seed: int = Field(0, ge=0)
    dino: str | None = None
    clip: str | None = None
    perceptual: str | None = None
    train: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    last: dict[str, Any] = {}


class Member(BaseModel):
    """A subject of the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_subject_name)]
    class_noun: str
    live: bool

    def seed(self, settings: Settings, *purpose: str | int) -> int:
        """A seed of this subject's own, the same for every method, so that methods are compared on equal noise."""
        return derive(settings.seed, "benchmark", self.name, *purpose) % SEEDS


class Plan(BaseModel):
    """Settings, and what is to be done with them now.

    `judges` are name and fingerprint by metric of those who judge: a worker must have the same.
    """

    model_config = ConfigDict(extra="forbid")

    settings: Settings
    methods: list[Annotated[str, AfterValidator(_method_name)]]
    members: list[Member]
    judges: dict[str, dict[str, str]] = {}
    device: str = "auto"
    keep_models: bool = False

    def variant(self, method: str) -> Variant:
        """What a method of this plan changes."""
        return variant_of(method, self.settings.own.get(method, {}))


def train_config(plan: Plan, member: Member, method: str, photos: Sequence[Path], out: Path) -> TrainConfig:
    """The configuration of one run. Raises ConfigError that lists all that is wrong with the settings."""
    settings, variant = plan.settings, plan.variant(method)
    values: dict[str, Any] = settings.train | {
        "photos": [str(path) for path in photos],
        "class_noun": member.class_noun,
        "model": settings.model,
        "model_config": settings.model_config_folder,
        "device": plan.device,
        "seed": member.seed(settings, "run"),
        "applications": [],
        "preview_steps": 0,
        "out": str(out),
    }
    changed = variant.change(make_config(values)).model_dump(by_alias=True)
    return make_config(changed | settings.own.get(method, {}) | settings.last)


def check_settings(settings: Settings, methods: Sequence[str]) -> None:
    """Raises ConfigError when the training settings of a method are not valid, or not a benchmark's to give."""
    for values in (settings.train, *settings.own.values()):
        if taken := [name for name in values if name in DECIDED]:
            raise ConfigError(f"A benchmark decides {', '.join(taken)} by itself; leave it out of the --config file.")
    if any("method" in values for values in (settings.train, *map(settings.own.get, VARIANTS)) if values):
        raise ConfigError(
            "The names of a benchmark's methods say what they are; in the --config file `method` belongs in the table "
            "of a method with a name of your own."
        )
    for method in methods:
        member = Member(name="subject", class_noun="dog", live=True)
        plan = Plan(settings=settings, methods=[method], members=[member])
        train_config(plan, member, method, [Path("photo")], Path("run"))
