"""The tracer against geometry that can be worked out by hand, and pictures against what they promise."""

import math
import random

import pytest
import torch

from dreambooth.toybox import render, subjects, world
from dreambooth.toybox.parts import Paint, Part, ball, block, limb, ring
from dreambooth.toybox.world import Scene, draw, photos

GREY = Paint((0.5, 0.5, 0.5))


def first_hit(part: Part, origin: tuple[float, float, float], direction: tuple[float, float, float]) -> float:
    rays = (torch.tensor([[value, value] for value in vector]) for vector in (origin, direction))
    t, _ = render.nearest(render.solids([part]), *rays, render.kernels(False))
    return float(t[0])


@pytest.mark.parametrize(
    ("part", "distance"),
    [
        (ball((0, 0, 0), (1.0, 2.0, 0.5), GREY), 4.5),
        (ball((0, 0, 1), 0.25, GREY), 3.75),
        (block((0, 0, 0), (1.0, 1.0, 0.5), GREY), 4.5),
        (block((0, 0, 0), (1.0, 1.0, 1.0), GREY, tilt=(0, math.pi / 4, 0)), 5 - math.sqrt(2)),
        (limb((0, -1, 0), (0, 1, 0), 0.6, 0.6, GREY), 4.4),
        (limb((0, -1, 0), (0, 1, 0), 1.0, 0.0, GREY), 4.5),  # a cone, half-way up
        (limb((0, 0, 0), (0, 0, 1), 0.6, 0.6, GREY), 4.0),  # its cap
        (ring((0, 0, 0), 1.0, 0.2, 0.5, GREY), render.FAR),  # through the hole
        (ring((0, 0, 0), 1.0, 0.2, 0.5, GREY, axis=(0, 1, 0)), 4.0),
    ],
)
def test_distance_to_the_first_surface(part: Part, distance: float) -> None:
    assert first_hit(part, (0, 0, 5), (0, 0, -1)) == pytest.approx(distance, abs=1e-3)


def test_a_ray_from_inside_a_hollow_tube_meets_its_wall() -> None:
    assert first_hit(ring((0, 0, 0), 1.0, 0.2, 4.0, GREY), (0, 0, 0), (1, 0, 0)) == pytest.approx(0.8, abs=1e-3)


def test_rays_go_where_points_are_projected() -> None:
    camera = world.frame(subjects.individual("dog", 0), None, random.Random(1))
    rays = camera.rays(8)
    seen = camera.project(camera.eye + 3 * rays)
    assert seen[0].tolist() == pytest.approx([-0.875, -0.875], abs=1e-4)
    assert seen[15].tolist() == pytest.approx([0.875, -0.625], abs=1e-4)


def test_pictures_have_the_promised_shapes_and_show_the_subject() -> None:
    scenes = [Scene("cat", 3, seed=1), Scene("glasses", 1, context="beach", property="red", view="from the side")]
    pictures = draw(scenes, size=48)
    assert pictures.images.shape == (2, 3, 48, 48) and pictures.masks.shape == (2, 1, 48, 48)
    assert pictures.images.min() >= 0 and pictures.images.max() <= 1
    rows = pictures.masks[0, 0].amax(1).nonzero()
    assert 0.5 * 48 < rows.max() - rows.min() < 48


def test_the_same_scene_is_the_same_picture_and_its_seed_matters() -> None:
    first, again, other = (draw([Scene("duck", 2, seed=seed)], size=32).images for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)


@pytest.mark.parametrize("view", [None, *world.VIEWS])
def test_every_view_has_the_whole_subject_in_the_frame(view: str | None) -> None:
    for class_noun in subjects.CLASSES:
        subject = subjects.individual(class_noun, 1)
        camera = world.frame(subject, view, random.Random(class_noun))
        seen = camera.project(torch.tensor([corner for part in subject.parts for corner in part.corners()]))
        assert seen.abs().max() < (1.5 if view == "in a close-up" else 1.05)
        assert (seen.amax(0) - seen.amin(0)).max() / 2 > (0.2 if view == "from far away" else 0.3)


def test_photos_are_of_one_individual_from_different_sides() -> None:
    first, again = photos("teapot", 5, count=3, size=32), photos("teapot", 5, count=3, size=32)
    assert torch.equal(first.images, again.images)
    assert not torch.allclose(first.masks[0], first.masks[1])
