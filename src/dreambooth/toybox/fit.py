"""The pretraining loop: AdamW with warm-up and cosine, an average of the weights, checkpoints that resume exactly."""

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dreambooth.errors import TrainingError

Log = Callable[[str], None]
Module = TypeVar("Module", bound=nn.Module)
REPORT_SECONDS = 20.0
CHECKPOINT_SECONDS = 180.0


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: `steps` optimiser steps, or `minutes` of training if those are over before."""

    steps: int
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0..1."""
        spent = step / max(1, self.steps)
        if self.minutes is not None:
            spent = max(spent, seconds / (60 * self.minutes))
        return min(1.0, spent)


@dataclass(frozen=True)
class Optimisation:
    """Rates of a stage. The learning rate warms up over `warmup` steps and falls to 2 % of `rate` on a cosine."""

    rate: float = 5e-4
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    average = copy.deepcopy(module).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(parameter_groups(module, rates.decay), lr=rates.rate, betas=(0.9, 0.99), fused=True)
    step, spent, recent = 0, 0.0, math.nan
    if resume and path.exists():
        state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, recent = state["step"], state["seconds"], state["loss"]
        log(f"{name}: resumed at step {step}")
    clock = _Clock(spent)
    module.train()
    while (progress := budget.progress(step, clock.seconds())) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rates.at(step, progress)
        error = loss(step, progress)
        error.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        _follow(average, module, min(rates.average, step / (step + 10)))
        value = error.item()
        if not math.isfinite(value):
            raise TrainingError(f"the {name}'s loss is {value} at step {step}; resume with a lower learning rate")
        recent = value if math.isnan(recent) else recent + 0.01 * (value - recent)
        if clock.due("report", REPORT_SECONDS):
            log(f"{name}: step {step}, loss {recent:.4f}, {clock.pace(step, rates.batch, budget)}")
        if clock.due("checkpoint", CHECKPOINT_SECONDS):
            _save(path, module, average, optimizer, step, clock.seconds(), recent)
            if sheet is not None:
                sheet(average, folder / f"{name}-{step:06d}.png")
    _save(path, module, average, optimizer, step, clock.seconds(), recent)
    if sheet is not None:
        sheet(average, folder / f"{name}-{step:06d}.png")
    return Fitted(average, step, clock.seconds(), recent)


def parameter_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; embeddings, norms and biases without, so that unused words keep their norm."""
    embedded = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    plain = [p for p in module.parameters() if p.requires_grad and (p.ndim < 2 or id(p) in embedded)]
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2 and id(p) not in embedded]
    return [{"params": matrices, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def _save(path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int,
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
