"""Clocks of a worker: since it was started, by phase, and over the steps after a warm-up."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter, time

from benchmarks.floor import synchronize

STARTED = "BENCHMARK_STARTED"


def since_process_start() -> float:
    """Seconds since whoever measures started this process; the interpreter and the imports are in it."""
    return time() - float(os.environ[STARTED])


class Phases:
    """Seconds by what they went to."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Generator[None]:
        start = perf_counter()
        yield
        synchronize(self.device)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start


class Laps:
    """The mean seconds of the steps after `warm_up`; the device is waited for at both ends only."""

    def __init__(self, device: str, warm_up: int) -> None:
        self.device, self.warm_up = device, warm_up
        self.start, self.count = perf_counter(), 0

    def __call__(self, number: int) -> None:
        """Step `number`, from 1, has ended."""
        self.count = number - self.warm_up
        if number == self.warm_up:
            synchronize(self.device)
            self.start = perf_counter()

    def mean(self) -> float:
        synchronize(self.device)
        return (perf_counter() - self.start) / self.count
