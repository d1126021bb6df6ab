"""The work of a benchmark: train, draw, judge, for every subject and method; each phase kept and never done twice.

Any number of processes may work on one folder. Each goes through the subjects and takes those that nobody else has;
when all are taken it helps with single methods. A kill at any moment frees what was taken.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dreambooth import prompts, workflow
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import TrainConfig
from dreambooth.drawing import Picture
from dreambooth.errors import DreamBoothError, Interrupted, RunError
from dreambooth.evaluation.benchmark_plan import Plan, Settings, train_config
from dreambooth.evaluation.benchmark_setup import make_judges
from dreambooth.evaluation.results import Cell, Job, Results, numbered, read_picture
from dreambooth.evaluation.scores import score_real, score_subject, write_json
from dreambooth.evaluation.suite import SuiteSubject, class_by_class
from dreambooth.evaluation.variants import TRUTH
from dreambooth.plan import resolve_defaults
from dreambooth.prepare import load_model
from dreambooth.run import Run, sampling_of
from dreambooth.ui import Display

if TYPE_CHECKING:
    from PIL.Image import Image

    from dreambooth.evaluation.encoders import Judges

BATCH = 8
"""True pictures drawn between two looks at what is there already."""


def work(results: Results, judge: Callable[[Settings, str], Judges] = make_judges) -> None:
    """Does what is missing and nobody else is at. A failure of one cell is kept in its folder; the others go on.

    Raises Interrupted after Ctrl-C.
    """
    plan = results.plan()
    bench = Bench(results, plan, judge)
    try:
        for cells in shares(results, plan):
            for cell in cells:
                bench.complete(cell)
    except KeyboardInterrupt:
        raise Interrupted("Stopped. What was made so far is kept.") from None


def shares(results: Results, plan: Plan) -> Iterator[Iterator[Cell]]:
    """What to do in turn: whole subjects that nobody is at, then single cells of any subject."""
    members = class_by_class(plan.members, lambda member: member.class_noun)
    for member in members:
        with held(results.subject(member.name) / ".lock") as free:
            if free:
                yield cells_nobody_is_at(results.cells(plan, member))
    for member in members:
        yield cells_nobody_is_at(results.cells(plan, member))


def cells_nobody_is_at(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells that are not over, each held for this process until the next is asked for."""
    for cell in cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        with held(cell.folder / ".lock") as free:
            if free and not cell.over:
                yield cell


@contextmanager
def held(path: Path) -> Generator[bool]:
    """Whether the file could be locked; freed by the system even after a kill."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@dataclass
class Artist:
    """Who draws prompts with seeds, and how a template becomes such a prompt."""

    generate: Callable[[Sequence[str], Sequence[int]], list[Image]]
    fill: Callable[[str], str]
    batch_size: int

    @classmethod
    def of(cls, backbone: Backbone, sampling: Sampling, fill: Callable[[str], str], batch_size: int) -> Artist:
        """A model that draws."""
        return cls(lambda prompts, seeds: backbone.generate(prompts, seeds, sampling), fill, batch_size)


@dataclass
class Bench:
    """One process at work; its judges are loaded once, when they are first needed."""

    results: Results
    plan: Plan
    judge: Callable[[Settings, str], Judges]

    @cached_property
    def judges(self) -> Judges:
        return self.judge(self.plan.settings, self.plan.device)

    def complete(self, cell: Cell) -> None:
        """Carries one cell to its scores, from wherever it was left."""
        try:
            self.draw(cell)
            self.score(cell)
        except Interrupted:
            raise
        except DreamBoothError as error:
            cell.failure.write_text(f"{error}\n", encoding="utf-8")
            Display(quiet=True).warn(f"{cell.member.name}, {cell.method}: {error}")
            return
        if not self.plan.keep_models:
            cell.forget_models()

    def draw(self, cell: Cell) -> None:
        """Trains and draws what is not there yet."""
        if missing := missing_sets(cell, self.plan.settings):
            artist = self.artist(cell)
            with cell.record().timed("draw"):
                for folder, templates in missing:
                    draw_set(artist, templates, folder)

    def artist(self, cell: Cell) -> Artist:
        """The cell's model: trained now, or gone on with, or the untouched one."""
        variant = self.plan.variant(cell.method)
        if variant.name == TRUTH:
            raise RunError(f"True pictures of {cell.member.name} are missing; give the benchmark's own command again.")
        photos = self.results.photo_files(cell.member.name)
        config = train_config(self.plan, cell.member, cell.method, photos, cell.run)
        if not variant.trains:
            backbone = load_model(config)
            sampling = sampling_of(resolve_defaults(config, backbone.spec))
            bare = partial(prompts.fill, identifier=None, class_noun=cell.member.class_noun)
            return Artist.of(backbone, sampling, bare, config.sample_batch_size)
        run = trained(config, Path(config.out))

        def fill(template: str) -> str:
            return run.fill(template.replace("{subject}", variant.phrase))

        return Artist.of(run.backbone, run.sampling, fill, config.sample_batch_size)

    def score(self, cell: Cell) -> None:
        """Judges what was drawn, and the photos themselves once a subject."""
        member, photos = cell.member, self.results.photos(cell.member.name)
        with cell.record().timed("score"):
            ceiling = self.results.subject(member.name) / "real.json"
            if not ceiling.exists():
                write_json(score_real(self.judges, photos, subject=member.name, class_noun=member.class_noun), ceiling)
            scores = score_subject(
                self.judges,
                photos,
                read_drawn(cell.folder / "pictures"),
                read_drawn(cell.folder / "class"),
                method=cell.method,
                subject=member.name,
                class_noun=member.class_noun,
            )
        write_json(scores, cell.scores)


def keep_truth(results: Results, plan: Plan, subjects: Sequence[SuiteSubject], display: Display) -> None:
    """Draws the true pictures that the plan asks for: only the suite can, and workers do not have it."""
    cells = {cell.member.name: cell for cell in results.all_cells(plan) if cell.method == TRUTH}
    wanted = [subject for subject in subjects if subject.name in cells]
    missing = [subject for subject in wanted if missing_sets(cells[subject.name], plan.settings)]
    if not missing:
        return
    with display.track("true pictures", len(missing)) as advance:
        for subject in missing:
            cell, side = cells[subject.name], results.photos(subject.name)[0].width
            assert subject.truth is not None  # `set_up` has refused it
            artist = Artist(partial(subject.truth, side), lambda template: template, BATCH)
            with cell.record().timed("draw"):
                for folder, templates in missing_sets(cell, plan.settings):
                    draw_set(artist, templates, folder)
            advance(1, subject.name)


def missing_sets(cell: Cell, settings: Settings) -> list[tuple[Path, list[tuple[str, int]]]]:
    """Folder, and templates and seeds, of what is not wholly drawn: pictures of the subject, of the class."""
    sets = [
        (cell.folder / "pictures", cell.templates(settings)),
        (cell.folder / "class", cell.class_templates(settings)),
    ]
    return [(folder, templates) for folder, templates in sets if not complete(folder, len(templates))]


def draw_set(artist: Artist, templates: Sequence[tuple[str, int]], folder: Path) -> None:
    """The pictures of templates and seeds."""
    draw_missing(artist, list(numbered(templates, (artist.fill(template) for template, _ in templates))), folder)


def trained(config: TrainConfig, path: Path) -> Run:
    """The finished run in that folder, begun or gone on with."""
    display = Display(quiet=True)
    if (path / "config.toml").is_file() and (path / "subject.json").is_file():
        return workflow.resume(path, display)
    shutil.rmtree(path, ignore_errors=True)  # a start that was killed before it said what it was about
    return workflow.start(config, display)


def draw_missing(artist: Artist, jobs: Sequence[Job], folder: Path) -> None:
    """The pictures of all jobs, losslessly, and a pictures.json when all are there.

    A batch with a gap is drawn whole, so that a picture never depends on where drawing was interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(jobs), artist.batch_size):
        batch = jobs[start : start + artist.batch_size]
        if all((folder / job.file).exists() for job in batch):
            continue
        drawn = artist.generate([job.prompt for job in batch], [job.seed for job in batch])
        for job, image in zip(batch, drawn, strict=True):
            save_whole(image, folder / job.file)
    RunFolder(folder).write_json("pictures.json", [vars(job) for job in jobs])


def complete(folder: Path, count: int) -> bool:
    """Whether all pictures are there and their list is written."""
    return (folder / "pictures.json").exists() and sum(1 for _ in folder.glob("*.webp")) == count


def save_whole(image: Image, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(draft, "WEBP", lossless=True)
    os.replace(draft, path)


def read_drawn(folder: Path) -> list[Picture]:
    """The pictures that `draw_missing` kept. Raises RunError when one cannot be read."""
    jobs = [Job(**entry) for entry in RunFolder(folder).read_json("pictures.json")]
    return [Picture(read_picture(folder / job.file), job.prompt, job.template, job.seed) for job in jobs]
