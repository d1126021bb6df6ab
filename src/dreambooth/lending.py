"""Frozen weights on loan: a device with a memory of its own holds them rounded, and the originals wait in the host's.

Autocast rounds weights to bfloat16 whenever they multiply. Rounded beforehand they give the same numbers, in half the
memory and without the rounding.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dreambooth import transfer
from dreambooth.backbones.protocol import Backbone, Sampling, is_text_encoder
from dreambooth.precision import MixedPrecision, in_bf16

if TYPE_CHECKING:
    from dreambooth.methods.protocol import Method

# Under this name a parameter on loan keeps its original.
ORIGINAL = "lent_original"


def multiplied(module: nn.Module) -> list[nn.Parameter]:
    """Weights that autocast rounds to bfloat16 whenever they are used."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [weight for part in module.modules() if isinstance(part, kinds) for weight in part.parameters(recurse=False)]


def lendable(backbone: Backbone) -> dict[str, list[nn.Parameter]]:
    """Weights that are only used under autocast, by module; of which those that are trained must stay.

    Not the autoencoder's, which computes in float32, nor those of an encoder that reads each prompt once and is freed.
    """
    return {
        name: multiplied(module)
        for name, module in backbone.modules.items()
        if name == "denoiser" or (is_text_encoder(name) and name not in backbone.spec.released)
    }


def frozen(backbone: Backbone, trained: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """What can be lent while `trained` are trained, and is not yet."""
    kept = {id(parameter) for parameter in trained}
    weights = [parameter for group in lendable(backbone).values() for parameter in group]
    return [parameter for parameter in weights if id(parameter) not in kept and not is_lent(parameter)]


def lends(setting: MixedPrecision, device: torch.device) -> bool:
    """Whether weights are lent at all: where the run computes in bfloat16, on a device with a memory of its own."""
    return transfer.has_own_memory(device) and in_bf16(setting, device)


def lend(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    """Each to the device, rounded; its original to the host, if it is not there."""
    for parameter in parameters:
        setattr(parameter, ORIGINAL, parameter.data.to("cpu"))
        parameter.data = parameter.data.to(torch.bfloat16).to(device)


def take_back(parameters: Iterable[nn.Parameter]) -> None:
    """Each original in its own place, on the device."""
    for parameter in parameters:
        parameter.data = original(parameter).to(parameter.device)
        delattr(parameter, ORIGINAL)


def is_lent(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, ORIGINAL)


def original(parameter: nn.Parameter) -> Tensor:
    """The values that a parameter has when it is not on loan."""
    return getattr(parameter, ORIGINAL, parameter.data)


@contextmanager
def originals(modules: Iterable[nn.Module]) -> Generator[None]:
    """Inside, what is on loan is whole, and in host memory: to be saved or looked at, not to compute with."""
    lent = [p for module in modules for p in module.parameters() if is_lent(p)]
    rounded = [parameter.data for parameter in lent]
    for parameter in lent:
        parameter.data = original(parameter)
    try:
        yield
    finally:
        for parameter, data in zip(lent, rounded, strict=True):
            parameter.data = data


@contextmanager
def as_if_lent(parameters: Iterable[nn.Parameter]) -> Generator[None]:
    """Inside, the parameters have the type they have on loan, without the values: to count with."""
    whole = [(parameter, parameter.data) for parameter in parameters]
    for parameter, data in whole:
        parameter.data = torch.empty_like(data, dtype=torch.bfloat16)
    try:
        yield
    finally:
        for parameter, data in whole:
            parameter.data = data


def place(backbone: Backbone, device: torch.device, method: Method | None, setting: MixedPrecision) -> None:
    """A loaded model onto its device; what `method` leaves as it is goes there rounded where it will be on loan.

    None trains nothing.
    """
    if lends(setting, device):
        groups = method.prepare(backbone) if method else {}
        if method:
            method.detach()
        lend(frozen(backbone, [parameter for group in groups.values() for parameter in group]), device)
    backbone.to(device)


def precise(sampling: Sampling, backbone: Backbone) -> Sampling:
    """The same in a precision that the weights have: those on loan multiply in bfloat16 alone."""
    lent = any(is_lent(parameter) for parameter in backbone.modules["denoiser"].parameters())
    return replace(sampling, mixed_precision="bf16") if lent else sampling
