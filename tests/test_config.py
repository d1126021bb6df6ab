"""One schema: read, written, refused, and used."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dreambooth
from dreambooth import backbones
from dreambooth.config import TrainConfig, field_names, make_config, read_config, to_toml
from dreambooth.errors import ConfigError
from dreambooth.plan import resolve_defaults

SOURCE = Path(dreambooth.__file__).parent


def test_no_clipping_there_and_back(tmp_path: Path):
    config = make_config({"max_grad_norm": math.inf})
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert read_config(tmp_path / "c.toml", {}) == config


def test_toml_there_and_back(tmp_path: Path):
    config = make_config(
        {"photos": ['a "quoted" folder', "back\\slash", "größe"], "class_noun": "dog", "snr_gamma": 5.0}
    )
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert read_config(tmp_path / "c.toml", {}) == config


def test_flags_overrule_the_file(tmp_path: Path):
    (tmp_path / "c.toml").write_text('class_noun = "dog"\nmax_train_steps = 10\n')
    config = read_config(tmp_path / "c.toml", {"max_train_steps": 20, "seed": None})
    assert (config.class_noun, config.max_train_steps, config.seed) == ("dog", 20, 0)


def test_all_errors_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        make_config({"learnin_rate": 1, "max-train-steps": 3, "seed": -1, "crop": "middle"})
    told = str(caught.value)
    assert "learnin_rate: unknown setting; did you mean learning_rate?" in told
    assert "did you mean max_train_steps?" in told
    assert "seed: " in told and "crop: " in told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"instance_prompt": "a dog"}, "must contain {subject}"),
        ({"class_prompt": "a {subject}"}, "must not contain {subject}"),
        ({"seed": 2**64}, "seed: .* less than or equal to 9223372036854775807"),
        ({"prior_seed": 2**63}, "prior_seed: .* less than or equal to 9223372036854775807"),
        ({"max_train_steps": 0}, "greater than or equal to 1"),
        ({"resolution": 1_000_000}, "resolution: .*less than or equal to 4096"),
        ({"train_batch_size": 1_000_000}, "train_batch_size: .*less than or equal to 4096"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"prior_loss_weight": "much"}, "valid number"),
    ],
)
def test_bad_values_are_told(values: dict, told: str):
    with pytest.raises(ConfigError, match=told.replace("{", r"\{")):
        make_config(values)


@pytest.mark.parametrize(("text", "told"), [(None, "no configuration file"), ("a = ", "cannot be read")])
def test_bad_files_are_told(tmp_path: Path, text: str | None, told: str):
    if text is not None:
        (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_config(tmp_path / "c.toml", {})


def test_every_setting_is_read_somewhere():
    """A public trainer shows a min-SNR slider that its trainer never reads."""
    read: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        if file.name == "config.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config":
                read.add(node.attr)
    assert set(TrainConfig.model_fields) - read == set()


def test_flags_carry_the_names_of_the_public_script():
    expected = """max_train_steps learning_rate train_batch_size gradient_accumulation_steps num_class_images
        prior_loss_weight checkpointing_steps resolution seed train_text_encoder snr_gamma""".split()
    assert set(expected) <= set(field_names())


@pytest.mark.parametrize(
    ("given", "averaged"),
    [({}, True), ({"use_ema": False}, False), ({"method": "lora"}, False), ({"method": "lora", "use_ema": True}, True)],
)
def test_a_small_model_keeps_an_average_by_default(tiny_model: Path, given: dict[str, Any], averaged: bool):
    spec = backbones.load(str(tiny_model)).spec
    assert resolve_defaults(make_config(given), spec).use_ema is averaged
    large = replace(spec, averaged=False)
    assert resolve_defaults(make_config(given), large).use_ema is given.get("use_ema", False)


@pytest.mark.parametrize("values", [{"merge_ratio": 0}, {"merge_ratio": 1.2}, {"merge_ratio": 0.5, "method": "lora"}])
def test_a_merge_that_makes_no_sense_is_refused(values: dict[str, Any]):
    with pytest.raises(ConfigError, match="merge_ratio"):
        make_config(values)


@pytest.mark.parametrize(("given", "share"), [({}, 0.25), ({"unprompted_share": 0.0}, 0.0), ({"method": "lora"}, 0.0)])
def test_a_small_model_keeps_what_guidance_starts_from(tiny_model: Path, given: dict[str, Any], share: float):
    spec = backbones.load(str(tiny_model)).spec
    assert resolve_defaults(make_config(given), spec).unprompted_share == share
    assert resolve_defaults(make_config({}), replace(spec, unprompted_share=0.0)).unprompted_share == 0
