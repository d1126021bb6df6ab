"""Toybox renders as pictures, and sheets of the whole world to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from dreambooth.backbones.protocol import Sampling
from dreambooth.sheets import contact_sheet
from dreambooth.toybox import captions, scenes, styles, subjects, world
from dreambooth.toybox.world import Scene

if TYPE_CHECKING:
    from dreambooth.backbones.protocol import Backbone
    from dreambooth.ui import Display

AT_ONCE = 8
"""Pictures drawn together."""


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images [N, 3, H, W] in 0..1 as pictures."""
    pixels = images.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in pixels]


def world_sheets(seed: int) -> dict[str, list[Scene]]:
    """The scenes of each sheet: what there is, shown on varied individuals."""
    live = ("dog", "cat", "stuffed animal", "toy")
    nouns = sorted(subjects.CLASSES)

    def varied(index: int) -> str:
        return nouns[(index * 7 + seed) % len(nouns)]

    def wearers(accessory: str) -> list[str]:
        return [noun for noun in live if subjects.wears(noun, accessory)]

    return {
        "classes": [Scene(noun, seed + i, seed=seed + i) for noun in nouns for i in range(4)],
        "contexts": [
            Scene(varied(4 * c + i), seed + i, context, seed=seed + c * 4 + i)
            for c, context in enumerate(scenes.CONTEXTS)
            for i in range(4)
        ],
        "accessories": [
            Scene(noun, seed + i, accessory=accessory, seed=seed + i)
            for accessory in subjects.accessory_names()
            for i, noun in enumerate(wearers(accessory))
        ],
        "properties": [
            Scene(varied(4 * p + i), seed + i, property=prop, seed=seed + i)
            for p, prop in enumerate(subjects.PROPERTIES)
            for i in range(4)
        ],
        "views": [
            Scene(varied(4 * v + i), seed + i, view=view, seed=seed + i)
            for v, view in enumerate(world.VIEWS)
            for i in range(4)
        ],
        "styles": [
            Scene(varied(4 * s + i), seed + i, style=style, context=list(scenes.CONTEXTS)[i], seed=seed + i)
            for s, style in enumerate(styles.STYLES)
            for i in range(4)
        ],
    }


Draw = Callable[[Sequence[Scene]], list[Image.Image]]


def rendered(size: int) -> Draw:
    """Draws scenes as they are."""
    return lambda chosen: to_pil(world.draw(chosen, size).images)


def imagined(backbone: Backbone, seed: int) -> Draw:
    """Draws the captions of scenes with a model: what it makes of the same words."""
    sampling = Sampling(
        backbone.spec.num_inference_steps, backbone.spec.guidance_scale, backbone.spec.sampler, mixed_precision="auto"
    )

    def draw(chosen: Sequence[Scene]) -> list[Image.Image]:
        return backbone.generate(
            [captions.caption(scene) for scene in chosen], [seed + (scene.seed or 0) for scene in chosen], sampling
        )

    return draw


def write_sheets(out: Path, draw: Draw, tile: int, seed: int, display: Display) -> Iterator[Path]:
    """One PNG a sheet, four pictures a row and two rows side by side, captions below; yields each path."""
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in world_sheets(seed).items():
        pictures: list[Image.Image] = []
        with display.track(name, len(chosen)) as advance:
            for start in range(0, len(chosen), AT_ONCE):
                part = chosen[start : start + AT_ONCE]
                pictures += draw(part)
                advance(len(part))
        path = out / f"{name}.png"
        contact_sheet(pictures, 8, [captions.caption(scene) for scene in chosen], tile=tile).save(path)
        yield path
