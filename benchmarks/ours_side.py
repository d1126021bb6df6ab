"""What is measured of `dreambooth`, through what a user calls, at the defaults that a user gets."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import sizes
from benchmarks.clock import Laps, Stopwatch, per_second, since_process_start
from benchmarks.floor import synchronize
from benchmarks.judges import rounds, save_round
from benchmarks.memory import peak_bytes
from benchmarks.task import CLASS_NOUN, PROMPTS, Outcome, Task

# The first steps of a run may compile, choose kernels, or both.
WARM_UP = 3
EXAMPLES = 16


def job(task: Task) -> Outcome:
    """`dreambooth.personalize`, then `run.generate`; the clock began with the process.

    The report's own pictures and previews are left out: the job is prior samples, steps and four pictures.
    """
    os.environ["DREAMBOOTH_CACHE"] = str(Path(task.work) / "cache")  # no prior set from an earlier run
    import dreambooth

    size = sizes.size_of(task.size)
    run = dreambooth.personalize(
        task.photos,
        class_noun=CLASS_NOUN,
        model=str(size.folder),
        identifier=task.identifier,
        device=task.device,
        resolution=task.resolution,
        out=str(Path(task.work) / "run"),
        max_train_steps=task.steps,
        num_class_images=task.prior,
        applications=[],
        preview_steps=0,
        mixed_precision=task.mixed_precision,
        seed=task.seed,
        quiet=True,
    )
    start = perf_counter()
    save_round(task, 0, run.generate(PROMPTS, count=1, seed=task.seed))
    outcome = Outcome(since_process_start() | {"peak_bytes": peak_bytes(task.device)})
    phases = run.folder.times()
    phases["load and draw pictures"] = perf_counter() - start
    outcome.details = {"phases": phases, "sampling": vars(run.sampling)}
    for number in rounds(task):
        save_round(task, number, run.generate(PROMPTS, count=1, seed=task.seed + number))
    return outcome


def step(task: Task, laps: Laps | None = None) -> Outcome:
    """Seconds of a step of `finetune` with a user's default settings, checkpoints left out, after three to warm up."""
    from dreambooth.checkpoint import RunFolder
    from dreambooth.examples import Examples
    from dreambooth.methods import make_method
    from dreambooth.trainer import finetune

    backbone, config = _prepared(task)
    shape = backbone.spec.native_size
    torch.manual_seed(task.seed)
    examples = Examples(
        torch.randn(EXAMPLES, *shape), torch.randn(EXAMPLES, *shape), (task.fill(PROMPTS[0]), f"a {CLASS_NOUN}")
    )
    laps = laps or Laps(task.device, WARM_UP)
    run = RunFolder.create(Path(task.work) / "run", config)
    finetune(
        backbone,
        make_method(config, CLASS_NOUN),
        examples,
        _settings(config, WARM_UP + task.steps),
        run,
        lambda report: laps(report.step),
    )
    return Outcome(laps.mean() | {"peak_bytes": peak_bytes(task.device)})


def prior(task: Task) -> Outcome:
    """Prior samples a second, kept as files, at the default sampler, steps, guidance and batch size."""
    from dreambooth.precision import in_bf16
    from dreambooth.prior import PriorManifest, PriorSet

    backbone, config = _prepared(task)
    facts: dict[str, Any] = {
        "model": task.size,
        "prompt": f"a {CLASS_NOUN}",
        "sampler": config.prior_sampler,
        "guidance": config.prior_guidance,
        "native_size": backbone.spec.native_size,
        "mixed_precision": "bf16" if in_bf16(config.mixed_precision, backbone.device) else "no",
    }

    def fill(folder: str, count: int, steps: int, seed: int) -> None:
        manifest = PriorManifest(steps=steps, seed=seed, **facts)
        samples = PriorSet(Path(task.work) / folder, manifest)
        samples.fill(backbone, count, config.sample_batch_size, lambda done: None)

    fill("warm-up", min(task.prior, config.sample_batch_size), 1, 1)
    synchronize(task.device)
    watch = Stopwatch(task.device)
    fill("prior", task.prior, config.prior_steps, 0)
    numbers = per_second(watch, task.prior)
    told = {"sampler": config.prior_sampler, "steps": config.prior_steps, "guidance": config.prior_guidance}
    return Outcome(numbers | {"peak_bytes": peak_bytes(task.device)}, told)


def generation(task: Task) -> Outcome:
    """Seconds for the four pictures at the default sampler, steps and guidance, the model being loaded and warm."""
    from dataclasses import replace

    from dreambooth import drawing
    from dreambooth.run import sampling_of

    backbone, config = _prepared(task)
    sampling = sampling_of(config)
    prompts = [(template, task.fill(template)) for template in PROMPTS]
    drawing.draw(backbone, prompts, [task.seed], replace(sampling, num_inference_steps=1), config.sample_batch_size)
    synchronize(task.device)
    watch = Stopwatch(task.device)
    drawing.draw(backbone, prompts, [task.seed], sampling, config.sample_batch_size)
    return Outcome(watch.numbers() | {"peak_bytes": peak_bytes(task.device)}, vars(sampling))


def _prepared(task: Task) -> tuple[Any, Any]:
    """The model on its device, and the settings that a user's run of it would have."""
    from dreambooth.backbones import hush, of_pipeline
    from dreambooth.backbones.source import Source
    from dreambooth.config import make_config
    from dreambooth.plan import resolve_defaults
    from dreambooth.run import choose_device

    hush()
    size = sizes.size_of(task.size)
    backbone = of_pipeline(sizes.pipeline(size), Source(task.size, str(size.folder), "folder"))
    backbone.set_resolution(task.resolution)
    backbone.to(choose_device(task.device))
    values = {
        "device": task.device,
        "mixed_precision": task.mixed_precision,
        "train_batch_size": task.rows,
        "learning_rate": task.learning_rate,
    }
    return backbone, resolve_defaults(make_config(values), backbone.spec)


def _settings(config: Any, steps: int) -> Any:
    from dataclasses import replace

    from dreambooth.workflow import settings_of

    return replace(settings_of(config), max_train_steps=steps, checkpointing_steps=0)
