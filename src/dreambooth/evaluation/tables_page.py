"""The tables on one page, with what the figures mean to the eye: photos, pictures of the subject, and of its class.

How it looks: `templates/tables.html.jinja`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dreambooth.checkpoint import write_whole
from dreambooth.errors import RunError
from dreambooth.evaluation.benchmark_plan import Plan
from dreambooth.evaluation.bootstrap import Interval, told
from dreambooth.evaluation.contents import Contents, Picture
from dreambooth.evaluation.curves import PLOT_HEIGHT, PLOT_WIDTH, Point, ticks
from dreambooth.evaluation.report import versions
from dreambooth.evaluation.results import PLAN_FILE, Job, Results
from dreambooth.evaluation.suite import evenly
from dreambooth.evaluation.tables import METRIC_TITLES, NOT_RUN, Table, make_tables
from dreambooth.evaluation.tables_text import INTERVALS, judges_told, markdown
from dreambooth.evaluation.variants import DREAMBOOTH, PHOTOS
from dreambooth.pages import render
from dreambooth.prompts import fill

EXAMPLE_SUBJECTS, EXAMPLE_PICTURES = 3, 5
PICTURE_SIDE = 256  # pixels; what is larger is scaled down


@dataclass(frozen=True)
class Strip:
    """What one row of a table drew of one subject; each picture has the column's heading as its prompt."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Example:
    """One subject's share of a table: its photos, the headings of the columns with their widths, and a strip a row."""

    subject: str
    photos: list[Picture]
    headings: list[tuple[str, int]]
    strips: list[Strip]


@dataclass(frozen=True)
class Dot:
    """A mean and its interval in the units of the plot; `told` says it in words."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class Plot:
    """One metric over the number of photos; a tick is its place and the value there."""

    title: str
    dots: list[Dot]
    x_ticks: list[Point]
    y_ticks: list[Point]


def write_tables(results: Results, out: Path | None = None) -> tuple[Path, Path]:
    """Writes tables.md and tables.html of the scores so far into `out`, the results' own folder by default.

    Raises RunError or ConfigError when there are no scores, or they or the folder cannot be used.
    """
    scores = results.scores()
    if not scores:
        raise RunError(f"{results.path} holds no scores yet; go on with its `dreambooth benchmark`.")
    tables, nouns = make_tables(scores), {score.subject: score.class_noun for score in scores}
    plan = results.whole(results.plan()) if (results.path / PLAN_FILE).exists() else None
    page = render(
        "tables",
        plan=plan,
        subjects=len(nouns),
        failures=failures(results, plan),
        tables=[(table, examples(results, table, nouns)) for table in tables],
        plots=plots(tables[-1]),
        plot={"width": PLOT_WIDTH, "height": PLOT_HEIGHT},
        titles=METRIC_TITLES,
        told=told,
        not_run=NOT_RUN,
        intervals=INTERVALS,
        judges=judges_told(scores),
        versions=versions(),
    )
    folder = out or results.path
    paths = folder / "tables.md", folder / "tables.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(paths[0], markdown(tables, scores))
        write_whole(paths[1], page)
    except OSError as error:
        raise RunError(f"The tables cannot be written to {folder}: {error.strerror}; give another --out.") from error
    return paths


def failures(results: Results, plan: Plan | None) -> list[str]:
    """What went wrong, one sentence a run."""
    cells = results.all_cells(plan) if plan else []
    return [f"{cell.member.name}, {cell.method}: {cell.why_failed()}" for cell in cells if cell.failure.exists()]


def examples(results: Results, table: Table, nouns: Mapping[str, str]) -> list[Example]:
    """A few of the subjects, evenly spread over those that most rows have; none where nothing was drawn.

    `nouns` are the class nouns of the subjects.
    """
    methods = [row.method for row in table.rows]
    drawn = {
        folder.name: sum((folder / method / "pictures" / "pictures.json").exists() for method in methods)
        for folder in map(results.subject, sorted(nouns))
    }
    most = max(drawn.values(), default=0)
    names = [name for name, count in drawn.items() if count == most and most]
    return [example(results, table, name, nouns[name]) for name in evenly(names, min(EXAMPLE_SUBJECTS, len(names)))]


def example(results: Results, table: Table, subject: str, class_noun: str) -> Example:
    """The subject's photos, and a strip a row of the table, all of the same prompts and seeds."""
    folder = Contents(results.subject(subject))
    photos = [
        folder.picture(f"photos/{path.name}", "a photo", side=PICTURE_SIDE) for path in results.photo_files(subject)
    ]
    strips: list[Strip] = []
    headings: list[str] = []
    for row in table.rows:
        method = row.method
        if method == PHOTOS.get(len(photos)) and not (folder.path / method).exists():
            method = DREAMBOOTH  # trained on all photos, which are so many
        jobs = chosen_jobs(folder, method, table.spec.class_examples)
        if jobs:
            headings = headings or [fill(job.template, "[V]", class_noun) for _, job in jobs]
            pictures = [
                folder.picture(f"{place}/{job.file}", job.prompt, job.seed, PICTURE_SIDE) for place, job in jobs
            ]
            strips.append(Strip(row.title, pictures))
    grouped = [(heading, len(list(same))) for heading, same in groupby(headings)]
    return Example(subject, photos, grouped, strips)


def chosen_jobs(folder: Contents, method: str, class_examples: int) -> list[tuple[str, Job]]:
    """Folders and jobs of the pictures to show: the first of several prompts.

    With `class_examples`, several of one prompt, for their diversity, and so many of the bare class, for its drift.
    """
    jobs = read_jobs(folder, f"{method}/pictures")
    templates = list(dict.fromkeys(job.template for job in jobs))
    if class_examples:
        shown = [job for job in jobs if job.template == templates[0]][:class_examples]
        bare = read_jobs(folder, f"{method}/class")[:class_examples]
    else:
        firsts = {template: next(job for job in jobs if job.template == template) for template in templates}
        shown, bare = evenly(list(firsts.values()), min(EXAMPLE_PICTURES, len(firsts))), []
    return [(f"{method}/pictures", job) for job in shown] + [(f"{method}/class", job) for job in bare]


def read_jobs(folder: Contents, name: str) -> list[Job]:
    """What a pictures.json tells of; nothing when it is missing or broken."""
    try:
        return TypeAdapter(list[Job]).validate_json((folder.path / name / "pictures.json").read_bytes())
    except (OSError, ValidationError):
        return []


def plots(table: Table) -> list[Plot]:
    """A plot a metric of the number-of-photos table; none of fewer than two points."""
    counts = {name: count for count, name in PHOTOS.items()}
    found: list[Plot] = []
    for metric in table.spec.metrics:
        points = [
            (counts[row.method], row.figures[metric]) for row in table.rows if row.count and metric in row.figures
        ]
        if len(points) > 1:
            found.append(plot(METRIC_TITLES[metric], points))
    return found


def plot(title: str, points: Sequence[tuple[int, Interval]]) -> Plot:
    """Means with their intervals; the upright axis begins a little below the lowest."""
    bounds = [bound for _, i in points for bound in (i.value, i.low, i.high) if bound is not None]
    margin = 0.08 * (max(bounds) - min(bounds)) or 0.01
    low, high = min(bounds) - margin, max(bounds) + margin
    first, last = min(PHOTOS) - 0.3, max(PHOTOS) + 0.3

    def across(count: float) -> float:
        return PLOT_WIDTH * (count - first) / (last - first)

    def up(value: float) -> float:
        return PLOT_HEIGHT * (high - value) / (high - low)

    def dot(count: int, i: Interval) -> Dot:
        ends = (i.value if i.low is None else i.low, i.value if i.high is None else i.high)
        return Dot(across(count), up(i.value), up(ends[0]), up(ends[1]), f"{count}: {told(i)}")

    return Plot(
        title,
        [dot(*point) for point in points],
        [(across(count), count) for count in PHOTOS],
        [(up(value), value) for value in ticks(low, high)],
    )
