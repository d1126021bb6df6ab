"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): the embedding of a new word is learned, and nothing else."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, embedding

from dreambooth.backbones.protocol import Backbone, is_text_encoder
from dreambooth.errors import ConfigError, IdentifierError, ModelError, RunError
from dreambooth.identifier import Identifier
from dreambooth.methods.stored import put_back, read_file

EMBEDDING_FILE = "embedding.safetensors"
# Both in units of the median norm of the vocabulary. A word that moved less still means its initializer. A norm of
# 16 drew the same pictures as one of 5 (embedded model, rates 2e-2 and 5e-3): the encoder normalises what it reads.
LEAST_MOVE = 0.1
GREATEST_NORM = 100.0


@dataclass(frozen=True)
class Learned:
    """A word in one text encoder: its rows [V, D], where they began, and the norm of a usual word there."""

    rows: nn.Parameter
    start: Tensor
    typical_norm: Tensor


class TextualInversion:
    """Trains the embedding [V, D] of a placeholder such as "<dog>", which stands in prompts like any word.

    Where a model has two text encoders, the word has an embedding in each. The vocabulary is extended in copies of the
    tokenizer and of the embedding matrix, so ejecting puts the originals back. The V new rows are a parameter of their
    own: no optimizer, weight decay included, can reach another row. A hook on the lookup takes them from the parameter,
    so that it has a gradient, and another puts them into the matrix whenever its state is asked for: the text encoder
    can be saved at any moment, wherever it has been moved to.
    """

    trains_text = True

    def __init__(self, placeholder: str, initializer_word: str, num_vectors: int = 1) -> None:
        self.placeholder, self.initializer_word = placeholder, initializer_word
        self.words = [placeholder, *(f"{placeholder}_{number}" for number in range(1, num_vectors))]
        self._learned: list[Learned] = []
        self._file_names: tuple[str, ...] = (placeholder,)
        self._undo: list[Callable[[], None]] = []

    def identifier(self, tokenizers: Sequence[Any]) -> Identifier:
        """The placeholder as an identifier, with warnings about its initializer; the tokenizers stay as they are.

        Raises IdentifierError for a placeholder that cannot be one, ConfigError for an initializer without tokens.
        """
        ids = [extend(tokenizer, self.words).convert_tokens_to_ids(self.words) for tokenizer in tokenizers]
        told = [initializer_token(tokenizer, self.initializer_word)[1] for tokenizer in tokenizers]
        warnings = dict.fromkeys(warning for each in told for warning in each)
        return Identifier(self.placeholder, tuple(ids[0]), rarity=1.0, warnings=tuple(warnings))

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        """As the protocol says. Raises as `identifier`; ConfigError for too many vectors, ModelError without text."""
        self.detach()
        encoders = [module for name, module in backbone.modules.items() if is_text_encoder(name)]
        if not encoders:
            raise ModelError(
                f"{backbone.source.name} has no text encoder, and textual inversion trains one of its words."
            )
        if len(self.words) > max(1, backbone.spec.max_tokens // 4):
            raise ConfigError(
                f"{len(self.words)} vectors leave too little of a prompt of {backbone.spec.max_tokens} tokens; "
                f"give --num-vectors of at most {max(1, backbone.spec.max_tokens // 4)}."
            )
        old_tokenizers = backbone.tokenizers
        tokenizers = tuple(extend(tokenizer, self.words) for tokenizer in old_tokenizers)
        starts = [initializer_token(tokenizer, self.initializer_word)[0] for tokenizer in old_tokenizers]
        self._learned, self._file_names = [], backbone.spec.embedding_names or (self.placeholder,)
        for encoder, tokenizer, start in zip(encoders, tokenizers, starts, strict=True):
            self._put_into(encoder, int(tokenizer.convert_tokens_to_ids(self.words[0])), start)
            self._pool_at_the_end(encoder, int(tokenizer.eos_token_id))
        self._undo.append(partial(setattr, backbone, "tokenizers", old_tokenizers))
        backbone.tokenizers = tokenizers
        return {"embedding": [learned.rows for learned in self._learned]}

    def _put_into(self, encoder: Any, first: int, initializer: int) -> None:
        """Extends the encoder's vocabulary by the word, whose ids begin at `first`."""
        old: nn.Embedding = encoder.get_input_embeddings()
        known = old.weight.detach()
        start = known[initializer].repeat(len(self.words), 1)
        weight = known.new_zeros(max(len(known), first + len(self.words)), known.shape[1])
        weight[: len(known)] = known
        rows = slice(first, first + len(self.words))
        weight[rows] = start
        learned = Learned(nn.Parameter(start.clone()), start, known.norm(dim=1).median())
        new = nn.Embedding.from_pretrained(weight, freeze=True, padding_idx=old.padding_idx).eval()
        new.register_forward_hook(lookup_of(learned.rows, first))
        new.register_state_dict_pre_hook(partial(_put_in, rows=learned.rows, place=rows))

        def use(embeddings: nn.Embedding) -> None:
            encoder.set_input_embeddings(embeddings)
            encoder.config.vocab_size = len(embeddings.weight)

        use(new)
        self._learned.append(learned)
        self._undo.append(lambda: use(old))

    def _pool_at_the_end(self, encoder: Any, end: int) -> None:
        """Has a CLIP encoder pool at the token that ends a prompt, as it was trained to.

        Published configurations call it 2, by which transformers knows to take the greatest number of a prompt: the new
        word's, after which nothing would be read.
        """
        for holder in (getattr(encoder, "text_model", encoder), encoder.config):
            if hasattr(holder, "eos_token_id"):
                self._undo.append(partial(setattr, holder, "eos_token_id", holder.eos_token_id))
                holder.eos_token_id = end

    def state_dict(self) -> dict[str, Tensor]:
        """`embedding`, and of a second text encoder `embedding_2`."""
        return {
            "embedding" if number == 1 else f"embedding_{number}": learned.rows.detach()
            for number, learned in enumerate(self._learned, 1)
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        misfit = "The saved embedding does not fit; resume with the settings the run was started with."
        put_back(self.state_dict(), state, misfit)

    def merge(self, ratio: float) -> None:
        """Nothing: the model's own weights are untouched."""

    def facts(self) -> dict[str, float]:
        """Means over the vectors: the norm, beside a usual word's, distance from and cosine with where they began."""
        each: list[Tensor] = []
        for learned in self._learned:
            now, start = learned.rows.detach(), learned.start
            moved = (now - start).norm(dim=1)
            values = torch.stack([now.norm(dim=1), moved, cosine_similarity(now, start)]).mean(1)
            each.append(torch.cat([values, learned.typical_norm[None]]))
        norm, distance, cosine, usual = torch.stack(each).mean(0).tolist()
        return {
            "embedding_norm": norm,
            "embedding_usual": usual,
            "embedding_distance": distance,
            "embedding_cosine": cosine,
        }

    def warnings(self) -> list[str]:
        facts = self.facts()
        typical = facts["embedding_usual"]
        if facts["embedding_distance"] < LEAST_MOVE * typical:
            return [
                f"{self.placeholder} learned next to nothing: its embedding is {facts['embedding_distance']:.3g} away "
                f"from {self.initializer_word!r}, where a word's norm is {typical:.3g}; give more --max-train-steps "
                "or a higher --learning-rate."
            ]
        if facts["embedding_norm"] > GREATEST_NORM * typical:
            return [
                f"The embedding of {self.placeholder} has grown to a norm of {facts['embedding_norm']:.3g}, far beyond "
                f"the {typical:.3g} of a word, so it may not go with other words; give a lower --learning-rate or "
                "fewer --max-train-steps."
            ]
        return []

    def save(self, folder: Path) -> None:
        """embedding.safetensors: the one tensor {placeholder: [V, D]}, as diffusers, A1111 and ComfyUI load it.

        Of two text encoders one tensor each, by the names that those programs know.
        """
        path = folder / EMBEDDING_FILE
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        rows = [learned.rows.detach().float().cpu().clone() for learned in self._learned]
        facts = {"format": "pt", "placeholder": self.placeholder, "initializer": self.initializer_word}
        save_file(dict(zip(self._file_names, rows, strict=True)), temporary, facts)
        os.replace(temporary, path)

    def restore(self, folder: Path) -> None:
        """Puts what `save` wrote on the prepared backbone. Raises RunError where it cannot be read or does not fit.

        It has no `load`, as adapters do: what a run keeps of a word alone is a whole pipeline that knows it.
        """
        stored = read_file(folder / EMBEDDING_FILE)
        if stored.keys() != set(self._file_names):
            raise RunError(f"{folder / EMBEDDING_FILE} does not hold the word {self.placeholder} of this run.")
        own = self.state_dict()
        self.load_state_dict(dict(zip(own, (stored[name] for name in self._file_names), strict=True)))

    def detach(self) -> None:
        while self._undo:
            self._undo.pop()()

    def eject(self) -> None:
        self.detach()


def lookup_of(rows: nn.Parameter, first: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    """A forward hook for an embedding: ids `first`, `first` + 1, ... are looked up in rows [V, D] instead."""

    def look_up(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        numbers = arguments[0] - first
        ours = (numbers >= 0) & (numbers < len(rows))
        return torch.where(ours[..., None], embedding(numbers.where(ours, 0), rows).to(output.dtype), output)

    return look_up


def _put_in(matrix: nn.Embedding, *_: Any, rows: nn.Parameter, place: slice) -> None:
    matrix.weight.data[place] = rows.detach().to(matrix.weight)


def extend(tokenizer: Any, words: list[str]) -> Any:
    """A copy of the tokenizer that knows each word as one new token.

    Raises IdentifierError for a word that has no angle brackets, is known already, or does not survive in a prompt.
    """
    word = words[0]
    if not re.fullmatch(r"<[^<>\s]+>", word):
        # Without the brackets it would also be found inside longer words.
        raise IdentifierError(
            f"Textual inversion learns a word in angle brackets, which {word!r} is not; give --identifier <my-dog>."
        )
    if taken := sorted(set(words) & tokenizer.get_vocab().keys()):
        raise IdentifierError(
            f"The model's vocabulary has {taken[0]!r} already, and textual inversion needs a new word; "
            "give another --identifier, such as <my-dog>."
        )
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(words)
    ids = extended.convert_tokens_to_ids(words)
    # Pipelines look for the words as they were given, and put all of them where the first one stands.
    if extended.tokenize(" ".join(words)) != words or ids != [*range(ids[0], ids[0] + len(words))]:
        raise IdentifierError(
            f"The model's tokenizer does not keep {word!r} as it is; "
            "give --identifier a word of small letters, such as <my-dog>."
        )
    return extended


def initializer_token(tokenizer: Any, word: str) -> tuple[int, list[str]]:
    """The one token whose embedding a new word starts from, and a warning if `word` is several tokens.

    Of several words the last one counts, which in English names the thing ("stuffed animal"), and of several pieces
    of a word the longest. Raises ConfigError when there is no token for it.
    """

    def pieces(text: str) -> list[int]:
        return [token for token in tokenizer.encode(text, add_special_tokens=False) if token != tokenizer.unk_token_id]

    ids, last = pieces(word), pieces((word.split() or [""])[-1])
    if not last:
        raise ConfigError(f"The model has no token for the initializer {word!r}; give --initializer-word a plain noun.")
    texts = [str(tokenizer.decode([token])).strip() for token in last]
    chosen = max(range(len(last)), key=lambda index: len(texts[index]))
    if len(ids) == 1:
        return last[chosen], []
    return last[chosen], [
        f"{word!r} is {len(ids)} tokens, and the embedding starts from one of them, {texts[chosen]!r}; "
        "--initializer-word names another."
    ]
