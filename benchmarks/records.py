"""What was measured, as records that travel in a JSON file and that tables are made of."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.task import Outcome
from dreambooth.errors import RunError


@dataclass
class Record:
    """One side of one part: the values of every repeat by name, or a note that says why there are none.

    `setting` is what the numbers hold for: resolution, rows, counts, threads, the command and the machine.
    """

    size: str
    device: str
    part: str
    side: str
    setting: dict[str, Any]
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.size, self.device, self.part)

    def add(self, outcome: Outcome) -> None:
        """One more repeat; a note ends the record's numbers, so that no median is of the lucky half."""
        if outcome.note:
            self.values, self.note = {}, outcome.note
        if self.note:
            return
        for name, value in outcome.numbers.items():
            self.values.setdefault(name, []).append(value)
        self.details |= outcome.details

    def spread(self, name: str) -> Spread | None:
        """Median and spread of a number, or None where it was not measured."""
        values = self.values.get(name)
        return Spread(statistics.median(values), min(values), max(values), len(values)) if values else None


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest of so many repeats."""

    median: float
    least: float
    most: float
    repeats: int

    def text(self, scale: float = 1.0, digits: int = 3) -> str:
        """To so many significant digits.

        >>> Spread(0.1234, 0.12, 0.2, 3).text(), Spread(123.4, 123.4, 123.4, 1).text()
        ('0.123 (0.12–0.2)', '123')
        """
        median, least, most = (significant(value * scale, digits) for value in (self.median, self.least, self.most))
        return f"{median} ({least}–{most})" if self.repeats > 1 else median


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent.

    >>> significant(1234.5), significant(0.04567), significant(2.0)
    ('1234', '0.0457', '2')
    """
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{float(f'{value:.{digits}g}'):f}".rstrip("0").rstrip(".")


def merged(old: list[Record], new: list[Record]) -> list[Record]:
    """Old records, but those of a part that was measured anew."""
    fresh = {record.key for record in new if record.values}
    kept = [record for record in old if record.key not in fresh]
    known = {record.key for record in kept if record.values}
    return kept_order([*kept, *(record for record in new if record.values or record.key not in known)])


def kept_order(records: list[Record]) -> list[Record]:
    """Without a note that only repeats an earlier one."""
    seen: set[tuple[str, ...]] = set()
    result: list[Record] = []
    for record in records:
        key = (*record.key, record.side)
        if record.values or key not in seen:
            result.append(record)
        seen.add(key)
    return result


def save(records: list[Record], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> list[Record]:
    """Records of an earlier run; none where there is no file. Raises RunError for a file that is no such thing."""
    if not path.is_file():
        return []
    try:
        return [Record(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path} does not hold results of the benchmark; move it away, or give another --out."
        ) from error
