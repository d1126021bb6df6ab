"""The documentation is true: its snippets run, its commands and settings exist, its tables match the code."""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

import dreambooth
from dreambooth import config, prompts
from dreambooth.backbones import latent_diffusion, load
from dreambooth.cli import app
from dreambooth.toybox import subjects, world

ROOT = Path(__file__).parents[1]
PAGES = [path for name in ("README.md", "CONTRIBUTING.md", "docs/*.md") for path in sorted(ROOT.glob(name))]
PAGE = partial(pytest.mark.parametrize, "page", PAGES, ids=lambda path: path.name)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")

# Laid over the settings of every snippet, so that a page runs in seconds.
QUICK = {
    "max_train_steps": 2,
    "num_class_images": 2,
    "prior_steps": 1,
    "preview_steps": 0,
    "num_inference_steps": 1,
    "images_per_prompt": 1,
    "applications": ["reconstruction"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins at, and whether the page says not to run it."""

    language: str
    text: str
    line: int
    runs: bool


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        before = text[: match.start()].splitlines()
        runs = not (before and before[-1].startswith("<!-- not run: "))
        if match[1] in languages:
            yield Block(match[1], match[2], len(before) + 2, runs)


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `dreambooth` of every such command line, started directly or as a module."""
    for block in blocks(page, "bash", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\$ )?(?:(?:accelerate launch|torchrun|python) .*-m )?dreambooth (.*)", line):
                yield shlex.split(found[1], comments=True)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row whose first cell is `code`, without its backticks."""
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("| ").split(" | ")]
            yield [first.strip("`"), *others]


@pytest.fixture
def quick_embedded_model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`toybox-sd` stands for the tiny model, and every configuration is a quick one."""
    monkeypatch.setattr("dreambooth.backbones.embedded", lambda: {"toybox-sd": tiny_model})
    make = config.make_config
    monkeypatch.setattr(config, "make_config", lambda values: make({**values, **QUICK}))


@pytest.mark.usefixtures("quick_embedded_model")
@PAGE()
def test_python_blocks_run(page: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the order of the page, in one namespace, in a folder that holds `photos` and the finished run `runs/dog`."""
    found = [
        (block, compile("\n" * (block.line - 1) + block.text, str(page), "exec")) for block in blocks(page, "python")
    ]
    if not any(block.runs for block, _ in found):
        return
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "photos")
    dreambooth.personalize("photos", class_noun="dog", out="runs/dog", quiet=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block, code in found:
        if block.runs:
            exec(code, namespace)


@PAGE()
def test_commands_exist(page: Path):
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        arguments = list(words)
        while hasattr(command, "commands"):
            assert arguments and arguments[0] in command.commands, f"no command: dreambooth {' '.join(words)}"
            command = command.commands[arguments.pop(0)]
        if "--help" in arguments:
            continue
        try:
            given = command.make_context(words[0], arguments).params
        except Exception as error:
            pytest.fail(f"dreambooth {' '.join(words)}: {getattr(error, 'message', error)}")
        if words[0] == "train":
            names = {name: field.alias or name for name, field in config.TrainConfig.model_fields.items()}
            values = {names[name]: value for name, value in given.items() if name in names and value not in (None, ())}
            config.make_config(values | {"photos": [str(path) for path in values.get("photos", [])]})


@PAGE()
def test_toml_blocks_are_valid(page: Path, tmp_path: Path):
    for block in blocks(page, "toml"):
        (tmp_path / "config.toml").write_text(block.text, encoding="utf-8")
        config.read_config(tmp_path / "config.toml", {})


@PAGE()
def test_make_targets_exist(page: Path):
    makefile = ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("there is no Makefile")
    targets = re.findall(r"^([\w-]+):", makefile.read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks(page, "bash", "console"):
        assert set(re.findall(r"^(?:\$ )?make ([\w-]+)", block.text, re.MULTILINE)) <= set(targets)


@PAGE()
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, target


def test_every_setting_is_told_with_its_default():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("### Defaults that depend")[0]
    told = {name: default for name, default, *_ in rows(text.split("## Settings")[1])}
    assert list(told) == config.field_names()
    for name, field in config.TrainConfig.model_fields.items():
        default, cell = field.get_default(call_default_factory=True), told[field.alias or name]
        if default is None:
            assert "`" not in cell, f"{name} is open by default"
        else:
            assert tomllib.loads(f"value = {cell.strip('`')}")["value"] == default, name


def test_defaults_of_the_models_are_told(tiny_model: Path, tiny_xl: Path, monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("### Defaults that depend")[1]
    told = {name: cells for name, *cells in rows(text.split("###")[0])}
    small = load(str(tiny_model)).spec
    monkeypatch.setattr(latent_diffusion, "SMALL_DENOISER", 0)
    large, xl = (load(str(model)).spec for model in (tiny_model, tiny_xl))
    for name, cells in told.items():
        expected = [getattr(spec, name.removeprefix("prior_")) for spec in (small, large, xl)]
        assert [tomllib.loads(f"value = {cell.strip('`')}")["value"] for cell in cells] == expected, name


@pytest.mark.parametrize(
    ("page", "heading", "field"),
    [("training.md", "## Textual Inversion", "textual_inversion"), ("adapters.md", "## Settings", "lora")],
)
def test_defaults_of_other_methods_are_told(
    page: str, heading: str, field: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(heading)[1]
    told = {name: [float(cell.strip("`")) for cell in cells] for name, *cells in rows(text.split("\n## ")[0])}
    small = load(str(tiny_model)).spec
    monkeypatch.setattr(latent_diffusion, "SMALL_DENOISER", 0)
    recipes = [getattr(spec, field) for spec in (small, load(str(tiny_model)).spec)]
    assert told == {name: [getattr(recipe, name) for recipe in recipes] for name in vars(recipes[0])}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("generation.md", prompts.APPLICATIONS),
        ("generation.md", config.SamplerName.__args__),
        ("embedded-world.md", subjects.CLASSES),
        ("embedded-world.md", subjects.PROPERTIES),
        ("embedded-world.md", world.VIEWS),
    ],
)
def test_every_choice_is_told(page: str, names: Any):
    text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
    assert [name for name in names if name not in text] == []


def test_benchmarks_are_run_as_modules():
    """As files they would put `benchmarks/` before the standard library, whose `profile` it would hide."""
    told = "\n".join(path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / "benchmarks").glob("*.py")])
    assert not re.findall(r"python benchmarks/", told)
    modules = set(re.findall(r"python -m benchmarks\.(\w+)", told))
    assert modules >= {"masked_loss", "tiers", "tier_estimates"}
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in modules)
