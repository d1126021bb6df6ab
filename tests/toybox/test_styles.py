import pytest
import torch

from dreambooth.toybox.styles import STYLES, apply_style


@pytest.fixture
def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """A red ball on a blue gradient, and the ball's mask."""
    axis = torch.linspace(-1, 1, 64)
    far = torch.hypot(axis[None], axis[:, None])
    mask = (far < 0.6).float()[None]
    ball = torch.tensor((0.9, 0.2, 0.1))[:, None, None] * (1 - 0.6 * far)
    behind = torch.tensor((0.3, 0.5, 0.8))[:, None, None] * (0.7 + 0.3 * axis[:, None].expand(64, 64))
    return torch.lerp(behind, ball, mask), mask


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_deterministic_visible_and_in_range(style: str, picture: tuple[torch.Tensor, torch.Tensor]):
    image, mask = picture
    first, again = (apply_style(style, image, mask, seed=4) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == image.shape and first.min() >= 0 and first.max() <= 1
    assert (first - image).abs().mean() > 0.03


@pytest.mark.parametrize("style", STYLES)
def test_the_subject_still_stands_out(style: str, picture: tuple[torch.Tensor, torch.Tensor]):
    image, mask = picture
    styled = apply_style(style, image, mask, seed=4)
    inside = (styled * mask).sum((1, 2)) / mask.sum()
    outside = (styled * (1 - mask)).sum((1, 2)) / (1 - mask).sum()
    assert (inside - outside).abs().max() > 0.1


@pytest.mark.parametrize("style", STYLES)
def test_templates_take_a_scene(style: str):
    assert "a dog in the jungle" in STYLES[style].template.format("a dog in the jungle")


def test_a_statue_leaves_its_surroundings_alone(picture: tuple[torch.Tensor, torch.Tensor]):
    image, mask = picture
    styled = apply_style("statue", image, mask, seed=0)
    assert torch.allclose(styled * (1 - mask), image * (1 - mask))
    red, _, blue = ((styled * mask).sum((1, 2)) / mask.sum()).tolist()
    assert red > 0.6 and abs(red - blue) < 0.1
