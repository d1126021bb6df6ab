"""What a job's time bought: pictures of its four prompts, judged by DINO (likeness) and CLIP-T (obedience)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.task import CLASS_NOUN, PROMPTS, Outcome, Task

if TYPE_CHECKING:
    from PIL.Image import Image


def prompts_of_round(task: Task) -> list[str]:
    """The prompts of one round of pictures, one of each."""
    return [task.fill(template) for template in PROMPTS]


def rounds(task: Task) -> range:
    """The rounds after the first, which is part of the job; they make up the number that is judged."""
    return range(1, -(-task.judged // len(PROMPTS)))


def save_round(task: Task, number: int, images: Sequence[Image]) -> None:
    """Keeps round `number` under the task's folder."""
    folder = Path(task.work) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        image.save(folder / f"{number:02d}-{index}.png")


def judge(task: Task) -> Outcome:
    """DINO between the pictures and the photos, CLIP-T between the pictures and their prompts without the identifier.

    The judges are those that the package takes for this model: the embedded world's own, or the paper's.
    """
    from PIL.Image import open as open_image

    from dreambooth.evaluation.encoders import clip_encoder, clip_name, dino_encoder, dino_name
    from dreambooth.evaluation.metrics import pairwise_fidelity, prompt_fidelity
    from dreambooth.subject import load_subject

    files = sorted((Path(task.work) / "pictures").glob("*.png"))
    pictures = [open_image(file).convert("RGB") for file in files]
    texts = [PROMPTS[int(file.stem.split("-")[1])].replace("{subject}", CLASS_NOUN) for file in files]
    photos = [photo.image for photo in load_subject([task.photos], CLASS_NOUN, task.resolution).photos]
    dino = dino_encoder(dino_name(task.size), task.device)
    clip = clip_encoder(clip_name(task.size), task.device)
    likeness = pairwise_fidelity(dino.embed_images(pictures), dino.embed_images(photos))
    obedience = prompt_fidelity(clip.embed_images(pictures), clip.embed_texts(texts))
    return Outcome(
        {"dino": float(likeness.mean()), "clip_t": float(obedience.mean())},
        {"judged": len(files), "dino": dino.name, "clip": clip.name},
    )
