"""What is measured of the plain loop, and of a public trainer once its script has ended."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import plain, sizes
from benchmarks.clock import Laps, Phases, Stopwatch, per_second, since_process_start
from benchmarks.floor import synchronize
from benchmarks.judges import prompts_of_round, rounds, save_round
from benchmarks.memory import peak_bytes
from benchmarks.task import CLASS_NOUN, PROMPTS, Outcome, Task

CLASS_PROMPT = f"a {CLASS_NOUN}"
WARM_UP = 2


def job(task: Task) -> Outcome:
    """Prior images, steps, a saved pipeline, four pictures by it; the clock began with the process."""
    size, phases, work = sizes.size_of(task.size), Phases(task.device), Path(task.work)
    with phases.timed("load model"):
        pipeline = _drawing_pipeline(size, task)
    with phases.timed("prior samples"):
        plain.draw_prior(pipeline, CLASS_PROMPT, task.prior, work / "class")
    del pipeline
    gc.collect()
    with phases.timed("load model"):
        pipeline = sizes.pipeline(size)
        loop = plain.Loop.build(pipeline, task.device, plain.training_dtype(task.device), task.learning_rate)
        files = _files(task, pipeline, work / "class")
    with phases.timed("train"):
        losses = plain.train(loop, files, task.rows, task.steps)
    with phases.timed("save model"):
        pipeline.to("cpu", torch.float32).save_pretrained(work / "model")
    seconds = dict(loop.seconds)
    del pipeline, loop
    gc.collect()
    outcome = draw_result(task, work / "model", phases)
    outcome.details |= {"train": seconds, "last_loss": losses[-1]}
    return outcome


def draw_result(task: Task, model: Path, phases: Phases | None = None) -> Outcome:
    """The job's four pictures by the pipeline in `model`; what is drawn after the clock stopped is for the judges."""
    phases = phases or Phases(task.device)
    with phases.timed("load model"):
        pipeline = _on_device(sizes.pipeline(sizes.size_of(str(model))), task)
    with phases.timed("pictures"):
        images = plain.draw(pipeline, prompts_of_round(task), task.seed)
        save_round(task, 0, images)
    outcome = Outcome(since_process_start() | {"peak_bytes": peak_bytes(task.device)})
    outcome.details["phases"] = phases.seconds
    for number in rounds(task):
        save_round(task, number, plain.draw(pipeline, prompts_of_round(task), task.seed + number))
    return outcome


def draw_peer(task: Task) -> Outcome:
    """The pictures by what a public trainer left in the task's folder: its script draws none, so ours for the plain."""
    return draw_result(task, Path(task.work) / "model")


def step(task: Task, laps: Laps | None = None) -> Outcome:
    """Seconds of a step, files, encoders and all, over `steps` steps after two to warm up."""
    size = sizes.size_of(task.size)
    pipeline = sizes.pipeline(size)
    loop = plain.Loop.build(pipeline, task.device, plain.training_dtype(task.device), task.learning_rate)
    folder = Path(task.work) / "class"
    _noise_images(folder, max(8, task.rows), task.resolution)
    laps = laps or Laps(task.device, WARM_UP)
    files = _files(task, pipeline, folder)

    def on_step(number: int) -> None:
        if number == WARM_UP:
            loop.seconds.clear()
        laps(number)

    plain.train(loop, files, task.rows, WARM_UP + task.steps, on_step)
    shares = {name: seconds / task.steps for name, seconds in loop.seconds.items()}
    return Outcome(laps.mean() | {"peak_bytes": peak_bytes(task.device)}, {"seconds of a step": shares})


def prior(task: Task) -> Outcome:
    """Prior samples a second, the saved file counted in."""
    pipeline = _drawing_pipeline(sizes.size_of(task.size), task)
    pipeline([CLASS_PROMPT] * plain.SAMPLE_BATCH_SIZE, num_inference_steps=1)
    synchronize(task.device)
    watch = Stopwatch(task.device)
    plain.draw_prior(pipeline, CLASS_PROMPT, task.prior, Path(task.work) / "class")
    return Outcome(per_second(watch, task.prior) | {"peak_bytes": peak_bytes(task.device)})


def generation(task: Task) -> Outcome:
    """Seconds for the four pictures, the model being loaded and warm."""
    pipeline = _drawing_pipeline(sizes.size_of(task.size), task)
    prompts = prompts_of_round(task)
    pipeline(prompts, num_inference_steps=1)
    synchronize(task.device)
    watch = Stopwatch(task.device)
    plain.draw(pipeline, prompts, task.seed)
    return Outcome(watch.numbers() | {"peak_bytes": peak_bytes(task.device)})


def _drawing_pipeline(size: sizes.Size, task: Task) -> Any:
    return _on_device(sizes.pipeline(size), task)


def _on_device(pipeline: Any, task: Task) -> Any:
    """On CUDA in float16, as the recipe draws."""
    return pipeline.to(task.device, torch.float16 if task.device == "cuda" else torch.float32)


def _files(task: Task, pipeline: Any, prior_folder: Path) -> plain.Files:
    prompts = (task.fill(PROMPTS[0]), CLASS_PROMPT)
    return plain.Files(Path(task.photos), prior_folder, prompts, pipeline, task.resolution)


def _noise_images(folder: Path, count: int, resolution: int) -> None:
    """Stand-ins for prior images where only the time of a step is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06d}.png")
