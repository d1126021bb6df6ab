"""How good the embedded models are, measured on individuals and scenes that no training has seen.

The judges measure the generator, and are measured themselves on true pictures of the same prompts: what they say of
those is the most that a perfect generator would get from them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dreambooth.backbones.cascade import SuperResolver
from dreambooth.backbones.if_pipelines import generators
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.errors import ConfigError
from dreambooth.evaluation.encoders import ImageEncoder, ImageTextEncoder, clip_encoder, dino_encoder
from dreambooth.models import embedded
from dreambooth.photo import Refusal, read_photo
from dreambooth.toybox import autoencoder, captions, claims, judges, measures, references, zeroshot
from dreambooth.toybox.assessment import Assessment, Row
from dreambooth.toybox.sheets import bytes_of
from dreambooth.toybox.world import Scene
from dreambooth.ui import Display

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

STEPS, BATCH = 25, 8
"""Sampling steps, and pictures sampled at a time."""
SPEED_FLOOR = 0.35
"""Seconds a picture on two cores."""
SAMPLE_FLOORS = {"class_noun": 0.95, "context": 0.95, "property": 0.85, "accessory": 0.85, "view": 0.85, "style": 0.85}
CLIP_FLOORS = {"class_noun": 0.97, "context": 0.95}
DINO_FLOOR = 0.97
PSNR_FLOOR, PHOTO_PSNR_FLOOR = 30.0, 25.0
PHOTOS_EACH = 5
PHOTO_SIZE = JUDGED_SIZE = 128
"""Pixels at which photos are read, and at which the judges see pictures; larger ones they make smaller."""
CASCADE_FLOORS = {"class_noun": 0.9, "context": 0.9}
ENLARGED = 64
"""How many large renders a super-resolver is measured on."""


@dataclass(frozen=True)
class Plan:
    """What is measured, on how much, and where pictures are kept between calls."""

    model: str = "toybox-sd"
    clip: str = "toybox-clip"
    dino: str = "toybox-dino"
    prompts: int = 1000
    reconstructed: int = 256
    individuals: int = 8
    """Of every class, with PHOTOS_EACH photos each, for the AUC."""
    photos: Path | None = None
    work: Path = Path(".toybox")
    device: str = "cpu"
    compiled: bool = True
    """Render through torch.compile."""


def assess(plan: Plan, display: Display) -> Assessment:
    """Measure everything. Pictures, rendered and sampled, are kept in `plan.work` and not made twice.

    Raises ConfigError or ModelError in one sentence for what cannot be measured.
    """
    if plan.prompts < 2:
        raise ConfigError("A Fréchet distance needs two pictures at least; give --prompts 2 or more.")
    from dreambooth.backbones import load

    photos = None if plan.photos is None else read_photos(plan.photos)
    judge, teller = clip_encoder(plan.clip, plan.device), dino_encoder(plan.dino, plan.device)
    backbone = load(plan.model)
    backbone.to(plan.device)
    size = min(backbone.spec.resolution, JUDGED_SIZE)
    scenes, others = _unseen(0, plan.prompts), _unseen(plan.prompts, plan.prompts)
    faces = judges.unseen_individuals(plan.individuals, PHOTOS_EACH)
    with display.track("rendering", len(scenes) + len(others) + len(faces), over_seconds=120) as advance:
        true, apart, seen = (
            references.rendered(plan.work / "references", group, size=size, device=plan.device,
                                compiled=plan.compiled, advance=advance)
            for group in (scenes, others, faces)
        )  # fmt: skip
    sampling = Sampling(STEPS, backbone.spec.guidance_scale)
    with display.track("sampling", len(scenes)) as advance:
        samples, seconds = sampled(plan.work / "samples", backbone, scenes, sampling, advance)
    with display.track("judging", 4) as advance:
        if isinstance(backbone, SuperResolver):
            restored = super_resolution_rows(backbone, teller, scenes[:ENLARGED], plan)
        elif "autoencoder" in backbone.modules:
            restored = _autoencoder_rows(backbone, true[: plan.reconstructed], photos)
        else:
            restored = ()
        advance()
        shares, ceilings = (_shares(judge, images, scenes) for images in (samples, true))
        advance()
        told, looked = (judges.identity_areas(one.embed_images(pictures(seen)), faces) for one in (teller, judge))
        advance()
        distance = frechet_row(teller, samples, true, apart)
        advance()
    floors = SAMPLE_FLOORS if "autoencoder" in backbone.modules else CASCADE_FLOORS
    facts = {
        "model": plan.model,
        "clip": f"{judge.name} ({judge.fingerprint})",
        "dino": f"{teller.name} ({teller.fingerprint})",
        "prompts": plan.prompts,
        "steps": STEPS,
        "guidance_scale": sampling.guidance_scale,
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "auc_by_class": {"dino": told, "clip": looked},
    }
    limit = SPEED_FLOOR if "autoencoder" in backbone.modules else None
    speed = Row("samples: a picture", seconds, "s", len(scenes), limit, below=True)
    return Assessment(
        restored,
        _clip_rows(ceilings),
        _identity_rows(told, looked, len(seen)),
        (*_sample_rows(shares, ceilings, floors), distance, speed),
        facts,
    )


def _unseen(start: int, count: int) -> list[Scene]:
    seeds = judges.UNSEEN_SEEDS[start : start + count]
    return [captions.sample_scene(seed, held_out=True) for seed in seeds]


def read_photos(folder: Path) -> Tensor:
    """The photos in a folder and the folders in it, [N, 3, 128, 128], uint8, centre crops.

    Raises ConfigError where there is no folder or no usable photo.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}; give --photos a folder of photos.")
    found: list[Tensor] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            photo = read_photo(path, PHOTO_SIZE, "center", (255, 255, 255))
        except Refusal:
            continue
        found.append(_tensor(photo.image))
    if not found:
        raise ConfigError(f"{folder} holds no usable photo; give --photos a folder of JPEG or PNG files.")
    return torch.stack(found)


def _tensor(image: Image.Image) -> Tensor:
    """A picture as [3, H, W], uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def pictures(images: Tensor) -> list[Image.Image]:
    """Images [N, 3, H, W], uint8, as pictures."""
    return [Image.fromarray(array) for array in images.permute(0, 2, 3, 1).numpy()]


def sampled(
    folder: Path, backbone: Backbone, scenes: Sequence[Scene], sampling: Sampling, advance: Callable[[int], None]
) -> tuple[Tensor, float]:
    """A sample [N, 3, H, W], uint8, of a caption of each scene, and the seconds a picture took; in bfloat16 autocast.

    Kept in `folder` under the fingerprint of the weights, so an interrupted call goes on.
    """
    from dreambooth.prior import weights_fingerprint

    prompts = [captions.caption(scene, seed=index) for index, scene in enumerate(scenes)]
    weights = weights_fingerprint(backbone.modules)
    parts: list[Tensor] = []
    seconds = 0.0
    for start in range(0, len(prompts), references.CHUNK):
        chunk = prompts[start : start + references.CHUNK]
        key = repr((weights, sampling, start, chunk, backbone.device.type))

        def draw(chunk: Sequence[str] = chunk, start: int = start) -> dict[str, Tensor]:
            began = time.perf_counter()
            drawn: list[Tensor] = []
            for first in range(0, len(chunk), BATCH):
                texts = chunk[first : first + BATCH]
                seeds = range(start + first, start + first + len(texts))
                with torch.autocast(backbone.device.type, torch.bfloat16):
                    drawn += [_tensor(image) for image in backbone.generate(texts, seeds, sampling)]
                advance(len(texts))
            return {"images": torch.stack(drawn), "seconds": torch.tensor(time.perf_counter() - began)}

        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        known = path.exists()
        stored = references.kept(path, draw)
        if known:
            advance(len(chunk))
        parts.append(stored["images"])
        seconds += float(stored["seconds"])
    return torch.cat(parts), seconds / len(prompts)


def _autoencoder_rows(backbone: Backbone, renders: Tensor, photos: Tensor | None) -> tuple[Row, ...]:
    vae: Any = backbone.modules["autoencoder"]
    found = psnr(vae, renders)
    rows = [Row("autoencoder: PSNR, toybox", found, "dB", len(renders), PSNR_FLOOR)]
    if photos is None:
        missing = "no --photos"
        return (*rows, Row("autoencoder: PSNR, photos", None, "dB", 0, PHOTO_PSNR_FLOOR, note=missing))
    return (*rows, Row("autoencoder: PSNR, photos", psnr(vae, photos), "dB", len(photos), PHOTO_PSNR_FLOOR))


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of images [N, 3, H, W], uint8, through an autoencoder."""
    values: list[Tensor] = []
    for part in images.split(32):
        pixels = part.to(vae.device).float() / 127.5 - 1
        values.append(autoencoder.psnr(autoencoder.reconstruct(vae, pixels), pixels).cpu())
    return torch.cat(values).mean().item()


def super_resolution_rows(
    backbone: SuperResolver, teller: ImageEncoder, scenes: Sequence[Scene], plan: Plan
) -> tuple[Row, ...]:
    """PSNR and DINO of large renders made small and enlarged again, by the model and by a bicubic filter."""
    large = references.rendered(
        plan.work / "references", scenes, size=backbone.spec.resolution, device=plan.device, compiled=plan.compiled
    )
    true = large.float() / 127.5 - 1
    low = F.interpolate(true, (backbone.base.spec.resolution,) * 2, mode="area")
    texts = [captions.caption(scene, seed=index) for index, scene in enumerate(scenes)]
    sampling = Sampling(sampler=backbone.spec.sampler, mixed_precision="auto")
    drawn: list[Tensor] = []
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        draws = generators(range(start, start + len(texts[part])))
        drawn.append(backbone.enlarge(low[part].to(backbone.device), texts[part], draws, sampling).clamp(-1, 1).cpu())
    bicubic = F.interpolate(low, true.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
    seen = teller.embed_images(pictures(large))
    rows: list[Row] = []
    for name, images in (("super-resolution", torch.cat(drawn)), ("bicubic", bicubic)):
        likeness = (teller.embed_images(pictures(bytes_of(images))) * seen).sum(1).mean()
        rows += [
            Row(f"{name}: PSNR", autoencoder.psnr(images, true).mean().item(), "dB", len(true)),
            Row(f"{name}: DINO to the truth", likeness.item(), "", len(true)),
        ]
    return tuple(rows)


def _shares(judge: ImageTextEncoder, images: Tensor, scenes: Sequence[Scene]) -> dict[str, list[bool]]:
    """For each attribute, whether the judge finds it right in each picture of a scene that has it."""
    embedded = judge.embed_images(pictures(images))
    return {name: zeroshot.judged(embedded, scenes, name, judge.embed_texts) for name in claims.VALUES}


def _mean(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None


def _clip_rows(ceilings: dict[str, list[bool]]) -> tuple[Row, ...]:
    return tuple(
        Row(f"clip: {_said(name)} of true pictures", _mean(right), "%", len(right), CLIP_FLOORS.get(name),
            note="no prompt")
        for name, right in ceilings.items()
    )  # fmt: skip


def _sample_rows(
    shares: dict[str, list[bool]], ceilings: dict[str, list[bool]], floors: dict[str, float]
) -> tuple[Row, ...]:
    return tuple(
        Row(f"samples: {_said(name)} right", _mean(right), "%", len(right), floors.get(name),
            _mean(ceilings[name]), note="no prompt")
        for name, right in shares.items()
    )  # fmt: skip


def _said(attribute: str) -> str:
    return "class" if attribute == "class_noun" else attribute


def _identity_rows(dino: dict[str, float], clip: dict[str, float], count: int) -> tuple[Row, ...]:
    means = [sum(areas.values()) / len(areas) for areas in (dino, clip)]
    return (
        Row("dino: AUC, same individual", means[0], "", count, DINO_FLOOR),
        Row("clip: AUC, same individual", means[1], "", count),
    )


def frechet_row(encoder: ImageEncoder, samples: Tensor, true: Tensor, apart: Tensor) -> Row:
    """Fréchet distance of samples to renders of *other* scenes, over that of true pictures of the samples' own prompts
    to the same renders; 1 is perfect."""
    embedded = [encoder.embed_images(pictures(images)) for images in (samples, true, apart)]
    ratio = measures.frechet(embedded[0], embedded[2]) / max(measures.frechet(embedded[1], embedded[2]), 1e-12)
    return Row("samples: Fréchet, over renders'", ratio, "", len(samples))


def card_folders(plan: Plan, *, model: bool, judges: bool) -> dict[Path, tuple[str, ...]]:
    """The folders whose cards are wanted, of the model and of its two judges, and which numbers are about each.

    Raises ConfigError for what is not a folder on this machine, whose card cannot be written.
    """
    wanted = [(plan.model, ("autoencoder", "samples"))] if model else []
    wanted += [(plan.clip, ("clip",)), (plan.dino, ("dino",))] if judges else []
    known = embedded()
    folders = {known.get(name, Path(name).expanduser()): parts for name, parts in wanted}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"There is no folder {folder} to write a model card into; leave out the option that asks for it."
            )
    return folders
