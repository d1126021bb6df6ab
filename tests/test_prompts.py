import ast
import re
from pathlib import Path

import pytest

from dreambooth import prompts
from dreambooth.errors import ConfigError

DREAMBENCH = Path(__file__).parents[2] / "shared" / "dreambench" / "prompts_and_classes.txt"


def test_prompts_of_the_paper():
    assert prompts.instance_prompt("xjf", "stuffed animal") == "a xjf stuffed animal"
    assert prompts.class_prompt("stuffed animal") == "a stuffed animal"
    assert prompts.subject_phrase(None, "dog") == "dog"


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("a {subject} in the jungle", "a xjf dog in the jungle"),
        ("a { subject } beside a {class}", "a xjf dog beside a dog"),
        ("a plain prompt", "a plain prompt"),
        ("{} {0} {, } {{subject}}", "{} {0} {, } {xjf dog}"),
    ],
)
def test_fill(template: str, prompt: str):
    assert prompts.fill(template, "xjf", "dog") == prompt


def test_fill_reads_what_it_puts_in_only_once():
    assert prompts.fill("a {subject}", "{class}", "dog") == "a {class} dog"


def test_fill_names_the_valid_placeholders():
    with pytest.raises(ConfigError, match=r"\{foo\}; use \{subject\} or \{class\}"):
        prompts.fill("a {foo}", "xjf", "dog")


@pytest.mark.parametrize("prompt", ["a {subject} in the snow", "a xjf dog in the snow"])
def test_without_identifier(prompt: str):
    assert prompts.without_identifier(prompt, "xjf", "dog") == "a dog in the snow"


@pytest.mark.skipif(not DREAMBENCH.exists(), reason="../shared/dreambench is not there")
def test_dreambench_prompts_are_dreambenchs():
    lists = re.findall(r"prompt_list = \[(.*?)\]", DREAMBENCH.read_text(), re.DOTALL)
    published = [
        tuple(ast.literal_eval(text).replace("{0} {1}", "{subject}") for text in re.findall(r"'[^']*'", block))
        for block in lists
    ]
    assert published == [prompts.OBJECT_PROMPTS, prompts.LIVE_PROMPTS]


@pytest.mark.skipif(not DREAMBENCH.exists(), reason="../shared/dreambench is not there")
def test_dreambenchs_nine_live_subjects():
    rows = [line.split(",") for line in DREAMBENCH.read_text().splitlines() if re.fullmatch(r"\w+,[\w ]+", line)]
    subjects = rows[1:]
    live = [name for name, noun in subjects if prompts.dreambench_prompts(noun) is prompts.LIVE_PROMPTS]
    assert len(subjects) == 30
    assert live == ["cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"]


def test_there_are_25_different_prompts_of_each():
    assert len(set(prompts.OBJECT_PROMPTS)) == len(set(prompts.LIVE_PROMPTS)) == 25


@pytest.mark.parametrize("class_noun", ["dog", "backpack"])
def test_every_application_fills(class_noun: str):
    names = prompts.applications(class_noun)
    assert set(names) >= {"recontextualization", "art", "views", "properties", "accessories", "reconstruction"}
    for name in names:
        templates = prompts.application_prompts(name, class_noun)
        assert len(set(templates)) == len(templates) >= 2
        assert all(f"xjf {class_noun}" in prompts.fill(template, "xjf", class_noun) for template in templates)


def test_expressions_are_for_the_living():
    assert "a sleeping {subject}" in prompts.application_prompts("expressions", "dog")
    with pytest.raises(ConfigError, match="live subjects"):
        prompts.application_prompts("expressions", "vase")


def test_unknown_application_names_the_valid_ones():
    with pytest.raises(ConfigError, match="choose one of recontextualization, art, views"):
        prompts.application_prompts("arts", "dog")


def test_read_prompts(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# places\n\n  a {subject} on the beach \r\na {subject} im Schnee, süß\n".encode())
    assert prompts.read_prompts(path) == ("a {subject} on the beach", "a {subject} im Schnee, süß")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n\n", "holds no prompt"), (b"", "holds no prompt"), (b"caf\xe9\xff", "not UTF-8"), (None, "read")],
)
def test_read_prompts_refuses(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        prompts.read_prompts(path)
