"""The paper's tables from stored scores: no model is needed, and nothing is drawn.

Tables 1, 3 and 4 and the number-of-photos curve, each figure beside the paper's, with bootstrap intervals over
subjects. What was not run says so in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dreambooth.evaluation import bootstrap
from dreambooth.evaluation.bootstrap import Interval, percent, told
from dreambooth.evaluation.scores import REAL, Score, per_subject
from dreambooth.evaluation.variants import (
    ADAPTED,
    BASE,
    DREAMBOOTH,
    NO_NOUN,
    NO_PRIOR,
    PHOTOS,
    TEXTUAL_INVERSION,
    TRUTH,
    VARIANTS,
    WRONG_NOUN,
)

# Rows of Table 1 for methods that the paper does not have, where they were run.
OTHERS = {**dict(zip(ADAPTED, ("LoRA", "DoRA", "Pivotal tuning"), strict=True)), TRUTH: "True renders"}
# What the columns are called, and which way is better.
METRIC_TITLES = {"dino": "DINO ↑", "clip-i": "CLIP-I ↑", "clip-t": "CLIP-T ↑", "pres": "PRES ↓", "div": "DIV ↑"}
NOT_RUN = "not run"

Values = dict[str, float]


@dataclass(frozen=True)
class RowSpec:
    """One row: which method's scores, and the paper's figures in words."""

    method: str
    title: str
    paper: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class TableSpec:
    """One table of the paper; `contrasts` are pairs of methods whose differences matter.

    `class_examples` is how many pictures of the bare class illustrate it, where the table is about them.
    """

    key: str
    title: str
    about: str
    metrics: tuple[str, ...]
    rows: tuple[RowSpec, ...]
    contrasts: tuple[tuple[str, str], ...] = ()
    class_examples: int = 0


def _paper(metrics: Sequence[str], *values: str) -> dict[str, str]:
    return dict(zip(metrics, values, strict=True))


_FIDELITY = ("dino", "clip-i", "clip-t")
_DRIFT = ("pres", "div", *_FIDELITY)
_NOUN = ("dino", "clip-i")

TABLES = (
    TableSpec(
        "table-1",
        "Table 1: methods",
        "Subject fidelity (DINO, CLIP-I) and prompt fidelity (CLIP-T). The real photos are compared to each other, "
        "which is the most that can be expected; the untouched model draws the class noun alone.",
        _FIDELITY,
        (
            RowSpec(REAL, "Real photos", _paper(_NOUN, "0.774", "0.885")),
            RowSpec(
                DREAMBOOTH,
                "DreamBooth",
                _paper(_FIDELITY, "0.668 (Imagen 0.696)", "0.803 (Imagen 0.812)", "0.305 (Imagen 0.306)"),
            ),
            RowSpec(TEXTUAL_INVERSION, "Textual Inversion", _paper(_FIDELITY, "0.569", "0.780", "0.255")),
            RowSpec(BASE, "Untouched model"),
        ),
        ((DREAMBOOTH, TEXTUAL_INVERSION), (DREAMBOOTH, BASE)),
    ),
    TableSpec(
        "table-3",
        "Table 3: the prior-preservation loss",
        "PRES: how much pictures of the bare class look like this subject. DIV: how much pictures of a prompt differ.",
        _DRIFT,
        (
            RowSpec(DREAMBOOTH, "With it", _paper(_DRIFT, "0.493", "0.391", "0.684", "0.815", "0.308")),
            RowSpec(NO_PRIOR, "Without it", _paper(_DRIFT, "0.664", "0.371", "0.712", "0.828", "0.306")),
            RowSpec(BASE, "Untouched model"),
        ),
        ((DREAMBOOTH, NO_PRIOR),),
        class_examples=4,
    ),
    TableSpec(
        "table-4",
        "Table 4: the class noun",
        'Trained and drawn with the right noun ("a zqk dog"), another one ("a zqk teapot"), or none ("a zqk").',
        _NOUN,
        (
            RowSpec(DREAMBOOTH, "Right noun", _paper(_NOUN, "0.744", "0.853")),
            RowSpec(WRONG_NOUN, "Wrong noun", _paper(_NOUN, "0.454", "0.728")),
            RowSpec(NO_NOUN, "No noun", _paper(_NOUN, "0.303", "0.607")),
        ),
        ((DREAMBOOTH, WRONG_NOUN), (WRONG_NOUN, NO_NOUN)),
    ),
)
PHOTOS_TABLE = TableSpec(
    "photos",
    "The number of photos",
    "Trained on the first photos of each subject, always compared to all of them. The paper gives no figures; on its "
    "backpack and dog four of one to five photos were best.",
    _FIDELITY,
    tuple(RowSpec(name, f"{count} photo{'s' if count > 1 else ''}") for count, name in PHOTOS.items()),
)


@dataclass(frozen=True)
class Row:
    """One method's figures by metric; a metric without one has no figure here."""

    method: str
    title: str
    paper: Mapping[str, str]
    figures: Mapping[str, Interval]
    count: int

    def text(self, metric: str) -> str:
        """The figure in words: its interval, or why there is none."""
        return told(self.figures.get(metric)) if self.count else NOT_RUN


@dataclass(frozen=True)
class Contrast:
    """How far one method is above another, subject by subject."""

    title: str
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Table:
    """One table with its figures; `shared` are the subjects that all its methods have."""

    spec: TableSpec
    rows: list[Row]
    contrasts: list[Contrast]
    notes: list[str]
    shared: set[str]


def make_tables(scores: Sequence[Score]) -> list[Table]:
    """All tables, those whose methods were not run too: a gap is told, not hidden."""
    run = dict.fromkeys(score.method for score in scores)
    own = [name for name in run if name in OTHERS or (name not in VARIANTS and name != REAL)]
    values = {key: per_subject(group, *key) for key, group in _groups(scores).items()}
    methods = replace(TABLES[0], rows=(*TABLES[0].rows, *(RowSpec(name, OTHERS.get(name, name)) for name in own)))
    tables = [make_table(spec, values) for spec in (methods, *TABLES[1:])]
    ceiling = _those(tables[0].shared, values.get((REAL, "dino"), {}))
    if share := bootstrap.ratio(values.get((DREAMBOOTH, "dino"), {}), ceiling):
        over = f"{share.count} subject{'s' if share.count > 1 else ''}"
        tables[0].notes.append(
            f"DreamBooth's DINO is {percent(share)} of the real photos', over {over}; in the paper 86 % on Stable "
            "Diffusion and 90 % on Imagen."
        )
    return [*tables, make_table(PHOTOS_TABLE, with_all_photos(values, photo_counts(scores)))]


def _groups(scores: Sequence[Score]) -> dict[tuple[str, str], list[Score]]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.method, score.metric), []).append(score)
    return groups


def make_table(spec: TableSpec, values: Mapping[tuple[str, str], Values]) -> Table:
    """The table of per-subject means `values`, by method and metric, over the subjects that all its methods have."""
    had = {row.method: {name for metric in spec.metrics for name in values.get((row.method, metric), {})}
           for row in spec.rows}  # fmt: skip
    shared = shared_subjects(had)
    rows: list[Row] = []
    for row in spec.rows:
        kept = had[row.method] & shared if shared else had[row.method]
        found = {metric: _those(kept, values.get((row.method, metric), {})) for metric in spec.metrics}
        figures = {metric: bootstrap.mean(list(mine.values())) for metric, mine in found.items() if mine}
        rows.append(Row(row.method, row.title, row.paper, figures, len(kept)))
    titles = {row.method: row.title for row in spec.rows}
    contrasts: list[Contrast] = []
    for one, other in spec.contrasts:
        compared = {
            metric: bootstrap.difference(
                _those(shared, values.get((one, metric), {})), _those(shared, values.get((other, metric), {}))
            )
            for metric in spec.metrics
        }
        known = {metric: interval for metric, interval in compared.items() if interval}
        if known:
            contrasts.append(Contrast(f"{titles[one]} − {titles[other].lower()}", known))
    return Table(spec, rows, contrasts, left_out(had, shared), shared)


def shared_subjects(had: Mapping[str, set[str]]) -> set[str]:
    """The subjects that every method has which was run at all; `had` are each method's.

    The real photos have no say beside methods: a subject with a single photo has no ceiling, and is one all the same.

    >>> sorted(shared_subjects({"dreambooth": {"max", "rex"}, "base": {"rex"}, "textual-inversion": set()}))
    ['rex']
    """
    run = {method: names for method, names in had.items() if names}
    counted = [names for method, names in run.items() if method != REAL] or list(run.values())
    return set[str].intersection(*counted) if counted else set()


def left_out(had: Mapping[str, set[str]], shared: set[str]) -> list[str]:
    """What the table says of subjects that not every row has."""
    every = set[str]().union(*had.values())
    real = had.get(REAL, set[str]())
    notes: list[str] = []
    if every and not shared:
        notes.append("No subject was run in all of these rows, so they compare badly.")
    elif every != shared:
        notes.append(f"Over the {len(shared)} of {len(every)} subjects that were run in all rows.")
    if real and shared - real:
        compared = f"{len(shared & real)} of {len(shared)} subjects"
        notes.append(f"The real photos' row is over {compared}: a single photo has no other to be compared to.")
    return notes


def _those(names: set[str], values: Values) -> Values:
    return {name: value for name, value in values.items() if name in names}


def photo_counts(scores: Sequence[Score]) -> dict[str, int]:
    """How many photos each subject has, by the rows of the ceiling, which has none of a single photo."""
    ceiling = Counter(score.subject for score in scores if (score.method, score.metric) == (REAL, "dino"))
    return {score.subject: max(1, ceiling[score.subject]) for score in scores} if ceiling else {}


def with_all_photos(
    values: Mapping[tuple[str, str], Values], photos: Mapping[str, int]
) -> dict[tuple[str, str], Values]:
    """`values` with DreamBooth's own scores under "dreambooth-photos-N" for subjects that have N photos in all."""
    filled = dict(values)
    for count, name in PHOTOS.items():
        for metric in PHOTOS_TABLE.metrics:
            plain = values.get((DREAMBOOTH, metric), {})
            whole = {subject: value for subject, value in plain.items() if photos.get(subject) == count}
            filled[name, metric] = whole | values.get((name, metric), {})
    return filled
