"""The paper's metrics against values worked out by hand, and what must hold for any embeddings."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreambooth.evaluation import metrics
from dreambooth.evaluation.metrics import (
    distance_to_others,
    diversity,
    pairwise_fidelity,
    prompt_fidelity,
    real_ceiling,
)

# Three directions of the plane: 0°, 60° and 90°. Their cosines are 1/2 (0-60), √3/2 (60-90) and 0 (0-90).
ROOT = 3**0.5
EAST, MIDDLE, NORTH = [1.0, 0.0], [0.5, ROOT / 2], [0.0, 1.0]


def rows(*vectors: list[float]) -> Tensor:
    return torch.tensor(vectors)


def close(found: Tensor, expected: list[float]) -> bool:
    return found.dtype == torch.float64 and found.tolist() == pytest.approx(expected, abs=1e-6)


class TestByHand:
    def test_pairwise_fidelity(self):
        """East to (60°, 90°): (1/2 + 0) / 2; north: (√3/2 + 1) / 2."""
        assert close(pairwise_fidelity(rows(EAST, NORTH), rows(MIDDLE, NORTH)), [0.25, (ROOT / 2 + 1) / 2])

    def test_ceiling_leaves_each_photo_itself_out(self):
        assert close(real_ceiling(rows(EAST, MIDDLE, NORTH)), [0.25, (0.5 + ROOT / 2) / 2, ROOT / 4])

    def test_prompt_fidelity_goes_row_by_row(self):
        assert close(prompt_fidelity(rows(EAST, EAST, NORTH), rows(EAST, NORTH, MIDDLE)), [1, 0, ROOT / 2])

    def test_diversity(self):
        """Pairs 0.2, 0.4 and 0.6: the mean is 0.4, and so is the mean over the images of their own means."""
        distances = rows([0, 0.2, 0.4], [0.2, 0, 0.6], [0.4, 0.6, 0])
        assert diversity(distances) == pytest.approx(0.4)
        assert close(distance_to_others(distances), [0.3, 0.4, 0.5])

    def test_diagonal_of_the_distances_is_not_read(self):
        assert diversity(rows([5, 0.2], [0.2, 7])) == pytest.approx(0.2)

    def test_examples_of_the_module(self):
        assert doctest.testmod(metrics).failed == 0


class TestSigns:
    def test_identical_images_give_one(self):
        same = rows([0.3, -1.2, 2.0]).repeat(4, 1)
        assert close(pairwise_fidelity(same, same), [1] * 4)
        assert close(real_ceiling(same), [1] * 4)
        assert close(prompt_fidelity(same, same), [1] * 4)

    def test_opposite_images_give_minus_one(self):
        assert close(pairwise_fidelity(rows(EAST), -rows(EAST, EAST)), [-1])
        assert close(prompt_fidelity(rows(NORTH), -rows(NORTH)), [-1])

    def test_identical_images_have_no_diversity(self):
        assert diversity(torch.zeros(4, 4)) == 0

    def test_a_lone_photo_has_no_ceiling(self):
        with pytest.raises(ValueError, match="at least 2"):
            real_ceiling(rows(EAST))

    def test_no_picture_has_no_score(self):
        assert pairwise_fidelity(torch.empty(0, 2), rows(EAST)).shape == (0,)


def embeddings(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 2**31), st.randoms())
def test_order_length_and_copies_change_nothing(generated: int, real: int, seed: int, shuffle):
    pictures, photos = embeddings(generated, seed), embeddings(real, seed + 1)
    plain, ceiling = pairwise_fidelity(pictures, photos), real_ceiling(photos)
    assert plain.abs().max() <= 1 + 1e-9

    order = list(range(real))
    shuffle.shuffle(order)
    assert torch.allclose(pairwise_fidelity(pictures, photos[order]), plain)
    assert torch.allclose(real_ceiling(photos[order]), ceiling[order])
    assert torch.allclose(real_ceiling(photos).mean(), real_ceiling(photos[order]).mean())

    turned = list(range(generated))
    shuffle.shuffle(turned)
    assert torch.allclose(pairwise_fidelity(pictures[turned], photos), plain[turned])

    assert torch.allclose(pairwise_fidelity(pictures * 7, photos * 0.1), plain, atol=1e-6)
    assert torch.allclose(pairwise_fidelity(pictures, photos.repeat(3, 1)), plain)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31), st.randoms())
def test_diversity_is_the_mean_over_pairs_in_any_order(count: int, seed: int, shuffle):
    points = embeddings(count, seed)
    distances = torch.cdist(points.double(), points.double())
    pairs = [float(distances[i, j]) for i in range(count) for j in range(i + 1, count)]
    assert diversity(distances) == pytest.approx(sum(pairs) / len(pairs))
    order = list(range(count))
    shuffle.shuffle(order)
    assert diversity(distances[order][:, order]) == pytest.approx(diversity(distances))


@pytest.mark.parametrize(
    "call",
    [
        lambda: pairwise_fidelity(torch.zeros(3), torch.zeros(2, 3)),
        lambda: pairwise_fidelity(torch.zeros(3, 2), torch.zeros(0, 2)),
        lambda: pairwise_fidelity(torch.zeros(3, 2), torch.zeros(3, 5)),
        lambda: prompt_fidelity(torch.zeros(3, 2), torch.zeros(2, 2)),
        lambda: diversity(torch.zeros(1, 1)),
        lambda: diversity(torch.zeros(2, 3)),
        lambda: diversity(torch.tensor([[0.0, 1.0], [0.5, 0.0]])),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match=r"must be|needs its text|not symmetric|cosine"):
        call()
