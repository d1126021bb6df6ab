"""The folder of a benchmark: what is to be done, and what every subject and method has left so far.

benchmark.json           the plan: settings, methods, subjects
subjects/NAME/photos/    the subject's photos as the model sees them, and subject.json: what is to stay the same
subjects/NAME/real.json  their scores among each other, the ceiling
subjects/NAME/METHOD/    run/ (the run folder), pictures/ and class/ (what it drew), scores.json, times.json
logs/                    what the workers said
scores.csv               every score of every picture
results.json             the plan, judges, versions and times
tables.md, tables.html   the paper's tables, regenerated
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dreambooth.checkpoint import ADAPTER, RunFolder, write_whole
from dreambooth.errors import ConfigError, DreamBoothError, RunError
from dreambooth.evaluation.benchmark_plan import Member, Plan, Settings
from dreambooth.evaluation.report import versions
from dreambooth.evaluation.scores import Score, read_csv, read_json, write_csv
from dreambooth.evaluation.suite import subject_prompts
from dreambooth.evaluation.variants import applies, variant_of
from dreambooth.subject import MASK_SUFFIX

if TYPE_CHECKING:
    from PIL.Image import Image

PLAN_FILE = "benchmark.json"
KEPT_FILE = "subject.json"
JUDGES = ("dino", "clip", "perceptual")  # settings that rescoring may change


@dataclass(frozen=True)
class Job:
    """One picture to draw: `template` with {subject} or {class} in it, and the prompt that the model gets."""

    file: str
    template: str
    prompt: str
    seed: int


class Kept(BaseModel):
    """What a subject was when its photos were kept; its scores are of that. `photos` are hashes of their pixels."""

    model_config = ConfigDict(extra="forbid")

    class_noun: str
    live: bool
    photos: list[str]


@dataclass(frozen=True)
class Cell:
    """What one method left of one subject."""

    folder: Path
    member: Member
    method: str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"

    @property
    def ceiling(self) -> Path:
        """The scores of the subject's photos among each other, which its first cell leaves."""
        return self.folder.parent / "real.json"

    @property
    def failure(self) -> Path:
        return self.folder / "failed.txt"

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: it has its scores, or it failed."""
        return (self.scores.exists() and self.ceiling.exists()) or self.failure.exists()

    def why_failed(self) -> str:
        """What stopped it, in a sentence; nothing when it did not fail."""
        if not self.failure.exists():
            return ""
        try:
            return self.failure.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            return f"why it failed cannot be read: {error.strerror}."

    def record(self) -> RunFolder:
        """The folder as a keeper of times."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return RunFolder(self.folder)

    def forget_models(self) -> None:
        """Deletes the weights, which the scores no longer need."""
        for name in ("model", "checkpoints", "best", "sr/checkpoints", "sr/best"):
            shutil.rmtree(self.run / name, ignore_errors=True)
        (self.run / ADAPTER).unlink(missing_ok=True)

    def templates(self, settings: Settings) -> list[tuple[str, int]]:
        """Template and seed of every picture of the subject: prompts in order, seeds within each."""
        seeds = [self.member.seed(settings, "picture", index) for index in range(settings.images_per_prompt)]
        return [(prompt, seed) for prompt in subject_prompts(self.member.live, settings.prompts) for seed in seeds]

    def class_templates(self, settings: Settings) -> list[tuple[str, int]]:
        """Template and seed of every picture of the bare class."""
        return [("a {class}", self.member.seed(settings, "class", index)) for index in range(settings.class_images)]

    def progress(self, settings: Settings) -> float:
        """How much is done, from 0 to 1, by what lies in the folder; training counts most, as it takes longest."""
        if self.over:
            return 1.0
        wanted = settings.prompts * settings.images_per_prompt + settings.class_images
        drawn = min(wanted, sum(1 for name in ("pictures", "class") for _ in (self.folder / name).glob("*.webp")))
        if not variant_of(self.method, settings.own.get(self.method, {})).trains:
            return 0.95 * drawn / wanted
        return 0.7 * (1.0 if drawn else self._trained()) + 0.25 * drawn / wanted

    def _trained(self) -> float:
        run = RunFolder(self.run)
        try:
            steps = run.config().max_train_steps or 1
        except DreamBoothError:  # it has not begun, or is just being begun anew
            return 0.0
        return 1.0 if run.finished else min(1.0, len(run.read_log()) / steps)


@dataclass(frozen=True)
class Results:
    """The folder of a benchmark."""

    path: Path

    def plan(self) -> Plan:
        """Raises RunError when the folder holds no benchmark, or its plan is broken."""
        try:
            return Plan.model_validate_json((self.path / PLAN_FILE).read_bytes())
        except OSError:
            raise RunError(
                f"{self.path} holds no benchmark: it has no {PLAN_FILE}. It is made by `dreambooth benchmark`."
            ) from None
        except ValidationError as error:
            told = error.errors()[0]["msg"]
            raise RunError(f"{self.path / PLAN_FILE} cannot be read; was it edited? ({told})") from error

    def refuse(self, plan: Plan, other_judges: bool = False) -> None:
        """Raises ConfigError when what is in the folder does not go with the plan; `other_judges` may be named."""
        if (self.path / "scores.csv").exists() and not (self.path / "subjects").is_dir():
            raise ConfigError(f"{self.path} holds scores that were passed on, and would lose them; give another --out.")
        if (self.path / PLAN_FILE).exists():
            before, now = self.plan().settings.model_dump(), plan.settings.model_dump()
            fixed = [name for name in now if not (other_judges and name in JUDGES)]
            differing = [
                f"{name} was {before[name]!r}, now {now[name]!r}" for name in fixed if before[name] != now[name]
            ]
            if differing:
                raise ConfigError(
                    f"The benchmark in {self.path} was begun with other settings ({'; '.join(differing)}). "
                    "Give the same ones to go on with it, or another --out."
                )
        for member in plan.members:
            kept = self.kept(member.name)
            if kept and (kept.class_noun, kept.live) != (member.class_noun, member.live):
                raise ConfigError(
                    f"In {self.path} the subject {member.name} is {_told(kept)}, and now would be {_told(member)}, "
                    "with other prompts. Give the class of before, or another --out."
                )

    def begin(self, plan: Plan) -> None:
        """Keeps the plan, and forgets the failures of its cells, so that they are tried again."""
        write_whole(self.path / PLAN_FILE, plan.model_dump_json(indent=2) + "\n")
        for cell in self.grid(plan):
            cell.failure.unlink(missing_ok=True)

    def subject(self, name: str) -> Path:
        return self.path / "subjects" / name

    def photo_files(self, name: str) -> list[Path]:
        files = sorted((self.subject(name) / "photos").glob("*.png"))
        return [file for file in files if not file.name.endswith(MASK_SUFFIX)]

    def kept(self, name: str) -> Kept | None:
        """What the subject was when its photos were kept; None where that is not known."""
        try:
            return Kept.model_validate_json((self.subject(name) / "photos" / KEPT_FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    def photos(self, name: str) -> list[Image]:
        """The subject's photos, as the model sees them. Raises RunError where they are not those that were kept."""
        kept = self.kept(name)
        try:
            found = [read_picture(path) for path in self.photo_files(name)]
        except RunError:
            found = []
        if not found or (kept and [pixel_hash(image) for image in found] != kept.photos):
            raise RunError(
                f"The photos in {self.subject(name) / 'photos'} are no longer those that were kept; give the "
                "benchmark's own command again, which makes them anew."
            )
        return found

    def grid(self, plan: Plan) -> list[Cell]:
        """Every subject and method of the plan, also where a method does not apply."""
        return [
            Cell(self.subject(member.name) / name, member, name) for member in plan.members for name in plan.methods
        ]

    def cells(self, plan: Plan, member: Member) -> list[Cell]:
        """The subject's share of the plan: a cell a method that applies to it."""
        count = len(self.photo_files(member.name))
        names = [name for name in plan.methods if applies(name, count, plan.methods)]
        return [Cell(self.subject(member.name) / name, member, name) for name in names]

    def all_cells(self, plan: Plan) -> list[Cell]:
        return [cell for member in plan.members for cell in self.cells(plan, member)]

    def whole(self, plan: Plan) -> Plan:
        """The plan and, with it, the methods and subjects of before that left something here."""
        known = {member.name for member in plan.members}
        earlier = [
            Member(name=path.parents[1].name, class_noun=kept.class_noun, live=kept.live)
            for path in sorted(self.path.glob(f"subjects/*/photos/{KEPT_FILE}"))
            if (name := path.parents[1].name) not in known and (kept := self.kept(name))
        ]
        left = [path.parent.name for path in self._left("scores.json", "failed.txt")]
        methods = [*plan.methods, *(name for name in sorted(set(left)) if name not in plan.methods)]
        return plan.model_copy(update={"methods": methods, "members": [*plan.members, *earlier]})

    def scores(self, without: Collection[Path] = ()) -> list[Score]:
        """Every score so far, in the order of the names of subjects and methods; those of some files left out.

        Reads scores.csv alone where there is nothing else, so that tables can be made of scores that were passed on.
        Raises ConfigError for files that cannot be read, or scores of several judges under one metric.
        """
        if (self.path / "subjects").is_dir():
            files = sorted([*self.path.glob("subjects/*/real.json"), *self._left("scores.json")])
            found = [score for file in files if file not in without for score in read_scores(file)]
        elif (self.path / "scores.csv").is_file():
            found = read_csv(self.path / "scores.csv")
        else:
            raise RunError(f"{self.path} holds no scores; they are made by `dreambooth benchmark`.")
        refuse_mixed_judges(found)
        return found

    def _left(self, *names: str) -> list[Path]:
        """The files of these names of every subject and method."""
        return [path for name in names for path in self.path.glob(f"subjects/*/*/{name}")]

    def times(self, cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
        """Seconds by method and phase, summed over the subjects."""
        total: dict[str, dict[str, float]] = {}
        for cell in cells:
            mine = total.setdefault(cell.method, {})
            for folder in (cell.run, cell.folder):
                for phase, seconds in RunFolder(folder).times().items():
                    mine[phase] = round(mine.get(phase, 0.0) + seconds, 3)
        return total


def _told(one: Kept | Member) -> str:
    return f"a {one.class_noun}, {'live' if one.live else 'an object'}"


@contextmanager
def disk_errors(results: Results) -> Generator[None]:
    """Inside, what the disk refuses is told as a RunError."""
    try:
        yield
    except OSError as error:
        place = error.filename or results.path
        raise RunError(f"The benchmark cannot go on: {place}: {error.strerror or error}.") from error


def read_scores(path: Path) -> list[Score]:
    """The scores that a cell left. Raises ConfigError when they are broken."""
    try:
        return read_json(path)
    except ConfigError as error:
        told = f"The scores {path} cannot be read; delete this file, and the benchmark's own command makes it anew."
        raise ConfigError(told) from error


def judges_of(scores: Iterable[Score]) -> dict[str, list[tuple[str, str]]]:
    """Name and fingerprint of those who judged, by metric."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for score in scores:
        found.setdefault(score.metric, {})[(score.encoder, score.fingerprint)] = None
    return {metric: list(judges) for metric, judges in found.items()}


def refuse_mixed_judges(scores: Iterable[Score]) -> None:
    """Raises ConfigError when one metric was judged by several encoders: their figures cannot be compared."""
    for metric, judges in judges_of(scores).items():
        if len(judges) > 1:
            told = " and ".join(f"{name} ({fingerprint})" for name, fingerprint in judges)
            raise ConfigError(f"{metric} was judged by {told}; judge all pictures anew by `benchmark --rescore`.")


def pixel_hash(image: Image) -> str:
    """Of the pixels, however they are stored."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def read_picture(path: Path) -> Image:
    """Raises RunError when the file is missing or broken."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise RunError(f"The picture {path} cannot be read; delete it, and it will be made again.") from error


def numbered(templates: Sequence[tuple[str, int]], fill: Callable[[str], str] = str) -> list[Job]:
    """Jobs with file names; `fill` makes the prompt of a template."""
    return [
        Job(f"{index:03d}.webp", template, fill(template), seed) for index, (template, seed) in enumerate(templates)
    ]


def read_jobs(folder: Path) -> list[Job]:
    """What the folder's pictures.json lists; nothing when it is missing or broken."""
    try:
        return TypeAdapter(list[Job]).validate_json((folder / "pictures.json").read_bytes())
    except (OSError, ValidationError):
        return []


def write_results(results: Results, plan: Plan) -> None:
    """scores.csv, and results.json: the plan and all that was done before it, versions, and times."""
    write_csv(results.scores(), results.path / "scores.csv")
    plan = results.whole(plan)
    facts = plan.model_dump() | {"versions": versions(), "seconds": results.times(results.all_cells(plan))}
    write_whole(results.path / "results.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
