"""A T5 tokenizer of the toybox's own: the words of its captions by frequency, letters, and a tail of rare words.

The layout is T5's: padding, end and unknown first, then pieces of a unigram model (Kudo 2018). Every piece that begins
a word carries the mark of the space before it. The last pieces are two- and three-letter words that no caption holds,
so that the rare end of the vocabulary lies at the high ids, where a DreamBooth identifier is looked for.
"""

import math
import random
import string
from collections import Counter
from collections.abc import Iterable

from transformers import T5Tokenizer

from dreambooth.toybox.tokenizer import LETTERS, USUAL

SPACE = "▁"
SPECIAL = ("<pad>", "</s>", "<unk>")
MAX_LENGTH = 77
"""Tokens of a prompt, as many as `IFPipeline` pads to."""
RARE_SCORE, LETTER_SCORE = -25.0, -20.0
"""Log-probabilities: a rare word beats the letters that it is made of, and any word beats a rare one."""


def build(captions: Iterable[str], rare: int = 512, seed: int = 0) -> T5Tokenizer:
    """The tokenizer of these captions (lower case, as `IFPipeline` makes them) with `rare` rare words as its tail."""
    counts = Counter(word for caption in captions for word in pieces_of(caption))
    total = sum(counts.values())
    words = [(word, math.log(count / total)) for word, count in counts.most_common()]
    known = dict(words)
    letters = [SPACE, *string.ascii_lowercase, *string.digits, *".,'-!?:;()"]
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + words
    vocabulary += [(letter, LETTER_SCORE) for letter in letters if letter not in known]
    vocabulary += [(SPACE + word, RARE_SCORE) for word in _rare(known, rare, seed)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, additional_special_tokens=[], model_max_length=MAX_LENGTH)


def pieces_of(caption: str) -> list[str]:
    """The pieces of a caption's words; what closes a word ("dog,") is a piece of its own.

    >>> pieces_of("A dog, seen")
    ['▁a', '▁dog', ',', '▁seen']
    """
    pieces: list[str] = []
    for word in caption.lower().split():
        stem = word.rstrip(string.punctuation)
        pieces += [SPACE + stem] if stem else [SPACE]
        pieces += list(word[len(stem) :])
    return pieces


def _rare(known: dict[str, float], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    drawn = ("".join(rng.sample(LETTERS, rng.choice((2, 3, 3, 3, 3)))) for _ in range(8 * count))
    return [word for word in dict.fromkeys((*USUAL, *drawn)) if SPACE + word not in known][:count]


def rare_words(tokenizer: T5Tokenizer, count: int = 512) -> list[str]:
    """The words of the vocabulary's tail."""
    top = len(tokenizer)
    tail = tokenizer.convert_ids_to_tokens(list(range(top - count, top)))
    return [piece.removeprefix(SPACE) for piece in tail]
