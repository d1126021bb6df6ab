"""The run folder: everything about one run, written so that a kill at any moment leaves it usable.

config.toml     the resolved settings            checkpoints/step-000100/   weights, optimizer, average
subject.json    photos, identifier, class noun   previews/step-000100.png   fixed prompts as training goes
photos/         the squares the model sees       model/                     the result, a diffusers pipeline
prior.png       the class as it was              samples/                   the pictures of the applications
log.jsonl       one line a step                  report.html                all of it on one page
times.json      seconds of each phase            track.jsonl, best/         judgements as training goes, best weights

A run of an adapter has pytorch_lora_weights.safetensors in place of model/.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from time import perf_counter
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dreambooth.config import TrainConfig, read_config, to_toml
from dreambooth.errors import RunError
from dreambooth.folders import require_empty

if TYPE_CHECKING:
    from torch import Tensor

LOG, TRACK = "log.jsonl", "track.jsonl"
ADAPTER = "pytorch_lora_weights.safetensors"
CONFIG = "config.toml"


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint folder."""

    folder: Path
    step: int

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`. Raises RunError for a file that cannot be read."""
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / f"{name}.safetensors")
        except Exception as error:
            raise RunError(
                f"The checkpoint {self.folder} cannot be read ({error}); "
                "delete this folder to resume from the one before."
            ) from error

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.safetensors").is_file()


class RunFolder:
    """Reads and writes one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: TrainConfig, fill: Callable[[RunFolder], None] = lambda run: None) -> RunFolder:
        """A new run, with what `fill` writes into it: all of it is there at once, or none.

        Raises RunError when the folder already holds a run or cannot be written, ConfigError for anything else in it.
        """
        refuse_taken(path)
        draft = cls(path / ".begun")
        try:
            shutil.rmtree(draft.path, ignore_errors=True)
            for name in ("photos", "checkpoints", "previews"):
                (draft.path / name).mkdir(parents=True)
            fill(draft)
            write_whole(draft.path / CONFIG, to_toml(config))
            for entry in sorted(draft.path.iterdir(), key=lambda entry: entry.name == CONFIG):
                os.rename(entry, path / entry.name)
            draft.path.rmdir()
        except OSError as error:
            raise RunError(f"The run folder {path} cannot be written: {error.strerror}. Give another --out.") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises RunError when there is none."""
        if not (path / "config.toml").is_file():
            raise RunError(f"{path} is no run folder: it has no config.toml. Runs are made by `dreambooth train`.")
        return cls(path)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Holds the folder for this process; freed by the system even after a kill. Raises RunError when busy."""
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"Another process is working on {self.path}. Wait for it, or give another --out.") from error
        try:
            yield
        finally:
            lock.release()

    def config(self) -> TrainConfig:
        return read_config(self.path / "config.toml", {})

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """What a run of an adapter has in place of a model; it goes on the untouched base."""
        return self.path / ADAPTER

    @property
    def result(self) -> Path:
        """What was learned: the adapter's file, or the folder of the whole model."""
        return self.adapter if self.adapter.is_file() else self.model

    @property
    def finished(self) -> bool:
        return self.adapter.is_file() or (self.model / "model_index.json").is_file()

    @property
    def resume_command(self) -> str:
        """What a user pastes into a shell to go on with the run."""
        return f"dreambooth train --resume {quote(str(self.path))}"

    def read_json(self, name: str) -> Any:
        """Raises RunError when the file is missing or broken."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read; the run folder is incomplete.") from error

    def write_json(self, name: str, value: Any) -> None:
        write_whole(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def timed(self, phase: str) -> Generator[None]:
        """Adds the seconds spent inside to the phase's time in times.json."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add_time(phase, perf_counter() - start)

    def add_time(self, phase: str, seconds: float) -> None:
        """Adds seconds to the phase's time in times.json."""
        times = self.times()
        self.write_json("times.json", times | {phase: round(times.get(phase, 0.0) + seconds, 3)})

    def times(self) -> dict[str, float]:
        """Seconds by phase; none where they were not kept, or cannot be read: nothing else depends on them."""
        try:
            found = self.read_json("times.json")
        except RunError:
            return {}
        entries: dict[str, Any] = found if isinstance(found, dict) else {}
        return {phase: seconds for phase, seconds in entries.items() if isinstance(seconds, int | float)}

    def append_log(self, entry: Mapping[str, Any], name: str = LOG) -> None:
        """One line of the log of that name."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read_log(self, name: str = LOG) -> list[dict[str, Any]]:
        """The lines of the log, without one that a kill cut short."""
        path = self.path / name
        entries: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def cut_log(self, step: int) -> None:
        """Forgets what was logged after `step`, which will be done again."""
        for name in (LOG, TRACK):
            kept = [json.dumps(entry) for entry in self.read_log(name) if entry["step"] <= step]
            if kept or (self.path / name).exists():
                write_whole(self.path / name, "".join(line + "\n" for line in kept))

    def save_checkpoint(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> None:
        """Writes a checkpoint whole, then prunes older ones so that `keep` remain. Raises RunError when it cannot."""
        from safetensors.torch import save_file

        root = self.path / "checkpoints"
        final, temporary = root / f"step-{step:06d}", root / ".writing"
        try:
            if not final.exists():
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                for name, group in tensors.items():
                    contiguous = {key: value.detach().cpu().contiguous() for key, value in group.items()}
                    save_file(contiguous, temporary / f"{name}.safetensors")
                    _sync(temporary / f"{name}.safetensors")
                os.rename(temporary, final)
                _sync(root)
            for old in self.checkpoints()[:-keep]:
                shutil.rmtree(old.folder)
        except OSError as error:
            raise RunError(f"The checkpoint of step {step} cannot be written to {root}: {error.strerror}.") from error

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        found = sorted((self.path / "checkpoints").glob("step-*"))
        return [Checkpoint(folder, int(folder.name.removeprefix("step-"))) for folder in found]

    def publish_model(self, folder: Path) -> None:
        """Puts a finished pipeline folder in its place at once."""
        shutil.rmtree(self.model, ignore_errors=True)
        os.rename(folder, self.model)


def refuse_taken(path: Path) -> None:
    """Raises RunError where a run is already, ConfigError where anything else is: a new one writes over nothing."""
    if os.path.exists(path / CONFIG):
        go_on = RunFolder(path).resume_command
        raise RunError(f"{path} already holds a run. Go on with it by `{go_on}`, or give another --out.")
    require_empty(path)


def free_folder(path: Path) -> Path:
    """`path`, or with the first number behind it that makes it free: runs/dog, runs/dog-2, ..."""
    candidates = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(candidate for candidate in candidates if not candidate.exists())


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file at once, so that a reader, a kill or a power cut never leaves half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Replaces a safetensors file at once. Raises RunError when it cannot be written."""
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises RunError when it cannot be read."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise RunError(f"{path} cannot be read ({error}); delete it, and the next best weights are taken.") from error


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raises RunError when the disk of `folder` has less room than `needed_bytes`."""
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise RunError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free, and the run needs {needed_bytes / 1e9:.1f} GB for "
            "its checkpoints and the model. Free some room, give --out on another disk, or lower "
            "--checkpoints-total-limit."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
