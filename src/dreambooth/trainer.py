"""Fine-tuning: one loop, read from top to bottom."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone
from dreambooth.checkpoint import Checkpoint, RunFolder
from dreambooth.errors import ConfigError, TrainingError
from dreambooth.examples import Examples, noise_and_time, step_seed
from dreambooth.loss import dreambooth_loss, row_errors
from dreambooth.methods.protocol import Method

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


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
    autocast: torch.dtype | None = None
    checkpointing_steps: int = 100
    checkpoints_total_limit: int = 1
    preview_steps: int = 0
    seed: int = 0


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did; the line of log.jsonl."""

    step: int
    loss: float
    loss_subject: float
    loss_prior: float
    learning_rate: float
    grad_norm: float
    seconds: float


class Interrupted(TrainingError):
    """The user stopped the run; it is saved and can be resumed."""


def finetune(
    backbone: Backbone,
    method: Method,
    examples: Examples,
    settings: Settings,
    run: RunFolder,
    on_step: Callable[[StepReport], None] = lambda report: None,
    preview: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains up to `max_train_steps`, from the run's newest checkpoint if it has one; leaves the result in `backbone`.

    Raises TrainingError when the loss or its gradient is not finite, Interrupted after Ctrl-C.
    """
    world = PartialState()
    processes, process = world.num_processes, world.process_index
    state = TrainState.build(backbone, method, settings)
    state.resume(run)
    examples, s = examples.to(backbone.device), settings
    subject_rows = s.train_batch_size * s.gradient_accumulation_steps * processes
    prior_rows = subject_rows if len(examples.prior) else 0
    autocast = torch.autocast(backbone.device.type, s.autocast) if s.autocast else nullcontext()
    with torch.no_grad(), autocast:
        encoded = backbone.encode_prompts(examples.prompts)

    with stop_on_interrupt() as stop_requested:
        while state.step < s.max_train_steps:
            start, step = perf_counter(), state.step
            torch.manual_seed(step_seed(s.seed, step))
            sums = torch.zeros(4, device=backbone.device)
            for batch in examples.batches(
                s.seed, step, s.train_batch_size, s.gradient_accumulation_steps, process, processes
            ):
                noise, time = noise_and_time(backbone, batch, s.seed, step)
                noisy = backbone.process.corrupt(batch.clean, noise, time)
                with autocast:
                    prompts = backbone.encode_prompts(examples.prompts) if method.trains_text else encoded
                    conditioning = examples.conditioning(prompts, batch)
                    prediction = backbone.denoise(noisy, backbone.process.model_time(time), conditioning)
                target = backbone.process.target(batch.clean, noise, time)
                errors = row_errors(prediction, target, backbone.process.weight(time, s.snr_gamma))
                loss = dreambooth_loss(errors, batch.is_prior, s.prior_loss_weight, subject_rows, prior_rows)
                loss.total.backward()
                sums += torch.stack(
                    [*(t.detach() for t in (loss.total, loss.subject, loss.prior)), loss.total.new_zeros(())]
                )
            sums[3] = float(stop_requested())
            if processes > 1:
                sums = sum_over_processes(sums, state.parameters)
            norm = nn.utils.clip_grad_norm_(state.parameters, s.max_grad_norm)
            total, subject, prior, stop = sums.tolist()
            if not (math.isfinite(total) and math.isfinite(float(norm))):
                raise not_finite(step, run)
            rate = state.update(step)
            state.step = step + 1
            report = StepReport(state.step, total, subject, prior, rate, float(norm), perf_counter() - start)
            if world.is_main_process:
                run.append_log(vars(report))
                on_step(report)
                last = state.step == s.max_train_steps
                if stop or last or state.step % s.checkpointing_steps == 0:
                    run.save_checkpoint(state.step, state.tensors(), s.checkpoints_total_limit)
                if s.preview_steps and (state.step % s.preview_steps == 0 or last):
                    with state.averaged_weights():
                        preview(state.step)
            if stop:
                raise Interrupted(
                    f"Stopped at step {state.step}, saved. Go on with: dreambooth train --resume {run.path}"
                )
    state.keep_average()


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
        optimizer = make_optimizer(
            [{"params": group} for group in groups.values()], settings, backbone.device
        )
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
    def averaged_weights(self) -> Iterator[None]:
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
    """AdamW, of torch or, with `use_8bit_adam`, of bitsandbytes. Raises ConfigError where that cannot be had."""
    options: dict[str, Any] = {
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
        "eps": settings.epsilon,
    }
    if not settings.use_8bit_adam:
        return torch.optim.AdamW(groups, lr=0.0, **options)
    if device.type != "cuda":
        raise ConfigError(f"--use-8bit-adam needs a CUDA device; this run is on {device.type}. Leave it out.")
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "--use-8bit-adam needs bitsandbytes: pip install bitsandbytes, or leave it out."
        ) from error
    return AdamW8bit(groups, lr=0.0, **options)


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


def sum_over_processes(sums: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Sums gradients, in place, and `sums` over all processes: the same as one process with the whole batch."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = reduce(parameter.grad, reduction="sum")  # pyright: ignore[reportAttributeAccessIssue]
    return reduce(sums, reduction="sum")  # pyright: ignore[reportReturnType]


def not_finite(step: int, run: RunFolder) -> TrainingError:
    checkpoints = run.checkpoints()
    kept = (
        f"The last good checkpoint is step {checkpoints[-1].step}"
        if checkpoints
        else "No checkpoint was saved yet"
    )
    return TrainingError(
        f"The loss or its gradient is not finite at step {step + 1}, so training stopped. {kept}. "
        "Try a lower --learning-rate, --mixed-precision no, or --snr-gamma 5 in a new run."
    )


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a request to stop after the step; the second acts at once."""
    requested = False

    def handler(_signal: int, _frame: Any) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread: signals belong to whoever embeds us
        yield lambda: False
        return
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
