"""The work of a benchmark: train, draw, judge, for every subject and method; each phase kept and never done twice.

Any number of processes may work on one folder. Each goes through the subjects and takes those that nobody else has;
when all are taken it helps with single methods. A kill at any moment frees what was taken.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dreambooth import prompts, workflow
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.checkpoint import RunFolder, write_whole
from dreambooth.config import TrainConfig
from dreambooth.drawing import Picture
from dreambooth.errors import ConfigError, DreamBoothError, Interrupted, RunError
from dreambooth.evaluation.benchmark_plan import Plan, Settings, train_config
from dreambooth.evaluation.benchmark_setup import known_judges, make_judges
from dreambooth.evaluation.results import Cell, Job, Results, disk_errors, numbered, read_jobs, read_picture
from dreambooth.evaluation.scores import score_real, score_subject, write_json
from dreambooth.evaluation.suite import SuiteSubject, class_by_class
from dreambooth.evaluation.variants import TRUTH
from dreambooth.memory import is_out_of_memory
from dreambooth.meter import give_back
from dreambooth.plan import resolve_defaults
from dreambooth.prepare import load_model
from dreambooth.run import Run, choose_device, sampling_of
from dreambooth.ui import Display

if TYPE_CHECKING:
    from PIL.Image import Image

    from dreambooth.evaluation.encoders import Judges

Templates = Sequence[tuple[str, int]]  # template and seed of each picture
PictureSet = tuple[Path, Templates]  # the folder where they belong

BATCH = 8
"""True pictures drawn between two looks at what is there already."""


def work(results: Results, judge: Callable[[Settings, str], Judges] = make_judges) -> None:
    """Does what is missing and nobody else is at. A failure of one cell is kept in its folder; the others go on.

    Raises Interrupted after Ctrl-C, and RunError or ConfigError when this process cannot work here.
    """
    plan = results.plan()
    bench = Bench(results, plan, judge)
    try:
        with disk_errors(results):
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
    """Who draws prompts with seeds."""

    generate: Callable[[Sequence[str], Sequence[int]], list[Image]]
    batch_size: int

    @classmethod
    def of(cls, backbone: Backbone, sampling: Sampling, batch_size: int) -> Artist:
        """A model that draws."""
        return cls(lambda prompts, seeds: backbone.generate(prompts, seeds, sampling), batch_size)


@dataclass
class Bench:
    """One process at work; its judges are loaded once, when they are first needed."""

    results: Results
    plan: Plan
    judge: Callable[[Settings, str], Judges]

    @cached_property
    def judges(self) -> Judges:
        """Raises ConfigError when they are not those of the plan, such as other weights of the same name."""
        judges = self.judge(self.plan.settings, self.plan.device)
        for metric, now in known_judges(judges).items():
            planned = self.plan.judges.get(metric, now)
            if now != planned:
                raise ConfigError(
                    f"The benchmark in {self.results.path} has {metric} judged by {planned['name']} "
                    f"({planned['fingerprint']}), and this process would by {now['name']} ({now['fingerprint']}); "
                    "install the same judges here, or leave the work to others."
                )
        return judges

    def complete(self, cell: Cell) -> None:
        """Carries one cell to its scores, from wherever it was left; what stops it stands in its folder.

        Raises what is not the cell's fault: ConfigError or ModelError of the judges, RunError of a full disk.
        """
        judges = self.judges  # before anything is trained that this process could not judge
        try:
            photos = self.results.photos(cell.member.name)
            self.draw(cell)
            self.score(cell, judges, photos)
        except Interrupted:
            raise
        except Exception as error:
            told = why_stopped(error)
            cell.failure.write_text(f"{told}\n", encoding="utf-8")
            Display(quiet=True).warn(f"{cell.member.name}, {cell.method}: {told}")
        else:
            if not self.plan.keep_models:
                cell.forget_models()
            return
        give_back(choose_device(self.plan.device))

    def draw(self, cell: Cell) -> None:
        """Trains and draws what is not there yet."""
        sets = picture_sets(cell, self.plan.settings)
        if not all(is_listed(*one) for one in sets):
            artist = None if all(is_drawn(*one) for one in sets) else self.artist(cell)
            draw_sets(cell, sets, artist, words_of(self.plan, cell))

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
            return Artist.of(backbone, sampling, config.sample_batch_size)
        run = trained(config, Path(config.out))
        return Artist.of(run.backbone, run.sampling, config.sample_batch_size)

    def score(self, cell: Cell, judges: Judges, photos: Sequence[Image]) -> None:
        """Judges what was drawn, and the photos themselves once a subject."""
        member = cell.member
        with cell.record().timed("score"):
            if not cell.ceiling.exists():
                found = score_real(judges, photos, subject=member.name, class_noun=member.class_noun)
                write_json(found, cell.ceiling)
            scores = score_subject(
                judges,
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
    sets = {name: picture_sets(cell, plan.settings) for name, cell in cells.items()}
    missing = [subject for subject in wanted if not all(is_listed(*one) for one in sets[subject.name])]
    if not missing:
        return
    with display.track("true pictures", len(missing)) as advance:
        for subject in missing:
            cell, side = cells[subject.name], results.photos(subject.name)[0].width
            assert subject.truth is not None  # `set_up` has refused it
            draw_sets(cell, sets[subject.name], Artist(partial(subject.truth, side), BATCH), words_of(plan, cell))
            advance(1, subject.name)


def picture_sets(cell: Cell, settings: Settings) -> list[PictureSet]:
    """Pictures of the subject, and of the class."""
    return [
        (cell.folder / "pictures", cell.templates(settings)),
        (cell.folder / "class", cell.class_templates(settings)),
    ]


def is_drawn(folder: Path, templates: Templates) -> bool:
    """Whether all pictures are there, whatever else is."""
    return all((folder / job.file).exists() for job in numbered(templates))


def is_listed(folder: Path, templates: Templates) -> bool:
    """Whether all pictures are there, and their list tells of them."""
    listed = [(job.file, job.template, job.seed) for job in read_jobs(folder)]
    wanted = [(job.file, job.template, job.seed) for job in numbered(templates)]
    return listed == wanted and is_drawn(folder, templates)


def words_of(plan: Plan, cell: Cell) -> Callable[[str], str]:
    """How a template becomes the prompt that the cell's model gets. Raises RunError where it has yet to be trained."""
    variant = plan.variant(cell.method)
    if variant.name == TRUTH:
        return str
    if not variant.trains:
        return partial(prompts.fill, identifier=None, class_noun=cell.member.class_noun)
    facts = RunFolder(cell.run).read_json("subject.json")

    def fill(template: str) -> str:
        named = template.replace("{subject}", variant.phrase)
        return prompts.fill(named, facts["identifier"], facts["class_noun"])

    return fill


def draw_sets(cell: Cell, sets: Sequence[PictureSet], artist: Artist | None, fill: Callable[[str], str]) -> None:
    """The pictures that are missing, and the lists of all; without an artist the lists alone."""
    with cell.record().timed("draw"):
        for folder, templates in sets:
            jobs = numbered(templates, fill)
            if artist is not None:
                draw_missing(artist, jobs, folder)
            RunFolder(folder).write_json("pictures.json", [vars(job) for job in jobs])


def why_stopped(error: Exception) -> str:
    """What stopped a cell, in a sentence; the traceback of what nobody foresaw goes to the log.

    Raises RunError for a full disk, which would stop all other cells as well.
    """
    if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
        raise RunError(f"The disk is full ({error}). Free some room, and give the same command again.") from error
    if isinstance(error, DreamBoothError):
        return str(error)
    if is_out_of_memory(error):
        return "Memory ran out; give fewer --workers, or a smaller train_batch_size or sample_batch_size by --config."
    traceback.print_exception(error)
    return f"It ended by an error that was not foreseen ({type(error).__name__}: {error}); the worker's log has more."


def trained(config: TrainConfig, path: Path) -> Run:
    """The finished run in that folder, begun or gone on with."""
    display = Display(quiet=True)
    if (path / "config.toml").is_file() and (path / "subject.json").is_file():
        return workflow.resume(path, display)
    shutil.rmtree(path, ignore_errors=True)  # a start that was killed before it said what it was about
    return workflow.start(config, display)


def draw_missing(artist: Artist, jobs: Sequence[Job], folder: Path) -> None:
    """The pictures of all jobs, losslessly.

    A batch with a gap is drawn whole, so that a picture never depends on where drawing was interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(jobs), artist.batch_size):
        batch = jobs[start : start + artist.batch_size]
        if all((folder / job.file).exists() for job in batch):
            continue
        drawn = artist.generate([job.prompt for job in batch], [job.seed for job in batch])
        for job, image in zip(batch, drawn, strict=True):
            encoded = io.BytesIO()
            image.save(encoded, "WEBP", lossless=True)
            write_whole(folder / job.file, encoded.getvalue())


def read_drawn(folder: Path) -> list[Picture]:
    """The pictures that a folder's list tells of. Raises RunError when one cannot be read."""
    return [Picture(read_picture(folder / job.file), job.prompt, job.template, job.seed) for job in read_jobs(folder)]
