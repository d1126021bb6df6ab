"""Which measurements are made, in which order: the sides of a part take turns, so that a busy minute meets them all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import floor, memory, peers, process, sizes, startup
from benchmarks.peers import Peer
from benchmarks.records import Record
from benchmarks.tables import FLOOR
from benchmarks.task import FEWER, OURS, PLAIN, Outcome, Task
from dreambooth.precision import MixedPrecision

# A processor takes minutes for one picture of a published size.
PARTS_OF_LARGE_ON_CPU = ("step", "profile")
SMALL = 100_000_000


@dataclass(frozen=True)
class Plan:
    """What is asked for; None stands for what suits the size: its own defaults, and the parts that end in time."""

    sizes: tuple[str, ...]
    devices: tuple[str, ...]
    work: Path
    threads: int
    parts: tuple[str, ...] | None = None
    repeats: int = 3
    steps: int | None = None
    prior: int | None = None
    judged: int = 32
    mixed_precision: MixedPrecision = "auto"
    fewer: tuple[int, int] | None = None
    """Steps and prior samples of a further job of ours, for a comparison at equal quality."""
    peers: tuple[Peer, ...] = ()
    quick: bool = False
    setting: dict[str, Any] | None = None


def run(plan: Plan, say: Callable[[str], None], keep: Callable[[list[Record]], None]) -> list[Record]:
    """Measures all of the plan. `keep` gets the records after every part, so that a stopped run has its first ones."""
    records: list[Record] = []
    for name in plan.sizes:
        for device in plan.devices:
            for part in parts_of(plan, name, device):
                records += Part(plan, sizes.size_of(name), device, part, say).measure()
                keep(records)
    if plan.parts is None or "startup" in plan.parts:
        records += startup.measure(5, plan.threads, plan.setting or {}, say)
        keep(records)
    return records


def parts_of(plan: Plan, name: str, device: str) -> tuple[str, ...]:
    """The parts measured of one size on one device."""
    if plan.parts is not None:
        return tuple(part for part in plan.parts if part != "startup")
    if device == "cpu" and sizes.size_of(name).folder is None:
        return PARTS_OF_LARGE_ON_CPU
    return ("job", "step", "prior", "generation", "profile")


def cuda_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


class Part:
    """One part of one size on one device: its sides, their turns, their records."""

    def __init__(self, plan: Plan, size: sizes.Size, device: str, part: str, say: Callable[[str], None]) -> None:
        self.plan, self.size, self.device, self.part, self.say = plan, size, device, part, say

    def measure(self) -> list[Record]:
        """All sides, turn by turn."""
        names = [OURS, PLAIN, *(self.more_sides() if self.part == "job" else [])]
        if obstacle := self.obstacle():
            return [self.record(name, {}, obstacle) for name in names]
        prepared = process.measure(self.task("prepare", PLAIN, judged=int(self.part == "job")))
        if prepared.note:
            return [self.record(name, {}, prepared.note) for name in names]
        task = self.resolved(prepared.details)
        setting = {name: getattr(task, name) for name in ("resolution", "rows", "steps", "prior", "threads")}
        setting["gpu"] = prepared.details["gpu"]
        records = {name: self.record(name, setting) for name in names}
        if FEWER in records and self.plan.fewer:
            records[FEWER].setting |= dict(zip(("steps", "prior"), self.plan.fewer, strict=True))
        if self.part == "step":
            records[FLOOR] = self.record(FLOOR, setting)
        for turn in range(1 if self.part == "profile" else self.plan.repeats):
            for name, record in records.items():
                if not record.note:
                    self.say(f"{self.size.name}, {self.device}: {self.part} of {name}, {turn + 1}")
                    record.add(self.outcome(task, name))
                    self.say(f"  {record.note or {key: values[-1] for key, values in record.values.items()}}")
        return list(records.values())

    def more_sides(self) -> list[str]:
        """The job's own, besides ours and the plain loop."""
        return [*([FEWER] if self.plan.fewer else []), *(peer.name for peer in self.plan.peers)]

    def obstacle(self) -> str:
        """Why no side can be measured, or nothing."""
        if self.device == "cuda" and not cuda_is_there():
            return "not measured: there is no CUDA device here"
        if self.part in ("job", "step", "profile"):
            work = floor.step_work(self.size, self.size.resolution(self.device), 2)
            return memory.shortage(work.parameters, self.device)
        return ""

    def outcome(self, task: Task, side: str) -> Outcome:
        """One turn of one side, in a folder that is empty before it and gone after it."""
        work = self.plan.work / "turn"
        shutil.rmtree(work, ignore_errors=True)
        task = replace(task, side=side, work=str(work), part="floor" if side == FLOOR else self.part)
        if side == FEWER and self.plan.fewer:
            task = replace(task, side=OURS, steps=self.plan.fewer[0], prior=self.plan.fewer[1])
        peer = next((peer for peer in self.plan.peers if peer.name == side), None)
        try:
            outcome = peers.job(replace(task, script=str(peer.script))) if peer else process.measure(task)
            # Random weights draw nothing that could be judged.
            if self.part == "job" and not outcome.note and self.size.folder is not None:
                judged = process.measure(replace(task, part="judge", size=self.size.name))
                outcome.numbers |= judged.numbers
                outcome.details |= judged.details | ({"not judged": judged.note} if judged.note else {})
            return outcome
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def task(self, part: str, side: str, judged: int = 0) -> Task:
        """A task that knows nothing yet of the model's defaults."""
        return Task(
            part=part,
            side=side,
            size=str(self.size.folder) if self.size.name not in sizes.NAMES else self.size.name,
            device=self.device,
            threads=self.plan.threads,
            work=str(self.plan.work / "models"),
            photos=str(self.plan.work / "photos"),
            identifier="sks",
            resolution=self.size.resolution(self.device),
            rows=1,
            steps=1,
            prior=1,
            learning_rate=5e-6,
            judged=judged,
            mixed_precision=self.plan.mixed_precision,
        )

    def resolved(self, facts: dict[str, Any]) -> Task:
        """The task with the model's own defaults, and counts that suit the part."""
        plan, whole = self.plan, self.part == "job"
        small = self.size.folder is not None or self.device == "cuda"
        task = self.task(self.part, OURS, max(4, 4 if plan.quick else plan.judged) if whole else 0)
        steps = (facts.get("max_train_steps", 1) if whole else 20 if small else 3) if not plan.quick else 3
        prior = (facts.get("num_class_images", 1) if whole else 16 if small else 4) if not plan.quick else 4
        return replace(
            task,
            size=facts.get("folder") if whole and self.size.folder is None else task.size,
            identifier=facts.get("identifier", task.identifier),
            rows=facts.get("train_batch_size", 1),
            learning_rate=facts.get("learning_rate", task.learning_rate),
            steps=plan.steps or steps,
            prior=plan.prior or prior,
        )

    def record(self, side: str, setting: dict[str, Any], note: str = "") -> Record:
        return Record(self.size.name, self.device, self.part, side, setting | (self.plan.setting or {}), note=note)
