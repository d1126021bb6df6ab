"""What `dreambooth toybox assess` found: rows of numbers with their floors, as a table, as JSON, in model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.toybox import cards

if TYPE_CHECKING:
    from rich.table import Table

PARTS = ("autoencoder", "clip", "dino", "samples")


@dataclass(frozen=True)
class Row:
    """One number. `floor` is what it has to reach, from above or, if `below`, from below; `ceiling` is the same number
    for true pictures instead of samples; `count` says on how many pictures it was measured. A `value` of None was
    left out, and `note` says why."""

    what: str
    value: float | None
    unit: str
    count: int
    floor: float | None = None
    ceiling: float | None = None
    below: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the floor is reached; None where there is none or nothing was measured."""
        if self.value is None or self.floor is None:
            return None
        return self.value <= self.floor if self.below else self.value >= self.floor

    def said(self, value: float | None) -> str:
        """A value in the row's unit: "97.2 %", "30.1 dB"; "–" for none."""
        if value is None:
            return "–"
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        digits = {"dB": 1, "s": 2}.get(self.unit, 3)
        return f"{value:.{digits}f} {self.unit}".strip()

    def cells(self) -> tuple[str, ...]:
        """What, value, floor, whether met, the judge's own number on true pictures, count."""
        floor = "" if self.floor is None else f"{'≤' if self.below else '≥'} {self.said(self.floor)}"
        met = {True: "yes", False: "no", None: ""}[self.met]
        ceiling = "" if self.ceiling is None else self.said(self.ceiling)
        return (
            self.what,
            self.note if self.value is None else self.said(self.value),
            floor,
            met,
            ceiling,
            f"{self.count:,}",
        )


HEADER = ("what", "value", "floor", "met", "renders", "of")
"""`renders` is the same number for true pictures of the samples' prompts, `of` how many pictures."""


@dataclass(frozen=True)
class Assessment:
    """Rows by the model that they are about, and what they were measured with."""

    autoencoder: tuple[Row, ...]
    clip: tuple[Row, ...]
    dino: tuple[Row, ...]
    samples: tuple[Row, ...]
    facts: dict[str, Any]

    def as_json(self) -> str:
        """Everything, with full precision; shares are 0..1."""
        parts = {part: [{**vars(row), "met": row.met} for row in getattr(self, part)] for part in PARTS}
        return json.dumps({"facts": self.facts, **parts}, indent=2)

    def as_table(self) -> Table:
        """A table for the terminal."""
        from rich import box
        from rich.table import Table

        title = f"{self.facts['model']}, {self.facts['prompts']:,} held-out prompts"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
        for part in PARTS:
            for row in getattr(self, part):
                colour = {True: "green", False: "red", None: ""}[row.met]
                what, value, floor, met, *rest = row.cells()
                table.add_row(what, value, floor, f"[{colour}]{met}[/]" if colour else met, *rest)
            table.add_section()
        return table

    def numbers(self, *parts: str) -> str:
        """The rows of some parts as a Markdown table, with what they were measured with."""
        rows = [row.cells() for part in parts for row in getattr(self, part)]
        lines = [" | ".join(cells) for cells in (HEADER, ["---"] * len(HEADER), *rows)]
        device = f"{self.facts['device']}, {self.facts['threads']} threads"
        ending = (
            f"Measured by `dreambooth toybox assess` with {self.facts['clip']} and {self.facts['dino']} on {device}."
        )
        legend = "*renders*: what the judge says of true pictures of the same prompts; *of*: so many pictures."
        return "\n".join(("## Numbers", "", *(f"| {line} |" for line in lines), "", f"{legend} {ending}"))

    def write_cards(self, folders: Mapping[Path, Sequence[str]]) -> list[Path]:
        """Put the numbers into the README.md of each model's folder, of those PARTS that are about it; returns the
        files written."""
        written: list[Path] = []
        for folder, parts in folders.items():
            path = folder / "README.md"
            before = path.read_text("utf-8") if path.exists() else f"# {folder.name}\n"
            path.write_text(cards.with_numbers(before, self.numbers(*parts)), "utf-8")
            written.append(path)
        return written
