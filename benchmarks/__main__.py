"""`python -m benchmarks`: measures, and leaves results.json and results.md."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import machine, peers, records, sizes, suite, tables
from benchmarks.task import PARTS
from dreambooth.errors import ConfigError, DreamBoothError
from dreambooth.precision import MixedPrecision

QUICK_REPEATS = 1


def main(
    size_names: Annotated[
        str, typer.Option("--sizes", help="Comma-separated: an embedded model, sd15, sdxl, or a diffusers folder.")
    ] = "toybox-sd,sd15,sdxl",
    parts: Annotated[
        str | None, typer.Option(help=f"Comma-separated: {', '.join(PARTS)}; those that suit the size by default.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Turns of every side. [default: 3]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every process; all cores by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the model's own default.")] = None,
    prior: Annotated[int | None, typer.Option(min=1, help="Prior samples; the model's own default.")] = None,
    judged: Annotated[int, typer.Option(min=4, help="Pictures of each job that DINO and CLIP judge.")] = 32,
    mixed_precision: Annotated[MixedPrecision, typer.Option(help="What ours and its floor compute in.")] = "auto",
    fewer: Annotated[
        str | None,
        typer.Option(help="STEPS:PRIOR of a further job of ours, for a comparison at equal quality."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="A public trainer: diffusers=path/to/train_dreambooth.py; may repeat.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; both by default, where CUDA may be missing.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of results.json and results.md; parts measured before are kept.")
    ] = Path("runs/benchmarks"),
    remark: Annotated[str, typer.Option(help="Told beside the machine, such as what else it was doing.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="One turn, few steps: shows that everything runs.")] = False,
) -> None:
    """Measure ours, the plain loop and public trainers side by side, and how far each step is from the floor."""
    names = tuple(name.strip() for name in size_names.split(",") if name.strip())
    for name in names:
        sizes.size_of(name)
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"There is no device {device!r} in the benchmark; give cpu or cuda.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = ", ".join(f"{name} {value}" for name, value in machine.facts().items())
    setting: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "machine": f"{told}, {threads or cores} threads" + (f"; {remark}" if remark else ""),
    }
    before = records.load(out / "results.json")

    def keep(found: list[records.Record]) -> None:
        together = records.merged(before, found)
        records.save(together, out / "results.json")
        (out / "results.md").write_text(tables.page(together), encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="benchmarks-") as work:
        plan = suite.Plan(
            sizes=names,
            devices=(device,) if device else ("cpu", "cuda"),
            work=Path(work),
            threads=threads or cores,
            parts=_parts(parts),
            repeats=repeats or (QUICK_REPEATS if quick else 3),
            steps=steps,
            prior=prior,
            judged=judged,
            mixed_precision=mixed_precision,
            fewer=_counts(fewer),
            peers=tuple(peers.parse(text) for text in peer or []),
            quick=quick,
            setting=setting,
        )
        suite.run(plan, typer.echo, keep)
    typer.echo(f"The tables are in {out / 'results.md'}")


def _parts(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"There is no part {unknown[0]!r}; give some of {', '.join(PARTS)}.")
    return parts


def _counts(text: str | None) -> tuple[int, int] | None:
    """Steps and prior samples from STEPS:PRIOR."""
    if text is None:
        return None
    steps, _, prior = text.partition(":")
    if not (steps.isdecimal() and prior.isdecimal() and int(steps) and int(prior)):
        raise ConfigError(f"{text!r} is no STEPS:PRIOR; give two counts, such as 60:16.")
    return int(steps), int(prior)


def start() -> None:
    """The command; a user's mistake is told in a sentence, and whoever ends it ends its worker too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        typer.run(main)
    except DreamBoothError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    start()
