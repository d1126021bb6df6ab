"""AdamW of one byte a moment: as good as the whole one, unbiased where it rounds, and resumed bit for bit."""

import pytest
import torch
from torch import nn

from dreambooth.optimizers import BLOCK, LeanAdamW, Quantised, RunningClip, to_bfloat16

SIZE = (72, 61)  # 4392 numbers: quantised, and no whole number of blocks


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(SIZE, generator=source).to(dtype)), nn.Parameter(torch.randn(7, generator=source))]


def descend(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], first: int, last: int) -> None:
    """Steps of noisy gradients towards zero, each a function of its number."""
    for step in range(first, last):
        source = torch.Generator().manual_seed(1000 + step)
        for parameter in trained:
            noise = torch.randn(parameter.shape, generator=source)
            parameter.grad = (0.1 * parameter.data.float() + 0.05 * noise).to(parameter.dtype)
        optimizer.step()


class TestQuantised:
    @pytest.mark.parametrize("signed", [True, False])
    def test_error_is_small_beside_the_value(self, signed: bool):
        values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        values = values if signed else values.square()
        quantised = Quantised.zeros(1000, signed, torch.device("cpu"))
        quantised.write(0, values, torch.full_like(values, 0.5))
        read = quantised.read(0, 1000)
        assert quantised.codes.element_size() == 1
        large = values.abs() > 0.1 * values.abs().mean()
        assert ((read - values).abs()[large] <= 0.1 * values.abs()[large]).all()
        assert not signed or torch.equal(read.sign()[large], values.sign()[large])

    @pytest.mark.parametrize("signed", [True, False])
    def test_rounding_is_right_on_average(self, signed: bool):
        source = torch.Generator().manual_seed(0)
        values = torch.rand(2 * BLOCK, generator=source) + (0 if signed else 1e-3)
        quantised = Quantised.zeros(len(values), signed, torch.device("cpu"))
        total = torch.zeros(len(values))
        for _ in range(2000):
            quantised.write(0, values, torch.rand(len(values), generator=source))
            total += quantised.read(0, len(values))
        torch.testing.assert_close(total / 2000, values, rtol=0, atol=2e-3)

    def test_zeros_and_the_greatest_are_exact(self):
        values = torch.zeros(BLOCK)
        values[3] = -2.5
        quantised = Quantised.zeros(BLOCK, True, torch.device("cpu"))
        quantised.write(0, values, torch.full_like(values, 0.999))
        assert torch.equal(quantised.read(0, BLOCK), values)
        quantised.write(0, torch.zeros(BLOCK), torch.zeros(BLOCK))
        assert torch.equal(quantised.read(0, BLOCK), torch.zeros(BLOCK))


def test_bfloat16_is_rounded_right_on_average():
    source = torch.Generator().manual_seed(0)
    values = torch.tensor([1.001, -3.3, 1e-8, 0.0, 65000.0])
    total = torch.zeros(5)
    for _ in range(4000):
        chance = torch.randint(0, 1 << 16, (5,), dtype=torch.int32, generator=source)
        total += to_bfloat16(values, chance).float()
    torch.testing.assert_close(total / 4000, values, rtol=3e-4, atol=0)


class TestLeanAdamW:
    def test_with_whole_moments_it_is_adamw(self):
        ours, theirs = parameters(), parameters()
        descend(LeanAdamW([{"params": ours}], lr=1e-2, eight_bit=False), ours, 0, 20)
        descend(torch.optim.AdamW(theirs, lr=1e-2, weight_decay=1e-2), theirs, 0, 20)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_eight_bits_descend_as_whole_ones_do(self, dtype: torch.dtype):
        ours, theirs = parameters(dtype=dtype), parameters()
        descend(LeanAdamW([{"params": ours}], lr=1e-2), ours, 0, 100)
        descend(torch.optim.AdamW(theirs, lr=1e-2, weight_decay=1e-2), theirs, 0, 100)
        moved = (theirs[0] - parameters()[0]).norm()
        assert (ours[0].float() - theirs[0]).norm() < 0.05 * moved
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)

    def test_weights_of_two_bytes_take_steps_smaller_than_their_quantum(self):
        """To the nearest, a step of 1e-4 would never move a weight of 1 in bfloat16, whose neighbour is 1.0078."""
        weight = nn.Parameter(torch.ones(SIZE, dtype=torch.bfloat16))
        optimizer = LeanAdamW([{"params": [weight]}], lr=1e-4, weight_decay=0.0)
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        assert float(weight.detach().float().mean()) == pytest.approx(1 - 50e-4, abs=5e-4)

    def test_numbers_much_smaller_than_their_block_take_no_wild_steps(self):
        """A second moment that is rounded to nothing beside a first that is not would divide by almost nothing."""
        source = torch.Generator().manual_seed(0)
        scales = 0.1 * 10 ** (-8 * torch.rand(SIZE, generator=source))
        weight = nn.Parameter(torch.zeros(SIZE))
        optimizer = LeanAdamW([{"params": [weight]}], lr=1.0, weight_decay=0.0)
        for step in range(1, 101):
            before = weight.detach().clone()
            weight.grad = scales * torch.randn(SIZE, generator=source)
            optimizer.step()
            assert (weight.detach() - before).abs().max() < 7.3 / (1 - 0.9**step)  # AdamW's own bound

    def test_slow_moment_decays(self):
        """The second moment falls by a thousandth a step, less than half a quantum."""
        weight = nn.Parameter(torch.zeros(SIZE))
        optimizer = LeanAdamW([{"params": [weight]}], lr=0.0)
        # One entry stays large, so that the scale of its block does not fall along.
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        whole = 1e-3
        for _ in range(500):
            weight.grad = torch.zeros_like(weight)
            weight.grad.view(-1)[::BLOCK] = 1.0
            optimizer.step()
            whole *= 0.999
        state = optimizer.state[weight]
        read = Quantised(state["exp_avg_sq_codes"], state["exp_avg_sq_scales"], False).read(0, weight.numel())
        assert float(read[1:BLOCK].mean()) == pytest.approx(whole, rel=0.05)

    def test_a_moment_takes_one_byte(self):
        trained = parameters()[:1]
        optimizer = LeanAdamW([{"params": trained}])
        descend(optimizer, trained, 0, 1)
        held = sum(value.numel() * value.element_size() for value in optimizer.state[trained[0]].values())
        assert held < 2.1 * trained[0].numel()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_resumes_bit_for_bit(self, dtype: torch.dtype):
        whole, part = parameters(dtype=dtype), parameters(dtype=dtype)
        descend(LeanAdamW([{"params": whole}], lr=1e-2), whole, 0, 6)
        first = LeanAdamW([{"params": part}], lr=1e-2)
        descend(first, part, 0, 3)
        second = LeanAdamW([{"params": part}], lr=1e-2)
        second.load_state_dict(first.state_dict())
        descend(second, part, 3, 6)
        for one, other in zip(whole, part, strict=True):
            assert torch.equal(one, other)

    def test_takes_over_from_torch(self):
        ours, theirs = parameters(), parameters()
        reference, before = torch.optim.AdamW(theirs, lr=1e-2), torch.optim.AdamW(ours, lr=1e-2)
        descend(reference, theirs, 0, 40)
        descend(before, ours, 0, 20)
        after = LeanAdamW([{"params": ours}], lr=1e-2)
        after.load_state_dict(before.state_dict())
        descend(after, ours, 20, 40)
        moved = (theirs[0] - parameters()[0]).norm()
        assert (ours[0] - theirs[0]).norm() < 0.05 * moved

    def test_weights_that_are_not_contiguous_are_stepped_too(self):
        ours = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
        before = ours.detach().clone()
        ours.grad = torch.ones_like(ours)
        LeanAdamW([{"params": [ours]}], lr=1e-2, weight_decay=0.0).step()
        torch.testing.assert_close(ours.detach(), before - 1e-2)


class TestRunningClip:
    def test_below_the_limit_nothing_is_scaled(self):
        clip = RunningClip(1.0, torch.device("cpu"))
        assert float(clip(torch.tensor([0.3]))) == float(clip(torch.tensor([0.4]))) == 1.0
        assert float(clip.finish()) == pytest.approx(0.5)

    def test_a_rise_is_met_once_it_shows(self):
        clip = RunningClip(1.0, torch.device("cpu"))
        assert float(clip(torch.tensor([3.0]))) == pytest.approx(1 / 3)
        assert float(clip(torch.tensor([4.0]))) == pytest.approx(1 / 5)
        assert float(clip.finish()) == pytest.approx(5.0)

    def test_the_step_before_counts_from_the_first_gradient_on(self):
        clip = RunningClip(1.0, torch.device("cpu"))
        clip(torch.tensor([5.0]))
        clip.finish()
        assert float(clip(torch.tensor([0.1]))) == pytest.approx(1 / 5)
