"""Public trainers that are on this machine, given by the path of their script."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import process, sizes
from benchmarks.task import CLASS_NOUN, FEWER, OURS, PLAIN, PROMPTS, Outcome, Task
from dreambooth.errors import ConfigError


@dataclass(frozen=True)
class Peer:
    """A script that takes the arguments of diffusers' `train_dreambooth.py`."""

    name: str
    script: Path


def parse(text: str) -> Peer:
    """A peer from NAME=PATH. Raises ConfigError where that is none.

    >>> parse("diffusers=benchmarks/__init__.py").name
    'diffusers'
    """
    name, equals, path = text.partition("=")
    script = Path(path).expanduser()
    if not (name and equals):
        raise ConfigError(f"{text!r} is no peer; give NAME=PATH, such as diffusers=path/to/train_dreambooth.py.")
    if name in (OURS, PLAIN, FEWER):
        raise ConfigError(f"{name!r} is the name of a side that is always measured; give the peer another.")
    if not script.is_file():
        raise ConfigError(f"There is no script {path} for the peer {name}.")
    return Peer(name, script.resolve())


def command(task: Task) -> list[str]:
    """The script's command line: same model, photos, prompts and counts as ours, all else at the script's defaults."""
    folder, work = sizes.size_of(task.size).folder, Path(task.work)
    arguments = {
        "pretrained_model_name_or_path": folder,
        "instance_data_dir": task.photos,
        "instance_prompt": task.fill(PROMPTS[0]),
        "class_data_dir": work / "class",
        "class_prompt": f"a {CLASS_NOUN}",
        "num_class_images": task.prior,
        "output_dir": work / "model",
        "resolution": task.resolution,
        "train_batch_size": task.rows,
        "learning_rate": task.learning_rate,
        "lr_warmup_steps": 0,
        "max_train_steps": task.steps,
        "seed": task.seed,
        **({"mixed_precision": "bf16"} if task.device == "cuda" else {}),
    }
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    # Without torchvision, of which there is no build for every torch, a stand-in for five transforms takes its place.
    launch = [] if importlib.util.find_spec("torchvision") else ["-m", "benchmarks.standin"]
    return [sys.executable, *launch, task.script, "--with_prior_preservation", *flags]


def job(task: Task) -> Outcome:
    """The script as a process of its own, then a second one that draws the four pictures, as its users do."""
    trained = process.run(command(task), task.threads)
    if trained.status:
        return Outcome(note=f"failed: {process.last_line(trained)}")
    drawn = process.measure(replace(task, part="draw"))
    if drawn.note:
        return drawn
    numbers = {name: getattr(trained, name) + drawn.numbers[name] for name in ("seconds", "processor_seconds")}
    if task.device != "cuda":  # the device's allocator cannot be asked from outside
        numbers["peak_bytes"] = max(trained.peak_bytes, int(drawn.numbers["peak_bytes"]))
    return Outcome(numbers, {"phases": {"script": trained.seconds, "pictures": drawn.numbers["seconds"]}})
