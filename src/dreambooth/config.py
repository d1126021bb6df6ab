"""One schema for the TOML file, the command line and Python; unknown keys refused, all errors told at once."""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dreambooth.errors import ConfigError
from dreambooth.precision import MixedPrecision
from dreambooth.seeding import GREATEST_SEED

SamplerName = Literal["ddim", "dpm++", "unipc", "euler", "ancestral", "ddpm"]
MethodName = Literal["dreambooth", "textual-inversion", "lora", "dora", "pivotal"]
ADAPTERS = ("lora", "dora", "pivotal")
NEW_WORD = ("textual-inversion", "pivotal")  # methods whose identifier is a word in angle brackets
TierName = Literal["fast", "balanced", "lean"]

# Noise augmentation in training a super-resolver: the paper lowers it to 1e-5; models are made with the whole schedule.
AUGMENTATIONS = {"low": (0.0, 1e-5), "original": (0.0, 1.0)}

# The first field of each section, for `--help`.
SECTIONS = {
    "photos": "The subject",
    "model": "The model",
    "super_resolver": "The cascade",
    "method": "The method",
    "identifier": "The identifier",
    "with_prior_preservation": "Prior preservation",
    "max_train_steps": "Training",
    "track": "Judging as training goes",
    "out": "The run folder",
    "applications": "The pictures at the end",
}


class TrainConfig(BaseModel):
    """Everything a run depends on. A field left at None takes the default of the model's family."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True, allow_inf_nan=False)

    # The subject
    photos: list[str] = Field(default_factory=list, description="Folders or files with photos of the subject.")
    class_noun: str = Field("", description="What the subject is, in one noun: dog, backpack, teapot.")
    crop: Literal["center", "top", "bottom", "pad"] = Field("center", description="Which square of each photo is kept.")
    background: str = Field("white", description="Colour laid under transparent photos.")
    flip: bool = Field(False, description="Also train on mirrored photos (wrong for text and logos).")
    views: int = Field(
        1, ge=1, le=64, description="Randomly cropped views encoded of each photo; 1 is the photo itself."
    )
    masked_loss: bool = Field(False, description="Count the photos' background less, by masks of the subject.")
    mask_weight: float = Field(0.1, ge=0, le=1, description="How much the background counts where there are masks.")
    masks: str | None = Field(
        None, description="Folder of masks named as the photos; else NAME.mask.png beside them, or transparency."
    )
    segmenter: str | None = Field(
        None, description="Segmentation model for photos without a mask: a folder, or a hub id that was fetched before."
    )

    # The model
    model: str = Field("toybox-sd", description="Embedded name, diffusers folder, .safetensors file or hub id.")
    model_config_folder: str | None = Field(
        None, alias="model_config", description="Diffusers folder that lends a single file its configuration."
    )
    resolution: int | None = Field(None, ge=16, le=4096, description="Pixels a side; the model's own by default.")
    device: str = Field("auto", description="auto, cuda, mps or cpu.")
    mixed_precision: MixedPrecision = Field("auto", description="auto: bf16 where the device is faster in it.")

    # The cascade
    super_resolver: str | None = Field(
        None, description="Super-resolver behind the base: folder or hub id; the one in the model's folder by default."
    )
    upscaler: str | None = Field(
        None, description="What enlarges finished pictures further: folder or hub id of an upscaler pipeline."
    )
    stages: Literal["base,sr", "base", "sr"] | None = Field(
        None, description="Which models of a cascade are trained; all of them by default."
    )
    sr_max_train_steps: int | None = Field(None, ge=1, description="Optimizer steps of the super-resolver.")
    sr_learning_rate: float | None = Field(None, gt=0, description="Rate of the super-resolver.")
    sr_train_batch_size: int | None = Field(
        None, ge=1, le=4096, description="Photos in a micro-batch of the super-resolver."
    )
    sr_crop_size: int | None = Field(
        None, ge=8, le=4096, description="Side of the cut-outs that the super-resolver trains on; by model."
    )
    sr_num_class_images: int | None = Field(None, ge=1, description="How many prior samples of the super-resolver.")
    sr_augmentation: str = Field(
        "low", description="Noise on the super-resolver's small pictures in training: low, original or a range 0.1-0.3."
    )
    sr_noise_level: float | None = Field(
        None, ge=0, le=1, description="Noise on its small pictures in drawing, as a share of its schedule."
    )
    sr_num_inference_steps: int | None = Field(None, ge=1, le=1000, description="Sampling steps of the super-resolver.")
    sr_guidance_scale: float | None = Field(None, ge=0, description="Guidance of the super-resolver; 1 is none.")

    # The method
    method: MethodName = Field(
        "dreambooth",
        description="dreambooth trains the model; textual-inversion a new word's embedding and no more; lora and dora "
        "small adapters; pivotal a new word and adapters.",
    )
    num_vectors: int = Field(1, ge=1, le=32, description="How many tokens the new word stands for.")
    initializer_word: str | None = Field(
        None, description="What the new word means at first; the class noun by default."
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="Rank of the adapters.")
    lora_alpha: float | None = Field(None, gt=0, description="They count alpha / rank times; as the rank by default.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of what adapters read that is dropped in training.")
    lora_layers: Literal["attention", "linear", "all"] = Field(
        "attention", description="Layers with adapters: attention, also the other linear ones, or convolutions too."
    )

    # The identifier
    identifier: str | None = Field(
        None, description="The rare word, or the new one such as <my-dog>; chosen by default."
    )
    probe_identifier: bool = Field(
        False, description="Let the frozen model draw candidates; the weakest reaction wins."
    )
    instance_prompt: str | None = Field(None, description="Caption of every photo; by default that of the method.")
    class_prompt: str = Field("a {class}", description="Prompt of the prior samples.")

    # Prior preservation
    with_prior_preservation: bool = Field(True, description="Keep the class alive with samples of the frozen model.")
    prior_loss_weight: float = Field(1.0, ge=0, description="λ of the prior-preservation loss.")
    num_class_images: int | None = Field(None, ge=1, description="How many prior samples.")
    unprompted_share: float | None = Field(
        None, ge=0, le=1, description="Share of the prior rows that keep what guidance starts from; by model."
    )
    composed_share: float | None = Field(
        None, ge=0, le=1, description="Share of the photos' rows that keep the other words of a prompt; by model."
    )
    composed_scale: float = Field(1.5, gt=0, description="How strongly they do; 1 is what the words mean to the model.")
    composed_prompts: list[str] | None = Field(
        None, description="The prompts, of {subject}, that those words are in; by class noun."
    )
    prior_dir: str | None = Field(None, description="Folder of the prior set; a shared cache by default.")
    prior_sampler: SamplerName | None = Field(None, description="Sampler of the prior samples.")
    prior_steps: int = Field(25, ge=1, le=1000, description="Sampling steps of a prior sample.")
    prior_guidance: float = Field(3.0, ge=0, description="Guidance of the prior samples; low keeps them diverse.")
    prior_seed: int = Field(
        0, ge=0, le=GREATEST_SEED, description="Seed of the prior samples; runs with one seed share them."
    )
    sample_batch_size: int = Field(8, ge=1, le=4096, description="Pictures drawn at once.")

    # Training
    max_train_steps: int | None = Field(None, ge=1, description="Optimizer steps.")
    learning_rate: float | None = Field(None, gt=0, description="Rate of the denoiser.")
    train_text_encoder: bool | None = Field(None, description="Fine-tune the text encoder too; by model.")
    text_encoder_lr: float | None = Field(
        None, gt=0, description="Rate of the text encoder; the denoiser's by default."
    )
    embedding_lr: float | None = Field(None, gt=0, description="Rate of the new word in pivotal tuning.")
    train_batch_size: int | None = Field(
        None, ge=1, le=4096, description="Photos in a micro-batch; as many prior samples join."
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Micro-batches in a step.")
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field("constant", description="Course of the rate.")
    lr_warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises from zero.")
    snr_gamma: float | None = Field(None, gt=0, description="γ of min-SNR weighting of both terms; none by default.")
    timestep_shift: float | None = Field(
        None, gt=0, description="Above 1 moves training times to more noise, where shapes are settled; by model."
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW β1.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW β2.")
    adam_weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW ε.")
    use_8bit_adam: bool = Field(False, description="AdamW with moments of one byte.")
    max_grad_norm: float = Field(
        1.0, gt=0, allow_inf_nan=True, description="Gradient norm to which a step is clipped; inf clips none."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory for about a third more time.")
    compile: bool = Field(False, description="Compile the denoiser's blocks; for a long training on a GPU.")
    memory: Literal["auto", "fast", "balanced", "lean"] = Field(
        "auto", description="How memory is saved; auto measures a step and takes the fastest way that fits."
    )
    use_ema: bool | None = Field(None, description="Keep an exponential moving average of the weights; by model.")
    ema_decay: float = Field(0.98, ge=0, lt=1, description="Decay of that average a step.")
    merge_ratio: float = Field(1.0, gt=0, le=1, description="Share of what training changed that is kept at its end.")
    seed: int = Field(0, ge=0, le=GREATEST_SEED, description="Everything random follows from it.")

    # Judging as training goes
    track: bool = Field(False, description="Judge likeness, obedience and drift as training goes, and keep the best.")
    track_steps: int = Field(50, ge=1, description="Steps between judgements.")
    track_prompts: list[str] = Field(
        default_factory=lambda: [
            "a {subject}",
            "a {subject} on the beach",
            "a {subject} in the jungle",
            "a {class}",
        ],
        description="Fixed prompts that are judged: some of the subject, and some of the bare class.",
    )
    track_images: int = Field(4, ge=1, description="Pictures of each of them, always with the same seeds.")
    judge_dino: str | None = Field(None, description="Encoder of likeness and drift: name, folder or hub id.")
    judge_clip: str | None = Field(None, description="Encoder of obedience: name, folder or hub id.")
    keep_best: bool = Field(True, description="When tracked, the weights of best balance become the model.")
    early_stop: bool = Field(False, description="Track, and stop when likeness no longer rises and drift does.")
    early_stop_patience: int = Field(3, ge=1, description="Judgements over which that must hold.")

    # The run folder
    out: str = Field("", description="The run folder; runs/CLASS-NOUN by default.")
    checkpointing_steps: int = Field(100, ge=1, description="Steps between checkpoints.")
    checkpoints_total_limit: int = Field(1, ge=1, description="How many checkpoints are kept.")
    preview_steps: int = Field(100, ge=0, description="Steps between previews; 0 for none.")
    preview_prompts: list[str] = Field(
        default_factory=lambda: [
            "a {subject}",
            "a {subject} on the beach",
            "a {subject} in the jungle",
            "a {class}",
        ],
        description="Fixed prompts drawn as training goes.",
    )

    # The pictures at the end
    applications: list[str] | None = Field(
        None, description="Prompt sets drawn for the report; those that suit the class noun by default."
    )
    images_per_prompt: int = Field(2, ge=1, description="Pictures of each prompt in the report.")
    sampler: SamplerName | None = Field(None, description="Sampler of previews and pictures.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="Sampling steps of previews and pictures.")
    guidance_scale: float | None = Field(None, ge=0, description="Guidance of previews and pictures.")

    @property
    def crop_size(self) -> int | None:
        """The side of the cut-outs that a stage's own config trains on; None for whole pictures."""
        return self.sr_crop_size if self.stages == "sr" else None

    @model_validator(mode="before")
    @classmethod
    def _method_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        inversion = values.get("method") == "textual-inversion"
        return {"with_prior_preservation": False} | values if inversion else values

    @model_validator(mode="after")
    def _fits_method(self) -> TrainConfig:
        fields = type(self).model_fields
        if self.method not in ADAPTERS and (
            given := [n for n in fields if n.startswith("lora_") and getattr(self, n) != fields[n].default]
        ):
            raise ValueError(f"{_belong(given)} to the methods {', '.join(ADAPTERS)}; choose one of those")
        if self.method != "pivotal" and self.embedding_lr is not None:
            raise ValueError("embedding_lr belongs to pivotal; other methods have learning_rate alone")
        if self.method != "dreambooth" and self.merge_ratio < 1:
            raise ValueError("merge_ratio belongs to dreambooth; other methods leave the model as it is")
        if self.method == "textual-inversion":
            clashing = ("with_prior_preservation", "train_text_encoder", "probe_identifier")
            if wrong := [name for name in clashing if getattr(self, name)]:
                raise ValueError(
                    f"{' and '.join(wrong)} cannot go with textual-inversion, which trains one new word and leaves the "
                    "model, and with it the class, as it is; leave it out"
                )
            return self
        if self.method in NEW_WORD:
            if self.probe_identifier:
                raise ValueError(
                    "probe_identifier cannot go with pivotal, whose word is new to the model; leave it out"
                )
            return self
        if self.num_vectors != 1 or self.initializer_word is not None:
            raise ValueError(
                "num_vectors and initializer_word belong to textual-inversion and pivotal; choose one of those"
            )
        if self.identifier is not None and self.identifier.startswith("<"):
            raise ValueError(
                "words in angle brackets belong to textual-inversion and pivotal; give the identifier without them"
            )
        return self

    @model_validator(mode="after")
    def _augmentation(self) -> TrainConfig:
        augmentation_range(self.sr_augmentation)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        fields = type(self).model_fields
        masking = [
            name for name in ("mask_weight", "masks", "segmenter") if getattr(self, name) != fields[name].default
        ]
        if masking and not self.masked_loss:
            raise ValueError(f"{_belong(masking)} to masked_loss; turn it on")
        named = ("{subject}", "{identifier}")
        if self.instance_prompt is not None and not any(name in self.instance_prompt for name in named):
            raise ValueError("instance_prompt must contain {subject}, or nothing would bind to the identifier")
        if any(name in self.class_prompt for name in named):
            raise ValueError("class_prompt must not contain {subject}: the prior is the class without the subject")
        composed = self.composed_prompts
        if composed is not None and not (composed and all("{subject}" in prompt for prompt in composed)):
            raise ValueError("composed_prompts must each contain {subject}, such as a blue {subject}")
        if len({"{subject}" in prompt or "{identifier}" in prompt for prompt in self.track_prompts}) < 2:
            raise ValueError("track_prompts must hold a prompt with {subject} and one without, such as a {class}")
        return self


def augmentation_range(text: str) -> tuple[float, float]:
    """Lowest and highest level of noise augmentation, as shares 0..1 of the super-resolver's noising schedule.

    Raises ValueError for what is no range.

    >>> augmentation_range("low"), augmentation_range("original"), augmentation_range("0.1-0.3")
    ((0.0, 1e-05), (0.0, 1.0), (0.1, 0.3))
    """
    if text in AUGMENTATIONS:
        return AUGMENTATIONS[text]
    found = re.fullmatch(r"([\d.]+)\s*-\s*([\d.]+)", text)
    try:
        low, high = (float(part) for part in found.groups()) if found else (1.0, 0.0)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise ValueError(f"sr_augmentation is low, original or a range such as 0.1-0.3 within 0 and 1, not {text!r}")
    return low, high


def read_config(path: str | Path | None, flags: dict[str, Any]) -> TrainConfig:
    """The settings of a TOML file with flags (those that are not None) laid over them.

    Raises ConfigError that lists every unknown key, with the nearest valid name, and every bad value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"There is no configuration file {path}.") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"The configuration file {path} cannot be read: {error}.") from error
    values |= {key: value for key, value in flags.items() if value is not None}
    return make_config(values)


def make_config(values: dict[str, Any]) -> TrainConfig:
    """A validated config; raises ConfigError with all errors, one a line."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise ConfigError("The configuration has errors:\n" + "\n".join(f"  {line}" for line in lines)) from error


def to_toml(config: TrainConfig) -> str:
    """The config as TOML text that `read_config` reads back to an equal config; unset fields are left out."""
    lines = [
        f"{key} = {value if value == math.inf else json.dumps(value, ensure_ascii=False)}"
        for key, value in config.model_dump(by_alias=True).items()
        if value is not None
    ]
    return "\n".join(lines) + "\n"


def field_names() -> list[str]:
    """Every name a config file may use."""
    return [info.alias or name for name, info in TrainConfig.model_fields.items()]


def _belong(names: list[str]) -> str:
    return f"{' and '.join(names)} {'belongs' if len(names) == 1 else 'belong'}"


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name.replace("-", "_"), field_names(), n=1)
        return f"{name}: unknown setting" + (f"; did you mean {close[0]}?" if close else ".")
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}, got {item['input']!r}" if name else message
