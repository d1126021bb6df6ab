"""Draws prompts with seeds, saves the pictures with their facts, and lays them out on a sheet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
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
    pictures: list[Picture] = []
    for batch in batches(backbone, prompts, seeds, sampling, batch_size):
        pictures += batch
        progress(len(batch))
    return pictures


def batches(
    backbone: Backbone,
    prompts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    sampling: Sampling,
    batch_size: int,
) -> Iterator[list[Picture]]:
    """As `draw`, but each batch as soon as it is drawn."""
    jobs = [(template, prompt, seed) for template, prompt in prompts for seed in seeds]
    sampling = precise(sampling, backbone)
    with freed_memory_kept(backbone.device):
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            images = backbone.generate([job[1] for job in part], [job[2] for job in part], sampling)
            yield [
                Picture(image, prompt, template, seed)
                for image, (template, prompt, seed) in zip(images, part, strict=True)
            ]


def cut_prompts(backbone: Backbone, prompts: Sequence[str]) -> list[str]:
    """The prompts that are longer than the model reads."""
    limit = backbone.spec.max_tokens
    return [prompt for prompt in prompts if backbone.count_tokens(prompt) > limit]


class Album:
    """A folder of PNGs named after prompt number, words and seed, with a `pictures.json` about them.

    Pictures may come a batch at a time, in the order of their prompts; what came is there whenever the program ends.
    """

    def __init__(self, folder: Path, model: str, sampling: Sampling) -> None:
        self.folder, self.pictures, self.paths = folder, list[Picture](), list[Path]()
        self._numbers: dict[str, int] = {}
        self._facts = {
            "model": model,
            "steps": str(sampling.num_inference_steps),
            "guidance": str(sampling.guidance_scale),
            "sampler": sampling.sampler or "the model's own",
        }
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, pictures: Sequence[Picture]) -> None:
        """Writes these, and `pictures.json` of all so far. Raises OSError."""
        try:
            for picture in pictures:
                number = self._numbers.setdefault(picture.template, len(self._numbers))
                words = re.sub(r"[^a-z0-9]+", "-", picture.prompt.lower()).strip("-")[:60]
                path = self.folder / f"{number:02d}-{words}-{picture.seed}.png"
                facts = {"prompt": picture.prompt, "seed": str(picture.seed)} | self._facts
                save_picture(picture.image, path, facts)
                self.pictures.append(picture)
                self.paths.append(path)
        finally:  # Ctrl-C too
            entries = [
                {"file": path.name, "prompt": picture.prompt, "template": picture.template, "seed": picture.seed}
                for path, picture in zip(self.paths, self.pictures, strict=True)
            ]
            text = json.dumps(entries, indent=2, ensure_ascii=False)
            (self.folder / "pictures.json").write_text(text, encoding="utf-8")

    def write_sheet(self, columns: int) -> None:
        """All pictures so far on a `sheet.png`."""
        captions = [picture.prompt for picture in self.pictures]
        sheet = contact_sheet([picture.image for picture in self.pictures], columns, captions, tile=192)
        sheet.save(self.folder / "sheet.png")


def save(pictures: Sequence[Picture], folder: Path, model: str, sampling: Sampling, columns: int) -> list[Path]:
    """All pictures as an `Album`, with its sheet; returns the paths of the PNGs."""
    album = Album(folder, model, sampling)
    album.add(pictures)
    album.write_sheet(columns)
    return album.paths
