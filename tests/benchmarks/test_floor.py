"""The floor counts what can be counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import floor, sizes


def test_a_linear_layer_by_hand():
    layer, rows = nn.Linear(5, 7, bias=False), torch.randn(3, 5)
    forward = 2 * 3 * 5 * 7
    assert floor.count_flops(lambda: layer(rows)) == forward
    # Backward: the weight's gradient, and no gradient of rows that ask for none.
    assert floor.count_flops(lambda: layer(rows).sum().backward()) == 2 * forward


def test_a_convolution_by_hand():
    layer, image = nn.Conv2d(2, 4, 3, padding=1, bias=False), torch.randn(1, 2, 8, 8)
    assert floor.count_flops(lambda: layer(image)) == 2 * 4 * 8 * 8 * 2 * 3 * 3


def test_attention_is_counted():
    """Two products of [T, D] and [T, D] for each head: the fused kernel would count as nothing on a processor."""
    query = torch.randn(1, 2, 6, 4)
    assert floor.count_flops(lambda: scaled_dot_product_attention(query, query, query)) == 2 * (2 * 2 * 6 * 6 * 4)


def test_work_of_a_model_grows_with_its_rows_and_not_its_optimizer(tiny_model):
    size = sizes.size_of(str(tiny_model))
    one, two = (floor.step_work(size, 64, rows) for rows in (1, 2))
    assert 1.8 * one.flops < two.flops <= 2 * one.flops
    assert one.optimizer_bytes == two.optimizer_bytes == one.parameters * 7 * 4
    assert one.seconds(1e9, 1e9) == pytest.approx((one.flops + one.optimizer_bytes) / 1e9)


@pytest.mark.parametrize(("name", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_published_sizes_have_the_published_number_of_parameters(name: str, parameters: int):
    with torch.device("meta"):
        denoiser = sizes.denoiser(sizes.size_of(name).denoiser)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == parameters


def test_rates_are_those_of_a_machine():
    assert 1e8 < floor.matrix_rate("cpu", torch.float32) < 1e15
