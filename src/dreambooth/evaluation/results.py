"""The folder of a benchmark: what is to be done, and what every subject and method has left so far.

benchmark.json           the plan: settings, methods, subjects
subjects/NAME/photos/    the subject's photos as the model sees them
subjects/NAME/real.json  their scores among each other, the ceiling
subjects/NAME/METHOD/    run/ (the run folder), pictures/ and class/ (what it drew), scores.json, times.json
logs/                    what the workers said
scores.csv               every score of every picture
results.json             the plan, judges, versions and times
tables.md, tables.html   the paper's tables, regenerated
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dreambooth.checkpoint import ADAPTER, RunFolder, write_whole
from dreambooth.errors import ConfigError, DreamBoothError, RunError
from dreambooth.evaluation.benchmark_plan import Member, Plan, Settings
from dreambooth.evaluation.report import versions
from dreambooth.evaluation.scores import Score, read_csv, read_json, write_csv
from dreambooth.evaluation.suite import subject_prompts
from dreambooth.evaluation.variants import applies, variant_of

if TYPE_CHECKING:
    from PIL.Image import Image

PLAN_FILE = "benchmark.json"
JUDGES = ("dino", "clip", "perceptual")  # settings that rescoring may change


@dataclass(frozen=True)
class Job:
    """One picture to draw: `template` with {subject} or {class} in it, and the prompt that the model gets."""

    file: str
    template: str
    prompt: str
    seed: int


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
    def failure(self) -> Path:
        return self.folder / "failed.txt"

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: it has its scores, or it failed."""
        return self.scores.exists() or self.failure.exists()

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
        drawn = sum(1 for name in ("pictures", "class") for _ in (self.folder / name).glob("*.webp"))
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

    def begin(self, plan: Plan, other_judges: bool = False) -> None:
        """Keeps the plan, and forgets failures, so that they are tried again.

        Raises ConfigError when the folder was begun with other settings; `other_judges` may be named.
        """
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
        write_whole(self.path / PLAN_FILE, plan.model_dump_json(indent=2) + "\n")
        for failure in self.path.glob("subjects/*/*/failed.txt"):
            failure.unlink()

    def subject(self, name: str) -> Path:
        return self.path / "subjects" / name

    def photo_files(self, name: str) -> list[Path]:
        return sorted((self.subject(name) / "photos").glob("*.png"))

    def photos(self, name: str) -> list[Image]:
        """The subject's photos, as the model sees them. Raises RunError for one that cannot be read."""
        return [read_picture(path) for path in self.photo_files(name)]

    def cells(self, plan: Plan, member: Member) -> list[Cell]:
        """The subject's share of the plan: a cell a method that applies to it."""
        count = len(self.photo_files(member.name))
        names = [name for name in plan.methods if applies(name, count, plan.methods)]
        return [Cell(self.subject(member.name) / name, member, name) for name in names]

    def all_cells(self, plan: Plan) -> list[Cell]:
        return [cell for member in plan.members for cell in self.cells(plan, member)]

    def scores(self) -> list[Score]:
        """Every score so far, in the order of the names of subjects and methods.

        Reads scores.csv alone where there is nothing else, so that tables can be made of scores that were passed on.
        Raises ConfigError for files that cannot be read, or scores of several judges under one metric.
        """
        if (self.path / "subjects").is_dir():
            files = [*self.path.glob("subjects/*/real.json"), *self.path.glob("subjects/*/*/scores.json")]
            found = [score for file in sorted(files) for score in read_json(file)]
        elif (self.path / "scores.csv").is_file():
            found = read_csv(self.path / "scores.csv")
        else:
            raise RunError(f"{self.path} holds no scores; they are made by `dreambooth benchmark`.")
        refuse_mixed_judges(found)
        return found

    def times(self, cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
        """Seconds by method and phase, summed over the subjects."""
        total: dict[str, dict[str, float]] = {}
        for cell in cells:
            mine = total.setdefault(cell.method, {})
            for folder in (cell.run, cell.folder):
                for phase, seconds in RunFolder(folder).times().items():
                    mine[phase] = round(mine.get(phase, 0.0) + seconds, 3)
        return total


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


def read_picture(path: Path) -> Image:
    """Raises RunError when the file is missing or broken."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise RunError(f"The picture {path} cannot be read; delete it, and it will be made again.") from error


def numbered(templates: Sequence[tuple[str, int]], prompts: Iterable[str]) -> Iterator[Job]:
    """Jobs with file names, `prompts` being what becomes of each template."""
    for index, ((template, seed), prompt) in enumerate(zip(templates, prompts, strict=True)):
        yield Job(f"{index:03d}.webp", template, prompt, seed)


def write_results(results: Results, plan: Plan, judges: dict[str, Any]) -> None:
    """scores.csv, and results.json: the plan, and all else that is known of how the scores came about."""
    write_csv(results.scores(), results.path / "scores.csv")
    facts = plan.model_dump() | {
        "judges": judges,
        "versions": versions(),
        "seconds": results.times(results.all_cells(plan)),
    }
    write_whole(results.path / "results.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
