"""How a model corrupts its training data and what it learns to predict: ε, v or flow behind one interface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dreambooth.errors import ModelError
from dreambooth.transfer import onto


class NoiseProcess(Protocol):
    """A corruption process with signal level α(t), noise level σ(t) and the target the model predicts.

    Shapes: `clean`, `noise` and the results of `corrupt` and `target` are [B, C, H, W]; `time` is [B], on the CPU,
    where the levels are float64 on every device.
    """

    def sample_time(self, generator: torch.Generator, shift: float | None = None) -> Tensor:
        """One training time, shape [1], drawn on the CPU.

        `shift` s > 1 moves times towards noise, as if the signal were s times weaker: log SNR falls by 2 ln s (Esser et
        al. 2024, section 5.3.2; Hoogeboom et al. 2023, eq. 4); None is the model's own.
        """
        ...

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t = α x + σ ε."""
        ...

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the denoiser is asked for at x_t."""
        ...

    def model_time(self, time: Tensor) -> Tensor:
        """The number that the denoiser takes for this time, shape [B]."""
        ...

    def weight(self, time: Tensor, snr_gamma: float | None) -> Tensor:
        """Weight of a row's squared error, shape [B]; ones for `snr_gamma=None`, else min-SNR-γ."""
        ...


def min_snr_weight(alpha: Tensor, sigma: Tensor, dx_dprediction: Tensor, gamma: float) -> Tensor:
    """min(SNR, γ) of the error in x, carried over to the predicted quantity by (∂x̂/∂prediction)².

    Hang et al. 2023, eq. 5-6. All tensors [B]. At σ = 0 the SNR is infinite and the weight is γ (∂x̂/∂p)².
    """
    snr = (alpha / sigma.clamp_min(1e-12)) ** 2
    return snr.clamp_max(gamma) * dx_dprediction**2


@dataclass(frozen=True)
class Diffusion:
    """Variance-preserving diffusion with discrete times 0..T-1 (DDPM; Stable Diffusion, Imagen).

    `alphas_cumprod` is ᾱ_t, shape [T] float64; `prediction` names the denoiser's output.
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"

    def levels(self, time: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """α(t) = √ᾱ_t and σ(t) = √(1-ᾱ_t); [B], or [B, 1, 1, ...] in the dtype of `like`."""
        cumulative = self.alphas_cumprod[time]
        alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
        if like is None:
            return alpha, sigma
        return _as_rows(alpha, like), _as_rows(sigma, like)

    def sample_time(self, generator: torch.Generator, shift: float | None = None) -> Tensor:
        time = torch.randint(len(self.alphas_cumprod), (1,), generator=generator)
        if shift is None:
            return time
        rising = (self.alphas_cumprod / (1 - self.alphas_cumprod)).log().flip(0)
        wanted = rising.flip(0)[time] - 2 * math.log(shift)
        return (len(rising) - 1 - torch.searchsorted(rising, wanted)).clamp_min(0)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = self.levels(time, clean)
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        alpha, sigma = self.levels(time, clean)
        return alpha * noise - sigma * clean  # v, Salimans & Ho 2022, eq. 7

    def model_time(self, time: Tensor) -> Tensor:
        return time

    def weight(self, time: Tensor, snr_gamma: float | None) -> Tensor:
        alpha, sigma = self.levels(time)
        if snr_gamma is None:
            return torch.ones_like(alpha)
        # x̂ = (x_t - σ ε̂) / α   or   x̂ = α x_t - σ v̂
        slope = sigma / alpha.clamp_min(1e-12) if self.prediction == "epsilon" else sigma
        return min_snr_weight(alpha, sigma, slope, snr_gamma)


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths x_t = (1-t) x + t ε with t in 0..1 (Liu et al. 2022; SD3, FLUX).

    Training times are logit-normal with the given mean and standard deviation (Esser et al. 2024, eq. 19);
    `std=0` draws them uniformly. `shift` moves them towards noise as the model's sampler does;
    the denoiser is told t times `time_scale`.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    time_scale: float = 1000.0

    def sample_time(self, generator: torch.Generator, shift: float | None = None) -> Tensor:
        shift = shift or self.shift
        if self.std == 0:
            time = torch.rand(1, generator=generator)
        else:
            time = torch.sigmoid(self.mean + self.std * torch.randn(1, generator=generator))
        return shift * time / (1 + (shift - 1) * time)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        t = _as_rows(time, clean)
        return (1 - t) * clean + t * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return noise - clean

    def model_time(self, time: Tensor) -> Tensor:
        return time * self.time_scale

    def weight(self, time: Tensor, snr_gamma: float | None) -> Tensor:
        t = time.double()
        if snr_gamma is None:
            return torch.ones_like(t)
        return min_snr_weight(1 - t, t, t, snr_gamma)  # x̂ = x_t - t û


def from_scheduler(scheduler: Any) -> NoiseProcess:
    """The process that a model's diffusers scheduler describes.

    Raises ModelError for a prediction type other than epsilon, v_prediction or flow, and for EDM's schedulers.
    """
    config: dict[str, Any] = dict(scheduler.config)
    if "FlowMatch" in type(scheduler).__name__ or config.get("prediction_type") == "flow_prediction":
        return RectifiedFlow(shift=float(config.get("shift") or config.get("flow_shift") or 1.0))
    if "sigma_data" in config:  # Karras et al. 2022 with scalings of its own, which no betas describe
        raise ModelError(
            f"The model's scheduler, {type(scheduler).__name__}, noises as EDM does; "
            "models whose scheduler has betas or a flow can be trained."
        )
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"The model's scheduler predicts {prediction!r}; "
            "models that predict epsilon, v_prediction or a flow can be trained."
        )
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    keys = "num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr".split()
    ddpm = DDPMScheduler(**{key: config[key] for key in keys if config.get(key) is not None})
    return Diffusion(ddpm.alphas_cumprod.double(), prediction)


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    return onto(values, like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))
