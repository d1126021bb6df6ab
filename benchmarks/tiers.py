"""Peak memory and seconds of real training steps in one memory tier: python -m benchmarks.tiers sd15 lean"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from benchmarks import sizes
from dreambooth.backbones import of_pipeline
from dreambooth.backbones.protocol import Backbone
from dreambooth.backbones.source import Source
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.examples import Examples
from dreambooth.fitting import fitted
from dreambooth.lending import place
from dreambooth.memory import TIERS
from dreambooth.meter import available_bytes, give_back
from dreambooth.methods import make_method
from dreambooth.plan import make_plan, resolve_defaults
from dreambooth.run import choose_device
from dreambooth.trainer import StepReport, finetune
from dreambooth.workflow import settings_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", help="sd15, sdxl, an embedded name, or a diffusers folder")
    parser.add_argument("tier", choices=list(TIERS))
    parser.add_argument("--method", default="dreambooth", choices=["dreambooth", "lora", "dora"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1, help="photos of a step; as many prior samples join them")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mixed-precision", default="auto", choices=["auto", "no", "bf16"])
    given = parser.parse_args()
    size, device = sizes.size_of(given.size), choose_device(given.device)
    backbone = of_pipeline(sizes.pipeline(size), Source(size.name, str(size.folder), "folder"))
    resolution = given.resolution or size.resolution(device.type)
    backbone.set_resolution(resolution)
    values = {"train_batch_size": given.rows, "mixed_precision": given.mixed_precision, "max_train_steps": given.steps}
    values["method"] = given.method
    config = resolve_defaults(make_config(values | {"memory": given.tier, "checkpointing_steps": 10**6}), backbone.spec)
    method = make_method(config, "dog")
    place(backbone, device, method, config.mixed_precision)
    expected = make_plan(config, backbone, method, 1).memory_bytes
    latents = torch.randn(4, *backbone.spec.native_size, generator=torch.Generator().manual_seed(0))
    reports: list[StepReport] = []
    give_back(device)
    free = available_bytes(device)
    if device.type == "cpu" and expected > free + backbone_bytes(backbone):
        raise SystemExit(f"{given.tier} needs about {expected / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Unsaved(Path(folder))
        settings = fitted(settings_of(config), TIERS[given.tier])
        finetune(backbone, method, Examples(latents, latents, ("a zqk dog", "a dog")), settings, run, reports.append)
    result = {
        "size": size.name,
        "method": given.method,
        "tier": given.tier,
        "resolution": resolution,
        "rows": f"{given.rows} + {given.rows}",
        "peak_gb": round(peak_bytes(device) / 1e9, 2),
        "estimated_gb": round(expected / 1e9, 2),
        "seconds_a_step": [round(report.seconds, 2) for report in reports],
        "losses": [round(report.loss, 5) for report in reports],
        "seconds": round(perf_counter() - start, 1),
    }
    print(json.dumps(result))


class Unsaved(RunFolder):
    """A run folder without checkpoints, whose gigabytes are not what is measured."""

    def save_checkpoint(self, *_: object, **__: object) -> None: ...


def backbone_bytes(backbone: Backbone) -> int:
    return sum(p.numel() * p.element_size() for module in backbone.modules.values() for p in module.parameters())


def peak_bytes(device: torch.device) -> int:
    """Of the whole process, loading included: the allocator's on CUDA, else what was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
