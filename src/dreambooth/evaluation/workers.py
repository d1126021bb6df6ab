"""Processes that do the work of a benchmark side by side, watched by the one that the user started."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from dreambooth.errors import Interrupted, RunError
from dreambooth.evaluation.benchmark_plan import Plan
from dreambooth.evaluation.results import Results
from dreambooth.models import embedded
from dreambooth.run import choose_device
from dreambooth.ui import Display

GLANCE_SECONDS = 1.0
FAREWELL_SECONDS = 60.0  # for finishing a step and saving it
MOST_ON_CPU = 8
LEAST_ADVANCE = 0.002  # of the whole, by which the bar moves

Thing = TypeVar("Thing")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: str, model: str) -> int:
    """One for each CUDA device; on the CPU one for each core, up to 8, if the model is an embedded one, else one.

    An embedded model is too small to keep several cores busy at once; a large one fills the memory once.
    """
    kind = choose_device(device)
    if kind.type == "cuda":
        return 1 if ":" in device else torch.cuda.device_count()
    return min(usable_cores(), MOST_ON_CPU) if kind.type == "cpu" and model in embedded() else 1


def run_workers(results: Results, plan: Plan, count: int, display: Display) -> None:
    """Works until every cell is over.

    Raises Interrupted after Ctrl-C, and RunError when workers ended before the work did.
    """
    cells = results.all_cells(plan)
    wanted, left = min(count, len(cells)), sum(not cell.over for cell in cells)
    if left == 0:
        return
    # Cores are shared by the workers of the whole work, not of what is left: threads decide the last bits of sums.
    workplaces = environments(plan.device, wanted)[:left]
    before = {cell: cell.progress(plan.settings) for cell in cells}
    with (
        started_workers(results, workplaces) as workers,
        display.track("benchmark", len(cells), sum(before.values()), over_seconds=math.inf) as advance,
    ):
        alive = True
        while alive:
            time.sleep(GLANCE_SECONDS)
            alive = any(worker.poll() is None for worker in workers)
            shares = {cell: cell.progress(plan.settings) for cell in cells}
            gained = sum(shares.values()) - sum(before.values())
            # An average over a long time can keep few samples, so small advances are saved up.
            if gained >= LEAST_ADVANCE * len(cells) or not alive:
                told = [f"{cell.member.name} {cell.method}" for cell in under_way(before, shares)]
                advance(gained, ", ".join(told[: len(workers)]))
                before = shares
    if any(not cell.over for cell in cells):
        raise RunError(_why(results, workers))


def under_way(before: Mapping[Thing, float], now: Mapping[Thing, float]) -> list[Thing]:
    """What has come on since `before`, as shares of the whole, and is not over.

    >>> under_way({"waits": 0.9, "goes on": 0.1, "over": 0.5}, {"waits": 0.9, "goes on": 0.2, "over": 1.0})
    ['goes on']
    """
    return [thing for thing, share in now.items() if before[thing] < share < 1]


@contextmanager
def started_workers(
    results: Results, workplaces: Sequence[Mapping[str, str]]
) -> Generator[list[subprocess.Popen[bytes]]]:
    """A worker process in each environment, gone when the block is left: after Ctrl-C it saves a last step first.

    Each holds the other end of a pipe from this process and ends when that closes, so none outlives even a kill.
    """
    logs = results.path / "logs"
    logs.mkdir(exist_ok=True)
    # -P: what lies in the folder that the user is in is no module of ours.
    command = [sys.executable, "-P", "-m", "dreambooth", "benchmark-worker", str(results.path), "--leashed"]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for index, environment in enumerate(workplaces):
            with (logs / f"worker-{index}.log").open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,  # Ctrl-C reaches them once, from here
                    )
                )
        yield workers
    except KeyboardInterrupt:
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for worker in workers:
            _wait(worker, deadline)
        raise Interrupted(
            f"Stopped. What was made so far is in {results.path}; give the same command to go on."
        ) from None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdin:
                worker.stdin.close()


def environments(device: str, count: int) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of the cores, and a CUDA device of its own."""
    threads = str(max(1, usable_cores() // count))
    shared = {"OMP_NUM_THREADS": threads} | dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if choose_device(device).type != "cuda" or ":" in device:
        return [shared] * count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    devices = visible.split(",")
    return [shared | {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} for index in range(count)]


def die_with(leash: int) -> None:
    """Ends this process at once when the other end of this pipe closes, which even a kill of its holder does."""

    def watch() -> None:
        os.read(leash, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(worker: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        worker.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return


def _why(results: Results, workers: Sequence[subprocess.Popen[bytes]]) -> str:
    """What the first worker that failed said, or how it ended."""
    for index, worker in enumerate(workers):
        if not worker.returncode:
            continue
        log = results.path / "logs" / f"worker-{index}.log"
        _, error, told = ("\n" + log.read_text(encoding="utf-8", errors="replace")).rpartition("\nerror: ")
        if error:
            return told.strip()
        how = f"was ended by signal {-worker.returncode}" if worker.returncode < 0 else "failed"
        return f"A worker {how}; see {log}. Give the same command to go on, with fewer --workers if memory ran out."
    return "Another process holds the rest of the work; wait for it, or end it and give the same command again."
