"""Small real tokenizers, and the published CLIP vocabulary where it is at hand."""

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

CLIP_VOCABULARY = Path(__file__).parents[2] / "shared" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
CORPUS_WORDS = "a dog cat hat red photo of on the beach in jungle snow with city background stuffed animal".split()


def _clip_tokenizer(folder: Path, tokens: list[str], merges: list[str]) -> Any:
    from transformers import CLIPTokenizer

    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    

@pytest.fixture(scope="session")
def clip_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """CLIP's own tokenizer, built from the merges that OpenAI published."""
    if not CLIP_VOCABULARY.exists():
        pytest.skip("../shared/clip_bpe is not there")
    merges = gzip.decompress(CLIP_VOCABULARY.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(_bytes_to_unicode())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return _clip_tokenizer(tmp_path_factory.mktemp("clip"), tokens, merges)
