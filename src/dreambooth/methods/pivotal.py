"""Pivotal tuning: a new word's embedding and adapters of the layers that read it, learned together.

The word finds a place for the subject in the model's language, and the adapters only have to teach what no word says
(the idea of Roich et al. 2021, arXiv 2106.05744, as the public LoRA trainers took it over).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone
from dreambooth.methods.lora import LoRA
from dreambooth.methods.textual_inversion import TextualInversion


class PivotalTuning:
    """Textual Inversion and LoRA on one backbone; their trained values lie side by side under names of their own."""

    trains_text = True

    def __init__(self, word: TextualInversion, lora: LoRA) -> None:
        self.word, self.lora = word, lora

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        """As the protocol says. Raises as the two methods do; then neither is on the backbone."""
        self.detach()
        embedding = self.word.prepare(backbone)
        try:
            return self.lora.prepare(backbone) | embedding
        except Exception:
            self.detach()
            raise

    def state_dict(self) -> dict[str, Tensor]:
        return self.lora.state_dict() | self.word.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        word = {key: value for key, value in state.items() if key in self.word.state_dict()}
        self.lora.load_state_dict({key: value for key, value in state.items() if key not in word})
        self.word.load_state_dict(word)

    def merge(self, ratio: float) -> None:
        """Nothing: the model's own weights are untouched."""

    def facts(self) -> dict[str, float]:
        return self.word.facts()

    def warnings(self) -> list[str]:
        # That the word has moved little is no fault here: the adapters learn what it does not.
        return []

    def save(self, folder: Path, facts: Mapping[str, str] | None = None) -> None:
        """embedding.safetensors and, last, the adapter's file: where that is, both are."""
        self.word.save(folder)
        self.lora.save(folder, facts)

    def load(self, folder: Path) -> None:
        """Puts what `save` wrote on the prepared backbone. Raises RunError where it cannot be read or does not fit."""
        self.word.restore(folder)
        self.lora.load(folder)

    def detach(self) -> None:
        self.lora.detach()
        self.word.detach()

    def eject(self) -> None:
        self.detach()
