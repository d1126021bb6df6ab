"""The paper's ablation of super-resolution: not fine-tuned, fine-tuned at the original noise, at the lowered one.

Toybox knows the truth. Pictures of the same individual in new places, rendered large, are made small and given to each
super-resolver; what comes out is compared with the render. So the base, whose faults would hide those of the
super-resolver, has no part in it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreambooth import backbones
from dreambooth.backbones.cascade import SuperResolver
from dreambooth.backbones.if_pipelines import generators
from dreambooth.backbones.protocol import Backbone, Enlarging, Sampling
from dreambooth.checkpoint import write_whole
from dreambooth.config import make_config
from dreambooth.errors import ConfigError
from dreambooth.evaluation.benchmark import trained
from dreambooth.evaluation.contents import embed
from dreambooth.evaluation.encoders import dino_encoder, dino_name
from dreambooth.evaluation.metrics import pairwise_fidelity
from dreambooth.pages import render
from dreambooth.run import Run, choose_device
from dreambooth.toybox import captions, world
from dreambooth.toybox.cli import save_photos
from dreambooth.toybox.pictures import to_pil
from dreambooth.toybox.scenes import CONTEXTS
from dreambooth.toybox.sr_measures import detail_error, masked_psnr

if TYPE_CHECKING:
    from PIL.Image import Image

    from dreambooth.evaluation.encoders import ImageEncoder
    from dreambooth.ui import Display

BICUBIC, UNTRAINED, ORIGINAL, LOW = "bicubic", "not fine-tuned", "original noise", "lowered noise"
ARMS = {ORIGINAL: "original", LOW: "low"}
BATCH = 4
SHOWN = 6


@dataclass(frozen=True)
class Plan:
    """What is compared on whom. `settings` are training settings of both runs; `pictures` are drawn of each subject."""

    out: Path
    model: str = "toybox-if"
    class_noun: str = "dog"
    individual: int = 17
    subjects: int = 1
    photos: int = 5
    pictures: int = 8
    seed: int = 0
    num_inference_steps: int | None = None
    dino: str | None = None
    device: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Views:
    """The truth of one subject: large pictures and masks in 0..1, small pictures in -1..1, and where it is."""

    truth: Tensor
    masks: Tensor
    low: Tensor
    places: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Means of one way over all pictures of all subjects."""

    name: str
    noise_level: float | None
    dino: float
    dino_truth: float
    psnr: float
    detail_error: float


def run_ablation(plan: Plan, display: Display) -> Path:
    """Trains what is missing, draws, measures, writes results.json and index.html into the folder; returns the page.

    Raises ConfigError where the model has no super-resolver, and the DreamBoothError of whatever else cannot work.
    """
    judge = dino_encoder(plan.dino or dino_name(plan.model), plan.device)
    found: dict[str, list[dict[str, float]]] = {}
    levels: dict[str, float | None] = {BICUBIC: None}
    shown: list[tuple[str, list[tuple[str, Image]]]] = []
    with display.track("ablation", plan.subjects * (len(ARMS) + 1)) as advance:
        for number in range(plan.subjects):
            individual = plan.individual + number
            folder = plan.out / f"{plan.class_noun.replace(' ', '-')}-{individual}"
            runs = train_arms(plan, individual, folder, advance)
            untouched = super_resolver(backbones.load(plan.model), plan)
            views = see(plan, individual, untouched)
            drawn = {BICUBIC: interpolate(views.low, views.truth.shape[-2:], mode="bicubic").add(1).div(2)}
            named = {UNTRAINED: (untouched, ""), **{arm: (_of(run, plan), run.identifier) for arm, run in runs.items()}}
            for name, (resolver, word) in named.items():
                drawn[name] = enlarge(resolver, views, word, plan)
                levels[name] = resolver.notes.noise_level
            photos = [_open(path) for path in sorted((folder / "photos").glob("*.png"))]
            for name, pictures in drawn.items():
                found.setdefault(name, []).extend(measure(pictures.clamp(0, 1), views, photos, judge))
            shown += crops(drawn, views, plan)
            advance(1)
    rows = [
        Row(name, levels[name], **{key: sum(one[key] for one in each) / len(each) for key in each[0]})
        for name, each in found.items()
    ]
    facts = {"plan": vars(plan) | {"out": str(plan.out)}, "dino": judge.name, "rows": [vars(row) for row in rows]}
    write_whole(plan.out / "results.json", json.dumps(facts | {"pictures": found}, indent=2) + "\n")
    return write_page(plan, rows, shown[:SHOWN])


def train_arms(plan: Plan, individual: int, folder: Path, advance: Callable[[int], None]) -> dict[str, Run]:
    """The super-resolver fine-tuned in both ways on the same photos, or gone on with where that was stopped."""
    side = backbones.native_resolution(backbones.resolve(plan.model))
    if not (folder / "photos").is_dir():
        save_photos(folder / "photos", plan.class_noun, individual, plan.photos, side)
    runs: dict[str, Run] = {}
    for arm, augmentation in ARMS.items():
        place = folder / augmentation
        values = {
            "photos": [str(folder / "photos")], "class_noun": plan.class_noun, "model": plan.model, "stages": "sr",
            "sr_augmentation": augmentation, "applications": [], "preview_steps": 0, "seed": plan.seed,
            "device": plan.device, "out": str(place),
        }  # fmt: skip
        runs[arm] = trained(make_config(plan.settings | values), place)
        advance(1)
    return runs


def super_resolver(backbone: Backbone, plan: Plan) -> SuperResolver:
    """The whole cascade on its device. Raises ConfigError for a model that is none."""
    if not isinstance(backbone, SuperResolver):
        raise ConfigError(f"{plan.model} has no super-resolver to be fine-tuned; give a cascade such as toybox-if.")
    backbone.to(choose_device(plan.device))
    return backbone


def _of(run: Run, plan: Plan) -> SuperResolver:
    return super_resolver(run.backbone, plan)


def see(plan: Plan, individual: int, resolver: SuperResolver) -> Views:
    """The individual in new places, at the super-resolver's size, and made small for it."""
    draw = random.Random(f"ablation/{plan.class_noun}/{individual}/{plan.seed}")
    held_out = captions.HELD_OUT_INDIVIDUALS
    places = [list(CONTEXTS)[index % len(CONTEXTS)] for index in range(plan.pictures)]
    scenes = [
        world.Scene(plan.class_noun, held_out[individual % len(held_out)], place, seed=draw.randrange(2**31))
        for place in places
    ]
    rendered = world.draw(scenes, resolver.spec.resolution)
    low = interpolate(rendered.images, (resolver.base.spec.resolution,) * 2, mode="area").mul(2).sub(1)
    return Views(rendered.images, rendered.masks, low, tuple(CONTEXTS[place].phrase for place in places))


def enlarge(resolver: SuperResolver, views: Views, word: str, plan: Plan) -> Tensor:
    """The small pictures drawn large under their prompts, with the word where the model has learned one; 0..1."""
    subject = " ".join(filter(None, ["a", word, plan.class_noun]))
    sampling = Sampling(sampler=resolver.spec.sampler, enlarging=Enlarging(plan.num_inference_steps))
    parts: list[Tensor] = []
    for start in range(0, len(views.low), BATCH):
        rows = range(start, min(start + BATCH, len(views.low)))
        prompts = [f"{subject} {views.places[row]}" for row in rows]
        low = views.low[start : start + BATCH].to(resolver.device)
        pixels = resolver.enlarge(low, prompts, generators([plan.seed + row for row in rows]), sampling)
        parts.append(pixels.float().cpu().add(1).div(2))
    return torch.cat(parts)


def measure(pictures: Tensor, views: Views, photos: Sequence[Image], judge: ImageEncoder) -> list[dict[str, float]]:
    """All measures of each picture: DINO to the photos and to the true picture, and the subject's pixels."""
    embedded, real, truth = (judge.embed_images(images) for images in (to_pil(pictures), photos, to_pil(views.truth)))
    factor = pictures.shape[-1] // views.low.shape[-1]
    columns = {
        "dino": pairwise_fidelity(embedded, real),
        "dino_truth": (embedded * truth).sum(1),
        "psnr": masked_psnr(pictures, views.truth, views.masks),
        "detail_error": detail_error(pictures, views.truth, views.masks, factor),
    }
    return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(pictures))]


def crops(drawn: dict[str, Tensor], views: Views, plan: Plan) -> list[tuple[str, list[tuple[str, Image]]]]:
    """For each picture its middle on the subject, as it was given, as each way drew it, and as it is."""
    side = views.truth.shape[-1]
    small = interpolate(views.low, (side, side), mode="nearest").add(1).div(2)
    columns = {"given": small, **drawn, "truth": views.truth}
    result: list[tuple[str, list[tuple[str, Image]]]] = []
    for row, place in enumerate(views.places):
        across = torch.arange(side, dtype=torch.float32)
        weight = views.masks[row, 0]
        total = weight.sum().clamp_min(1)
        x, y = float((weight.sum(0) * across).sum() / total), float((weight.sum(1) * across).sum() / total)
        half = side // 4
        left, top = (min(max(round(at) - half, 0), side - 2 * half) for at in (x, y))
        box = (left, top, left + 2 * half, top + 2 * half)
        cut = [(name, to_pil(pictures[row : row + 1])[0].crop(box)) for name, pictures in columns.items()]
        result.append((f"a {plan.class_noun} {place}", cut))
    return result


def write_page(plan: Plan, rows: Sequence[Row], shown: Sequence[tuple[str, list[tuple[str, Image]]]]) -> Path:
    """index.html: the table and the crops, in a file that needs nothing else."""
    pictures = [(prompt, [(name, embed(image, name, side=512)) for name, image in cut]) for prompt, cut in shown]
    page = render("sr_ablation", plan=plan, rows=rows, pictures=pictures)
    write_whole(plan.out / "index.html", page)
    return plan.out / "index.html"


def _open(path: Path) -> Image:
    from PIL import Image

    return Image.open(path).convert("RGB")
