"""The machine and what is the same for every side: its facts, the photos, the identifier, the floor."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import sizes
from benchmarks.task import CLASS_NOUN, Outcome, Task

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "dreambooth")
INDIVIDUAL = 17


def facts() -> dict[str, Any]:
    """What the numbers depend on, besides the program: processor, cores, load, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    } | {name: importlib.metadata.version(name) for name in PACKAGES}


def prepare(task: Task) -> Outcome:
    """Renders the photos, writes random weights where a folder is needed, and asks what a user's run would take."""
    import torch

    from dreambooth import identifier
    from dreambooth.backbones import of_pipeline
    from dreambooth.backbones.source import Source
    from dreambooth.toybox.cli import save_photos

    size = sizes.size_of(task.size)
    details: dict[str, Any] = {"gpu": torch.cuda.get_device_name() if task.device == "cuda" else ""}
    if not any(Path(task.photos).glob("*.png")):
        save_photos(Path(task.photos), CLASS_NOUN, INDIVIDUAL, size=min(512, max(256, task.resolution)))
    backbone = of_pipeline(sizes.pipeline(size), Source(size.name, str(size.folder), "folder"))
    details |= asdict(backbone.spec)
    details["identifier"] = identifier.choose(backbone.tokenizers[0], CLASS_NOUN, task.seed).text
    details["folder"] = str(sizes.saved(size, Path(task.work))) if task.judged or size.folder else ""
    return Outcome(details=details)


def floor(task: Task) -> Outcome:
    """The least a step must do, over the rates measured here and now in the step's own type and threads."""
    import torch

    from benchmarks.floor import bandwidth, dtype_of, matrix_rate, step_work

    work = step_work(sizes.size_of(task.size), task.resolution, 2 * task.rows)
    dtype = dtype_of(task.mixed_precision, task.device)
    rate, speed = matrix_rate(task.device, dtype), bandwidth(task.device)
    plain_rate = matrix_rate(task.device, torch.float32)
    return Outcome(
        {
            "seconds": work.seconds(rate, speed),
            "flops": work.flops,
            "flops_per_second": rate,
            "optimizer_bytes": work.optimizer_bytes,
            "bytes_per_second": speed,
            "parameters": work.parameters,
            "float32_seconds": work.seconds(plain_rate, speed),
        },
        {"dtype": str(dtype).removeprefix("torch.")},
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    found = facts.is_file() and re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
