"""What changes as training goes: weights, optimizer, average and step, and how they are saved and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dreambooth.backbones.protocol import Backbone
from dreambooth.checkpoint import Checkpoint, RunFolder
from dreambooth.holding import Holding
from dreambooth.memory import FAST, Tier, is_out_of_memory
from dreambooth.methods.protocol import Method
from dreambooth.optimizers import LeanAdamW, RunningClip, whole_moments
from dreambooth.precision import MixedPrecision, in_bf16

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


# Devices on which AdamW has one kernel for everything: on a CPU a fifth of the time.
FUSED = ("cuda", "cpu")


@dataclass(frozen=True)
class Settings:
    """Plain numbers of one fine-tuning. `learning_rates` by rate group of the method."""

    max_train_steps: int
    train_batch_size: int
    learning_rates: dict[str, float]
    gradient_accumulation_steps: int = 1
    prior_loss_weight: float = 1.0
    snr_gamma: float | None = None
    timestep_shift: float | None = None
    crop_size: int | None = None
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    use_8bit_adam: bool = False
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    merge_ratio: float = 1.0
    mixed_precision: MixedPrecision = "no"
    tier: Tier = FAST
    compile_backend: str | None = None
    checkpointing_steps: int = 100
    checkpoints_total_limit: int = 1
    preview_steps: int = 0
    track_steps: int = 0
    seed: int = 0

    def pauses(self, step: int) -> bool:
        """Whether something is saved or looked at after `step`, or training ends there."""
        often = (self.checkpointing_steps, self.preview_steps, self.track_steps)
        return step >= self.max_train_steps or any(self.due(every, step) for every in often)

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
    holding: Holding
    clip: RunningClip
    step: int = 0
    updating: bool = False
    _last_micro_batch: bool = True
    _hooks: list[RemovableHandle] = field(default_factory=list[RemovableHandle])

    @classmethod
    def build(cls, backbone: Backbone, method: Method, settings: Settings) -> TrainState:
        groups = method.prepare(backbone)
        parameters = [parameter for group in groups.values() for parameter in group]
        rates = [settings.learning_rates[name] for name in groups]
        ema = None
        if settings.ema_decay is not None:
            from diffusers.training_utils import EMAModel

            ema = EMAModel(parameters, decay=settings.ema_decay, foreach=True)
        bf16 = in_bf16(settings.mixed_precision, backbone.device)
        holding = Holding(backbone, groups, settings.tier, bf16, method.trains_text, settings.compile_backend)
        optimizer = make_optimizer(
            [{"params": group} for group in groups.values()], settings, backbone.device, holding.tier.lean_optimizer
        )
        clip = RunningClip(settings.max_grad_norm, backbone.device)
        state = cls(method, parameters, optimizer, rates, settings, ema, holding, clip)
        state._step_within_backward()
        return state

    def begin(self, step: int) -> float:
        """Sets the rates of `step`; returns the first group's."""
        factor = rate_factor(step, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self.rates[0] * factor

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of one micro-batch; `last` tells the last one of a step."""
        self._last_micro_batch = last
        loss.backward()

    def clipped(self) -> Tensor:
        """The norm of the step's gradient, clipped now if it was not within the backward pass."""
        if self.steps_within_backward:
            return self.clip.finish()
        return nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)

    def update(self) -> None:
        """What remains of a step once its gradient is there and clipped."""
        self.updating = True
        if not self.steps_within_backward:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.parameters)
        self.step += 1
        self.updating = False

    @property
    def steps_within_backward(self) -> bool:
        """Whether a parameter is stepped as soon as its gradient is whole; several processes first have to add up."""
        return self.holding.tier.lean_optimizer and PartialState().num_processes == 1

    def _step_within_backward(self) -> None:
        if not self.steps_within_backward:
            return
        optimizer = self.optimizer
        assert isinstance(optimizer, LeanAdamW)

        def step(parameter: nn.Parameter) -> None:
            # Micro-batches before the last one only add up.
            if self._last_micro_batch and parameter.grad is not None:
                self.updating = True
                optimizer.step_parameter(parameter, self.clip(parameter.grad))
                parameter.grad = None

        self._hooks = [parameter.register_post_accumulate_grad_hook(step) for parameter in self.parameters]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All state as named tensors, by file."""
        optimizer = {
            f"{index}.{key}": torch.as_tensor(value)
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        groups = {"trained": self.method.state_dict(), "optimizer": optimizer}
        if self.steps_within_backward:
            groups["clip"] = {"norm": self.clip.before}
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
        if isinstance(self.optimizer, torch.optim.AdamW):
            entries = {index: whole_moments(entry, self.parameters[index].shape) for index, entry in entries.items()}
        if checkpoint.has("clip"):
            self.clip.before.copy_(checkpoint.tensors("clip")["norm"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})
        if self.ema is not None:
            shadow = checkpoint.tensors("ema")
            for index, value in enumerate(self.ema.shadow_params):
                value.copy_(shadow[str(index)])
            self.ema.optimization_step = checkpoint.step
        self.step = checkpoint.step

    @contextmanager
    def kept_weights(self) -> Generator[None]:
        """The weights that would be kept in place of those in training, and every module in place, for a look."""
        with self.holding.complete():
            if self.ema is None and self.settings.merge_ratio == 1:
                yield
                return
            trained = [parameter.detach().to("cpu", copy=True) for parameter in self.parameters]
            self._settle()
            try:
                yield
            finally:
                for parameter, value in zip(self.parameters, trained, strict=True):
                    parameter.data.copy_(value)

    def _settle(self) -> None:
        """Puts what is kept of training in place: the average if there is one, merged with the untouched weights."""
        if self.ema is not None:
            self.ema.copy_to(self.parameters)
        if self.settings.merge_ratio < 1:
            self.method.merge(self.settings.merge_ratio)

    @contextmanager
    def at_work(self, run: RunFolder, tell: Callable[[], None]) -> Generator[None]:
        """The training inside; leaves the backbone as it was held before, with the weights that are kept.

        Where memory ends while no weight is half-way, the steps so far are saved first, once `tell` has told them.
        """
        try:
            with self.holding.at_work():
                yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and not self.updating and PartialState().is_main_process:
                tell()
                self._save_what_is_whole(run)
            raise
        finally:
            self.release()
        self._settle()

    def release(self) -> None:
        """Takes everything off the backbone that `build` put on it, but for the method."""
        for hook in self._hooks:
            hook.remove()
        self.optimizer.zero_grad(set_to_none=True)
        self.holding.release()

    def _save_what_is_whole(self, run: RunFolder) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.step:
            try:
                run.save_checkpoint(self.step, self.tensors(), self.settings.checkpoints_total_limit)
            except (RuntimeError, MemoryError):  # no room for this either: the checkpoint before has to do
                return


def make_optimizer(
    groups: list[dict[str, Any]], settings: Settings, device: torch.device, lean: bool = False
) -> torch.optim.Optimizer:
    """AdamW of torch; the one with moments of one byte for the lean tier or `use_8bit_adam`."""
    common: dict[str, Any] = {
        "lr": 0.0,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
        "eps": settings.epsilon,
    }
    if lean or settings.use_8bit_adam:
        return LeanAdamW(groups, **common, seed=settings.seed)
    return torch.optim.AdamW(groups, **common, fused=device.type in FUSED)


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
