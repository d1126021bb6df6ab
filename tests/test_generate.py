"""What `dreambooth generate` leaves behind, and what it refuses before it draws."""

import json
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth import load
from dreambooth.backbones.latent_diffusion import LatentDiffusion
from dreambooth.backbones.protocol import Enlarging
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import ConfigError
from tests.test_cli import dreambooth

FAST = [
    "--max-train-steps", 1, "--no-with-prior-preservation", "--num-inference-steps", 1, "--images-per-prompt", 1,
    "--train-batch-size", 1, "--preview-steps", 0, "--applications", "properties", "--quiet",
]  # fmt: skip


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Path:
    """A finished run of an untrained model."""
    folder = RunFolder.create(tmp_path / "my run", make_config({"num_inference_steps": 1, "guidance_scale": 1.0}))
    folder.write_json("subject.json", {"class_noun": "dog", "identifier": "zqk", "photos": []})
    shutil.copytree(tiny_model, folder.path / "model")
    return folder.path


@pytest.mark.parametrize(
    ("drawn", "told"), [(0, "Stopped. Nothing was drawn yet."), (1, "1 picture is in"), (2, "2 pictures are in")]
)
def test_what_was_drawn_before_an_interrupt_is_kept(
    run: Path, tmp_path: Path, monkeypatch, capsys, drawn: int, told: str
):
    real, calls = LatentDiffusion.generate, []

    def press(*arguments, **more):
        if len(calls) == drawn:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(LatentDiffusion, "generate", press)
    out = tmp_path / "pictures"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = ["generate", run, "a {subject}", "a {subject} on the beach", "-n", 2, "--batch-size", 1, "--out", out]
        code, _, err = dreambooth(monkeypatch, capsys, *command, "--device", "cpu")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130 and err.startswith("Stopped. ") and told in err and len(err.splitlines()) == 1
    files = sorted(path.name for path in out.glob("0*.png"))
    assert files == ["00-a-zqk-dog-0.png", "00-a-zqk-dog-1.png"][:drawn]
    if drawn:
        assert str(out) in err and (out / "sheet.png").is_file()
        assert [entry["file"] for entry in json.loads((out / "pictures.json").read_text())] == files


def test_prompts_are_numbered_across_batches(run: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "pictures"
    command = ["generate", run, "a {subject}", "a red {subject}", "-n", 3, "--batch-size", 2, "--out", out]
    code, told, _ = dreambooth(monkeypatch, capsys, *command, "--device", "cpu", "--quiet")
    names = [f"{number:02d}-{words}-{seed}.png" for number, words in enumerate(["a-zqk-dog", "a-red-zqk-dog"])
             for seed in range(3)]  # fmt: skip
    assert code == 0 and told == f"6 pictures and sheet.png in {out}\n"
    assert [entry["file"] for entry in json.loads((out / "pictures.json").read_text())] == names
    assert Image.open(out / names[4]).text["prompt"] == "a red zqk dog"


def test_one_picture_is_told_as_one(run: Path, tmp_path: Path, monkeypatch, capsys):
    code, told, _ = dreambooth(monkeypatch, capsys, "generate", run, "a {subject}", "-n", 1, "--quiet")
    assert code == 0 and told == f"1 picture and sheet.png in {run / 'generated'}\n"


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("file", "is no folder"),
        ("file/x", "file is no folder"),
        pytest.param(
            "/proc/x", "/proc/x cannot be written", marks=pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
        ),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_loaded(
    run: Path, tmp_path: Path, monkeypatch, capsys, out: str, told: str
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    shutil.rmtree(run / "model/unet")  # loading the model would be another error
    code, _, err = dreambooth(monkeypatch, capsys, "generate", run, "a {subject}", "--out", out)
    assert code == 1 and err.startswith("error: ") and told in err and len(err.splitlines()) == 1


def test_the_command_that_goes_on_can_be_pasted(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
    run = tmp_path / "mein hund"
    command = ["train", photos, "--class-noun", "dog", "--model", tiny_model, "--out", run, "--device", "cpu", *FAST]
    code, told, err = dreambooth(monkeypatch, capsys, *command)
    assert code == 0, err
    pasted = shlex.split(told.splitlines()[-1].removeprefix("go on with:"))
    assert pasted == ["dreambooth", "generate", str(run), "a {subject} in the snow"]
    code, _, err = dreambooth(monkeypatch, capsys, *command)
    assert code == 1 and f"`dreambooth train --resume '{run}'`" in err
    shutil.rmtree(run / "model")
    for command in (["generate", run, "a {subject}"], ["export", run]):
        code, _, err = dreambooth(monkeypatch, capsys, *command)
        assert code == 1 and f"`dreambooth train --resume '{run}'`" in err


@pytest.mark.parametrize("command", [["train", "photos"], ["generate", "{run}", "a {subject}"], ["compare", "a", "b"]])
def test_seeds_that_no_generator_takes_are_refused_at_once(run: Path, monkeypatch, capsys, command: list[str]):
    words = [word.replace("{run}", str(run)) for word in command]
    code, _, err = dreambooth(monkeypatch, capsys, *words, "--seed", 2**64)
    assert code and "9223372036854775807" in err and "Traceback" not in err


def test_the_greatest_seed_draws(run: Path):
    assert len(load(run, "cpu").generate("a {subject}", count=2, seed=2**63 - 1)) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sampler": "foo"}, "sampler: .* got 'foo'"),
        ({"num_inference_steps": 0}, "num_inference_steps: .* got 0"),
        ({"guidance_scale": -1.0}, "guidance_scale: .* got -1.0"),
        ({"enlarging": Enlarging(noise_level=2.0)}, "sr_noise_level: .* got 2.0"),
    ],
)
def test_sampling_that_no_model_can_draw_with_is_refused(run: Path, change: dict[str, Any], told: str):
    finished = load(run, "cpu")
    with pytest.raises(ConfigError, match=told):
        finished.generate("a {subject}", sampling=replace(finished.sampling, **change))


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_seeds_in_python_are_refused(run: Path, seed: int):
    with pytest.raises(ConfigError, match=f"seed: .* got {seed}"):
        load(run, "cpu").generate("a {subject}", seed=seed)
