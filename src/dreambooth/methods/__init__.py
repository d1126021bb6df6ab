"""What can be trained. `make_method` knows them all; a new method is a new case here."""

from __future__ import annotations

from dreambooth.config import TrainConfig
from dreambooth.methods.full import FullFineTuning
from dreambooth.methods.protocol import Method
from dreambooth.methods.textual_inversion import TextualInversion


def make_method(config: TrainConfig, class_noun: str) -> Method:
    """What the config trains; `class_noun` names the placeholder and its initializer where the config does not."""
    match config.method:
        case "dreambooth":
            return FullFineTuning(config.train_text_encoder)
        case "textual-inversion":
            return TextualInversion(
                f"<{class_noun.lower().replace(' ', '-')}>" if config.identifier is None else config.identifier,
                config.initializer_word or class_noun,
                config.num_vectors,
            )
