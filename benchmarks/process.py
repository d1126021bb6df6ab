"""Processes of their own, with the threads asked for, and what came of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time

from benchmarks.clock import STARTED
from benchmarks.task import Outcome, Task

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """A process that has ended: status, seconds by the wall and of the processor, peak memory, and its errors."""

    status: int
    seconds: float
    processor_seconds: float
    peak_bytes: int
    errors: str


def run(command: list[str], threads: int) -> Ended:
    """Runs a command to its end. `peak_bytes` is the resident memory of the process itself."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        STARTED: repr(time()),
    }
    with tempfile.TemporaryFile() as errors:
        start = perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for a process that is gone
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip()
    unit = 1 if sys.platform == "darwin" else 1024
    worked = usage.ru_utime + usage.ru_stime
    return Ended(process.returncode, seconds, worked, usage.ru_maxrss * unit, told)


def measure(task: Task) -> Outcome:
    """The task's outcome, from a worker of its own; a worker that failed leaves a note with its last word."""
    folder = Path(task.work)
    folder.mkdir(parents=True, exist_ok=True)
    question, answer = folder / "task.json", folder / "outcome.json"
    question.write_text(task.to_json(), encoding="utf-8")
    answer.unlink(missing_ok=True)
    ended = run([sys.executable, "-m", "benchmarks.worker", str(question), str(answer)], task.threads)
    if ended.status or not answer.is_file():
        return Outcome(note=f"failed: {last_line(ended)}")
    return Outcome.from_json(answer.read_text(encoding="utf-8"))


def last_line(ended: Ended) -> str:
    """Why a process failed, in its own words; a kill has none, and is most often for want of memory."""
    lines = ended.errors.splitlines()
    return lines[-1].strip() if lines and ended.status > 0 else f"the process ended with status {ended.status}"
