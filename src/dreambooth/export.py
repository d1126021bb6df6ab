"""A finished run as one file, as ComfyUI, A1111 and kohya's scripts read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from dreambooth import kept, original
from dreambooth.backbones.latent_diffusion import LatentDiffusion
from dreambooth.checkpoint import RunFolder
from dreambooth.errors import ConfigError, RunError
from dreambooth.methods.stored import read_file
from dreambooth.methods.textual_inversion import EMBEDDING_FILE
from dreambooth.prior import save_whole

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def export(run: RunFolder, out: Path | None = None, precision: Precision = "fp16") -> Path:
    """Writes the run's model, or its adapter, as one .safetensors file, and returns its path.

    By default that is RUN/NAME.safetensors, after the folder. Raises RunError for a run that is not finished or cannot
    be one file, ConfigError for a place that cannot be written.
    """
    path = out or run.path / f"{run.path.resolve().name}.safetensors"
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path} has to end in .safetensors; give --out NAME.safetensors.")
    if not run.finished:
        raise RunError(f"{run.path} is not finished; go on with it by `{run.resume_command}`.")
    tensors = adapter(run) if run.adapter.is_file() else pipeline(run)
    whole = {name: value.detach().to("cpu", DTYPES[precision]) for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_whole(whole, path, kept.header(run) | {"format": "pt"})
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise ConfigError(f"{path} cannot be written ({error}); give another --out.") from error
    return path


def pipeline(run: RunFolder) -> dict[str, Tensor]:
    """The whole model under the names of its authors. Raises RunError where there are no such names."""
    if run.config().method == "textual-inversion":
        raise RunError(
            f"{run.path} learned a word and changed no model; {run.path / EMBEDDING_FILE} is the file to load."
        )
    backbone = kept.load(run, torch.device("cpu"))
    if not isinstance(backbone, LatentDiffusion):
        raise RunError(
            f"{run.path} is a {backbone.spec.family}, which no program reads from a single file; "
            f"{run.model} is its diffusers folder."
        )
    return original.checkpoint(backbone.pipeline)


def adapter(run: RunFolder) -> dict[str, Tensor]:
    """The run's LoRA or DoRA as kohya's scripts write one."""
    weights = read_file(run.adapter)
    with safe_open(run.adapter, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    alphas = {name.partition(".")[0]: value for name, value in settings.items() if name.endswith(".lora_alpha")}
    return original.kohya(weights, alphas)
