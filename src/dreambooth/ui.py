"""What a person sees while something runs: sentences, tables, and bars with the time that remains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any

LINE_SECONDS = 30.0
"""How often a bar is told as a line of its own where nothing can be drawn over: in a log file, in a pipe."""
LINE_WIDTH = 140
"""Characters of such a line at least: a file has no window to fit."""


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
        from rich import progress
        from rich.console import Console
        from rich.table import Column
        from rich.text import Text

        class Note(progress.ProgressColumn):
            """Cut off where the line ends: of all columns the only one that a narrow terminal may squeeze."""

            def render(self, task: progress.Task) -> Text:
                return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

        columns = (
            progress.TextColumn("{task.description:<22}"),
            progress.BarColumn(20),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            Note(Column(no_wrap=False)),
        )
        with progress.Progress(
            *columns, console=self.console, disable=self.quiet, speed_estimate_period=over_seconds
        ) as bar:
            task = bar.add_task(title, total=total, note="")
            bar.update(task, completed=done)
            as_lines = not (self.quiet or self.console.is_terminal or self.console.is_jupyter)
            lines = Console(file=self.console.file, width=max(self.console.width, LINE_WIDTH), highlight=False)
            told = monotonic()

            def advance(count: float = 1, note: str = "") -> None:
                nonlocal told
                bar.update(task, advance=count, note=note)
                if as_lines and not bar.finished and monotonic() - told >= LINE_SECONDS:
                    told = monotonic()
                    lines.print(bar.make_tasks_table(bar.tasks))

            yield advance
