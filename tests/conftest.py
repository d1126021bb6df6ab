"""Small real tokenizers, and CLIP's published vocabulary where it is at hand."""

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

CLIP_MERGES = Path(__file__).parents[2] / "shared" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
COMMON_WORDS = ("a", "dog", "cat", "hat", "red", "photo", "of", "on", "the", "beach", "in", "jungle", "with")
STRANGE_WORDS = random.Random(0).sample(list(map("".join, itertools.product("bdfgkpvz", "aeiouy", "dfkmpqvxz"))), 200)


@pytest.fixture(scope="session")
def clip_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """CLIP's own tokenizer, built from the merges that OpenAI published."""
    if not CLIP_MERGES.exists():
        pytest.skip("../shared/clip_bpe is not there")
    merges = gzip.decompress(CLIP_MERGES.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    return _clip_tokenizer(tmp_path_factory.mktemp("clip"), merges)


@pytest.fixture(scope="session")
def tiny_clip_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A CLIP tokenizer of a few hundred merges; its last ones are three-letter words seen once or twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    merges = [" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return _clip_tokenizer(tmp_path_factory.mktemp("tiny_clip"), merges)


@pytest.fixture(scope="session")
def tiny_t5_tokenizer() -> Any:
    """A SentencePiece-like unigram tokenizer with T5's marker and specials, pieces in the order of frequency."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"▁{word}" for word in (*COMMON_WORDS, *STRANGE_WORDS)]
    pieces = ["<pad>", "</s>", "<unk>", *words, "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram([(piece, -0.1 * i) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def corpus() -> list[str]:
    """Sentences of common words, and a few in which the strange ones stand."""
    draw = random.Random(0)
    common = [" ".join(draw.choices(COMMON_WORDS, k=8)) for _ in range(400)]
    return common + [f"a {word} dog" for word in STRANGE_WORDS for _ in range(draw.randint(1, 6))]


def _clip_tokenizer(folder: Path, merges: list[str]) -> Any:
    """A CLIPTokenizer whose ids are ordered as CLIP's: bytes, bytes that end a word, merges, specials."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
    ]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny Stable Diffusion (ε), untrained."""
    from tests import tiny

    return tiny.saved_stable_diffusion(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny Stable Diffusion XL (ε), untrained."""
    from tests import tiny

    return tiny.saved_stable_diffusion_xl(tmp_path_factory.mktemp("tiny-xl"))


@pytest.fixture(params=["tiny_model", "tiny_xl"])
def latent_model(request: pytest.FixtureRequest) -> Path:
    """A model with one text encoder, or with two."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tiny_cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny IF-like base of 16 px and super-resolver to 32 px (ε), untrained."""
    from tests import tiny

    return tiny.saved_cascade(tmp_path_factory.mktemp("tiny-cascade"))


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own cache."""
    monkeypatch.setenv("DREAMBOOTH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three different photo-like pictures of 80 x 64 pixels."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder
