"""From nothing to the two judges `toybox-clip` and `toybox-dino`: pictures, training, export.

Every stage leaves its result in the work folder and is skipped, or goes on, when it is there already. The judges see
nothing of `toybox-sd`, and it nothing of them.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from dreambooth.backbones.files import first_line
from dreambooth.errors import ConfigError, ModelError
from dreambooth.toybox import (
    captions,
    cards,
    clip,
    data,
    dino,
    measures,
    pairs,
    pretrain,
    references,
    subjects,
    tokenizer,
    zeroshot,
)
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, first_process_first, processes
from dreambooth.toybox.world import Scene

UNSEEN_SEEDS = range(40_000_000, 50_000_000)
"""Seeds of scenes that no training uses."""
WATCHED = 230
"""Held-out pictures that the training logs are measured on."""


@dataclass(frozen=True)
class JudgesConfig:
    """What is trained, on how much, for how long; the defaults take about four hours on a free core."""

    images: int = 20_480
    individuals: int = 10_240
    contrasts: int = 5_120
    size: int = 128
    seed: int = 0
    clip_budget: Budget = clip.BUDGET
    dino_budget: Budget = dino.BUDGET
    clip_rates: Optimisation = clip.RATES
    dino_rates: Optimisation = dino.RATES
    towers: clip.Towers = clip.TOWERS
    clip_start: Path | None = None
    """Folder of a toybox-clip to go on from, whose patches may be larger."""
    only: Literal["clip", "dino"] | None = None
    sizes: dino.Sizes = dino.SIZES
    compiled: bool = True
    """Render through torch.compile."""


def train(
    out: Path, config: JudgesConfig | None = None, *, work: Path = Path(".toybox"), device: str = "auto",
    resume: bool = True, log: Log = print,
) -> None:  # fmt: skip
    """Train both judges and save them at `out`/toybox-clip and `out`/toybox-dino, with their model cards.

    Several processes (torchrun) share the batches of toybox-clip. Raises ConfigError where they would train
    toybox-dino, whose batches cannot be shared: they are balanced as a whole.
    """
    config = config or JudgesConfig()
    rank, count = processes()
    if count > 1 and config.only != "clip":
        raise ConfigError(
            "Only toybox-clip is trained by several processes: give --only clip, or start without torchrun."
        )
    log = log if not rank else lambda _line: None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.only != "dino":
        _make_clip(out, config, work, device, resume, log)
    if config.only != "clip":
        _make_dino(out, config, work, device, resume, log)


def _make_clip(out: Path, config: JudgesConfig, work: Path, device: str, resume: bool, log: Log) -> None:
    words = pretrain.learn_words()
    judge = train_clip(words, config, work, device, resume, log)
    if processes()[0]:
        return
    save_clip(out / "toybox-clip", judge.module, words)
    cards.write(
        out / "toybox-clip",
        cards.CLIP,
        judge,
        judge.module,
        config.clip_rates,
        device,
        images=config.images,
        share=clip.WHOLE,
    )
    log(f"saved {out / 'toybox-clip'}")


def _make_dino(out: Path, config: JudgesConfig, work: Path, device: str, resume: bool, log: Log) -> None:
    teacher = train_dino(config, work, device, resume, log)
    backbone = teacher.module.teacher.backbone
    save_dino(out / "toybox-dino", backbone)
    cards.write(
        out / "toybox-dino", cards.DINO, teacher, backbone, config.dino_rates, device, individuals=config.individuals
    )
    log(f"saved {out / 'toybox-dino'}")


def train_clip(
    words: CLIPTokenizer, config: JudgesConfig, work: Path, device: str, resume: bool, log: Log
) -> Fitted[CLIPModel]:
    """toybox-clip on the corpus that the generator trains on too, on the pairs of toybox-dino and on contrasts.

    Raises ModelError for a start that is no CLIP with these words.
    """
    torch.manual_seed(config.seed)
    model = _first_clip(words, config)
    render: dict[str, Any] = {"size": config.size, "compiled": config.compiled, "log": log}
    held = [captions.sample_scene(seed, held_out=True) for seed in UNSEEN_SEEDS[-WATCHED:]]
    with first_process_first():
        data.extend(work / "corpus", config.images, **render)
        pairs.extend(work / "pairs", config.individuals, device=device, **render)
        pairs.extend(work / "contrasts", config.contrasts, pairs.contrasted, device=device, **render)
        pictures = _pictures(work, held, config, device)
    images, scenes, together = clip_pictures(config, work)

    @torch.no_grad()
    def watch(model: CLIPModel) -> str:
        def read(texts: Sequence[str]) -> Tensor:
            tokens = words(list(texts), padding=True, return_tensors="pt").input_ids
            return clip.read(model, tokens.to(model.device)).cpu()

        seen = torch.cat([clip.look(model, part.to(model.device)).cpu() for part in pictures.split(128)])
        shares = {name: zeroshot.judged(seen, held, name, read) for name in ("class_noun", "context", "property")}
        return ", ".join(f"{name} {sum(right) / max(1, len(right)):.1%} right" for name, right in shares.items())

    return clip.train(
        images, scenes, words, work, config.clip_budget, config.clip_rates, contrasts=together,
        model=model, device=device, seed=config.seed, resume=resume, watch=watch, log=log,
    )  # fmt: skip


def _first_clip(words: CLIPTokenizer, config: JudgesConfig) -> CLIPModel:
    """What toybox-clip's training begins with."""
    if config.clip_start is None:
        return clip.new(words, config.towers)
    if not config.clip_start.is_dir():
        raise ModelError(f"There is no folder {config.clip_start} to go on from; name an embedded model or a folder.")
    try:
        judge = CLIPModel.from_pretrained(config.clip_start, local_files_only=True, use_safetensors=True)
        known = CLIPTokenizer.from_pretrained(config.clip_start, local_files_only=True).get_vocab()
    except (OSError, ValueError) as error:
        raise ModelError(f"Training cannot go on from {config.clip_start}: {first_line(error).rstrip('.')}.") from error
    if known != words.get_vocab():
        raise ModelError(f"Training cannot go on from {config.clip_start}: it reads other words.")
    return clip.finer(judge, config.towers.patch)


def clip_pictures(config: JudgesConfig, work: Path) -> tuple[Tensor, list[Scene], Tensor]:
    """All pictures [N, 3, H, W], uint8, their scenes, and which two belong together [M, 2]."""
    images = [data.load(work / "corpus", config.images).images]
    scenes = [captions.sample_scene(seed) for seed in range(config.images)]
    alone = len(scenes)
    for folder, count, scenes_of in (
        ("pairs", config.individuals, pairs.photographed),
        ("contrasts", config.contrasts, pairs.contrasted),
    ):
        images.append(pairs.load(work / folder, count).flatten(0, 1))
        scenes += [scene for seed in range(count) for scene in scenes_of(seed)]
    return torch.cat(images), scenes, torch.arange(alone, len(scenes)).view(-1, 2)


def train_dino(config: JudgesConfig, work: Path, device: str, resume: bool, log: Log) -> Fitted[dino.Distillation]:
    """toybox-dino on pairs of photos, rendered for it."""
    pairs.extend(work / "pairs", config.individuals, size=config.size, device=device, compiled=config.compiled, log=log)
    held = unseen_individuals(2, 5)
    pictures = _pictures(work, held, config, device)

    @torch.no_grad()
    def watch(model: ViTModel) -> str:
        seen = torch.cat([dino.embed(model, part.to(model.device)).cpu() for part in pictures.split(128)])
        areas = identity_areas(F.normalize(seen, dim=-1), held)
        return f"AUC {sum(areas.values()) / len(areas):.3f}, least {min(areas, key=areas.__getitem__)}"

    return dino.train(
        pairs.load(work / "pairs", config.individuals), work, config.dino_budget, config.dino_rates, sizes=config.sizes,
        device=device, seed=config.seed, resume=resume, watch=watch, log=log,
    )  # fmt: skip


def _pictures(work: Path, scenes: Sequence[Scene], config: JudgesConfig, device: str) -> Tensor:
    """Renders in -1..1."""
    images = references.rendered(work / "references", scenes, size=config.size, device=device, compiled=config.compiled)
    return images.float() / 127.5 - 1


def unseen_individuals(each: int, photos: int) -> list[Scene]:
    """`photos` photos, anywhere and from anywhere, of `each` held-out individuals of every class."""
    rng = random.Random(f"unseen individuals/{each}/{photos}")
    return [
        pairs.photograph(class_noun, individual, rng, dressed=0.0)
        for class_noun in subjects.CLASSES
        for individual in rng.sample(captions.HELD_OUT_INDIVIDUALS, each)
        for _ in range(photos)
    ]


def identity_areas(embeddings: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """`measures.identity_auc` of embeddings [N, D] of pictures of scenes."""
    return measures.identity_auc(
        embeddings, [scene.individual for scene in scenes], [scene.class_noun for scene in scenes]
    )


def save_clip(out: Path, model: CLIPModel, words: CLIPTokenizer) -> None:
    """Write the model in float16 with its tokenizer and preprocessing, whole or not at all."""
    draft = _draft(out, model)
    tokenizer.save(words, draft)
    vision: Any = model.config.vision_config
    size = vision.image_size
    _write_preprocessor(draft, "CLIPImageProcessor", size={"shortest_edge": size}, do_center_crop=True,
                        crop_size={"height": size, "width": size}, do_convert_rgb=True)  # fmt: skip
    _finish(draft, out)


def save_dino(out: Path, model: ViTModel) -> None:
    """Write the model in float16 with its preprocessing, whole or not at all."""
    draft = _draft(out, model)
    size = model.config.image_size
    _write_preprocessor(draft, "ViTImageProcessor", size={"height": size, "width": size})
    _finish(draft, out)


def _draft(out: Path, model: CLIPModel | ViTModel) -> Path:
    """Weights in float16, but a configuration that asks for float32: transformers 5 loads what the latter says."""
    draft = out.with_name(out.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    half = copy.deepcopy(model)
    nn.Module.to(half, "cpu", torch.float16)
    half.save_pretrained(draft)
    config = draft / "config.json"
    config.write_text(config.read_text("utf-8").replace('"float16"', '"float32"'), "utf-8")
    return draft


def _finish(draft: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def _write_preprocessor(folder: Path, kind: str, **settings: Any) -> None:
    """Pixels to -1..1, as in training; scaled by Pillow's bicubic filter."""
    common = {
        "image_processor_type": kind,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(common | settings, indent=2) + "\n", "utf-8")
