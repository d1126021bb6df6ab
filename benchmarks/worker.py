"""A process of its own for one measurement: `python -m benchmarks.worker TASK.json OUTCOME.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.task import OURS, Outcome, Task


def main(task_file: str, outcome_file: str) -> None:
    """Measures what the task says and leaves the outcome, or the reason why there is none."""
    task = Task.from_json(Path(task_file).read_text(encoding="utf-8"))
    import torch

    from dreambooth.errors import DreamBoothError

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    try:
        outcome = measurement(task)(task)
    except DreamBoothError as error:
        outcome = Outcome(note=str(error))
    Path(outcome_file).write_text(outcome.to_json(), encoding="utf-8")


def measurement(task: Task) -> Callable[[Task], Outcome]:
    """What measures this part of this side."""
    from benchmarks import judges, machine, ours_side, plain_side, profile

    shared = {"prepare": machine.prepare, "floor": machine.floor, "judge": judges.judge}
    if task.part in shared:
        return shared[task.part]
    if task.part == "profile":
        return profile.profile
    if task.side == OURS:
        return getattr(ours_side, task.part)
    return plain_side.draw_peer if task.part == "draw" else getattr(plain_side, task.part)


if __name__ == "__main__":
    main(*sys.argv[1:])
