"""What steps came to, told without making the host wait for the device."""

from __future__ import annotations

import importlib.util
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from accelerate import PartialState
from torch import Tensor

from dreambooth.checkpoint import RunFolder
from dreambooth.errors import TrainingError


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did; `facts` are what the method has to tell besides."""

    step: int
    loss: float
    loss_subject: float
    loss_prior: float
    learning_rate: float
    grad_norm: float
    seconds: float
    facts: dict[str, float] = field(default_factory=dict[str, float])

    def entry(self) -> dict[str, float]:
        """The line of log.jsonl."""
        return {name: value for name, value in vars(self).items() if name != "facts"} | self.facts


@dataclass(frozen=True)
class _Pending:
    step: int
    numbers: Tensor
    arrived: torch.cuda.Event | None
    learning_rate: float
    start: float
    facts: dict[str, float]


class Reports:
    """Tells steps in order, once their numbers have come from the device.

    Told late, a step is told when the next one has been sent off: then its numbers are there, and the device always
    has work. Whoever saves or looks at the weights has everything told first, so that no step goes unchecked.
    """

    def __init__(self, run: RunFolder, on_step: Callable[[StepReport], None], main: bool) -> None:
        """Only the `main` process writes the log and calls `on_step`; every one checks."""
        self.run, self.on_step, self.main = run, on_step, main
        self._pending: deque[_Pending] = deque()
        self._told = 0.0

    def add(self, step: int, numbers: Tensor, learning_rate: float, start: float, facts: dict[str, float]) -> None:
        """`numbers` [4] are the loss, both of its terms and the gradient's norm; `start` is when the step began."""
        arrived = None
        if numbers.device.type == "cuda":
            numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append(_Pending(step, numbers, arrived, learning_rate, start, facts))

    def tell(self, late: bool = False) -> None:
        """Tells all steps, or `late` all but the newest. Raises TrainingError for one that is not finite."""
        while len(self._pending) > late:
            report = self._report(self._pending.popleft())
            if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
                raise not_finite(report.step, self.run)
            if self.main:
                self.run.append_log(report.entry())
                self.on_step(report)

    def _report(self, pending: _Pending) -> StepReport:
        if pending.arrived is not None:
            pending.arrived.synchronize()
        loss, subject, prior, norm = pending.numbers.tolist()
        # A step that is told late ends where it is told, so its time begins where the one before was.
        now, start = perf_counter(), max(pending.start, self._told)
        self._told = now
        return StepReport(pending.step, loss, subject, prior, pending.learning_rate, norm, now - start, pending.facts)


def not_finite(step: int, run: RunFolder) -> TrainingError:
    checkpoints = run.checkpoints()
    kept = f"The last good checkpoint is step {checkpoints[-1].step}" if checkpoints else "No checkpoint was saved yet"
    return TrainingError(
        f"The loss or its gradient is not finite at step {step}, so training stopped. {kept}. "
        "Try a lower --learning-rate, --mixed-precision no, or --snr-gamma 5 in a new run."
    )


@contextmanager
def tensorboard(folder: RunFolder) -> Generator[Callable[[StepReport], None]]:
    """Writes steps to RUN/tensorboard where TensorBoard is installed; does nothing where it is not."""

    def ignore(report: StepReport) -> None: ...

    if importlib.util.find_spec("tensorboard") is None or not PartialState().is_main_process:
        yield ignore
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder.path / "tensorboard"))

    def write(report: StepReport) -> None:
        for name in ("loss", "loss_subject", "loss_prior", "learning_rate", "grad_norm"):
            writer.add_scalar(name, getattr(report, name), report.step)
        for name, value in report.facts.items():
            writer.add_scalar(name, value, report.step)

    try:
        yield write
    finally:
        writer.close()
