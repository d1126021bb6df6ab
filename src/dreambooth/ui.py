"""What a person sees while something runs: sentences, tables, and bars with the time that remains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any

LINE_SECONDS = 30.0
"""How often a bar is told as a line of its own where nothing can be drawn over: in a log file, in a pipe."""


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
        """A progress bar with rate and ETA, a line of it now and then in a log file; yields `advance(count, note="")`.

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
            as_lines = not (self.quiet or self.console.is_terminal or self.console.is_jupyter)
            told = monotonic()

            def advance(count: float = 1, note: str = "") -> None:
                nonlocal told
                bar.update(task, advance=count, note=note)
                if as_lines and not bar.finished and monotonic() - told >= LINE_SECONDS:
                    told = monotonic()
                    self.console.print(bar.make_tasks_table(bar.tasks))

            yield advance
