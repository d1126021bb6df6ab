"""The whole command on a tiny model."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers import UNet2DConditionModel
from typer.testing import CliRunner

from benchmarks import __main__ as program
from benchmarks import memory, peers, process, sizes, suite, worker
from benchmarks.clock import STARTED
from benchmarks.floor import dtype_of
from benchmarks.task import Outcome, Task
from benchmarks.tier_estimates import ENCODERS
from dreambooth.backbones import of_pipeline
from dreambooth.backbones.source import Source
from dreambooth.errors import ConfigError
from dreambooth.evaluation.encoders import clip_name, dino_name
from dreambooth.precision import MixedPrecision
from tests import tiny

PEER = """
import sys, shutil
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
assert "--with_prior_preservation" in sys.argv and flags["num_class_images"] == "2" and flags["max_train_steps"] == "2"
shutil.copytree(flags["pretrained_model_name_or_path"], flags["output_dir"])
"""


def run(*arguments: str):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(program.main)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers do in this process what they do in one of their own: it need not import everything a dozen times."""
    dino, clip = tiny.saved_dino(tmp_path / "dino"), tiny.saved_clip(tmp_path / "clip")
    monkeypatch.setattr("dreambooth.evaluation.encoders.dino_name", lambda model: str(dino))
    monkeypatch.setattr("dreambooth.evaluation.encoders.clip_name", lambda model: str(clip))

    def measure(task: Task) -> Outcome:
        monkeypatch.setenv(STARTED, repr(time.time()))
        Path(task.work).mkdir(parents=True, exist_ok=True)
        return worker.measurement(task)(task)

    monkeypatch.setattr(process, "measure", measure)


@pytest.mark.usefixtures("in_this_process")
def test_every_part_of_every_side(tiny_model: Path, tmp_path: Path):
    (tmp_path / "peer.py").write_text(PEER)
    counts = ("--quick", "--device", "cpu", "--threads", "1", "--steps", "2", "--prior", "2")
    peer = f"--peer=copy={tmp_path / 'peer.py'}"
    parts = "job,step,prior,generation,profile"
    run("--sizes", str(tiny_model), "--parts", parts, *counts, peer, "--fewer=1:3", "--out", str(tmp_path / "out"))
    found = {(entry["part"], entry["side"]): entry for entry in json.loads((tmp_path / "out/results.json").read_text())}
    both = {(part, side) for part in parts.split(",") for side in ("ours", "plain")}
    assert set(found) == both | {("job", "copy"), ("job", "ours, fewer"), ("step", "floor")}
    assert {entry["note"] for entry in found.values()} == {""}
    for side in ("ours", "ours, fewer", "plain", "copy"):
        assert set(found["job", side]["values"]) == {"seconds", "processor_seconds", "peak_bytes", "dino", "clip_t"}
    assert found["step", "floor"]["values"]["seconds"][0] < found["step", "plain"]["values"]["seconds"][0]
    assert {"convolutions", "optimizer"} <= set(found["profile", "ours"]["values"])
    table = (tmp_path / "out/results.md").read_text()
    assert "whole job: 3 prior samples, 1 steps, 4 pictures | ours, fewer |" in table
    assert "| copy |" in table and "× as fast" in table and "The floor of a step" in table


def test_an_embedded_model_is_judged_by_the_judges_of_its_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The job works on a folder that holds a copy of the model; the judges are chosen by the model's name."""
    asked: list[Task] = []
    monkeypatch.setattr(process, "measure", lambda task: asked.append(task) or Outcome({"seconds": 1.0}))
    plan = suite.Plan(sizes=("toybox-sd",), devices=("cpu",), work=tmp_path, threads=1, parts=("job",), repeats=1)
    part = suite.Part(plan, sizes.size_of("toybox-sd"), "cpu", "job", print)
    part.outcome(replace(part.task("job", "ours"), size=str(tmp_path / "copy")), "ours")
    assert [(task.part, task.size) for task in asked] == [("job", str(tmp_path / "copy")), ("judge", "toybox-sd")]
    assert dino_name(asked[1].size) == "toybox-dino" and clip_name(asked[1].size) == "toybox-clip"


@pytest.mark.parametrize(("precision", "autocast"), [("no", False), ("bf16", True)])
def test_ours_and_its_floor_compute_in_what_is_asked_for(
    precision: MixedPrecision, autocast: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[bool] = []
    forward = UNet2DConditionModel.forward

    def spy(*given: Any, **more: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(*given, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", spy)
    task = Task("step", "ours", str(tiny_model), "cpu", 1, str(tmp_path), "", "zqk", 64, 1, 1, 1, 1e-3)
    worker.measurement(task)(replace(task, mixed_precision=precision))
    assert set(seen) == {autocast}
    assert dtype_of(precision, "cpu") == (torch.bfloat16 if autocast else torch.float32)


def test_a_worker_is_a_process_of_its_own(tiny_model: Path, tmp_path: Path):
    task = Task("generation", "plain", str(tiny_model), "cpu", 1, str(tmp_path), "", "zqk", 64, 1, 1, 1, 1e-3)
    outcome = process.measure(task)
    assert outcome.note == "" and outcome.numbers["seconds"] > 0 and outcome.numbers["peak_bytes"] > 1e8
    assert (tmp_path / "outcome.json").is_file()


def test_a_device_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run("--sizes", str(tiny_model), "--device", "cuda", "--parts", "step", "--out", str(tmp_path))
    assert "not measured: there is no CUDA device here" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--sizes", "sd9"), "There is no size 'sd9'. Give toybox-sd, sd15, sdxl, or a diffusers folder."),
        (("--sizes", "toybox-if"), "There is no size 'toybox-if'"),
        (("--parts", "step,stride"), "There is no part 'stride'"),
        (("--device", "tpu"), "There is no device 'tpu'"),
        (("--fewer", "60"), "'60' is no STEPS:PRIOR; give two counts"),
        (("--fewer", "0:4"), "'0:4' is no STEPS:PRIOR"),
        (("--peer", "train.py"), "'train.py' is no peer; give NAME=PATH"),
        (("--peer", "other=nowhere.py"), "There is no script nowhere.py"),
        (("--peer", "plain=nowhere.py"), "'plain' is the name of a side"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], told: str, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        run(*arguments, "--out", str(tmp_path))
    assert told in str(error.value)


def test_a_process_that_fails_says_why_and_what_it_took():
    ended = process.run([sys.executable, "-c", "raise SystemExit('no luck')"], threads=1)
    assert (ended.status, process.last_line(ended)) == (1, "no luck") and ended.peak_bytes > 1e6 and ended.seconds > 0


def test_what_does_not_fit_is_told_before_it_is_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20_000_000_000)
    assert memory.shortage(859_520_964, "cpu") == ""
    assert memory.shortage(2_567_463_684, "cpu") == "not measured: needs about 44 GB, 20 GB are free"


def test_random_weights_have_the_published_shapes():
    size = sizes.size_of("sd15")
    assert size.latents(256) == (4, 32, 32) and (size.resolution("cpu"), size.resolution("cuda")) == (256, 512)
    assert sizes.added_conditioning(size.denoiser, 2) is None
    added = sizes.added_conditioning(sizes.size_of("sdxl").denoiser, 2)
    assert added is not None and {name: tuple(value.shape) for name, value in added.items()} == {
        "text_embeds": (2, 1280),
        "time_ids": (2, 6),
    }


def test_sdxl_with_random_weights_is_the_published_one(monkeypatch: pytest.MonkeyPatch):
    """Counted without weights, and every number of them that the estimates name."""
    size = sizes.size_of("sdxl")
    with torch.device("meta"):
        pipeline = sizes.pipeline(size)
    backbone = of_pipeline(pipeline, Source("sdxl", "", "folder"))
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in backbone.modules.items()}
    assert counts.pop("denoiser") == 2_567_463_684 and sum(counts.values()) == ENCODERS["sdxl"]
    spec = backbone.spec
    assert (spec.family, spec.resolution, spec.native_size) == ("stable-diffusion-xl", 1024, (4, 128, 128))
    assert (spec.max_tokens, spec.learning_rate, spec.lora.learning_rate) == (77, 5e-6, 1e-4)


@pytest.mark.parametrize("side", ["ours", "plain"])
@pytest.mark.parametrize("part", ["step", "prior", "generation"])
def test_sdxl_is_measured_on_both_sides(tiny_xl: Path, photos: Path, tmp_path: Path, part: str, side: str):
    task = Task(part, side, str(tiny_xl), "cpu", 1, str(tmp_path / "work"), str(photos), "zqk", 64, 1, 2, 2, 1e-3)
    Path(task.work).mkdir()
    outcome = worker.measurement(task)(task)
    assert outcome.note == "" and (outcome.numbers.get("seconds") or outcome.numbers["per_second"]) > 0


def test_what_does_not_fit_is_not_even_prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20_000_000_000)
    monkeypatch.setattr(process, "measure", lambda task: pytest.fail("a process was started"))
    plan = suite.Plan(sizes=("sdxl",), devices=("cpu",), work=tmp_path, threads=1, parts=("step",), repeats=1)
    found = suite.Part(plan, sizes.size_of("sdxl"), "cpu", "step", print).measure()
    assert {record.side: record.note for record in found} == dict.fromkeys(
        ("ours", "plain"), "not measured: needs about 44 GB, 20 GB are free"
    )


def test_outcomes_and_peers_travel():
    outcome = Outcome({"seconds": 1.5}, {"phases": {"train": 1.0}})
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert peers.parse(f"diffusers={__file__}").script == Path(__file__).resolve()
