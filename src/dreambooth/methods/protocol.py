"""The seam between what is trained and the loop that trains it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone


class Method(Protocol):
    """What is trained: all weights, an adapter, or a word's embedding."""

    @property
    def trains_text(self) -> bool:
        """Whether prompts must be encoded anew at every step."""
        ...

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        """Makes the trained parameters require gradients; returns them by the name of their rate group."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trained values by name, as they are now."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts trained values back in place; raises RunError where names or shapes differ."""
        ...

    def eject(self) -> None:
        """Restores the base model exactly and freezes it."""
        ...
