"""Where the toys are photographed: the twenty places of DreamBench, and ordinary ones for casual photos."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from dreambooth.toybox import places
from dreambooth.toybox.textures import Canvas

if TYPE_CHECKING:
    from dreambooth.toybox.render import Camera

SUPERSAMPLED = 64  # pictures up to this size are painted at twice the size


@dataclass(frozen=True)
class Background:
    """A place without its subject, and what the subject needs to know to stand in it.

    image [3, H, W] in 0..1; sun, sun_colour and ambient [3]; foreground [4, H, W] or None.
    """

    image: Tensor
    sun: Tensor  # unit vector towards the light
    sun_colour: Tensor
    ambient: Tensor
    shadow: float  # darkness of the subject's shadow on the ground, 0..1
    reflection: float  # strength of the subject's mirror image in the ground, 0..1
    sink: float  # how deep the subject is under the ground plane
    foreground: Tensor | None  # colour and opacity in front of everything


@dataclass(frozen=True)
class Context:
    """A place: its words as DreamBench writes them, its painter, and how its ground takes the subject."""

    phrase: str
    painter: Callable[[Canvas], None]
    shadow: float = 0.5
    reflection: float = 0.0
    sink: float = 0.0


def background(context: str | None, camera: Camera, size: int, seed: int) -> Background:
    """The place `context` (a key of `CONTEXTS` or `PLACES`; None: an ordinary place) as `camera` sees it.

    The same arguments always give the same picture, on the camera's device.
    """
    fine = 2 if size <= SUPERSAMPLED else 1
    canvas = Canvas(camera, size * fine, seed)
    place = canvas.random.choice(list(PLACES.values())) if context is None else (CONTEXTS | PLACES)[context]
    bearing, height = canvas.random.uniform(-0.8, 0.8), canvas.random.uniform(0.75, 1.3)
    sun = bearing * canvas.right - math.cos(bearing) * canvas.heading * 0.8 + height * canvas.up
    place.painter(canvas)
    image = F.avg_pool2d((canvas.image * canvas.tint).clamp(0, 1), fine)
    front = None if canvas.front is None else F.avg_pool2d(canvas.front.clamp(0, 1), fine)
    light = canvas.tint[:, 0, 0]
    return Background(
        image=image,
        sun=sun / sun.norm(),
        sun_colour=0.75 * light,
        ambient=0.5 * light,
        shadow=place.shadow,
        reflection=place.reflection,
        sink=place.sink,
        foreground=front,
    )


CONTEXTS: dict[str, Context] = {
    "jungle": Context("in the jungle", places.jungle),
    "snow": Context("in the snow", places.snow, shadow=0.35),
    "beach": Context("on the beach", places.beach),
    "cobblestone": Context("on a cobblestone street", places.cobblestone),
    "pink fabric": Context("on top of pink fabric", places.pink_fabric, shadow=0.45),
    "wooden floor": Context("on top of a wooden floor", places.wooden_floor, reflection=0.12),
    "city": Context("with a city in the background", places.city),
    "mountain": Context("with a mountain in the background", places.mountain),
    "blue house": Context("with a blue house in the background", places.blue_house),
    "purple rug": Context("on top of a purple rug in a forest", places.purple_rug),
    "wheat field": Context("with a wheat field in the background", places.wheat_field),
    "autumn": Context("with a tree and autumn leaves in the background", places.autumn),
    "eiffel tower": Context("with the Eiffel Tower in the background", places.eiffel_tower),
    "water": Context("floating on top of water", places.water, shadow=0.15, reflection=0.4, sink=0.18),
    "milk": Context("floating in an ocean of milk", places.milk, shadow=0.2, reflection=0.2, sink=0.22),
    "sunflowers": Context("on top of green grass with sunflowers around it", places.sunflowers),
    "mirror": Context("on top of a mirror", places.mirror, shadow=0.15, reflection=0.8),
    "crowded street": Context("on top of the sidewalk in a crowded street", places.crowded_street),
    "dirt road": Context("on top of a dirt road", places.dirt_road),
    "white rug": Context("on top of a white rug", places.white_rug, shadow=0.4),
}

PLACES: dict[str, Context] = {
    "studio": Context("in a studio", places.studio, shadow=0.35),
    "table": Context("on a table", places.table, reflection=0.1),
    "brick wall": Context("in front of a brick wall", places.brick_wall),
    "lawn": Context("on a lawn", places.lawn),
    "room": Context("in a room", places.room, shadow=0.4),
    "kitchen": Context("in a kitchen", places.kitchen, reflection=0.15),
    "pavement": Context("on the pavement", places.pavement),
}
