"""The tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth.evaluation.bootstrap import NOTHING, told
from dreambooth.evaluation.results import judges_of
from dreambooth.evaluation.scores import Score
from dreambooth.evaluation.tables import METRIC_TITLES, Table

INTERVALS = (
    "In brackets the 95 % interval of the mean, by 10,000 bootstrap resamples of the subjects. The paper measured "
    "other subjects, models and judges: compare the order of the rows and their distances, not the figures."
)


def markdown(tables: Sequence[Table], scores: Sequence[Score]) -> str:
    """All tables as Markdown."""
    parts = ["# The paper's tables, regenerated", INTERVALS, judges_told(scores)]
    for table in tables:
        parts += [f"## {table.spec.title}", table.spec.about, _markdown_table(table), *table.notes]
    return "\n\n".join(parts) + "\n"


def judges_told(scores: Sequence[Score]) -> str:
    """Who judged, in a sentence."""
    named = [
        f"{METRIC_TITLES[metric].split()[0]} by {name} ({fingerprint})"
        for metric, judges in judges_of(scores).items()
        for name, fingerprint in judges
    ]
    return f"Judged: {', '.join(named)}."


def _markdown_table(table: Table) -> str:
    metrics, paper = table.spec.metrics, any(row.paper for row in table.rows)

    def line(title: str, cells: Sequence[tuple[str, str]], last: str) -> str:
        texts = [text for pair in cells for text in pair[: 2 if paper else 1]]
        return f"| {' | '.join([title, *texts, last])} |"

    lines = [line("", [(METRIC_TITLES[metric], "paper") for metric in metrics], "subjects")]
    lines.append(line("---", [("---:", "---:")] * len(metrics), "---:"))
    for row in table.rows:
        cells = [(row.text(metric), row.paper.get(metric, NOTHING)) for metric in metrics]
        lines.append(line(row.title, cells, str(row.count or NOTHING)))
    for contrast in table.contrasts:
        cells = [(told(contrast.figures.get(metric), signed=True), "") for metric in metrics]
        count = max(interval.count for interval in contrast.figures.values())
        lines.append(line(f"*{contrast.title}*", cells, str(count)))
    return "\n".join(lines)
