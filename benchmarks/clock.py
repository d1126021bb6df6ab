"""Clocks of a worker: since it was started, by phase, and over the steps after a warm-up."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time, time

from benchmarks.floor import synchronize

STARTED = "BENCHMARK_STARTED"


def since_process_start() -> dict[str, float]:
    """Seconds since whoever measures started this process, the interpreter and the imports among them."""
    return {"seconds": time() - float(os.environ[STARTED]), "processor_seconds": process_time()}


@dataclass
class Stopwatch:
    """Runs from its making. Processor time, of all threads, is that of an idle machine even where the wall's is not."""

    device: str
    wall: float = field(default_factory=perf_counter)
    processor: float = field(default_factory=process_time)

    def numbers(self, parts: int = 1) -> dict[str, float]:
        """Seconds by the wall and of the processor since then, of each of so many equal parts."""
        synchronize(self.device)
        return {
            "seconds": (perf_counter() - self.wall) / parts,
            "processor_seconds": (process_time() - self.processor) / parts,
        }


def per_second(watch: Stopwatch, count: int) -> dict[str, float]:
    """How many a second, and the processor's seconds of each."""
    numbers = watch.numbers(count)
    return {"per_second": 1 / numbers["seconds"], "processor_seconds": numbers["processor_seconds"]}


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
    """Mean seconds of the steps after `warm_up`; the device is waited for at both ends only."""

    def __init__(self, device: str, warm_up: int) -> None:
        self.device, self.warm_up = device, warm_up
        self.watch, self.count = Stopwatch(device), 0

    def __call__(self, number: int) -> None:
        """Step `number`, from 1, has ended."""
        self.count = number - self.warm_up
        if number == self.warm_up:
            synchronize(self.device)
            self.watch = Stopwatch(self.device)

    def mean(self) -> dict[str, float]:
        return self.watch.numbers(self.count)
