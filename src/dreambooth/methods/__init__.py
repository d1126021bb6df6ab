"""What can be trained. `make_method` knows them all; a new method is a new case here."""

from __future__ import annotations

from dreambooth.config import TrainConfig
from dreambooth.methods.full import FullFineTuning
from dreambooth.methods.lora import LoRA, Shape
from dreambooth.methods.pivotal import PivotalTuning
from dreambooth.methods.protocol import Method
from dreambooth.methods.textual_inversion import TextualInversion


def make_method(config: TrainConfig, class_noun: str) -> Method:
    """What the config trains; `class_noun` names the placeholder and its initializer where the config does not."""
    match config.method:
        case "dreambooth":
            return FullFineTuning(bool(config.train_text_encoder))
        case "textual-inversion":
            return new_word(config, class_noun)
        case "lora" | "dora":
            return _adapter(config)
        case "pivotal":
            return PivotalTuning(new_word(config, class_noun), _adapter(config))


def new_word(config: TrainConfig, class_noun: str) -> TextualInversion:
    """The word that textual inversion and pivotal tuning learn."""
    return TextualInversion(
        f"<{class_noun.lower().replace(' ', '-')}>" if config.identifier is None else config.identifier,
        config.initializer_word or class_noun,
        config.num_vectors,
    )


def _adapter(config: TrainConfig) -> LoRA:
    kind = "dora" if config.method == "dora" else "lora"
    shape = Shape(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_layers, kind)
    return LoRA(shape, bool(config.train_text_encoder), config.seed)
