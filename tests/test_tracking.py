"""Judging as training goes: it changes nothing, forgets nothing, keeps the best, and knows when to stop."""

import doctest
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from dreambooth import backbones, tracking
from dreambooth.backbones.protocol import Sampling
from dreambooth.checkpoint import TRACK, RunFolder
from dreambooth.config import make_config
from dreambooth.errors import RunError
from dreambooth.evaluation.balance import Scores, balance
from dreambooth.evaluation.encoders import clip_encoder, dino_encoder
from dreambooth.methods.full import FullFineTuning
from dreambooth.tracking import Evaluator, Probe, Tracker
from dreambooth.trainer import StepReport, finetune
from tests import tiny
from tests.test_cli import FAST, dreambooth, environment, weights
from tests.test_trainer import assert_equal, examples, settings

PROBES = [
    Probe("a {subject}", "a zqk dog", "a dog"),
    Probe("a {subject} on beach", "a zqk dog on beach", "a dog on beach"),
    Probe("a {class}", "a dog", "a dog"),
]
CEILING = 0.8


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a DINO and a CLIP, tiny and untrained."""
    folder = tmp_path_factory.mktemp("judges")
    return tiny.saved_dino(folder), tiny.saved_clip(folder)


@pytest.fixture
def evaluator(judges: tuple[Path, Path], photos: Path) -> Callable[..., Evaluator]:
    """Makes the evaluator of a backbone."""
    pictures = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]

    def make(backbone: object, count: int = 3, seeds: Sequence[int] = (0, 1)) -> Evaluator:
        dino, clip = dino_encoder(str(judges[0])), clip_encoder(str(judges[1]))
        sampling = Sampling(num_inference_steps=2, guidance_scale=2.0)
        return Evaluator(backbone, dino, clip, pictures[:count], PROBES, seeds, sampling)

    return make


class Played:
    """An evaluator whose scores are given, for the sake of what is done with them."""

    ceiling = CEILING

    def __init__(self, course: dict[int, tuple[float, float, float]]) -> None:
        self.course = {0: (0.4, 0.3, 0.4)} | course
        self.asked: list[int] = []

    def __call__(self, step: int, plain: bool = False, progress: object = None) -> Scores:
        self.asked.append(step)
        return Scores(step, *self.course[step])

    def settings(self) -> dict[str, str]:
        return {"judges": "played"}


def dinos(*values: float) -> Played:
    """DINO after steps 2, 4, ..., all else as it was."""
    return Played({2 * number: (value, 0.3, 0.4) for number, value in enumerate(values, 1)})


def open_run(folder: Path) -> RunFolder:
    return RunFolder.open(folder) if (folder / "config.toml").exists() else RunFolder.create(folder, make_config({}))


def train(model: Path, folder: Path, evaluate: object, patience: int | None = None, **changes):
    """The tracker and the method after training, tracked every other step, in a new or existing run folder."""
    run, backbone, method = open_run(folder), backbones.load(str(model)), FullFineTuning()
    tracker = Tracker(run, method, evaluate(backbone) if callable_maker(evaluate) else evaluate, patience)
    tracker.begin()
    s = settings(**({"max_train_steps": 6, "track_steps": 2, "train_batch_size": 1} | changes))
    finetune(backbone, method, examples(), s, run, judge=tracker)
    return tracker, method


def callable_maker(evaluate: object) -> bool:
    return not isinstance(evaluate, Evaluator | Played)


def rows(folder: Path) -> list[dict]:
    """The lines of track.jsonl but for the seconds they took."""
    entries = [json.loads(line) for line in (folder / TRACK).read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def best_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "best").iterdir())


def copy_of(method: FullFineTuning) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


class TestEvaluator:
    def test_the_same_weights_get_the_same_scores(self, tiny_model: Path, evaluator):
        evaluate = evaluator(backbones.load(str(tiny_model)))
        torch.manual_seed(1)
        one = evaluate(7)
        torch.manual_seed(2)
        assert evaluate(7) == one and one.step == 7
        assert all(-1 <= value <= 1 for value in (one.dino, one.clip_t, one.pres))

    def test_plain_leaves_the_identifier_out(self, tiny_model: Path, evaluator):
        evaluate = evaluator(backbones.load(str(tiny_model)))
        plain, named = evaluate(0, plain=True), evaluate(0)
        assert plain.pres == named.pres  # "a dog" either way
        assert (plain.dino, plain.clip_t) != (named.dino, named.clip_t)

    def test_means_over_the_pictures_that_each_metric_is_about(self, tiny_model: Path, evaluator):
        from dreambooth.evaluation.metrics import pairwise_fidelity, prompt_fidelity

        backbone = backbones.load(str(tiny_model))
        evaluate, sampling = evaluator(backbone, seeds=(3,)), Sampling(num_inference_steps=2, guidance_scale=2.0)
        one, two, bare = (backbone.generate([probe.prompt], [3], sampling)[0] for probe in PROBES)
        texts = evaluate.clip.embed_texts(["a dog", "a dog on beach"])
        scores = evaluate(1)
        dino = pairwise_fidelity(evaluate.dino.embed_images([one, two]), evaluate.photos)
        assert scores.dino == pytest.approx(float(dino.mean()), abs=1e-4)
        clip_t = prompt_fidelity(evaluate.clip.embed_images([one, two]), texts)
        assert scores.clip_t == pytest.approx(float(clip_t.mean()), abs=1e-4)
        pres = pairwise_fidelity(evaluate.dino.embed_images([bare]), evaluate.photos)
        assert scores.pres == pytest.approx(float(pres.mean()), abs=1e-4)

    def test_one_photo_alone_has_the_highest_ceiling(self, tiny_model: Path, evaluator):
        backbone = backbones.load(str(tiny_model))
        assert evaluator(backbone, count=1).ceiling == 1.0
        assert evaluator(backbone, count=3).ceiling < 1.0


class TestTheLoop:
    @pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9}])
    def test_tracked_is_bit_identical_to_untracked(self, tiny_model: Path, evaluator, tmp_path: Path, extra: dict):
        backbone, method = backbones.load(str(tiny_model)), FullFineTuning()
        s = settings(max_train_steps=6, train_batch_size=1, **extra)
        finetune(backbone, method, examples(), s, open_run(tmp_path / "plain"))
        _, tracked = train(tiny_model, tmp_path / "tracked", evaluator, **extra)
        assert_equal(copy_of(method), copy_of(tracked))
        logs = [RunFolder(tmp_path / name).read_log() for name in ("plain", "tracked")]
        for one, other in zip(*logs, strict=True):
            assert one | {"seconds": 0} == other | {"seconds": 0}

    def test_every_so_many_steps_and_after_the_last(self, tiny_model: Path, evaluator, tmp_path: Path):
        train(tiny_model, tmp_path / "run", evaluator, max_train_steps=5)
        found = rows(tmp_path / "run")
        assert [row["step"] for row in found] == [0, 2, 4, 5]
        base = Scores(*(found[0][name] for name in ("step", "dino", "clip_t", "pres")))
        for row in found[1:]:
            scores = Scores(*(row[name] for name in ("step", "dino", "clip_t", "pres")))
            assert row["balance"] == pytest.approx(balance(scores, base, found[0]["ceiling"]))

    def test_it_stops_where_the_course_says_so_and_stays_stopped(self, tiny_model: Path, tmp_path: Path):
        course = {step: (0.7, 0.3, 0.4 + 0.01 * step) for step in (2, 4, 6, 8, 10, 12)}
        tracker, _ = train(tiny_model, tmp_path / "run", Played(course), patience=2, max_train_steps=12)
        run = tracker.folder
        assert run.read_log()[-1]["step"] == 6 and run.checkpoints()[-1].step == 6
        assert tracker.enough(6) and not tracker.enough(4)
        told = tracker.summary(kept_best=True)
        assert told.startswith("Stopped after step 6: over 2 judgements DINO rose no more, and PRES rose from 0.420 to")
        assert "The model has the weights of step 2:" in told

    def test_without_patience_it_never_stops(self, tiny_model: Path, tmp_path: Path):
        course = {step: (0.7, 0.3, 0.4 + 0.01 * step) for step in (2, 4, 6)}
        tracker, _ = train(tiny_model, tmp_path / "run", Played(course))
        assert tracker.folder.read_log()[-1]["step"] == 6 and "Stopped" not in tracker.summary(kept_best=False)

    def test_processes_stop_together(self, tiny_model: Path, tmp_path: Path):
        """Only the main process judges; the other hears its answer."""
        script = tmp_path / "both.py"
        script.write_text(f"""
import sys
from pathlib import Path
from accelerate import PartialState
from dreambooth import backbones
from dreambooth.methods.full import FullFineTuning
from dreambooth.trainer import finetune
from tests.test_tracking import open_run
from tests.test_trainer import examples, settings

world = PartialState(cpu=True)
asked, run = [], Path({str(tmp_path / "run")!r})
folder = open_run(run) if world.is_main_process else None
world.wait_for_everyone()
def judge(step):
    assert world.is_main_process
    asked.append(step)
    return step >= 4
s = settings(max_train_steps=8, train_batch_size=1, track_steps=2)
finetune(backbones.load({str(tiny_model)!r}), FullFineTuning(), examples(), s, folder or open_run(run), judge=judge)
print("ended", world.process_index, asked, flush=True)
""")
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
        env = environment(tmp_path / "cache") | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "ended 0 [2, 4]" in done.stdout and "ended 1 []" in done.stdout
        assert RunFolder(tmp_path / "run").read_log()[-1]["step"] == 4


class TestTheBest:
    def test_the_best_weights_are_kept_and_loaded(self, tiny_model: Path, tmp_path: Path):
        evaluate = dinos(0.6, 0.7, 0.5)
        straight, method = train(tiny_model, tmp_path / "run", evaluate)
        last, best = copy_of(method), straight.load_best()
        assert best == Scores(4, 0.7, 0.3, 0.4) and best_files(tmp_path / "run") == ["step-000004.safetensors"]
        _, short = train(tiny_model, tmp_path / "short", dinos(0.6, 0.7), max_train_steps=4)
        assert_equal(copy_of(method), copy_of(short))
        assert any(not torch.equal(last[key], value) for key, value in method.state_dict().items())

    def test_of_equals_the_first(self, tiny_model: Path, tmp_path: Path):
        tracker, _ = train(tiny_model, tmp_path / "run", dinos(0.6, 0.6, 0.6))
        assert best_files(tmp_path / "run") == ["step-000002.safetensors"]
        assert tracker.summary(True).startswith("The model has the weights of step 2: DINO 0.600")

    def test_averaged_weights_are_what_is_judged_and_kept(self, tiny_model: Path, tmp_path: Path):
        tracker, method = train(tiny_model, tmp_path / "run", dinos(0.5, 0.6, 0.7), ema_decay=0.9, merge_ratio=0.5)
        averaged = copy_of(method)
        assert tracker.load_best() == Scores(6, 0.7, 0.3, 0.4)
        assert_equal(averaged, copy_of(method))

    def test_broken_best_weights_are_named(self, tiny_model: Path, tmp_path: Path):
        tracker, _ = train(tiny_model, tmp_path / "run", dinos(0.6, 0.7, 0.5))
        (tmp_path / "run/best/step-000004.safetensors").write_bytes(b"broken")
        with pytest.raises(RunError, match="step-000004"):
            tracker.load_best()

    def test_a_full_disk_is_told(self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def full_disk(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full_disk)
        with pytest.raises(RunError, match="cannot be written: No space left"):
            train(tiny_model, tmp_path / "run", dinos(0.6, 0.7, 0.5))


class Cut(Exception):
    """A kill."""


class TestResume:
    """Wherever a run is cut, it goes on with the same rows and the same best weights, as if never stopped."""

    COURSE = (0.6, 0.7, 0.65, 0.75)
    STEPS: ClassVar = {"max_train_steps": 8, "checkpointing_steps": 3}

    @pytest.fixture(scope="class")
    def expected(self, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
        """Weights and rows of a run that nobody stopped."""
        folder = tmp_path_factory.mktemp("straight") / "run"
        _, method = train(tiny_model, folder, dinos(*self.COURSE), **self.STEPS)
        return copy_of(method), rows(folder)

    @pytest.mark.parametrize("step", [2, 4, 8])
    @pytest.mark.parametrize("moment", ["evaluating", "row", "kept"])
    def test_cut_anywhere(
        self, tiny_model: Path, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, moment: str
    ):
        cut, evaluate = tmp_path / "cut", dinos(*self.COURSE)

        class Falling(Played):
            def __call__(self, at: int, plain: bool = False, progress: object = None) -> Scores:
                if at >= step and moment == "evaluating":
                    raise Cut
                return super().__call__(at)

        append = RunFolder.append_log

        def cut_append(self: RunFolder, entry: dict, name: str = "log.jsonl") -> None:
            if name == TRACK and entry["step"] >= step and moment == "row":
                raise Cut
            append(self, entry, name)
            if name == TRACK and entry["step"] >= step and moment == "kept":
                raise Cut

        monkeypatch.setattr(RunFolder, "append_log", cut_append)
        with pytest.raises(Cut):
            train(tiny_model, cut, Falling(evaluate.course), **self.STEPS)
        monkeypatch.undo()
        tracker, method = train(tiny_model, cut, evaluate, **self.STEPS)
        assert_equal(expected[0], copy_of(method))
        assert rows(cut) == expected[1] and evaluate.asked.count(0) == 0
        assert tracker.load_best() == Scores(8, 0.75, 0.3, 0.4)

    def test_a_best_that_was_undone_is_not_missed(self, tiny_model: Path, tmp_path: Path):
        """Resumed from step 3, where step 2 was best, though step 4 had already taken its place."""
        run = tmp_path / "run"

        def press(report: StepReport) -> None:
            if report.step == 5:
                raise Cut

        backbone, method = backbones.load(str(tiny_model)), FullFineTuning()
        tracker = Tracker(open_run(run), method, dinos(0.6, 0.7))
        tracker.begin()
        s = settings(max_train_steps=6, train_batch_size=1, track_steps=2, checkpointing_steps=3)
        with pytest.raises(Cut):
            finetune(backbone, method, examples(), s, tracker.folder, press, judge=tracker)
        assert best_files(run) == ["step-000002.safetensors", "step-000004.safetensors"]
        # This time, as on a device that rounds otherwise, step 4 comes out worse.
        tracker, method = train(tiny_model, run, dinos(0.6, 0.5, 0.55), checkpointing_steps=3)
        assert tracker.load_best() == Scores(2, 0.6, 0.3, 0.4) and best_files(run) == ["step-000002.safetensors"]

    def test_a_line_cut_short_is_judged_again(self, tiny_model: Path, expected, tmp_path: Path):
        folder = open_run(tmp_path / "run")
        (folder.path / TRACK).write_text('{"step": 0, "dino": 0.')
        train(tiny_model, folder.path, dinos(*self.COURSE), **self.STEPS)
        assert rows(folder.path) == expected[1]

    def test_other_judges_are_refused(self, tiny_model: Path, tmp_path: Path):
        train(tiny_model, tmp_path / "run", dinos(0.6, 0.7, 0.5))
        other = dinos(0.6, 0.7, 0.5)
        other.settings = lambda: {"judges": "others"}
        with pytest.raises(RunError, match=r"other encoders or on other prompts"):
            train(tiny_model, tmp_path / "run", other)

    def test_deleted_rows_begin_anew(self, tiny_model: Path, tmp_path: Path):
        train(tiny_model, tmp_path / "run", dinos(0.6, 0.7, 0.5))
        (tmp_path / "run" / TRACK).unlink()
        tracker, _ = train(tiny_model, tmp_path / "run", dinos(0.6, 0.7, 0.5, 0.55), max_train_steps=8)
        assert [row["step"] for row in rows(tmp_path / "run")] == [0, 8]
        assert tracker.best(tracker.course()) == Scores(8, 0.55, 0.3, 0.4)


class TestTheRoad:
    def flags(self, judges: tuple[Path, Path], *more: object) -> list[object]:
        dino, clip = judges
        prompts = [("--track-prompts", prompt) for prompt in ("a {subject}", "a {class}")]
        words = [word for pair in prompts for word in pair]
        often = ["--track-steps", 2, "--track-images", 1]
        return [*FAST, "--judge-dino", dino, "--judge-clip", clip, *often, *words, *more]

    def test_tracked_run_and_what_it_leaves(
        self, tiny_model: Path, photos: Path, judges: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys
    ):
        run = tmp_path / "run"
        code, out, err = dreambooth(
            monkeypatch, capsys, "train", photos, "--class-noun", "dog", "--model", tiny_model, "--out", run,
            *self.flags(judges, "--track"),
        )  # fmt: skip
        assert code == 0, err
        assert [row["step"] for row in rows(run)] == [0, 2, 4, 6]
        assert "The model has the weights of step" in out and "CLIP-T" in out
        assert "Fidelity and drift" in (run / "report.html").read_text(encoding="utf-8")
        (best,) = best_files(run)
        kept = tracking.read_tensors(run / "best" / best)
        model = {key.removeprefix("unet."): value for key, value in weights(run).items() if key.startswith("unet.")}
        tuned = {key.removeprefix("denoiser."): value for key, value in kept.items() if key.startswith("denoiser.")}
        assert_equal(tuned, model)

    def test_killed_and_resumed_with_the_last_weights_on_request(
        self, tiny_model: Path, photos: Path, judges: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys
    ):
        """Early stopping implies tracking; a run that died between a judgement and its checkpoint ends the same."""
        command = ["train", photos, "--class-noun", "dog", "--model", tiny_model]
        more = self.flags(judges, "--early-stop", "--no-keep-best", "--checkpointing-steps", 2)
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        code, out, _ = dreambooth(monkeypatch, capsys, *command, "--out", whole, *more)
        assert code == 0 and "has the best weights, those of step" in out

        def die(self: Tracker, step: int) -> bool:
            answer = real(self, step)
            if step == 4:
                raise Cut
            return answer

        real = Tracker.__call__
        with monkeypatch.context() as patched, pytest.raises(Cut):
            patched.setattr(Tracker, "__call__", die)
            dreambooth(monkeypatch, capsys, *command, "--out", cut, *more)
        assert [row["step"] for row in rows(cut)] == [0, 2, 4]
        assert dreambooth(monkeypatch, capsys, "train", "--resume", cut)[0] == 0
        assert rows(cut) == rows(whole) and best_files(cut) == best_files(whole)
        assert_equal(weights(whole), weights(cut))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--track"], "encoder"),
        (["--track", "--judge-dino", "no-such"], "There is no encoder 'no-such'"),
        (["--track-prompts", "a {subject}"], "track_prompts must hold a prompt with {subject} and one without"),
        (["--track-prompts", "a {subject}", "--track-prompts", "a {foo}"], "{foo}"),
        (["--track", "--track-steps", "0"], "track_steps"),
    ],
)
def test_wrong_turns(more: list[str], told: str, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    code, _, err = dreambooth(monkeypatch, capsys, "train", photos, "--class-noun", "dog", "--model", tiny_model, *more)
    assert code != 0 and told in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_examples():
    result = doctest.testmod(tracking)
    assert result.attempted and not result.failed
