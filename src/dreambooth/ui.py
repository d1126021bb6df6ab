"""What a person sees while something runs: sentences, tables, and bars with the time that remains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


class Display:
    """Writes to the terminal; a quiet one writes warnings only."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)
        self._warnings = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def say(self, text: Any) -> None:
        """A sentence, or anything that rich can print."""
        if not self.quiet:
            self.console.print(text)

    def warn(self, text: str) -> None:
        from rich.text import Text

        self._warnings.print(Text.assemble(("warning: ", "yellow"), text))

    @contextmanager
    def track(
        self, title: str, total: int, done: float = 0, over_seconds: float = 30
    ) -> Generator[Callable[..., None]]:
        """A progress bar with rate and ETA; yields `advance(count, note="")`.

        What remains is estimated from the last `over_seconds`: more where the work goes through unequal phases.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, disable=self.quiet, speed_estimate_period=over_seconds) as bar:
            task = bar.add_task(title, total=total, note="")
            bar.update(task, completed=done)

            def advance(count: float = 1, note: str = "") -> None:
                bar.update(task, advance=count, note=note)

            yield advance
