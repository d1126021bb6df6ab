"""A CLIP tokenizer of the toybox's own: merges learned on its captions, and a tail of rare words for identifiers.

The layout is CLIP's: 256 bytes, the same 256 with `</w>`, one token a merge, then the two special tokens. The last
merges before those make two- and three-letter words that no caption holds ("zqk"), so that the rare end of the
vocabulary lies at the high ids, where a DreamBooth identifier is looked for.
"""

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = "bcdfghjklmnpqrstvwxz"
"""Of rare words: no vowels, so that no English word comes out."""
USUAL = ("sks", "zqk")
"""Identifiers that people type out of habit; they are among the rare words."""
Merge = tuple[str, str]

_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+")


def words(captions: Iterable[str]) -> Counter[str]:
    """Count the words of the captions, split as CLIP splits them."""
    return Counter(word for caption in captions for word in _WORD.findall(caption.lower()))


def _spell(word: str) -> tuple[str, ...]:
    return (*word[:-1], word[-1] + "</w>")


def _merge(symbols: tuple[str, ...], pair: Merge) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def learn_merges(counts: Counter[str], limit: int) -> list[Merge]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1): join the commonest pair, `limit` times or until done.

    >>> learn_merges(Counter({"dog": 2, "do": 1}), 9)
    [('d', 'o'), ('do', 'g</w>'), ('d', 'o</w>')]
    """
    spelled = {_spell(word): count for word, count in counts.items() if word.isascii()}
    merges: list[Merge] = []
    while len(merges) < limit:
        pairs: Counter[Merge] = Counter()
        for symbols, count in spelled.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {_merge(symbols, best): count for symbols, count in spelled.items()}
    return merges


def rare_merges(counts: Counter[str], learned: list[Merge], count: int, seed: int = 0) -> list[Merge]:
    """`count` more merges, each of which ends in a word of two or three letters that no caption holds.

    Three letters are always joined from the right, `q k</w>` and then `z qk</w>`, so a three-letter word needs its
    two-letter ending in the list, and no learned merge that would join its first two letters before.
    """
    rng = random.Random(seed)
    taken, known = set(learned), set(counts)
    tails = [word[1:] for word in USUAL] + ["".join(rng.sample(LETTERS, 2)) for _ in range(count)]
    fresh = [tail for tail in dict.fromkeys(tails) if tail not in known and (tail[0], tail[1] + "</w>") not in taken]
    endings = fresh[: max(len(USUAL), count // 6)]
    longer = [head + end for end in endings for head in LETTERS if (head, end[0]) not in taken]
    rng.shuffle(longer)
    longer = [word for word in dict.fromkeys((*USUAL, *longer)) if word not in known]
    rare = [(end[0], end[1] + "</w>") for end in endings] + [(word[0], word[1:] + "</w>") for word in longer]
    return [pair for pair in rare if pair not in taken][:count]


def build(captions: Iterable[str], *, learned: int = 2048, rare: int = 512, max_length: int = 32) -> CLIPTokenizer:
    """Learn a tokenizer from captions: at most `learned` merges, then `rare` rare words as its tail."""
    counts = words(captions)
    merges = learn_merges(counts, learned)
    merges += rare_merges(counts, merges, rare)
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += dict.fromkeys(first + second for first, second in merges)
    tokens += [START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)  # pyright: ignore[reportArgumentType]


def rare_words(tokenizer: CLIPTokenizer, count: int = 512) -> list[str]:
    """The words of the vocabulary's tail, the rarest last."""
    top = len(tokenizer) - 2
    tail = tokenizer.convert_ids_to_tokens(list(range(max(512, top - count), top)))
    return [token.removesuffix("</w>") for token in tail if token.endswith("</w>")]


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer with `vocab.json` and `merges.txt` beside `tokenizer.json`, for older transformers too."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), "utf-8")
    lines = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), "utf-8")
