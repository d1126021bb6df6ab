"""A run on one page: photos, pictures, drift, curves, times and settings, in a file that needs nothing else.

Whatever a run folder lacks is left out of its page, and a picture that cannot be read leaves a note in its
place: a report is most wanted when something went wrong. How it looks: `templates/report.html.jinja`.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.checkpoint import RunFolder, write_whole
from dreambooth.errors import RunError
from dreambooth.evaluation.contents import SHEET_SIDE, Contents, Grid, Picture, best_step
from dreambooth.evaluation.curves import PLOT_HEIGHT, PLOT_WIDTH, Chart, make_chart, number
from dreambooth.pages import render

if TYPE_CHECKING:
    from markupsafe import Markup

HERO_PICTURES = 6
LATER_STAGES = ("sr",)  # folders of a run's further stages


def write_report(run: RunFolder) -> Path:
    """Writes RUN/report.html from what the run folder holds so far, and returns its path.

    Raises RunError when subject.json is missing or broken, or the page cannot be written.
    """
    contents = Contents(run.path)
    subject = contents.subject()
    log, applications, judged = run.read_log(), contents.applications(), contents.judgements()
    later = [Contents(run.path / folder) for folder in LATER_STAGES if (run.path / folder / "config.toml").exists()]
    charts = curves(contents) + [chart for stage in later for chart in curves(stage, ", super-resolver")]
    page = render(
        "report",
        {"mark": partial(mark, word=subject.identifier), "duration": duration, "number": number},
        subject=subject,
        photos=[(photo, contents.picture(photo.file)) for photo in subject.photos],
        hero=choose_hero(list(applications.values())),
        applications=applications,
        drift=contents.drift(),
        preview_prompts=next(
            (found for stage in (contents, *later) if (found := stage.json("previews/prompts.json", list[str], []))), []
        ),
        previews=contents.previews(),
        later_previews=[stage.previews() for stage in later],
        judged_best=best_step(judged),
        charts=charts,
        plot={"width": PLOT_WIDTH, "height": PLOT_HEIGHT},
        steps=log[-1].get("step") if log else None,
        priors=[
            stage.picture("prior.png", side=SHEET_SIDE)
            for stage in (contents, *later)
            if (stage.path / "prior.png").exists()
        ],
        times=contents.json("times.json", dict[str, float], {}),
        config=(run.path / "config.toml").read_text(encoding="utf-8", errors="replace"),
        versions=versions(),
    )
    try:
        write_whole(run.path / "report.html", page)
    except OSError as error:
        raise RunError(f"{run.path / 'report.html'} cannot be written: {error.strerror}.") from error
    return run.path / "report.html"


def curves(stage: Contents, suffix: str = "") -> list[Chart]:
    """What a run, or one stage of it, logged, as charts; `suffix` ends their titles."""
    log, judged = RunFolder(stage.path).read_log(), stage.judgements()
    losses = {"loss_subject": "subject", "loss_prior": "prior"}
    embedding = {
        "embedding_norm": "norm",
        "embedding_usual": "a usual word's",
        "embedding_distance": "distance from its initializer",
    }
    scores = {"dino": "DINO", "clip_t": "CLIP-T", "pres": "PRES", "ceiling": "DINO among the photos"}
    charts = [
        make_chart(f"Loss{suffix}", log, losses),
        make_chart(f"Learning rate{suffix}", log, {"learning_rate": "rate"}, window=0),
        make_chart(f"Embedding{suffix}", log, embedding, window=0),
        make_chart(f"Fidelity and drift{suffix}", judged, scores, window=0, mark=best_step(judged)),
    ]
    return [chart for chart in charts if chart]


def choose_hero(grids: Sequence[Grid]) -> list[Picture]:
    """A first look at all applications in turn: one picture a prompt, none that cannot be shown."""
    firsts = [[pictures[0] for pictures in grid.values() if pictures[0].uri] for grid in grids]
    return [picture for turn in zip_longest(*firsts) for picture in turn if picture][:HERO_PICTURES]


def mark(text: str, word: str) -> Markup:
    """The text, escaped, with `word` highlighted wherever it stands alone."""
    from markupsafe import Markup

    if not word:
        return Markup("{}").format(text)
    return Markup("<mark>{}</mark>").format(word).join(re.split(rf"(?<!\w){re.escape(word)}(?!\w)", text))


def duration(seconds: float) -> str:
    """
    >>> duration(4.26), duration(161), duration(3905)
    ('4.3 s', '2 min 41 s', '1 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def versions() -> dict[str, str]:
    """What the page was made with, as far as it is installed."""
    names = ("dreambooth", "torch", "diffusers", "transformers")
    found = {name: found.version for name in names for found in metadata.distributions(name=name)}
    return found | {"Python": platform.python_version()}
