"""The seam between what is trained and the loop that trains it.

A method's life: `prepare` puts it on a backbone; it is trained, saved in checkpoints by `state_dict`, and what it
learned beside the weights is written by `save`; `detach` or `eject` takes it off again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone, is_text_encoder


def rate_group(module: str) -> str:
    """The rate group of a module's weights: all text encoders have one.

    >>> rate_group("text_encoder_2"), rate_group("denoiser")
    ('text_encoder', 'denoiser')
    """
    return "text_encoder" if is_text_encoder(module) else module


class Method(Protocol):
    """What is trained: all weights, an adapter, or a word's embedding."""

    @property
    def trains_text(self) -> bool:
        """Whether prompts must be encoded anew at every step."""
        ...

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        """Makes the trained parameters require gradients; returns them by the name of their rate group.

        The backbone is on its device already. But for an `Adapter`, `save_pipeline` gives a whole pipeline from here
        on.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trained values by name, as they are now."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts trained values back in place; raises RunError where names or shapes differ."""
        ...

    def merge(self, ratio: float) -> None:
        """Leaves `ratio` of what training changed of the model's weights; for methods that change them."""
        ...

    def facts(self) -> dict[str, float]:
        """What is worth watching beside the loss, by its name in the log; nothing for most methods."""
        ...

    def warnings(self) -> list[str]:
        """Sentences for the user, once training is over, about what it came to."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what others load on top of the base model, such as embedding.safetensors, if there is such a thing."""
        ...

    def detach(self) -> None:
        """Takes off what was put on and freezes the backbone; weights that were trained in place stay as they are."""
        ...

    def eject(self) -> None:
        """Restores the base model exactly and freezes it."""
        ...


@runtime_checkable
class Adapter(Method, Protocol):
    """A method that leaves the base model as it is; a run keeps what `save` writes, and no pipeline of its own.

    While it is on, `save_pipeline` would save wrapped layers; it is for pipelines without adapters.
    """

    def save(self, folder: Path, facts: Mapping[str, str] | None = None) -> None:
        """As a method's, with `facts` in the file's header; of several files the one that loads the others last."""
        ...

    def load(self, folder: Path) -> None:
        """Puts what `save` wrote on the prepared backbone. Raises RunError where it cannot be read or does not fit."""
        ...
