"""The command line as a person meets it: the whole road, every wrong turn, and real kills."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from dreambooth import __version__
from dreambooth.__main__ import main

FAST = [
    "--max-train-steps", "6", "--num-class-images", "3", "--prior-steps", "2", "--num-inference-steps", "2",
    "--images-per-prompt", "1", "--train-batch-size", "1", "--preview-steps", "3", "--applications", "properties",
]  # fmt: skip


def dreambooth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object):
    """Exit code, output and errors of one command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["dreambooth", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture(scope="module")
def finished(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    run = folder / "run"
    command = [photos, "--class-noun", "dog", "--model", tiny_model, "--out", run, *FAST]
    done = process("train", *command, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return run


def process(*arguments: object, cache: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after the Python code `before`."""
    code = f"""{before}
import sys
from dreambooth.__main__ import main
sys.argv[1:] = {[str(argument) for argument in arguments]!r}
main()"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(cache))


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"DREAMBOOTH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}.{key}": value
        for file in sorted((run / "model").rglob("*.safetensors"))
        for key, value in load_file(file).items()
    }


class TestTheRoad:
    def test_run_folder_explains_itself(self, finished: Path):
        facts = json.loads((finished / "subject.json").read_text())
        assert facts["class_noun"] == "dog" and facts["identifier"] and facts["instance_prompt"].endswith("dog")
        assert len(facts["photos"]) == 3 and all((finished / entry["file"]).is_file() for entry in facts["photos"])
        assert "max_train_steps = 6" in (finished / "config.toml").read_text()
        assert len((finished / "log.jsonl").read_text().splitlines()) == 6
        assert {"prior samples", "train", "pictures"} <= set(json.loads((finished / "times.json").read_text()))
        assert json.loads((finished / "memory.json").read_text())["tier"] == "fast"
        assert [path.name for path in sorted((finished / "previews").glob("*.png"))] == [
            "step-000003.png",
            "step-000006.png",
        ]
        assert (finished / "prior.png").is_file() and (finished / "report.html").stat().st_size > 10_000
        assert (finished / "samples/properties/sheet.png").is_file()
        for which in ("base", "tuned"):
            assert len(json.loads((finished / f"samples/drift/{which}/pictures.json").read_text())) == 8

    def test_result_is_a_plain_diffusers_pipeline(self, finished: Path, tmp_path: Path):
        script = (
            "import sys; sys.modules['dreambooth'] = None\n"
            "from diffusers import DiffusionPipeline\n"
            f"pipe = DiffusionPipeline.from_pretrained({str(finished / 'model')!r})\n"
            "print(type(pipe).__name__, pipe('a dog', num_inference_steps=1).images[0].size)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stdout.strip() == "StableDiffusionPipeline (64, 64)", done.stderr

    def test_generate(self, finished: Path, tmp_path: Path, monkeypatch, capsys):
        code, out, _ = dreambooth(
            monkeypatch, capsys, "generate", finished, "a {subject} in the jungle", "-n", 2, "--seed", 5,
            "--num-inference-steps", 2, "--sampler", "unipc", "--out", tmp_path / "pictures", "--quiet",
        )  # fmt: skip
        assert code == 0 and "2 pictures" in out
        identifier = json.loads((finished / "subject.json").read_text())["identifier"]
        entries = json.loads((tmp_path / "pictures/pictures.json").read_text())
        assert [entry["seed"] for entry in entries] == [5, 6]
        facts = Image.open(tmp_path / "pictures" / entries[0]["file"]).text
        assert facts["prompt"] == f"a {identifier} dog in the jungle"
        assert facts["seed"] == "5" and facts["sampler"] == "unipc" and facts["model"] == str(finished)
        assert (tmp_path / "pictures/sheet.png").is_file()

    def test_generate_from_file_and_application(self, finished: Path, tmp_path: Path, monkeypatch, capsys):
        (tmp_path / "prompts.txt").write_text("# mine\na {subject}\n\na red {subject}\n")
        code, _, _ = dreambooth(
            monkeypatch, capsys, "generate", finished, "--prompts-file", tmp_path / "prompts.txt", "--application",
            "expressions", "-n", 1, "--num-inference-steps", 1, "--out", tmp_path / "pictures", "--quiet",
        )  # fmt: skip
        count = len(json.loads((tmp_path / "pictures/pictures.json").read_text()))
        assert code == 0 and count == len(list((tmp_path / "pictures").glob("0*.png"))) + len(
            list((tmp_path / "pictures").glob("1*.png"))
        )
        assert count > 6

    def test_python(self, finished: Path):
        import dreambooth as db

        run = db.load(finished)
        one, two = (run.generate("a {subject}", count=2, seed=3) for _ in range(2))
        assert one[0].size == (64, 64) and one[0].tobytes() == two[0].tobytes() != one[1].tobytes()
        assert db.generate(finished, "a {subject}", count=1, seed=3)[0].size == (64, 64)

    def test_dry_run_touches_nothing(self, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        code, out, _ = dreambooth(
            monkeypatch, capsys, "train", photos, "--class_noun", "dog", "--model", tiny_model,
            "--train_batch_size=2", "--gradient-accumulation-steps", 3, "--dry-run",
        )  # fmt: skip
        assert code == 0 and list(tmp_path.iterdir()) == []
        assert "6 photos + 1 × 6 prior samples" in out and "train_batch_size = 2" in out
        assert "memory" in out and "disk" in out and "learning_rate = " in out

    def test_report_again(self, finished: Path, monkeypatch, capsys):
        (finished / "report.html").unlink()
        assert dreambooth(monkeypatch, capsys, "report", finished)[0] == 0
        assert (finished / "report.html").is_file()

    def test_prior_cache_is_shared_between_runs(self, finished: Path, tiny_model: Path, photos: Path, tmp_path: Path):
        command = ["train", photos, "--class-noun", "dog", "--model", tiny_model, "--out", tmp_path / "again", *FAST]
        done = process(*command, "--seed", "0", cache=finished.parent / "cache")
        assert done.returncode == 0 and "The 3 prior samples are taken from" in done.stdout
        one, other = weights(finished), weights(tmp_path / "again")
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_identifiers(self, tiny_model: Path, monkeypatch, capsys):
        code, out, _ = dreambooth(monkeypatch, capsys, "identifiers", "--model", tiny_model, "--count", 3)
        assert code == 0 and "zqk" in out + "zqk" and "not probed" in out
        code, out, _ = dreambooth(monkeypatch, capsys, "identifiers", "--model", tiny_model, "--check", "in")
        assert code == 0 and "common" in out.lower()
        code, out, _ = dreambooth(monkeypatch, capsys, "identifiers", "--model", tiny_model, "--count", 2, "--probe")
        assert code == 0 and "not probed" not in out


WRONG = [
    (["train"], "No photos"),
    (["train", "{photos}", "--model", "{model}", "--judge-clip", "none"], "with --class-noun"),
    (["train", "{photos}", "--model", "no-such-model"], "There is no model 'no-such-model'"),
    (["class-noun", "{photos}", "--encoder", "none"], "There is no encoder 'none'"),
    (["class-noun", "{empty}"], "No usable photo"),
    (["class-noun", "{photos}", "--nouns", "{empty}/none.txt"], "none.txt"),
    (["train", "{photos}/none", "--class-noun", "dog", "--model", "{model}"], "none"),
    (["train", "{empty}", "--class-noun", "dog", "--model", "{model}"], "No usable photo"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "no-such-model"], "There is no model 'no-such-model'"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{photos}"], "no model_index.json"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--resolution", "60"], "multiple of 8"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--device", "cuda:7"], "not available"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--device", "abacus"], "not available"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--instance-prompt", "a dog"], "{subject}"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--preview-prompts", "a {foo}"], "{foo}"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--applications", "cooking"], "cooking"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--identifier", " "], "identifier is empty"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--background", "purplish"], "no colour"),
    (["train", "--config", "{empty}/none.toml"], "no configuration file"),
    (["train", "--resume", "{empty}"], "no run folder"),
    (["train", "--resume", "{run}", "--seed", "3"], "give no others"),
    (["train", "--resume", "{run}", "--dry-run"], "give no others"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--out", "{photos}"], "holds other files"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--out", "{empty}/" + 300 * "x"], "too long"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--learning-rate", "inf"], "finite"),
    (["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--out", "{run}"], "already holds a run"),
    (
        ["train", "{photos}", "--class-noun", "dog", "--model", "{model}", "--out", "{photos}/0.png/run"],
        "cannot be written",
    ),
    (["generate", "{empty}", "a {subject}"], "no run folder"),
    (["generate", "{run}"], "Nothing to draw"),
    (["generate", "{run}", "a {subjet}"], "{subjet}"),
    (["generate", "{run}", "--application", "cooking"], "cooking"),
    (["generate", "{run}", "--prompts-file", "{empty}/none.txt"], "none.txt"),
    (["report", "{empty}"], "no run folder"),
    (["identifiers", "--model", "no-such-model"], "There is no model"),
    (["toybox", "photos", "--class-noun", "unicorn", "--out", "{empty}/x"], "unicorn"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG, ids=[" ".join(a[-2:]) for a, _ in WRONG])
def test_wrong_turns_are_told_in_one_sentence(
    arguments: list[str], told: str, finished: Path, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys
):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(tmp_path)
    places = {"{photos}": photos, "{model}": tiny_model, "{run}": finished, "{empty}": empty}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    code, _, err = dreambooth(monkeypatch, capsys, *arguments)
    assert code == 1 and err.startswith("error: ") and told in err
    assert "Traceback" not in err and len(err.splitlines()) <= 3


def test_versions_for_a_bug_report(monkeypatch, capsys):
    code, told, _ = dreambooth(monkeypatch, capsys, "--version")
    lines = dict(line.split() for line in told.splitlines())
    assert code == 0 and lines["dreambooth"] == __version__ and lines["torch"] == torch.__version__


def test_output_that_cannot_show_every_sign(tiny_model: Path, photos: Path, tmp_path: Path):
    arguments = ["train", photos, "--class-noun", "dog", "--model", tiny_model, "--dry-run"]
    told = subprocess.run(
        [sys.executable, "-m", "dreambooth", *map(str, arguments)],
        env=environment(tmp_path) | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert told.returncode == 0, told.stderr
    assert b" photos + 1 ? " in told.stdout


def test_unknown_flag_names_the_nearest(monkeypatch, capsys):
    code, _, err = dreambooth(monkeypatch, capsys, "train", "x", "--learning-rat", "1")
    assert code == 2 and "--learning-rate" in err


def test_a_photo_that_the_model_cannot_encode_is_named(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys
):
    shutil.copytree(tiny_model, tmp_path / "model")
    (file,) = (tmp_path / "model" / "vae").glob("*.safetensors")
    weights_of_vae = load_file(file)
    weights_of_vae["encoder.conv_in.weight"].fill_(math.nan)
    save_file(weights_of_vae, file, {"format": "pt"})
    code, _, errors = dreambooth(
        monkeypatch, capsys, "train", photos, "--class-noun", "dog", "--model", tmp_path / "model", "--quiet", *FAST,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 1 and "photos/00.png" in errors and "Traceback" not in errors


def test_a_new_run_writes_over_nothing(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
    """Photos in OUT/photos would be replaced by their squares; a model in OUT/model would be taken for the result."""
    for name, content in (("photos", photos), ("model", tiny_model)):
        project = tmp_path / name / "project"
        shutil.copytree(content, project / name)
        before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
        code, _, errors = dreambooth(
            monkeypatch, capsys, "train", photos, "--class-noun", "dog", "--model", tiny_model, *FAST, "--out", project
        )
        assert code == 1 and f"holds other files, such as {name}" in errors
        assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: (run / "config.toml").write_text(""), "lacks settings"),
        (lambda run: (run / "subject.json").write_text("{}"), "is not what a run writes"),
        (lambda run: (run / "photos" / "01.png").write_text("x"), "01.png is missing or broken"),
        (lambda run: (run / "photos" / "01.png").unlink(), "01.png is missing or broken"),
    ],
)
def test_a_damaged_run_is_not_gone_on_with(
    finished: Path, tmp_path: Path, monkeypatch, capsys, damage: Callable[[Path], object], told: str
):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("model", "samples", "checkpoints"))
    (tmp_path / "run" / "checkpoints").mkdir()
    damage(tmp_path / "run")
    code, _, errors = dreambooth(monkeypatch, capsys, "train", "--resume", tmp_path / "run", "--quiet")
    assert code == 1 and told in errors and "Traceback" not in errors


def test_full_disk_is_told_before_the_start(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 10))
    code, _, err = dreambooth(
        monkeypatch,
        capsys,
        "train",
        photos,
        "--class-noun",
        "dog",
        "--model",
        tiny_model,
        "--out",
        tmp_path / "run",
        *FAST,
    )
    assert code == 1 and "GB free" in err and not (tmp_path / "run").exists()


def test_second_process_on_one_run_folder_is_refused(finished: Path, monkeypatch, capsys):
    with FileLock(finished / ".lock"):
        code, _, err = dreambooth(monkeypatch, capsys, "train", "--resume", finished)
    assert code == 1 and "Another process is working on" in err


@pytest.mark.parametrize("moment", ["prior", "training"])
def test_interrupt_says_how_to_go_on(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys, moment: str):
    """Ctrl-C while prior samples are drawn, and while it trains."""
    from dreambooth import prior, trainer

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    real = trainer.noise_and_time

    def press_once(*arguments: object):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(trainer, "noise_and_time", real)
        return real(*arguments)

    if moment == "prior":
        monkeypatch.setattr(prior, "save_whole", press)
    else:
        monkeypatch.setattr(trainer, "noise_and_time", press_once)
    run = tmp_path / "my run"
    # A shell that starts the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, err = dreambooth(
            monkeypatch, capsys, "train", photos, "--class-noun", "dog", "--model", tiny_model, "--out", run, *FAST
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130 and f"dreambooth train --resume '{run}'" in err and "error" not in err


class TestKill:
    """A run killed at any moment ends, resumed, with bit-identical weights."""

    def command(self, tiny_model: Path, photos: Path, run: Path) -> list[object]:
        return [
            "train",
            photos,
            "--class-noun",
            "dog",
            "--model",
            tiny_model,
            "--out",
            run,
            *FAST,
            "--checkpointing-steps",
            2,
        ]

    def resumed_equals(self, finished: Path, run: Path) -> None:
        done = process("train", "--resume", run, cache=run.parent / "cache")
        assert done.returncode == 0, done.stderr
        one, other = weights(finished), weights(run)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
        assert (run / "report.html").is_file()

    @pytest.mark.parametrize("moment", ["prior", "training"])
    def test_at_any_moment(self, finished: Path, tiny_model: Path, photos: Path, tmp_path: Path, moment: str):
        run, cache = tmp_path / "run", tmp_path / "cache"
        arguments = [str(a) for a in self.command(tiny_model, photos, run)]
        running = subprocess.Popen(
            [sys.executable, "-m", "dreambooth", *arguments], env=environment(cache), stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120

        def reached() -> bool:
            if moment == "prior":
                return bool(list(cache.rglob("*.safetensors")))
            log = run / "log.jsonl"
            return log.is_file() and len(log.read_text().splitlines()) >= 3

        while not reached() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert running.poll() is None, "it ended before it could be killed"
        running.send_signal(signal.SIGKILL)
        running.wait()
        self.resumed_equals(finished, run)

    @pytest.mark.parametrize("file", ["optimizer", "model"])
    def test_in_the_middle_of_a_save(self, finished: Path, tiny_model: Path, photos: Path, tmp_path: Path, file: str):
        run = tmp_path / "run"
        patch = """
import os, signal, safetensors.torch
real = safetensors.torch.save_file
def half_then_die(tensors, path, *rest, **more):
    real(tensors, path, *rest, **more)
    if PLACE in str(path):
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = half_then_die
"""
        # The second checkpoint's optimizer, or the finished model's weights.
        if file == "optimizer":
            before = "PLACE = '.writing/optimizer'\ncount = 0" + patch.replace(
                "if PLACE in str(path):", "global count\n    count += PLACE in str(path)\n    if count == 2:"
            )
        else:
            before = (
                "import dreambooth.backbones.latent_diffusion as ld, os, signal\n"
                "def half(self, folder):\n"
                "    self.pipeline.unet.save_pretrained(folder / 'unet')\n"
                "    os.kill(os.getpid(), signal.SIGKILL)\n"
                "ld.LatentDiffusion.save_pipeline = half"
            )
        killed = process(*self.command(tiny_model, photos, run), cache=tmp_path / "cache", before=before)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (run / "model").exists()
        self.resumed_equals(finished, run)
