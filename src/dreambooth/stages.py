"""The stages of a run: which models of a cascade it trains, each with settings, checkpoints and a log of its own.

The base is trained in the run folder itself, the super-resolver in its folder `sr`, which borrows the photos. A model
that is no cascade has one stage, its base, and all here leaves it alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import backbones
from dreambooth.backbones.protocol import Backbone, Spec, Stage
from dreambooth.backbones.source import CascadeParts, Source
from dreambooth.checkpoint import RunFolder
from dreambooth.config import NEW_WORD, TrainConfig, augmentation_range
from dreambooth.errors import ConfigError, ModelError
from dreambooth.plan import Plan, resolve_defaults
from dreambooth.prior import fingerprint

if TYPE_CHECKING:
    from rich.console import RenderableType

SUB_RUN: Stage = "sr"
ONLY_CASCADES = (
    "sr_max_train_steps", "sr_learning_rate", "sr_train_batch_size", "sr_crop_size", "sr_num_class_images",
    "sr_noise_level", "sr_num_inference_steps", "sr_guidance_scale",
)  # fmt: skip


def parts_of(config: TrainConfig) -> CascadeParts:
    """What the config says of a cascade's other models."""
    return CascadeParts(config.super_resolver, config.upscaler, augmentation_range(config.sr_augmentation))


def trained(config: TrainConfig, source: Source) -> list[Stage]:
    """The stages that a run of this model trains, in their order; by default all that there are.

    Raises ConfigError for a cascade's setting where there is no cascade, ModelError for a base that stands alone.
    """
    there = backbones.stages(source)
    asked: list[Stage] = [name for name in there if config.stages is None or name in config.stages.split(",")]
    if SUB_RUN in there:
        return asked
    if backbones.is_cascade(source):
        if config.stages != "base":
            raise ModelError(
                f"{source.name} has no super-resolver; give one by --super-resolver, or train the base alone by "
                "--stages base."
            )
        return asked
    given = [name for name in ONLY_CASCADES if getattr(config, name) is not None]
    if config.stages not in (None, "base") or given:
        what = " and ".join(given) or "the stage sr"
        raise ConfigError(f"{source.name} has no super-resolver, so there is no use for {what}; leave it out.")
    return asked


def resolve(config: TrainConfig, backbone: Backbone) -> TrainConfig:
    """The config with every field left at None filled from the method and the stages of the model."""
    names = trained(config, backbone.source)
    filled = resolve_defaults(config, backbone.stage("base").spec)
    update: dict[str, Any] = {"resolution": config.resolution or backbone.spec.resolution}
    enlarging = backbone.spec.enlarging
    if enlarging is not None:
        spec = backbone.stage(SUB_RUN).spec
        _, high = augmentation_range(config.sr_augmentation)
        # A super-resolver that was fine-tuned in a narrow range draws at its end; in a wide one, as it always has.
        level = high if SUB_RUN in names and high <= (enlarging.noise_level or 0) else enlarging.noise_level
        guidance = enlarging.guidance_scale if config.sr_guidance_scale is None else config.sr_guidance_scale
        update |= {
            "stages": ",".join(names),
            "sr_max_train_steps": config.sr_max_train_steps or spec.max_train_steps,
            "sr_learning_rate": config.sr_learning_rate or spec.learning_rate,
            "sr_train_batch_size": config.sr_train_batch_size or spec.train_batch_size,
            "sr_crop_size": crop_size(config, spec),
            "sr_num_class_images": config.sr_num_class_images or spec.num_class_images,
            "sr_num_inference_steps": config.sr_num_inference_steps or enlarging.num_inference_steps,
            "sr_guidance_scale": guidance,
            "sr_noise_level": level if config.sr_noise_level is None else config.sr_noise_level,
        }
    return filled.model_copy(update=update)


def crop_size(config: TrainConfig, spec: Spec) -> int:
    """The side of what a super-resolver trains on: cut-outs, or whole pictures.

    Raises ConfigError where its layers cannot halve that side evenly, or pictures are smaller.
    """
    side = config.sr_crop_size or spec.crop_size or spec.resolution
    if side > spec.resolution or side % spec.crop_step:
        raise ConfigError(
            f"The super-resolver trains on cut-outs of up to {spec.resolution} pixels a side, a multiple of "
            f"{spec.crop_step}, not {side}; change --sr-crop-size."
        )
    return side


def stage_config(config: TrainConfig, name: Stage) -> TrainConfig:
    """The resolved config of one stage of a run."""
    if name == "base":
        return config
    update = {
        "stages": name,
        "max_train_steps": config.sr_max_train_steps,
        "learning_rate": config.sr_learning_rate,
        "train_batch_size": config.sr_train_batch_size,
        "num_class_images": config.sr_num_class_images,
        # Drawn without guidance, it has no prediction of no prompt to be kept.
        "unprompted_share": 0.0 if config.sr_guidance_scale == 1 else config.unprompted_share,
        "composed_share": 0.0,  # it adds detail to what the small picture shows, whatever the words
        "timestep_shift": None,  # of a large picture the small one has settled what noise would hide
        "prior_dir": str(Path(config.prior_dir) / name) if config.prior_dir else None,
        "out": str(Path(config.out) / name) if config.out else None,
    }
    return config.model_copy(update=update)


def names_of(config: TrainConfig) -> list[Stage]:
    """The stages of a resolved config."""
    known: tuple[Stage, ...] = ("base", SUB_RUN)
    return [name for name in known if name in (config.stages or "base").split(",")]


def check(config: TrainConfig, backbone: Backbone) -> None:
    """Raises ConfigError where the config would train a text encoder that this family keeps as it is."""
    if "text_encoder" in backbone.spec.trainable:
        return
    if config.train_text_encoder or config.method in NEW_WORD:
        what = "--train-text-encoder" if config.train_text_encoder else f"--method {config.method}"
        raise ConfigError(
            f"{backbone.source.name} keeps its text encoder as it is, as Imagen does, and frees it before training, so "
            f"{what} cannot be had; leave it out."
        )


@dataclass(frozen=True)
class Plans:
    """What each stage will do and cost."""

    each: Sequence[Plan]

    @property
    def disk_bytes(self) -> int:
        return sum(plan.disk_bytes for plan in self.each)

    def table(self) -> RenderableType:
        """The plans for the terminal."""
        from rich.console import Group

        return Group(*(plan.table() for plan in self.each))


def root_of(path: Path) -> Path:
    """The run that a folder belongs to: its own, or the one whose stage it is."""
    is_stage = path.name == SUB_RUN and (path.parent / "config.toml").is_file()
    return path.parent if is_stage else path


def folder_of(run: RunFolder, config: TrainConfig, name: Stage, backbone: Backbone) -> RunFolder:
    """The folder of a stage, made where it is missing; `backbone` must still be as it was loaded then."""
    if name == "base":
        return run
    place = run.path / name
    if not (place / "subject.json").is_file():
        shutil.rmtree(place, ignore_errors=True)  # begun by a process that was ended at once
        sub = RunFolder.create(place, stage_config(config, name))
        facts = run.read_json("subject.json")
        photos = [
            entry | {key: f"../{entry[key]}" for key in ("file", "mask") if key in entry} for entry in facts["photos"]
        ]
        sub.write_json("subject.json", facts | {"photos": photos, "fingerprint": fingerprint(backbone.stage(name))})
    return RunFolder.open(place)


def finish(folder: Path, config: TrainConfig, facts: Mapping[str, Any], backbone: Backbone) -> None:
    """Puts beside a saved cascade what there is to know of it: how it draws best, and what a stage has not learned."""
    if SUB_RUN not in backbone.spec.stages:
        return
    from dreambooth.backbones.cascade import DEFAULT_LEVEL, Notes
    from dreambooth.backbones.cascade_files import UPSCALER, write_notes

    done = names_of(config)
    unlearned = {name: str(facts["identifier"]) for name in ("base", SUB_RUN, UPSCALER) if name not in done}
    level = DEFAULT_LEVEL if config.sr_noise_level is None else config.sr_noise_level
    write_notes(folder, Notes(level, unlearned))
    inside = Path(backbone.source.location) / UPSCALER
    if backbone.source.kind != "hub" and inside.is_dir():
        shutil.copytree(inside, folder / UPSCALER, dirs_exist_ok=True)
