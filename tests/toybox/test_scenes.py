import math

import pytest
import torch
import torch.nn.functional as F

from dreambooth.toybox.render import Camera
from dreambooth.toybox.scenes import CONTEXTS, PLACES, Background, background

KINDS: list[str | None] = [*CONTEXTS, None]


def camera(elevation: float, azimuth: float = 0.5) -> Camera:
    """A camera that looks at the subject's middle, angles in radians."""
    middle = torch.tensor((0.0, 0.5, 0.0))
    flat = math.cos(elevation)
    away = torch.tensor((math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat))
    right = F.normalize(torch.linalg.cross(-away, torch.tensor((0.0, 1.0, 0.0))), dim=0)
    return Camera(middle + 1.8 * away, right, torch.linalg.cross(right, -away), -away, 0.42)


def border(scene: Background) -> torch.Tensor:
    """The picture beside and above a big subject, in 4 x 4 means."""
    small = F.adaptive_avg_pool2d(scene.image, 8)
    return torch.cat((small[:, :, 0], small[:, :, 7], small[:, 0, 1:7]), 1).flatten()


@pytest.mark.parametrize("context", KINDS)
@pytest.mark.parametrize("elevation", [-0.3, 0.2, 1.2])
def test_every_place_is_a_picture_from_every_height(context: str | None, elevation: float):
    scene = background(context, camera(elevation), 32, seed=3)
    assert scene.image.shape == (3, 32, 32)
    assert scene.image.min() >= 0 and scene.image.max() <= 1
    assert torch.allclose(scene.sun.norm(), torch.tensor(1.0)) and scene.sun[1] > 0.3
    if scene.foreground is not None:
        assert scene.foreground.shape == (4, 32, 32)
        assert scene.foreground[3, 8:24, 8:24].max() == 0


@pytest.mark.parametrize("context", KINDS)
def test_same_seed_same_place_other_seed_another(context: str | None):
    first, again, other = (background(context, camera(0.2), 32, seed).image for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_size_changes_resolution_only():
    large, small = (background("beach", camera(0.2), size, 1).image for size in (64, 32))
    assert (F.avg_pool2d(large, 2) - small).abs().mean() < 0.02


def test_the_border_alone_tells_the_place():
    """A nearest-mean classifier on a handful of border colours knows almost every place."""

    def borders(seeds: range) -> torch.Tensor:
        views = [
            border(background(key, camera(0.1 + 0.02 * (seed % 10), 0.1 * seed), 32, seed))
            for key in CONTEXTS
            for seed in seeds
        ]
        return torch.stack(views).reshape(len(CONTEXTS), len(seeds), -1)

    means, unseen = borders(range(12)).mean(1), borders(range(100, 106))
    nearest = torch.cdist(unseen.flatten(0, 1), means).argmin(1).reshape(len(CONTEXTS), -1)
    truth = torch.arange(len(CONTEXTS))[:, None]
    assert (nearest == truth).float().mean() > 0.85


def test_the_contexts_are_dreambenchs():
    assert len(CONTEXTS) == 20 and len(PLACES) >= 6
    assert CONTEXTS["eiffel tower"].phrase == "with the Eiffel Tower in the background"
    assert CONTEXTS["crowded street"].phrase == "on top of the sidewalk in a crowded street"
