"""What can be settled before a run folder exists: photos, model, settings, identifier, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dreambooth import backbones, identifier, prompts, stages
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.backbones.source import Source
from dreambooth.config import NEW_WORD, TrainConfig
from dreambooth.errors import ConfigError
from dreambooth.lending import place, precise
from dreambooth.masks import coverage, with_masks
from dreambooth.methods import make_method, new_word
from dreambooth.methods.protocol import Method
from dreambooth.plan import make_plan
from dreambooth.prior import fingerprint
from dreambooth.run import choose_device
from dreambooth.segmentation import Segmenter
from dreambooth.subject import Subject, inspect, make_subject, preflight_table
from dreambooth.tracking import encoders_of
from dreambooth.ui import Display

PROBED_CANDIDATES = 8


@dataclass(frozen=True)
class Prepared:
    """A run that could start: its resolved settings, its photos, and the loaded model."""

    config: TrainConfig
    subject: Subject
    backbone: Backbone
    plan: stages.Plans
    load_seconds: float


def prepare(config: TrainConfig, display: Display, dry: bool = False) -> Prepared:
    """Reads the photos, then loads the model, and checks all that can be checked; writes nothing.

    With `dry` nothing will be trained, and where counting can do without weights, they are not loaded.

    Raises the DreamBoothError of whatever cannot work, the cheapest checks first.
    """
    stages.trained(config, _source(config))
    subject = _inspect(config, display)
    start = perf_counter()
    backbone = _outline(config) if dry else _loaded(config)
    stages.check(config, backbone)
    resolved = stages.resolve(config, backbone)
    if resolved.track:
        encoders_of(resolved, "cpu")
    device = choose_device(config.device)
    if not dry:
        place(backbone, device, make_method(resolved, subject.class_noun), config.mixed_precision)
    plans = [
        make_plan(own, backbone.stage(name), method, len(subject.photos), PartialState().num_processes, device)
        for name in stages.names_of(resolved)
        for own in [stages.stage_config(resolved, name)]
        for method in [make_method(own, subject.class_noun)]
    ]
    return Prepared(resolved, subject, backbone, stages.Plans(plans), perf_counter() - start)


def name_subject(prepared: Prepared, display: Display) -> dict[str, Any]:
    """What subject.json keeps: the photos, the identifier and the prompts made with it; the same in every process."""
    config, backbone, subject = prepared.config, prepared.backbone, prepared.subject
    facts: list[dict[str, Any]] = [{}]
    if PartialState().is_main_process:
        noun, chosen = subject.class_noun, find_identifier(config, backbone, subject.class_noun, display)
        for warning in chosen.warnings:
            display.warn(warning)
        templates = [config.instance_prompt] if config.instance_prompt else prompts.INVERSION_TEMPLATES
        captions = [prompts.fill(template, chosen.text, noun) for template in templates]
        facts[0] = subject.manifest() | {
            "identifier": chosen.text,
            "token_ids": list(chosen.token_ids),
            "instance_prompt": captions[0],
            "instance_prompts": captions,
            "class_prompt": prompts.fill(config.class_prompt, chosen.text, noun),
            "model": config.model,
            "fingerprint": fingerprint(backbone.stage("base")),
            "warnings": [*subject.warnings, *chosen.warnings],
        }
        others = f" or in {len(captions) - 1} other ways" if len(captions) > 1 else ""
        display.say(f'Every photo is called "{captions[0]}"{others} (token {facts[0]["token_ids"]}).')
    broadcast_object_list(facts)
    return facts[0]


def find_identifier(
    config: TrainConfig, backbone: Backbone, class_noun: str, display: Display
) -> identifier.Identifier:
    """The user's identifier, checked; or a rare one, drawn by seed or, with `probe_identifier`, by weakest reaction.

    For textual inversion and pivotal tuning the new word, which is in no vocabulary yet.
    """
    tokenizer, *others = backbone.tokenizers
    if config.method in NEW_WORD:
        return new_word(config, class_noun).identifier(backbone.tokenizers)
    if config.identifier is not None:
        return identifier.check(config.identifier, tokenizer, class_noun, others)
    if not config.probe_identifier:
        return identifier.choose(tokenizer, class_noun, config.seed, others=others)
    candidates = identifier.finalists(tokenizer, class_noun, config.seed, PROBED_CANDIDATES, others=others)
    return probe(backbone, candidates, class_noun, display)[0].identifier


def probe(
    backbone: Backbone, candidates: Sequence[identifier.Identifier], class_noun: str, display: Display
) -> list[identifier.Probed]:
    """Candidates with how far each moves the frozen model's pictures of "a [class noun]", weakest first.

    The reaction is the mean absolute difference of the latents that the same noise is drawn to.
    """
    seeds, draft = range(4), Sampling(num_inference_steps=15, guidance_scale=3.0, sampler="dpm++")
    sampling = precise(draft, backbone.stage("base"))

    def latents(text: str) -> torch.Tensor:
        drawn = backbone.stage("base").sample_latents([text] * len(seeds), seeds, sampling)
        advance(1)
        return drawn

    with display.track("probing identifiers", len(candidates) + 1) as advance:
        neutral = latents(prompts.class_prompt(class_noun))
        return identifier.probe(
            candidates,
            lambda texts: [float((latents(text) - neutral).abs().mean()) for text in texts],
            class_noun,
        )


def _inspect(config: TrainConfig, display: Display) -> Subject:
    """The pre-flight: reads the photos and shows what was found, before any model is loaded."""
    if not config.photos:
        raise ConfigError("No photos were given; name a folder or files with three to five photos of the subject.")
    resolution = config.resolution or backbones.native_resolution(_source(config))
    inspection = inspect(config.photos, resolution, config.crop, config.background)
    display.say(preflight_table(inspection))
    subject = make_subject(inspection, config.class_noun)
    for warning in subject.warnings:
        display.warn(warning)
    captions = [config.instance_prompt or prompts.INSTANCE_TEMPLATE, config.class_prompt]
    for template in [*config.preview_prompts, *config.track_prompts, *(config.composed_prompts or ()), *captions]:
        prompts.fill(template, "x", subject.class_noun)
    for name in config.applications or []:
        prompts.application_prompts(name, subject.class_noun)
    return _masked(config, subject, display) if config.masked_loss else subject


def _masked(config: TrainConfig, subject: Subject, display: Display) -> Subject:
    """The subject with its masks, and a word about them."""
    segment = None
    if config.segmenter:
        segment = Segmenter(config.segmenter, subject.class_noun, str(choose_device(config.device)))
    found = with_masks(subject, Path(config.masks).expanduser() if config.masks else None, segment)
    share = coverage(found.masks or ())
    display.say(f"The subject fills {share:.0%} of its photos; the rest counts {config.mask_weight:g} times as much.")
    return found


def _source(config: TrainConfig) -> Source:
    lender = config.model_config_folder
    return backbones.resolve(config.model, Path(lender) if lender else None, stages.parts_of(config))


def _outline(config: TrainConfig) -> Backbone:
    backbone = backbones.load_for_counting(_source(config))
    if config.resolution:
        backbone.set_resolution(config.resolution)
    return backbone


def load_model(config: TrainConfig, method: Method | None = None) -> Backbone:
    """The frozen model of the config, at its resolution, on its device; `method` is what will be trained of it."""
    backbone = _loaded(config)
    place(backbone, choose_device(config.device), method, config.mixed_precision)
    return backbone


def _loaded(config: TrainConfig) -> Backbone:
    source = _source(config)
    backbone = backbones.load(source.name, source.config, source.parts)
    if config.resolution:
        backbone.set_resolution(config.resolution)
    return backbone
