"""What masked loss gains: one subject, all its photos taken in one place, trained with and without masks.

    python -m benchmarks.masked_loss --subjects dog:17 teapot:3 --out runs/masked-loss

Both trainings see the same photos, prior samples, noise and times; only the weights in the loss differ. Each then draws
the subject in places it was not photographed in. Reported are means over pictures:

    right   share in which toybox-clip, choosing among all places, sees the place that was asked for
    leaked  share in which it sees the place of the training photos instead
    DINO    likeness (toybox-dino) to photos of the subject in ordinary places, so that the place is no help
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import dreambooth
from dreambooth.errors import DreamBoothError
from dreambooth.evaluation.encoders import clip_encoder, dino_encoder
from dreambooth.evaluation.metrics import pairwise_fidelity
from dreambooth.toybox.cli import save_photos
from dreambooth.toybox.scenes import CONTEXTS

ASKED = ("jungle", "snow", "city", "wheat field", "milk", "white rug", "dirt road", "mountain")


@dataclass(frozen=True)
class Row:
    """One training's figures; `mask_weight` None is the plain loss."""

    subject: str
    mask_weight: float | None
    right: float
    leaked: float
    dino: float
    seconds: float


def measure(noun: str, individual: int, mask_weight: float | None, options: argparse.Namespace) -> Row:
    """Trains one subject, unless it was trained before, draws it in other places, and judges the pictures."""
    place = options.out / f"{noun.replace(' ', '-')}-{individual}"
    photos, elsewhere = place / "photos", place / "elsewhere"
    if not photos.exists():
        save_photos(photos, noun, individual, place=options.place, masks=True)
        save_photos(elsewhere, noun, individual)
    folder = place / ("plain" if mask_weight is None else f"masked-{mask_weight:g}")
    if (folder / "report.html").exists():
        run = dreambooth.load(folder)
    else:
        masked = {} if mask_weight is None else {"masked_loss": True, "mask_weight": mask_weight}
        given: dict[str, Any] = {"out": str(folder), "applications": [], "preview_steps": 0} | masked
        given |= {"max_train_steps": options.steps, "num_class_images": options.num_class_images}
        run = dreambooth.personalize(photos, noun, quiet=True, **given)
    asked = [name for name in ASKED if name != options.place]
    drawn = run.generate([f"a {{subject}} {CONTEXTS[name].phrase}" for name in asked], options.images)
    for index, image in enumerate(drawn):
        image.save(folder / f"asked-{index:02d}.png")
    seen = places_seen(drawn, noun)
    wanted = [name for name in asked for _ in range(options.images)]
    dino = dino_encoder("toybox-dino")
    real = dino.embed_images([Image.open(file).convert("RGB") for file in sorted(elsewhere.glob("*.png"))])
    return Row(
        subject=f"{noun} {individual}",
        mask_weight=mask_weight,
        right=sum(one == other for one, other in zip(seen, wanted, strict=True)) / len(wanted),
        leaked=sum(one == options.place for one in seen) / len(wanted),
        dino=float(pairwise_fidelity(dino.embed_images(drawn), real).mean()),
        seconds=run.folder.times()["train"],
    )


def places_seen(pictures: Sequence[Image.Image], noun: str) -> list[str]:
    """The place that each picture shows, the nearest of all in words."""
    clip = clip_encoder("toybox-clip")
    texts = clip.embed_texts([f"a {noun} {context.phrase}" for context in CONTEXTS.values()])
    nearest = (clip.embed_images(pictures) @ texts.T).argmax(dim=1)
    return [list(CONTEXTS)[index] for index in nearest.tolist()]


def table(rows: Sequence[Row]) -> str:
    """Means over subjects, one line a mask weight, in Markdown."""
    lines = ["| loss | subjects | right place | place of the photos | DINO |", "|---|---|---|---|---|"]
    for weight in dict.fromkeys(row.mask_weight for row in rows):
        chosen = [row for row in rows if row.mask_weight == weight]
        means = [sum(getattr(row, name) for row in chosen) / len(chosen) for name in ("right", "leaked", "dino")]
        name = "plain" if weight is None else f"masked, background {weight:g}"
        lines.append(f"| {name} | {len(chosen)} | {means[0]:.0%} | {means[1]:.0%} | {means[2]:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What masked loss gains.")
    parser.add_argument("--subjects", nargs="+", default=["dog:17", "teapot:3"], help="CLASS NOUN:INDIVIDUAL")
    parser.add_argument("--place", default="beach", choices=sorted(CONTEXTS), help="Where all photos are taken.")
    parser.add_argument("--mask-weights", nargs="+", type=float, default=[0.1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--num-class-images", type=int, default=64)
    parser.add_argument("--images", type=int, default=4, help="Pictures of each of the places.")
    parser.add_argument("--out", type=Path, default=Path("runs/masked-loss"))
    options = parser.parse_args()
    torch.manual_seed(0)
    rows: list[Row] = []
    for subject in options.subjects:
        noun, _, individual = subject.partition(":")
        for weight in (None, *options.mask_weights):
            rows.append(measure(noun, int(individual or 0), weight, options))
            print(rows[-1], flush=True)
    (options.out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except DreamBoothError as error:
        raise SystemExit(f"error: {error}") from None
