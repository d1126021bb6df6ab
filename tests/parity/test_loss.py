"""The loss equals the paper's equation, computed by hand in float64 (section 3.2, eq. 2)."""

import math

import pytest
import torch

from dreambooth.loss import dreambooth_loss, row_errors
from dreambooth.process import Diffusion, RectifiedFlow, from_scheduler

ALPHAS = torch.linspace(0.999, 0.01, 20, dtype=torch.float64)


def test_a_shift_weakens_the_signal_as_in_a_flow():
    """A cosine schedule of many times and a rectified flow agree: log SNR falls by 2 ln s."""
    cosine = torch.cos(torch.linspace(1e-3, 0.999, 4001, dtype=torch.float64) * math.pi / 2) ** 2
    process, flow = Diffusion(cosine), RectifiedFlow(std=0)

    def log_snrs(shift):
        pairs = []
        for seed in range(50):
            alpha, sigma = process.levels(process.sample_time(torch.Generator().manual_seed(seed), shift))
            time = flow.sample_time(torch.Generator().manual_seed(seed), shift).double()
            pairs.append([2 * (alpha / sigma).log(), 2 * ((1 - time) / time).log()])
        return torch.tensor(pairs)

    plain, shifted = log_snrs(None), log_snrs(3.0)
    kept = plain[:, 0].abs() < 5  # beyond, the schedule's times lie far apart
    assert kept.sum() > 30
    fallen = (plain - shifted)[kept]
    torch.testing.assert_close(fallen[:, 0], torch.full_like(fallen[:, 0], 2 * math.log(3)), rtol=0, atol=0.03)
    torch.testing.assert_close(fallen[:, 1], torch.full_like(fallen[:, 1], 2 * math.log(3)), rtol=0, atol=1e-4)
    assert torch.equal(log_snrs(1.0)[:, 0], plain[:, 0])


def rows(count: int = 3):
    source = torch.Generator().manual_seed(1)
    return tuple(torch.randn(count, 2, 4, 4, generator=source, dtype=torch.float64) for _ in range(3))


def by_hand_squared_x_error(kind, x, noise, prediction, level):
    """‖x̂ - x‖² and SNR of one row, from the definitions alone."""
    if kind == "flow":
        t = float(level)
        noisy = (1 - t) * x + t * noise
        return ((noisy - t * prediction - x) ** 2).mean(), ((1 - t) / t) ** 2
    alpha, sigma = math.sqrt(float(ALPHAS[level])), math.sqrt(1 - float(ALPHAS[level]))
    noisy = alpha * x + sigma * noise
    guess = (noisy - sigma * prediction) / alpha if kind == "epsilon" else alpha * noisy - sigma * prediction
    return ((guess - x) ** 2).mean(), (alpha / sigma) ** 2


def process_of(kind):
    return RectifiedFlow() if kind == "flow" else Diffusion(ALPHAS, "v_prediction" if kind == "v" else "epsilon")


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("gamma", [None, 0.5, 5.0])
@pytest.mark.parametrize("prior_weight", [0.0, 1.0, 0.3])
def test_loss_equals_the_equation_by_hand(kind, gamma, prior_weight):
    process = process_of(kind)
    clean, noise, prediction = rows()
    time = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64) if kind == "flow" else torch.tensor([1, 9, 18])
    is_prior = torch.tensor([False, True, True])

    errors = row_errors(prediction, process.target(clean, noise, time), process.weight(time, gamma))
    terms = dreambooth_loss(errors, is_prior, prior_weight, subject_rows=1, prior_rows=2)

    expected = []
    for row in range(3):
        x_error, snr = by_hand_squared_x_error(kind, clean[row], noise[row], prediction[row], time[row])
        if gamma is not None:  # min-SNR weighs the error in x, whatever the model predicts
            expected.append(min(snr, gamma) * x_error)
        elif kind == "flow":
            expected.append(((prediction[row] - (noise[row] - clean[row])) ** 2).mean())
        elif kind == "epsilon":
            expected.append(((prediction[row] - noise[row]) ** 2).mean())
        else:
            alpha, sigma = ALPHAS[time[row]].sqrt(), (1 - ALPHAS[time[row]]).sqrt()
            expected.append(((prediction[row] - (alpha * noise[row] - sigma * clean[row])) ** 2).mean())
    total = expected[0] + prior_weight * (expected[1] + expected[2]) / 2
    torch.testing.assert_close(terms.total, total, rtol=1e-10, atol=0)
    torch.testing.assert_close(terms.subject, expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(terms.prior, (expected[1] + expected[2]) / 2, rtol=1e-10, atol=0)


def test_min_snr_weighs_every_row_by_its_own_time():
    """A public script halves prediction and target but not the timesteps, so its prior rows go unweighted."""
    process = Diffusion(ALPHAS)
    time = torch.tensor([2, 17])
    weight = process.weight(time, 1.0)
    assert weight[0] != weight[1]
    errors = row_errors(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), weight)
    for first_is_prior in (True, False):
        terms = dreambooth_loss(errors, torch.tensor([first_is_prior, not first_is_prior]), 1.0, 1, 1)
        assert terms.prior == errors[0 if first_is_prior else 1]


def test_gradient_changes_with_lambda():
    """A public extension computes the prior loss, logs it, and never adds it."""
    gradients = []
    for weight in (0.0, 1.0, 2.0):
        errors = torch.ones(4, requires_grad=True)
        dreambooth_loss(errors * 2, torch.tensor([False, False, True, True]), weight, 2, 2).total.backward()
        gradients.append(errors.grad)
    assert gradients[0].tolist() == [1, 1, 0, 0]
    assert gradients[2].tolist() == [1, 1, 2, 2]
    assert gradients[1].tolist() == [1, 1, 1, 1]


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        row_errors(torch.zeros(2, 6, 4, 4), torch.zeros(2, 3, 4, 4), torch.ones(2))


def test_zero_terminal_snr_keeps_weights_finite():
    process = Diffusion(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), "v_prediction")
    assert process.weight(torch.tensor([0, 1, 2]), 5.0).isfinite().all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_process_agrees_with_diffusers(prediction):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction
    )
    process = from_scheduler(scheduler)
    clean, noise, _ = (part.float() for part in rows())
    time = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        process.corrupt(clean, noise, time), scheduler.add_noise(clean, noise, time), rtol=1e-5, atol=1e-6
    )
    if prediction == "v_prediction":
        torch.testing.assert_close(
            process.target(clean, noise, time), scheduler.get_velocity(clean, noise, time), rtol=1e-5, atol=1e-6
        )
    else:
        assert process.target(clean, noise, time) is noise


def test_flow_agrees_with_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    process = from_scheduler(scheduler)
    assert isinstance(process, RectifiedFlow) and process.shift == 3.0
    clean, noise, _ = (part.float() for part in rows())
    timesteps = scheduler.timesteps[[10, 400, 900]]
    sigma = timesteps / 1000
    torch.testing.assert_close(
        process.corrupt(clean, noise, sigma), scheduler.scale_noise(clean, timesteps, noise), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(process.model_time(sigma), timesteps)


def test_unknown_prediction_is_told():
    from diffusers import DDPMScheduler

    from dreambooth.errors import ModelError

    with pytest.raises(ModelError, match="sample"):
        from_scheduler(DDPMScheduler(prediction_type="sample"))
