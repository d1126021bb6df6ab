"""LoRA (Hu et al. 2021, arXiv 2106.09685) and DoRA (Liu et al. 2024, arXiv 2402.09353), by peft.

Beside a layer's frozen weight W stands the product B A of two thin matrices of rank r, and the layer computes with
W + (α / r) B A. DoRA keeps the norms of W's rows as numbers of their own, which are trained as well. Nothing of the
base model is changed, so one copy of it serves both: taken off, what is left is the base, bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone, LayerKind, is_text_encoder
from dreambooth.errors import ModelError
from dreambooth.lending import originals
from dreambooth.methods.protocol import rate_group
from dreambooth.methods.stored import put_back, read_file
from dreambooth.seeding import generator

LORA_FILE = "pytorch_lora_weights.safetensors"
NAME = "default"


@dataclass(frozen=True)
class Shape:
    """How large an adapter is and where it goes; `alpha` None is the rank, so that the product B A counts once."""

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    layers: LayerKind = "attention"
    kind: Literal["lora", "dora"] = "lora"


class LoRA:
    """Trains adapters on the layers that the backbone's spec names, of the denoiser and if asked of the text encoders.

    B is zero at first, so a fresh adapter changes nothing; A is drawn by `seed` and the layer's name alone.
    """

    def __init__(self, shape: Shape, train_text_encoder: bool = False, seed: int = 0) -> None:
        self.shape, self.seed = shape, seed
        self.trains_text = train_text_encoder
        self._modules: dict[str, nn.Module] = {}
        self._prefixes: dict[str, str] = {}
        self._trained: dict[str, nn.Parameter] = {}

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        """As the protocol says. Raises ModelError for a family that names no layers for adapters, or none it has."""
        self.detach()
        targets = backbone.spec.lora_targets
        if "denoiser" not in targets:
            raise ModelError(
                f"No layers for LoRA are known of {backbone.source.name} ({backbone.spec.family}); "
                "give --method dreambooth, which trains all of them."
            )
        names = [name for name in targets if self.trains_text or not is_text_encoder(name)]
        groups: dict[str, list[nn.Parameter]] = {}
        for name in names:
            module, prefix = backbone.modules[name], targets[name].prefix
            module.requires_grad_(False).train()
            self._modules[name], self._prefixes[name] = module, prefix
            with originals([module]):  # DoRA begins with the norms of the weights as they are, not rounded
                self._put_on(module, targets[name].of(self.shape.layers))
            # Transformers 5 leaves this out of the names of a CLIP text encoder; all others expect it in a file.
            inner = "text_model." if is_text_encoder(name) and not hasattr(module, "text_model") else ""
            trained = {
                f"{prefix}.{inner}{_file_name(key, is_text_encoder(name))}": parameter
                for key, parameter in module.named_parameters()
                if parameter.requires_grad
            }
            for parameter in trained.values():
                parameter.data = parameter.data.to(backbone.device)
            self._trained |= trained
            groups.setdefault(rate_group(name), []).extend(trained.values())
        return groups

    def _put_on(self, module: nn.Module, layers: list[str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        shape = self.shape
        config = LoraConfig(
            r=shape.rank,
            lora_alpha=shape.rank if shape.alpha is None else shape.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=shape.dropout,
            target_modules=layers,
            use_dora=shape.kind == "dora",
        )
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator; ours are drawn below
                inject_adapter_in_model(config, module, NAME)
        except ValueError as error:  # none of the layers is there
            raise ModelError(
                f"An adapter does not fit this model ({str(error).partition('. ')[0]}); give other --lora-layers, or "
                "--method dreambooth."
            ) from error
        for key, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # whatever precision the frozen weights have
            if ".lora_A." in key:
                drawn = torch.empty(parameter.shape)
                # As peft: the initialisation of nn.Linear.
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(self.seed, "lora", key))
                parameter.data.copy_(drawn)

    def state_dict(self) -> dict[str, Tensor]:
        """By the names that diffusers' LoRA files have."""
        return {key: parameter.detach() for key, parameter in self._trained.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        misfit = "The saved adapter does not fit; resume with the model and the settings the run was started with."
        put_back(self.state_dict(), state, misfit)

    def merge(self, ratio: float) -> None:
        """Nothing: the model's own weights are untouched."""

    def facts(self) -> dict[str, float]:
        return {}

    def warnings(self) -> list[str]:
        return []

    def save(self, folder: Path, facts: Mapping[str, str] | None = None) -> None:
        """pytorch_lora_weights.safetensors, written by diffusers' own function, for `load_lora_weights(folder)`.

        Its header tells peft's settings, as diffusers reads them, and `facts`.
        """
        from diffusers.loaders.lora_base import LoraBaseMixin

        draft = Path(mkdtemp(prefix=".lora-", dir=folder))
        try:
            LoraBaseMixin.write_lora_layers(
                state_dict={key: value.float().cpu().contiguous() for key, value in self.state_dict().items()},
                save_directory=str(draft),
                is_main_process=True,
                weight_name=LORA_FILE,
                save_function=partial(_write, header=self._header() | dict(facts or {})),
                safe_serialization=True,
            )
            os.replace(draft / LORA_FILE, folder / LORA_FILE)
        finally:
            shutil.rmtree(draft)

    def _header(self) -> dict[str, str]:
        """What diffusers makes peft's configuration from; without it alpha would be guessed."""
        from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

        settings: dict[str, Any] = {}
        for name, module in self._modules.items():
            config: Any = module.peft_config
            for key, value in config[NAME].to_dict().items():
                settings[f"{self._prefixes[name]}.{key}"] = sorted(value) if isinstance(value, set) else value
        return {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)}

    def load(self, folder: Path) -> None:
        """Puts what `save` wrote on the prepared backbone. Raises RunError where it cannot be read or does not fit."""
        self.load_state_dict(read_file(folder / LORA_FILE))

    def detach(self) -> None:
        for module in self._modules.values():
            _take_off(module)
            module.requires_grad_(False).eval()
        self._modules, self._prefixes, self._trained = {}, {}, {}

    def eject(self) -> None:
        self.detach()


def _take_off(module: nn.Module) -> None:
    """Puts every wrapped layer back in its own place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, name, child.get_base_layer())
    module.__dict__.pop("peft_config", None)


def _file_name(key: str, of_text_encoder: bool) -> str:
    """A parameter's name in a file, where the adapter's name is left out.

    Of DoRA's norms peft leaves out ".weight" too. Text encoders are read by transformers, whose loader (5.23) does not
    put that back and would drop the norms, while peft reads both spellings.

    >>> _file_name("mid.to_q.lora_A.default.weight", False)
    'mid.to_q.lora_A.weight'
    >>> [_file_name("to_q.lora_magnitude_vector.default.weight", of_text_encoder=either) for either in (False, True)]
    ['to_q.lora_magnitude_vector', 'to_q.lora_magnitude_vector.weight']
    """
    name = key.replace(f".{NAME}.", ".")
    norms = name.endswith(".lora_magnitude_vector.weight") and not of_text_encoder
    return name.removesuffix(".weight") if norms else name


def _write(tensors: dict[str, Tensor], path: str, header: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, header)
