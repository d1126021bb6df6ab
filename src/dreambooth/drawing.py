"""Draws prompts with seeds, saves the pictures with their facts, and lays them out on a sheet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.heap import freed_memory_kept
from dreambooth.lending import precise
from dreambooth.sheets import contact_sheet, save_picture

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """One drawn picture with what it was drawn from; `template` is the prompt before the subject was filled in."""

    image: Image
    prompt: str
    template: str
    seed: int


def draw(
    backbone: Backbone,
    prompts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    sampling: Sampling,
    batch_size: int,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Picture]:
    """Every prompt, given as (template, filled prompt), with every seed: prompts in order, seeds within each.

    A picture depends on its prompt and seed alone. `progress` gets the number of pictures each batch drew.
    """
    jobs = [(template, prompt, seed) for template, prompt in prompts for seed in seeds]
    pictures: list[Picture] = []
    sampling = precise(sampling, backbone)
    with freed_memory_kept(backbone.device):
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            images = backbone.generate([job[1] for job in part], [job[2] for job in part], sampling)
            pictures += [
                Picture(image, prompt, template, seed)
                for image, (template, prompt, seed) in zip(images, part, strict=True)
            ]
            progress(len(part))
    return pictures


def cut_prompts(backbone: Backbone, prompts: Sequence[str]) -> list[str]:
    """The prompts that are longer than the model reads."""
    limit = backbone.spec.max_tokens
    return [prompt for prompt in prompts if backbone.count_tokens(prompt) > limit]


def save(pictures: Sequence[Picture], folder: Path, model: str, sampling: Sampling, columns: int) -> list[Path]:
    """PNGs named after prompt number, words and seed, a `pictures.json` about them, and a `sheet.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    entries: list[dict[str, object]] = []
    order = {template: number for number, template in enumerate(dict.fromkeys(p.template for p in pictures))}
    for picture in pictures:
        words = re.sub(r"[^a-z0-9]+", "-", picture.prompt.lower()).strip("-")[:60]
        path = folder / f"{order[picture.template]:02d}-{words}-{picture.seed}.png"
        facts = {
            "prompt": picture.prompt,
            "seed": str(picture.seed),
            "model": model,
            "steps": str(sampling.num_inference_steps),
            "guidance": str(sampling.guidance_scale),
            "sampler": sampling.sampler or "the model's own",
        }
        save_picture(picture.image, path, facts)
        entries.append(
            {"file": path.name, "prompt": picture.prompt, "template": picture.template, "seed": picture.seed}
        )
        paths.append(path)
    (folder / "pictures.json").write_text(json.dumps(entries, indent=2, ensure_ascii=False), encoding="utf-8")
    sheet = contact_sheet([p.image for p in pictures], columns, [p.prompt for p in pictures], tile=192)
    sheet.save(folder / "sheet.png")
    return paths
