import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambooth import identifier
from dreambooth.errors import IdentifierError

ANY_TOKENIZER = pytest.mark.parametrize("name", ["tiny_clip_tokenizer", "tiny_t5_tokenizer", "clip_tokenizer"])
NOUNS = ["dog", "stuffed animal"]


def in_prompt(tokenizer: Any, text: str, class_noun: str) -> list[int]:
    """The whole prompt as the model gets it, specials included."""
    return tokenizer(f"a {text} {class_noun}").input_ids


@ANY_TOKENIZER
@pytest.mark.parametrize("class_noun", NOUNS)
def test_candidates_are_what_the_paper_asks_for(name: str, class_noun: str, request: pytest.FixtureRequest):
    tokenizer = request.getfixturevalue(name)
    window = identifier.rare_window(tokenizer)
    candidates = identifier.rare_tokens(tokenizer, class_noun)
    assert len(candidates) >= 20
    assert len({candidate.text for candidate in candidates}) == len(candidates)
    assert [c.rarity for c in candidates] == sorted((c.rarity for c in candidates), reverse=True)
    for candidate in candidates:
        (token_id,) = candidate.token_ids
        assert token_id in window and token_id not in tokenizer.all_special_ids
        assert 2 <= len(candidate.text) <= 3 and candidate.text.isalpha()
        assert tokenizer.decode([token_id]).strip() == candidate.text
        assert not any(candidate.text in word for word in class_noun.split())
        ids = in_prompt(tokenizer, candidate.text, class_noun)
        ids.remove(token_id)
        assert ids == tokenizer(f"a {class_noun}").input_ids


@ANY_TOKENIZER
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(), length=st.integers(1, 3), class_noun=st.sampled_from(NOUNS))
def test_every_choice_round_trips(name: str, request: pytest.FixtureRequest, seed: int, length: int, class_noun: str):
    tokenizer = request.getfixturevalue(name)
    chosen = identifier.choose(tokenizer, class_noun, seed, length)
    ids = in_prompt(tokenizer, chosen.text, class_noun)
    assert len(chosen.token_ids) == length and not chosen.warnings
    assert any(tuple(ids[at : at + length]) == chosen.token_ids for at in range(len(ids)))
    assert identifier.check(chosen.text, tokenizer, class_noun) == chosen
    assert identifier.choose(tokenizer, class_noun, seed, length) == chosen


def test_t5_window_is_the_papers():
    assert identifier.rare_window(Fake(32000)) == range(5000, 10001)
    assert identifier.rare_window(Fake(10_001)) == range(5000, 10001)


def test_a_small_t5_window_is_the_rare_tail():
    assert identifier.rare_window(Fake(3200)) == range(2400, 3200)


def test_the_papers_recipe_on_a_vocabulary_of_t5s_size():
    """Ids 5000..10000, at most three characters, no spaces; pieces with T5's marker, sentinels at the end."""
    from transformers import T5Tokenizer

    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {"".join(draw.choices(letters, k=draw.choice((2, 3, 3, 4, 5, 6)))) for _ in range(14_000)}
    words = sorted(words, key=lambda word: (draw.random(), word))
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, "▁a", "▁dog", *(f"▁{word}" for word in words)]
    pieces += [word.upper() for word in words[:1000]] + ["▁Zqx", "日本"]
    scores = [(piece, 0.0 if index < 3 else -1.0 - 1e-4 * index) for index, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = T5Tokenizer(vocab=scores, extra_ids=100)
    assert identifier.rare_window(tokenizer) == range(5000, 10001)
    found = identifier.rare_tokens(tokenizer, "dog")
    assert len(found) > 500
    for candidate in found:
        (token_id,) = candidate.token_ids
        assert 5000 <= token_id <= 10000 and len(candidate.text) <= 3 and " " not in candidate.text
        assert tokenizer.convert_ids_to_tokens(token_id) == f"▁{candidate.text}"
        assert tokenizer(f"a {candidate.text} dog").input_ids[1] == token_id


def test_an_embedded_t5s_rare_words_are_found():
    from tests import tiny

    tokenizer = tiny.t5_tokenizer()
    texts = {candidate.text for candidate in identifier.rare_tokens(tokenizer, "dog")}
    assert texts and texts <= set(tiny.RARE)
    assert identifier.check("zqk", tokenizer, "dog").warnings == ()
    assert "frequent" in identifier.check("painting", tokenizer, "dog").warnings[0]


def test_clip_window_is_the_last_quarter_of_the_merges(clip_tokenizer: Any):
    assert identifier.rare_window(clip_tokenizer) == range(37055, 49406)


def test_known_rare_tokens_of_clip_are_found(clip_tokenizer: Any):
    candidates = {c.text: c for c in identifier.rare_tokens(clip_tokenizer, "dog")}
    assert candidates["hta"].token_ids == (49384,)
    assert {"waj", "ulf", "kts", "uwe", "yql"} <= set(candidates)
    assert len(candidates) == 744


def test_words_are_no_candidates(clip_tokenizer: Any):
    texts = {candidate.text for candidate in identifier.rare_tokens(clip_tokenizer, "dog")}
    assert not texts & {"jap", "fag", "tux", "lsd", "ewe", "pox", "fdr", "ivf", "msn", "ssh"}
    vocabulary = clip_tokenizer.get_vocab()
    assert all(vocabulary[f"{word}</w>"] >= 37055 for word in ("ewe", "tux", "fdr")), "the window alone lets them by"


def test_sks_is_reported_for_what_it_is(clip_tokenizer: Any):
    sks = identifier.check("sks", clip_tokenizer, "dog")
    assert sks.token_ids == (48136,)
    assert "rifle" in sks.warnings[0]
    assert sks in identifier.rare_tokens(clip_tokenizer, "dog")
    everything = identifier.finalists(clip_tokenizer, "dog", seed=0, count=10_000)
    assert len(everything) == 743 and sks not in everything


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("hta", 1, []),
        ("  hta\n", 1, []),
        ("hta waj", 2, []),
        ("hat", 1, ["common word"]),
        ("beautiful", 1, ["frequent in the model's vocabulary"]),
        ("chihuahua", 1, ["one token of over three letters"]),
        ("olis", 1, ["one token of over three letters"]),
        ("zwx", 2, ["splits into 2 tokens (z + wx)"]),
        ("xxy5syt00", 7, ["paper's example of a bad one", "splits into 7 tokens (xx + y + 5"]),
        ("ohwx", 1, ["somebody already"]),
        ("<sks>", 3, ["rifle", "begins with punctuation", "splits into 3"]),
        ("[V]", 3, ["how the paper writes", "begins with punctuation", "splits into 3"]),
        ("dog", 1, ["contains the class noun 'dog'"]),
        ("puppydog", 2, ["contains the class noun 'dog'", "splits into 2"]),
    ],
)
def test_check_warns(clip_tokenizer: Any, text: str, count: int, words: list[str]):
    checked = identifier.check(text, clip_tokenizer, "dog")
    assert len(checked.token_ids) == count
    assert len(checked.warnings) == len(words)
    assert all(expected in warning for expected, warning in zip(words, checked.warnings, strict=True))


@pytest.mark.parametrize("text", ["", "  \n\t", "mnbvcxz lkjhgfdsa poiuytrewq"])
def test_check_refuses(tiny_clip_tokenizer: Any, text: str):
    with pytest.raises(IdentifierError, match=r"empty|too little of the prompt"):
        identifier.check(text, tiny_clip_tokenizer, "dog")


def test_check_refuses_what_the_tokenizer_cannot_read(tiny_t5_tokenizer: Any):
    with pytest.raises(IdentifierError, match="no tokens for '日本'"):
        identifier.check("日本", tiny_t5_tokenizer, "dog")


def test_choice_is_seeded_and_uniform(tiny_clip_tokenizer: Any):
    pool = [candidate.text for candidate in identifier.rare_tokens(tiny_clip_tokenizer, "dog")]
    counts = Counter(identifier.choose(tiny_clip_tokenizer, "dog", seed).text for seed in range(200))
    assert set(counts) <= set(pool) and len(counts) > 0.5 * len(pool)
    assert max(counts.values()) < 10


def test_choice_does_not_depend_on_the_global_generator(tiny_clip_tokenizer: Any):
    first = identifier.choose(tiny_clip_tokenizer, "dog", seed=1)
    state = random.getstate()
    random.seed(9)
    assert identifier.choose(tiny_clip_tokenizer, "dog", seed=1) == first
    random.setstate(state)


def test_finalists_differ_and_begin_with_the_choice(tiny_clip_tokenizer: Any):
    found = identifier.finalists(tiny_clip_tokenizer, "dog", seed=3, count=6)
    assert found[0] == identifier.choose(tiny_clip_tokenizer, "dog", seed=3)
    assert len({candidate.text for candidate in found}) == 6


@pytest.mark.parametrize("length", [0, 4])
def test_length_is_one_to_three(tiny_clip_tokenizer: Any, length: int):
    with pytest.raises(IdentifierError, match="1 to 3 tokens"):
        identifier.choose(tiny_clip_tokenizer, "dog", seed=0, length=length)


def test_a_vocabulary_without_rare_tokens_says_so():
    with pytest.raises(IdentifierError, match="--identifier"):
        identifier.choose(Fake(64), "dog", seed=0)


def test_the_weakest_reaction_wins(tiny_clip_tokenizer: Any):
    found = identifier.finalists(tiny_clip_tokenizer, "dog", seed=3, count=4)
    reactions = dict(zip((f"a {c.text} dog" for c in found), [0.4, 0.1, 0.9, 0.2], strict=True))
    probed = identifier.probe(found, lambda prompts: [reactions[prompt] for prompt in prompts], "dog")
    assert [row.reaction for row in probed] == [0.1, 0.2, 0.4, 0.9]
    assert probed[0].identifier == found[1]


@pytest.mark.parametrize("reactions", [[], [0.1], [0.1, math.nan]])
def test_a_probe_that_fails_says_so(tiny_clip_tokenizer: Any, reactions: list[float]):
    found = identifier.finalists(tiny_clip_tokenizer, "dog", seed=3, count=2)
    with pytest.raises(IdentifierError, match="no finite reaction"):
        identifier.probe(found, lambda _: reactions, "dog")


class Fake:
    """A unigram vocabulary of a given size whose every token decodes to a number: none can be an identifier."""

    unk_token_id = None
    all_special_ids: tuple[int, ...] = ()
    model_max_length = 77

    def __init__(self, size: int) -> None:
        self.size = size
        self.backend_tokenizer = type("Backend", (), {"model": type("Unigram", (), {})()})()

    def get_vocab(self) -> dict[str, int]:
        return {str(index): index for index in range(self.size)}

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0] * len(text.split())

    def decode(self, token_ids: list[int]) -> str:
        return str(token_ids[0])
