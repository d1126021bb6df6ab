"""The pretraining loop: Muon with warm-up and cosine, an average of the weights, checkpoints that resume exactly."""

import copy
import math
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dreambooth.errors import TrainingError

Log = Callable[[str], None]
Module = TypeVar("Module", bound=nn.Module)
REPORT_SECONDS = 20.0
EDGES = re.compile(r"conv_in|conv_out|quant_conv|patch_embed|projection|position|token|logit")
"""Names of what leads into a network and out of it: these layers are no maps between features, Muon is not for them."""
CHECKPOINT_SECONDS = 180.0


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: `steps` optimiser steps, or `minutes` of training if those are over before; not at all
    with 0 steps."""

    steps: int
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0..1."""
        spent = step / self.steps if self.steps else 1.0
        if self.minutes is not None:
            spent = max(spent, seconds / (60 * self.minutes))
        return min(1.0, spent)


@dataclass(frozen=True)
class Optimisation:
    """Rates of a stage. The learning rate warms up over `warmup` steps and falls to 2 % of `rate` on a cosine."""

    rate: float = 4e-3
    batch: int = 64
    warmup: int = 200
    decay: float = 0.01
    """Weight decay of matrices; embeddings, norms and biases have none."""
    average: float = 0.999
    """Decay of the moving average of the weights, a step."""

    def at(self, step: int, progress: float) -> float:
        """The learning rate of a step."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * (0.51 + 0.49 * math.cos(math.pi * progress))


@dataclass(frozen=True)
class Fitted(Generic[Module]):
    """The averaged weights of a stage, and what it took."""

    module: Module
    steps: int
    seconds: float
    loss: float


def fit(
    name: str, module: Module, loss: Callable[[int, float], Tensor], budget: Budget, rates: Optimisation, folder: Path,
    *, resume: bool = True, sheet: Callable[[Module, Path], None] | None = None, log: Log = print,
) -> Fitted[Module]:  # fmt: skip
    """Train `module` on `loss(step, progress)` until the budget is spent.

    Every few minutes the whole state goes to `folder/<name>.pt`, and `sheet(average, png)` may paint what the
    averaged weights can do. With `resume` a state that is there goes on, within the budget counted from its start.
    Under torchrun every process takes a share of the batch (see `processes`); the first one writes.
    Raises TrainingError for a state of another network, and when the loss is not finite.
    """
    rank = processes()[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    average = copy.deepcopy(module).requires_grad_(False).eval()
    optimizer = Optimizer(module, rates)
    step, spent, recent = 0, 0.0, math.nan
    if resume and path.exists():
        state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
        try:
            module.load_state_dict(state["module"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path} is the state of another network than this {name}; train anew by --no-resume, or give another "
                "--work."
            ) from error
        step, spent, recent = state["step"], state["seconds"], state["loss"]
        log(f"{name}: resumed at step {step}")
    clock = _Clock(spent)
    module.train()
    while (progress := _agreed(budget.progress(step, clock.seconds()))) < 1:
        error = loss(step, progress)
        error.backward()
        value = _average_gradients(module, error)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step(rates.at(step, progress))
        step += 1
        _follow(average, module, min(rates.average, step / (step + 10)))
        if not math.isfinite(value):
            raise TrainingError(f"the {name}'s loss is {value} at step {step}; resume with a lower learning rate")
        recent = value if math.isnan(recent) else recent + 0.01 * (value - recent)
        if rank:
            continue
        if clock.due("report", REPORT_SECONDS):
            log(f"{name}: step {step}, loss {recent:.4f}, {clock.pace(step, rates.batch, budget)}")
        if clock.due("checkpoint", CHECKPOINT_SECONDS):
            _save(path, module, average, optimizer, step, clock.seconds(), recent)
            if sheet is not None:
                sheet(average, folder / f"{name}-{step:06d}.png")
    if not rank:
        _save(path, module, average, optimizer, step, clock.seconds(), recent)
        if sheet is not None:
            sheet(average, folder / f"{name}-{step:06d}.png")
    return Fitted(average, step, clock.seconds(), recent)


def processes() -> tuple[int, int]:
    """This process's number and how many there are, started with `torchrun --nproc-per-node N`: one thread each on a
    CPU, where one process with N threads is slower, for every operation waits for the slowest."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        # A process may wait while the first one renders a whole corpus.
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=12))
    return dist.get_rank(), dist.get_world_size()


@contextmanager
def first_process_first() -> Generator[None]:
    """The first process does the work inside; the others wait, and then find it done."""
    rank, count = processes()
    if rank:
        dist.barrier()
    yield
    if not rank and count > 1:
        dist.barrier()


def _agreed(progress: float) -> float:
    """The first process's progress in all of them, so that all stop at the same step."""
    if processes()[1] == 1:
        return progress
    shared = torch.tensor(progress, dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")
    dist.broadcast(shared, 0)
    return shared.item()


def _average_gradients(module: nn.Module, error: Tensor) -> float:
    """Average gradients and error over the processes; returns the error."""
    count = processes()[1]
    if count == 1:
        return error.item()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([error.detach().view(1), *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= count
    parts = flat[1:].split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return flat[0].item()


class Optimizer:
    """Muon for the matrices inside a network, AdamW for the rest (Jordan et al. 2024: embeddings, first and last
    layers, norms and biases are not maps between features). At the autoencoder's start Muon needs a third of the
    time of AdamW to the same error.

    A convolution [out, in, h, w] counts as the matrix [out, in * h * w]; torch's Muon takes matrices only, so it is
    given views that share their storage with the parameters.
    """

    def __init__(self, module: nn.Module, rates: Optimisation) -> None:
        self._inside, matrices, plain = parameter_groups(module)
        self._views = [nn.Parameter(weight.data.flatten(1)) for weight in self._inside]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [{"params": matrices, "weight_decay": rates.decay}, {"params": plain, "weight_decay": 0.0}],
                lr=rates.rate,
                betas=(0.9, 0.99),
                fused=True,
            )
        ]
        if self._views:
            muon = torch.optim.Muon(
                self._views, lr=rates.rate, weight_decay=rates.decay, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append(muon)

    def step(self, rate: float) -> None:
        """One step at a learning rate; the gradients are gone afterwards."""
        for view, weight in zip(self._views, self._inside, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad()
        for weight in self._inside:
            weight.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """What Muon trains; other matrices; and what has no weight decay: embeddings, so that unused words keep their
    norm, norms and biases."""
    embedded = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: tuple[list[nn.Parameter], ...] = ([], [], [])
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embedded:
            groups[2].append(parameter)
        else:
            groups[1 if EDGES.search(name) else 0].append(parameter)
    return groups[0], groups[1], groups[2]


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def _save(path: Path, module: nn.Module, average: nn.Module, optimizer: Optimizer, step: int,
          seconds: float, loss: float) -> None:  # fmt: skip
    state = {
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    draft = path.with_suffix(".tmp")
    torch.save({**state, "step": step, "seconds": seconds, "loss": loss}, draft)
    os.replace(draft, path)


class _Clock:
    """Seconds of training, those of earlier runs counted in."""

    def __init__(self, spent: float) -> None:
        self._start = time.monotonic() - spent
        self._last: dict[str, float] = {"report": self.seconds(), "checkpoint": self.seconds()}
        self._first: tuple[int, float] | None = None

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def due(self, what: str, every: float) -> bool:
        if self.seconds() - self._last[what] < every:
            return False
        self._last[what] = self.seconds()
        return True

    def pace(self, step: int, batch: int, budget: Budget) -> str:
        """Throughput since the last report, and the time left."""
        now = self.seconds()
        before, then = self._first or (step, now)
        self._first = (step, now)
        left = now * (1 / max(budget.progress(step, now), 1e-9) - 1)
        rate = (step - before) * batch / max(now - then, 1e-9)
        return f"{rate:.0f} images/s, {left / 60:.0f} min left"
