"""Steps are told in order, late where that spares a wait, and never left unchecked."""

from pathlib import Path

import pytest
import torch

from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import TrainingError
from dreambooth.reports import Reports, StepReport


def started(tmp_path: Path) -> tuple[RunFolder, list[StepReport], Reports]:
    run, told = RunFolder.create(tmp_path / "run", make_config({})), []
    return run, told, Reports(run, told.append, main=True)


def add(reports: Reports, step: int, loss: float = 0.5) -> None:
    reports.add(step, torch.tensor([loss, 0.25, 0.25, 1.0]), 1e-4, 0.0, {"fact": float(step)})


def test_late_tells_all_but_the_newest(tmp_path: Path):
    run, told, reports = started(tmp_path)
    add(reports, 1)
    reports.tell(late=True)
    assert told == []
    add(reports, 2)
    reports.tell(late=True)
    assert [report.step for report in told] == [1]
    reports.tell()
    assert [report.step for report in told] == [1, 2]
    assert [(line["step"], line["loss"], line["fact"]) for line in run.read_log()] == [(1, 0.5, 1.0), (2, 0.5, 2.0)]


def test_what_is_not_finite_is_told_before_anything_after_it(tmp_path: Path):
    _, told, reports = started(tmp_path)
    add(reports, 1)
    add(reports, 2, float("nan"))
    add(reports, 3)
    with pytest.raises(TrainingError, match="not finite at step 2"):
        reports.tell()
    assert [report.step for report in told] == [1]


def test_other_processes_check_and_write_nothing(tmp_path: Path):
    run, _, _ = started(tmp_path)
    reports = Reports(run, lambda report: pytest.fail("told"), main=False)
    add(reports, 1)
    reports.tell()
    assert run.read_log() == []
    add(reports, 2, float("inf"))
    with pytest.raises(TrainingError):
        reports.tell()
