"""Records as Markdown tables: medians with spread, ratios to the plain loop, and multiples of the floor."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.records import Record, Spread, significant
from benchmarks.task import PLAIN

FLOOR = "floor"
WORKED = "processor_seconds"
TITLES = {
    "job": "the whole job",
    "step": "one training step",
    "prior": "prior samples",
    "generation": "four pictures",
    "startup": "start-up",
}
UNITS = {"job": "s", "step": "s", "prior": "per s", "generation": "s", "startup": "s"}
HEAD = (
    "what", "side", "measured", "against plain", "processor time", "against plain in processor time",
    "against the floor", "peak memory", "DINO", "CLIP-T",
)  # fmt: skip
NOT_MEASURED = "not measured"


def page(records: list[Record]) -> str:
    """All tables, one a model and device, then where the time goes, then what the numbers hold for."""
    parts: list[str] = []
    for size, device in dict.fromkeys((record.size, record.device) for record in records):
        own = [record for record in records if (record.size, record.device) == (size, device)]
        gpu = next((record.setting["gpu"] for record in own if record.setting.get("gpu")), "CUDA")
        parts.append(f"### {size}, {gpu if device == 'cuda' else 'CPU'}\n")
        parts.append(markdown(HEAD, [row(record, own) for record in own if shown(record)]))
        parts += [profile_table(own), phases_table(own), not_judged(own), floor_line(own)]
    parts.append(settings(records))
    return "\n".join(part for part in parts if part)


def shown(record: Record) -> bool:
    return record.side != FLOOR and record.part in TITLES


def row(record: Record, others: list[Record]) -> tuple[str, ...]:
    """One side of one part."""
    measured = record.spread(main_number(record.part))
    if measured is None:
        return (title(record), record.side, record.note or NOT_MEASURED, *[""] * 7)
    plain = find(others, record.part, PLAIN, main_number(record.part))
    floor = find(others, record.part, FLOOR, "seconds")
    return (
        title(record),
        record.side,
        f"{measured.text()} {UNITS[record.part]}",
        ratio(record, measured, plain, record.part == "prior"),
        told(record, WORKED, lambda value: f"{value.text()} s"),
        ratio(record, record.spread(WORKED), find(others, record.part, PLAIN, WORKED)),
        f"{significant(measured.median / floor.median)}×" if floor else "",
        told(record, "peak_bytes", lambda value: f"{significant(value.median / 1e9)} GB"),
        told(record, "dino", Spread.text),
        told(record, "clip_t", Spread.text),
    )


def title(record: Record) -> str:
    """What was measured, with what it was measured for."""
    setting = record.setting
    if record.part == "job" and "steps" in setting:
        return f"whole job: {setting['prior']} prior samples, {setting['steps']} steps, 4 pictures"
    if record.part == "step" and "rows" in setting:
        return f"one step, {setting['rows']} + {setting['rows']} rows, {setting['resolution']} px"
    if record.part == "startup":
        return record.setting.get("what", TITLES["startup"])
    return TITLES[record.part]


def main_number(part: str) -> str:
    return "per_second" if part == "prior" else "seconds"


def ratio(record: Record, measured: Spread | None, plain: Spread | None, more_is_better: bool = False) -> str:
    """How many times as fast as the plain loop."""
    if measured is None or plain is None or record.side == PLAIN:
        return ""
    faster = measured.median / plain.median if more_is_better else plain.median / measured.median
    return f"{significant(faster)}× as fast"


def find(records: list[Record], part: str, side: str, name: str) -> Spread | None:
    """A number of another side of the same part."""
    return next((r.spread(name) for r in records if (r.part, r.side) == (part, side)), None)


def told(record: Record, name: str, text: Callable[[Spread], str]) -> str:
    spread = record.spread(name)
    return text(spread) if spread else ""


def phases_table(records: list[Record]) -> str:
    """Seconds of the phases of each side's whole job, of its last repeat."""
    rows = [
        (record.side, ", ".join(f"{name} {significant(value)}" for name, value in record.details["phases"].items()))
        for record in records
        if record.part == "job" and "phases" in record.details
    ]
    return markdown(("side", "seconds of the whole job by phase"), rows) if rows else ""


def not_judged(records: list[Record]) -> str:
    """Why there is no quality beside the time of some jobs: a time without it proves little."""
    reasons = {record.side: record.details["not judged"] for record in records if "not judged" in record.details}
    return "\n".join(f"Pictures of {side} were not judged: {reason}\n" for side, reason in reasons.items())


def profile_table(records: list[Record]) -> str:
    """Milliseconds of a step by kind of kernel, the sides beside each other."""
    profiles = {record.side: record for record in records if record.part == "profile" and record.values}
    if not profiles:
        return ""
    kinds = dict.fromkeys(kind for record in profiles.values() for kind in record.values)
    cells = [
        (kind, *(told(record, kind, lambda value: value.text(1000)) for record in profiles.values())) for kind in kinds
    ]
    return markdown(("milliseconds of a step", *profiles), cells)


def floor_line(records: list[Record]) -> str:
    """What the floor is made of, in a sentence."""
    record = next((record for record in records if record.side == FLOOR and record.values), None)
    if record is None:
        return ""
    number = {name: spread.median for name in record.values if (spread := record.spread(name))}
    kind = record.details.get("dtype", "the type of the step")
    return (
        f"The floor of a step, {significant(number['seconds'])} s: {significant(number['flops'] / 1e9)} GFLOP at "
        f"{significant(number['flops_per_second'] / 1e9)} GFLOP/s in {kind}, and "
        f"{significant(number['optimizer_bytes'] / 1e9)} GB for the optimizer of "
        f"{significant(number['parameters'] / 1e6)} M parameters at "
        f"{significant(number['bytes_per_second'] / 1e9)} GB/s. "
        f"In float32 it would be {significant(number.get('float32_seconds', number['seconds']))} s.\n"
    )


def settings(records: list[Record]) -> str:
    """The commands, and the machines that ran them."""
    lines = {f"- `{r.setting['command']}`: {r.setting['machine']}" for r in records if r.values}
    return "\n".join(["Measured by:\n", *sorted(lines), ""]) if lines else ""


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table without the columns that are empty throughout.

    >>> print(markdown(("a", "b", "c"), [("1", "", "2")]))
    | a | c |
    |---|---|
    | 1 | 2 |
    <BLANKLINE>
    """
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[row[index].replace("|", "\\|").replace("\n", " ") for index in kept] for row in [head, *rows]]
    rule = "|" + "---|" * len(kept)
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], rule, *text[1:], ""])
