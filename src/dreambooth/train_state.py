"""What changes as training goes: weights, optimizer, average and step, and how they are saved and resumed."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone
from dreambooth.checkpoint import Checkpoint, RunFolder
from dreambooth.errors import ConfigError
from dreambooth.methods.protocol import Method
from dreambooth.precision import MixedPrecision

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


FUSED = ("cuda", "cpu")
"""Devices on which AdamW has one kernel for everything: on a CPU a fifth of the time."""


@dataclass(frozen=True)
class Settings:
    """Plain numbers of one fine-tuning. `learning_rates` by rate group of the method."""

    max_train_steps: int
    train_batch_size: int
    learning_rates: dict[str, float]
    gradient_accumulation_steps: int = 1
    prior_loss_weight: float = 1.0
    snr_gamma: float | None = None
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    use_8bit_adam: bool = False
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    mixed_precision: MixedPrecision = "no"
    checkpointing_steps: int = 100
    checkpoints_total_limit: int = 1
    preview_steps: int = 0
    track_steps: int = 0
    seed: int = 0

    def due(self, every: int, step: int) -> bool:
        """Whether what is done `every` so many steps (0 for never) is due after `step`; always after the last."""
        return every > 0 and (step == self.max_train_steps or step % every == 0)


@dataclass
class TrainState:
    """What changes as training goes, and what a checkpoint therefore holds."""

    method: Method
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    rates: list[float]
    settings: Settings
    ema: EMAModel | None
    step: int = 0

    @classmethod
    def build(cls, backbone: Backbone, method: Method, settings: Settings) -> TrainState:
        groups = method.prepare(backbone)
        parameters = [parameter for group in groups.values() for parameter in group]
        rates = [settings.learning_rates[name] for name in groups]
        optimizer = make_optimizer([{"params": group} for group in groups.values()], settings, backbone.device)
        ema = None
        if settings.ema_decay is not None:
            from diffusers.training_utils import EMAModel

            ema = EMAModel(parameters, decay=settings.ema_decay)
        return cls(method, parameters, optimizer, rates, settings, ema)

    def update(self, step: int) -> float:
        """One optimizer step at the rate of `step`; returns the first group's rate."""
        factor = rate_factor(step, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.parameters)
        return self.rates[0] * factor

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All state as named tensors, by file."""
        optimizer = {
            f"{index}.{key}": torch.as_tensor(value)
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        groups = {"trained": self.method.state_dict(), "optimizer": optimizer}
        if self.ema is not None:
            groups["ema"] = {str(index): value for index, value in enumerate(self.ema.shadow_params)}
        return groups

    def resume(self, run: RunFolder) -> None:
        """Goes back to the run's newest checkpoint, or to the start when it has none."""
        checkpoints = run.checkpoints()
        if checkpoints:
            self.load(checkpoints[-1])
        if PartialState().is_main_process:
            run.cut_log(self.step)

    def load(self, checkpoint: Checkpoint) -> None:
        self.method.load_state_dict(checkpoint.tensors("trained"))
        entries: dict[int, dict[str, Any]] = {}
        for name, value in checkpoint.tensors("optimizer").items():
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})
        if self.ema is not None:
            shadow = checkpoint.tensors("ema")
            for index, value in enumerate(self.ema.shadow_params):
                value.copy_(shadow[str(index)])
            self.ema.optimization_step = checkpoint.step
        self.step = checkpoint.step

    @contextmanager
    def averaged_weights(self) -> Generator[None]:
        """The averaged weights in place of the trained ones, for a look."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def keep_average(self) -> None:
        if self.ema is not None:
            self.ema.copy_to(self.parameters)


def make_optimizer(
    groups: list[dict[str, Any]], settings: Settings, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW of torch or bitsandbytes; raises as `optimizer_class`."""
    extra = {} if settings.use_8bit_adam or device.type not in FUSED else {"fused": True}
    return optimizer_class(settings.use_8bit_adam, device)(
        groups, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay, eps=settings.epsilon, **extra
    )


def optimizer_class(use_8bit_adam: bool, device: torch.device) -> type[Any]:
    """The class of the optimizer. Raises ConfigError where 8-bit Adam cannot be had."""
    if not use_8bit_adam:
        return torch.optim.AdamW
    if device.type != "cuda":
        raise ConfigError(f"--use-8bit-adam needs a CUDA device; this run is on {device.type}. Leave it out.")
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--use-8bit-adam needs bitsandbytes: pip install bitsandbytes, or leave it out.") from error
    return AdamW8bit


def rate_factor(step: int, settings: Settings) -> float:
    """Factor on the learning rate at `step` (from 0): linear warm-up, then constant, or down to zero at the end."""
    warmup, total = settings.lr_warmup_steps, settings.max_train_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if settings.lr_scheduler == "linear":
        return 1 - progress
    if settings.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
