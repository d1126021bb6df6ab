"""A benchmark on tiny real models: the whole way, each phase done once, real kills, wrong turns."""

import csv
import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from dreambooth.errors import ConfigError, ModelError, PhotoError, RunError
from dreambooth.evaluation import benchmark, encoders, variants, workers
from dreambooth.evaluation.benchmark import work
from dreambooth.evaluation.benchmark_plan import Member, Plan, Settings, check_settings, train_config
from dreambooth.evaluation.benchmark_setup import keep_photos, make_judges, set_up
from dreambooth.evaluation.results import Cell, Results, pixel_hash, write_results
from dreambooth.evaluation.scores import REAL, read_json
from dreambooth.evaluation.suite import SuiteSubject, read_folder, subject_prompts
from dreambooth.evaluation.tables_page import write_tables
from dreambooth.evaluation.variants import DREAMBENCH_NOUNS, parse_methods
from dreambooth.masks import with_masks
from dreambooth.subject import load_subject
from dreambooth.toybox.suites import suites
from dreambooth.ui import Display
from tests import tiny
from tests.test_cli import dreambooth, environment

SIZE = {"prompts": 2, "images_per_prompt": 2, "class_images": 2}
LAST = {"max_train_steps": 4, "num_class_images": 2}
TRAIN = {"train_batch_size": 1, "prior_steps": 1, "num_inference_steps": 1, "checkpointing_steps": 2}


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny encoders, by the names that the settings give them."""
    folder = tmp_path_factory.mktemp("judges")
    dino = str(tiny.saved_dino(folder / "dino"))
    return {"dino": dino, "clip": str(tiny.saved_clip(folder / "clip")), "perceptual": f"dino-patch:{dino}"}


@pytest.fixture(scope="session")
def suite(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of three photos each."""
    folder = tmp_path_factory.mktemp("suites") / "pets"
    for name in ("cat", "dog"):
        shutil.copytree(photos, folder / name)
    return folder


def flags(model: Path, suite: Path, judges: dict[str, str], out: Path, config: Path) -> list[str]:
    """The command with the settings of `settings`."""
    config.write_text("".join(f"{name} = {value}\n" for name, value in TRAIN.items()))
    given = {"suite": suite, "model": model, "config": config, "out": out, **judges, **SIZE, **LAST}
    return ["benchmark", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def settings(model: Path, judges: dict[str, str], **changes: object) -> Settings:
    return Settings(**{"suite": "pets", "model": str(model), "train": TRAIN, "last": LAST, **SIZE, **judges} | changes)


def prepared(out: Path, suite: Path, settings: Settings, methods: list[str], count: int = 2, **more: bool) -> Results:
    """A benchmark that is ready to be worked on."""
    results, subjects = Results(out), read_folder(suite).subjects[:count]
    members = [Member(name=one.name, class_noun=one.class_noun, live=one.live) for one in subjects]
    out.mkdir(exist_ok=True)
    plan = Plan(settings=settings, methods=methods, members=members, keep_models=more.get("keep_models", False))
    set_up(results, plan, subjects, more.get("rescore", False), Display(quiet=True))
    return results


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copied(finished: Results, folder: Path, method: str = "base") -> tuple[Results, Cell]:
    """The finished benchmark in a folder of its own, and one of its cells."""
    shutil.copytree(finished.path, folder)
    results = Results(folder)
    return results, next(cell for cell in results.all_cells(results.plan()) if cell.method == method)


def finish(results: Results) -> str:
    """The scores.csv of a benchmark, once nothing is left to do."""
    work(results)
    write_results(results, results.plan())
    return (results.path / "scores.csv").read_text()


@pytest.fixture(scope="module")
def finished(
    tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """One subject by three methods; the module's tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMBOOTH_CACHE", str(folder / "cache"))
        methods = ["dreambooth", "textual-inversion", "base", "dreambooth-no-noun"]
        results = prepared(folder / "results", suite, settings(tiny_model, judges), methods, count=1)
        finish(results)
    return results


class TestTheWholeWay:
    def test_every_picture_has_its_scores(self, finished: Results):
        rows = list(csv.DictReader((finished.path / "scores.csv").open()))
        counts = {(row["method"], row["metric"]): 0 for row in rows}
        for row in rows:
            counts[row["method"], row["metric"]] += 1
        assert counts[REAL, "dino"] == counts[REAL, "clip-i"] == 3
        for method in finished.plan().methods:
            assert [counts[method, metric] for metric in ("dino", "clip-i", "clip-t", "div", "pres")] == [4, 4, 4, 4, 2]

    def test_methods_are_asked_for_the_same_pictures_in_their_own_words(self, finished: Results):
        told = {
            cell.method: json.loads((cell.folder / "pictures/pictures.json").read_text())
            for cell in finished.all_cells(finished.plan())
        }
        run = json.loads((finished.subject("cat") / "dreambooth/run/subject.json").read_text())
        word = run["identifier"]
        assert {method: jobs[0]["prompt"] for method, jobs in told.items()} == {
            "dreambooth": f"a {word} cat in the jungle",
            "textual-inversion": "a <cat> in the jungle",
            "base": "a cat in the jungle",
            "dreambooth-no-noun": f"a {word} in the jungle",
        }
        assert len({str([(job["template"], job["seed"]) for job in jobs]) for jobs in told.values()}) == 1
        bare = json.loads((finished.subject("cat") / "dreambooth/run/subject.json").read_text())
        assert bare["class_prompt"] == "a cat"

    def test_what_each_method_trained(self, finished: Results):
        def facts(method: str) -> dict[str, object]:
            return json.loads((finished.subject("cat") / method / "run/subject.json").read_text())

        assert facts("dreambooth")["instance_prompt"] == f"a {facts('dreambooth')['identifier']} cat"
        assert facts("dreambooth-no-noun")["instance_prompt"] == f"a {facts('dreambooth')['identifier']}"
        assert facts("dreambooth-no-noun")["class_prompt"] == "a cat"
        assert (finished.subject("cat") / "textual-inversion/run/embedding.safetensors").exists()
        assert not (finished.subject("cat") / "base/run").exists()

    def test_pictures_are_kept_losslessly_and_weights_are_not(self, finished: Results):
        cell = finished.subject("cat") / "dreambooth"
        with Image.open(cell / "pictures/000.webp") as image:
            assert image.size == (64, 64)
        assert not (cell / "run/model").exists() and not (cell / "run/checkpoints").exists()
        assert not (cell / "run/samples").exists(), "runs of a benchmark draw no pictures of their own"
        assert len(finished.photo_files("cat")) == 3

    def test_results_tell_how_they_came_about(self, finished: Results):
        facts = json.loads((finished.path / "results.json").read_text())
        assert facts["settings"]["last"] == LAST and {"torch", "diffusers"} <= set(facts["versions"])
        assert {"train", "draw", "score", "prior samples"} <= set(facts["seconds"]["dreambooth"])

    def test_tables(self, finished: Results, tmp_path: Path):
        markdown, page = write_tables(finished, tmp_path)
        assert "| DreamBooth | " in markdown.read_text() and "dino-patch" in page.read_text()
        shutil.copy(finished.path / "scores.csv", tmp_path)
        before = markdown.read_text()
        assert write_tables(Results(tmp_path))[0].read_text() == before

    def test_nothing_is_done_twice(self, finished: Results, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(benchmark.workflow, "start", None)
        monkeypatch.setattr(benchmark, "load_model", None)
        monkeypatch.setattr(benchmark, "score_subject", None)
        work(finished)

    def test_better_judges_judge_what_was_drawn(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, monkeypatch
    ):
        out = tmp_path / "results"
        shutil.copytree(finished.path, out)
        moved = settings(tiny_model, judges | {"dino": str(tiny.saved_dino(tmp_path / "other", seed=1))})
        methods = finished.plan().methods
        kept = files(out)
        with pytest.raises(ConfigError, match="dino was "):
            prepared(out, suite, moved, methods, count=1)
        with pytest.raises(ConfigError, match=r"dino was judged by dino .* Give --rescore, with all methods"):
            prepared(out, suite, moved, ["base"], count=1, rescore=True)
        assert files(out) == kept, "a refusal changes nothing"
        before = (out / "scores.csv").read_text()
        monkeypatch.setattr(benchmark.workflow, "start", None)
        after = finish(prepared(out, suite, moved, methods, count=1, rescore=True))
        rows = [list(csv.DictReader(text.splitlines())) for text in (before, after)]
        assert len(rows[0]) == len(rows[1])
        for one, other_row in zip(*rows, strict=True):
            assert (one["value"] == other_row["value"]) == one["metric"].startswith(("clip", "div"))


def test_the_command_with_two_workers_and_a_method_that_cannot_work(
    tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, monkeypatch, capsys
):
    command = flags(tiny_model, suite, judges, tmp_path / "results", tmp_path / "bench.toml")
    with (tmp_path / "bench.toml").open("a") as file:
        file.write("[wild]\nlearning_rate = 1e30\n")
    code, out, err = dreambooth(monkeypatch, capsys, *command, "--methods", "base,wild", "--workers", 2)
    assert code == 1 and "2 of 4 runs failed" in err and "cat, wild: The loss or its gradient is not finite" in err
    assert "Traceback" not in err and "4/4" in out
    assert "dog, wild: The loss or its gradient" in (tmp_path / "results/tables.html").read_text()
    rows = list(csv.DictReader((tmp_path / "results/scores.csv").open()))
    assert {(row["subject"], row["method"]) for row in rows} == {
        ("cat", "base"), ("dog", "base"), ("cat", REAL), ("dog", REAL),
    }  # fmt: skip
    assert len(list((tmp_path / "results/logs").glob("*.log"))) == 2


def test_the_command_when_all_is_done(
    finished: Results, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, monkeypatch, capsys
):
    shutil.copytree(finished.path, tmp_path / "results")
    (tmp_path / "results/scores.csv").unlink()
    command = flags(tiny_model, suite, judges, tmp_path / "results", tmp_path / "bench.toml")
    methods = ",".join(finished.plan().methods)
    code, out, err = dreambooth(monkeypatch, capsys, *command, "--methods", methods, "--subjects", 1, "--quiet")
    assert code == 0 and err == ""
    assert out.split() == [str(tmp_path / "results" / name) for name in ("tables.md", "tables.html")]
    assert (tmp_path / "results/scores.csv").read_text() == (finished.path / "scores.csv").read_text()
    assert not (tmp_path / "results/logs").exists(), "no worker is started for nothing"


class TestKill:
    """Killed at any moment, a benchmark that is given again ends with the same scores, byte for byte."""

    @pytest.fixture(scope="class")
    def expected(self, finished: Results) -> list[str]:
        rows = (finished.path / "scores.csv").read_text().splitlines()
        return [row for row in rows if not row.startswith(("textual", "dreambooth-no"))]

    @pytest.mark.parametrize("moment", ["training", "drawing", "interrupt"])
    def test_kill_and_go_on(
        self, expected: list[str], tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, moment: str
    ):
        out, cache = tmp_path / "results", tmp_path / "cache"
        command = flags(tiny_model, suite, judges, out, tmp_path / "bench.toml")
        command += ["--methods", "dreambooth,base", "--subjects", "1", "--workers", "1"]
        running = subprocess.Popen(
            [sys.executable, "-m", "dreambooth", *command],
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A suite that runs in the background of a script is deaf to Ctrl-C, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        cell = out / "subjects/cat/dreambooth"

        def reached() -> bool:
            if moment == "drawing":
                return bool(list((cell / "pictures").glob("*.webp")))
            log = cell / "run/log.jsonl"
            return log.is_file() and len(log.read_text().splitlines()) >= 2

        deadline = time.monotonic() + 120
        while not reached() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert running.poll() is None, "it ended before it could be killed"
        running.send_signal(signal.SIGINT if moment == "interrupt" else signal.SIGKILL)
        told = running.communicate()[1]
        if moment == "interrupt":
            assert running.returncode == 130 and "the same command to go on" in told and "Traceback" not in told
        # The worker ends with the one that watched it, or its lock would still be held.
        FileLock(out / "subjects/cat/.lock", timeout=20).acquire().lock.release()
        assert not (cell / "scores.json").exists()
        assert finish(Results(out)).splitlines() == expected

    def test_a_run_that_was_killed_before_it_said_what_it_is(
        self, expected: list[str], tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path
    ):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["dreambooth", "base"], count=1)
        run = results.subject("cat") / "dreambooth/run"
        run.mkdir(parents=True)
        (run / "config.toml").write_text("")
        assert finish(results).splitlines() == expected

    def test_a_broken_picture_is_told_and_drawn_again_when_deleted(
        self, expected: list[str], finished: Results, tmp_path: Path
    ):
        results, cell = copied(finished, tmp_path / "results")
        cell.scores.unlink()
        (cell.folder / "pictures/001.webp").write_bytes(b"RIFF")
        work(results)
        assert "001.webp cannot be read; delete it" in cell.why_failed()
        results.begin(results.plan())
        (cell.folder / "pictures/001.webp").unlink()
        rows = finish(results).splitlines()
        assert [row for row in rows if not row.startswith(("textual", "dreambooth-no"))] == expected

    @pytest.mark.parametrize("listed", ["", "[]", '[{"name": "000.webp"}]'])
    def test_pictures_are_known_by_their_names_and_listed_without_a_model(
        self, finished: Results, tmp_path: Path, monkeypatch, listed: str
    ):
        results, _ = copied(finished, tmp_path / "results")
        before = files(results.path)
        for cell in results.all_cells(results.plan()):
            cell.scores.unlink()
            shutil.copy(cell.folder / "pictures/000.webp", cell.folder / "pictures/000 (copy).webp")
            (cell.folder / "pictures/pictures.json").write_text(listed)
        monkeypatch.setattr(benchmark.workflow, "start", None)
        monkeypatch.setattr(benchmark, "load_model", None)
        work(results)
        after = files(results.path)
        assert all(after[path] == before[path] for path in before if path.name in ("pictures.json", "scores.json"))

    @pytest.mark.parametrize("file", ["scores.json", "../real.json"])
    def test_scores_that_were_cut_off_are_judged_again_when_deleted(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path, file: str
    ):
        results, cell = copied(finished, tmp_path / "results")
        path = (cell.folder / file).resolve()
        path.write_text(path.read_text()[:100])
        with pytest.raises(
            ConfigError, match=rf"{path.name} cannot be read; delete this file, and the .* command makes"
        ):
            prepared(results.path, suite, settings(tiny_model, judges), ["base"], count=1)
        path.unlink()
        results = prepared(results.path, suite, settings(tiny_model, judges), ["base"], count=1)
        assert finish(results) == (finished.path / "scores.csv").read_text()

    def test_photos_that_are_lost_are_made_anew(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path
    ):
        results, cell = copied(finished, tmp_path / "results")
        before = files(results.subject("cat") / "photos")
        for lost in (*before, cell.scores):
            if lost.name != "subject.json":
                lost.unlink()
        work(results)
        assert "are no longer those that were kept; give the benchmark's own command again" in cell.why_failed()
        results = prepared(results.path, suite, settings(tiny_model, judges), ["base"], count=1)
        assert files(results.subject("cat") / "photos") == before
        assert finish(results) == (finished.path / "scores.csv").read_text()

    def test_photos_of_the_suite_that_are_others_by_now(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path, capsys
    ):
        results, _ = copied(finished, tmp_path / "results")
        shutil.copytree(suite, tmp_path / "pets")
        (tmp_path / "pets/cat/1.png").unlink()
        before = files(results.subject("cat") / "photos")
        prepared(results.path, tmp_path / "pets", settings(tiny_model, judges), ["base"], count=1)
        assert "photos of cat in the suite have changed; the benchmark goes on with those" in capsys.readouterr().err
        assert files(results.subject("cat") / "photos") == before
        (results.subject("cat") / "photos/01.png").write_bytes(b"")
        with pytest.raises(PhotoError, match="the suite has others by now"):
            prepared(results.path, tmp_path / "pets", settings(tiny_model, judges), ["base"], count=1)


class TestLater:
    """More methods and subjects in a folder that holds some already."""

    def test_what_was_done_before_stays_in_the_results(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path
    ):
        results, cell = copied(finished, tmp_path / "results", "textual-inversion")
        cell.scores.unlink()
        cell.failure.write_text("It was so.\n")
        dog = read_folder(suite).subjects[1]
        member = Member(name="dog", class_noun="dog", live=True)
        plan = Plan(settings=settings(tiny_model, judges), methods=["base"], members=[member])
        set_up(results, plan, [dog], False, Display(quiet=True))
        finish(results)
        facts = json.loads((results.path / "results.json").read_text())
        assert facts["methods"] == ["base", "dreambooth", "dreambooth-no-noun", "textual-inversion"]
        assert [one["name"] for one in facts["members"]] == ["dog", "cat"]
        assert {"train", "draw", "score"} <= set(facts["seconds"]["dreambooth"]) and facts["judges"]["dino"]["name"]
        assert "cat, textual-inversion: It was so." in write_tables(results)[1].read_text()

    @pytest.mark.parametrize("entry", ['"dog"', '{ class_noun = "cat", live = false }'])
    def test_a_subject_of_another_class_is_refused(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path, entry: str
    ):
        results, _ = copied(finished, tmp_path / "results")
        shutil.copytree(suite, tmp_path / "pets")
        (tmp_path / "pets/classes.toml").write_text(f"cat = {entry}")
        before = files(results.path)
        with pytest.raises(ConfigError, match="the subject cat is a cat, live, and now would be a"):
            prepared(results.path, tmp_path / "pets", settings(tiny_model, judges), ["base"], count=1)
        assert files(results.path) == before

    def test_scores_that_were_passed_on_are_not_written_over(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path
    ):
        shutil.copy(finished.path / "scores.csv", tmp_path)
        with pytest.raises(ConfigError, match="holds scores that were passed on"):
            prepared(tmp_path, suite, settings(tiny_model, judges), ["base"], count=1)
        assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


class TestSharing:
    def test_a_worker_with_other_judges_does_nothing(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path
    ):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["dreambooth"], count=1)
        other = settings(tiny_model, judges | {"dino": str(tiny.saved_dino(tmp_path / "other", seed=1))})
        with pytest.raises(ConfigError, match=r"has dino judged by dino \(\w+\), and this process would by dino \("):
            work(results, lambda _, device: make_judges(other, device))
        (cell,) = results.all_cells(results.plan())
        assert not cell.run.exists() and not cell.over

    def test_cores_are_shared_as_at_the_beginning(
        self, finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """So that the last of four cells is computed with as many threads as the first."""
        results, cell = copied(finished, tmp_path / "results")
        cell.scores.unlink()
        given: list[dict[str, str]] = []
        start = subprocess.Popen

        def popen(command: list[str], env: dict[str, str], **more: object):
            given.append(env)
            return start([sys.executable, "-c", ""], env=env, **more)

        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(workers, "usable_cores", lambda: 8)
        monkeypatch.setattr(workers.subprocess, "Popen", popen)
        with pytest.raises(RunError, match="Another process holds the rest"):
            workers.run_workers(results, results.plan(), 2, Display(quiet=True))
        assert [one["OMP_NUM_THREADS"] for one in given] == ["4"]

    def test_workers_import_nothing_from_the_folder_that_the_user_is_in(
        self, finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "dreambooth.py").write_text("raise SystemExit('mine')")
        monkeypatch.chdir(tmp_path)
        results, _ = copied(finished, tmp_path / "results")
        with workers.started_workers(results, [os.environ]) as (worker,):
            assert worker.wait(60) == 0, (results.path / "logs/worker-0.log").read_text()

    def test_what_another_process_holds_is_left_alone(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path
    ):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["base"])
        cells = results.all_cells(results.plan())
        cells[0].folder.mkdir(parents=True)
        with FileLock(cells[0].folder / ".lock"):
            assert [cell.member.name for share in benchmark.shares(results, results.plan()) for cell in share] == [
                "dog", "dog",
            ]  # fmt: skip
        with FileLock(results.subject("cat") / ".lock"):
            turns = [[cell.member.name for cell in share] for share in benchmark.shares(results, results.plan())]
        assert turns == [["dog"], ["cat"], ["dog"]], "whole subjects first, then single cells of any"

    def test_a_second_benchmark_in_the_folder_is_refused(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, monkeypatch, capsys
    ):
        out = tmp_path / "my benchmark"
        out.mkdir()
        with FileLock(out / ".lock"):
            command = flags(tiny_model, suite, judges, out, tmp_path / "bench.toml")
            code, _, err = dreambooth(monkeypatch, capsys, *command, "--methods", "base")
        assert code == 1 and "Another benchmark is at work" in err and f"`dreambooth benchmark-worker '{out}'`" in err

    def test_workers_share_the_cores(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(workers, "usable_cores", lambda: 8)
        assert {one["OMP_NUM_THREADS"] for one in workers.environments("cpu", 3)} == {"2"}
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert {one["OMP_NUM_THREADS"] for one in workers.environments("cpu", 3)} == {"1"}
        assert workers.default_workers("cpu", "toybox-sd") == 8
        assert workers.default_workers("cpu", "owner/large") == 1

    def test_each_worker_has_a_cuda_device(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(workers, "choose_device", torch.device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
        given = [one["CUDA_VISIBLE_DEVICES"] for one in workers.environments("cuda", 3)]
        assert given == ["5", "7", "5"]
        assert workers.default_workers("cuda", "any") == 4 and workers.default_workers("cuda:1", "any") == 1

    def test_progress_counts_what_lies_there(self, finished: Results, tiny_model: Path, tmp_path: Path):
        plan = finished.plan()
        assert sum(cell.progress(plan.settings) for cell in finished.all_cells(plan)) == 4
        shutil.copytree(finished.path, tmp_path / "results")
        cell = Results(tmp_path / "results").all_cells(plan)[0]
        cell.scores.unlink()
        assert cell.progress(plan.settings) == pytest.approx(0.95)
        shutil.rmtree(cell.folder / "class")
        assert cell.progress(plan.settings) == pytest.approx(0.7 + 0.25 * 4 / 6)
        shutil.rmtree(cell.folder / "pictures")
        assert cell.progress(plan.settings) == pytest.approx(0.7)
        (cell.run / "log.jsonl").write_text('{"step": 1}\n')
        assert cell.progress(plan.settings) == pytest.approx(0.7 / 4)
        shutil.rmtree(cell.run)
        assert cell.progress(plan.settings) == 0


class TestVariants:
    def plan(self, **changes: object) -> Plan:
        member = Member(name="rex", class_noun="dog", live=True)
        return Plan(settings=Settings(suite="mine", **changes), methods=[], members=[member])

    def config(self, method: str, **changes: object):
        plan = self.plan(**changes)
        photos = [Path(f"{index}.png") for index in range(5)]
        return train_config(plan, plan.members[0], method, photos, Path("run"))

    def test_each_changes_what_its_name_says(self):
        plain = self.config("dreambooth")
        assert plain.applications == [] and plain.preview_steps == 0 and plain.class_noun == "dog"
        changed = {
            name: {
                key: value for key, value in self.config(name).model_dump().items() if value != plain.model_dump()[key]
            }
            for name in variants.VARIANTS
        }
        assert changed["dreambooth-no-prior"] == {"with_prior_preservation": False}
        assert changed["dreambooth-no-noun"] == {"instance_prompt": "a {identifier}"}
        assert changed["dreambooth-photos-2"] == {"photos": ["0.png", "1.png"]}
        assert changed["textual-inversion"] == {"method": "textual-inversion", "with_prior_preservation": False}
        assert [changed[name] for name in ("lora", "dora", "pivotal")] == [
            {"method": name} for name in ("lora", "dora", "pivotal")
        ]
        assert list(changed["dreambooth-wrong-noun"]) == ["class_noun"]
        assert changed["base"] == changed["dreambooth-photos-5"] == {}

    @pytest.mark.parametrize("caption", ["a photo of a {identifier} {class}", "a photo of a {subject}"])
    def test_no_noun_in_captions_of_your_own(self, caption: str):
        config = self.config("dreambooth-no-noun", train={"instance_prompt": caption})
        assert config.instance_prompt == "a photo of a {identifier}"

    def test_wrong_nouns_vary_and_are_wrong(self):
        plan = self.plan()
        nouns = [
            train_config(plan, Member(name=f"rex{n}", class_noun="dog", live=True), "dreambooth-wrong-noun", [], Path())
            for n in range(40)
        ]
        found = {config.class_noun for config in nouns}
        assert "dog" not in found and len(found) > 8 and found <= set(DREAMBENCH_NOUNS)

    def test_settings_of_all_of_one_and_above_all(self):
        given = {
            "train": {"learning_rate": 1e-3, "train_text_encoder": True},
            "own": {"textual-inversion": {"learning_rate": 5e-3}, "slow": {"learning_rate": 1e-4},
                    "inverted": {"method": "textual-inversion", "num_vectors": 2}},
            "last": {"max_train_steps": 7},
        }  # fmt: skip
        rates = {name: self.config(name, **given).learning_rate for name in ("dreambooth", "slow", "textual-inversion")}
        assert rates == {"dreambooth": 1e-3, "slow": 1e-4, "textual-inversion": 5e-3}
        inverted = self.config("inverted", **given)
        assert inverted.num_vectors == 2 and inverted.learning_rate is None and not inverted.train_text_encoder
        assert {self.config(name, **given).max_train_steps for name in (*rates, "base")} == {7}

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"train": {"learnin_rate": 1}}, "did you mean learning_rate"),
            ({"train": {"photos": ["a"]}}, "decides photos by itself"),
            ({"own": {"dreambooth": {"out": "x"}}}, "decides out by itself"),
            ({"own": {"dreambooth": {"max_train_steps": 0}}}, "max_train_steps"),
            ({"train": {"masks": "masks"}}, "decides masks by itself"),
            ({"train": {"method": "lora"}}, "`method` belongs in the table of a method with a name of your own"),
            ({"own": {"dreambooth": {"method": "lora"}}}, "`method` belongs in the table"),
        ],
    )
    def test_bad_settings_are_told_before_anything_runs(self, given: dict, told: str):
        with pytest.raises(ConfigError, match=told):
            check_settings(Settings(suite="mine", **given), ["dreambooth"])

    def test_names_and_groups(self):
        assert parse_methods("table-1, dreambooth-no-prior,base,real", {}) == [
            "dreambooth", "textual-inversion", "base", "dreambooth-no-prior",
        ]  # fmt: skip
        assert parse_methods("slow", {"slow": {}}) == ["slow"]
        assert set(parse_methods("all", {})) == set(variants.VARIANTS) - {"lora", "dora", "pivotal", "truth"}
        with pytest.raises(ConfigError, match="did you mean dreambooth-no-noun"):
            parse_methods("dreambooth-no-nown", {})
        with pytest.raises(ConfigError, match="No method was given"):
            parse_methods("real,", {})

    @pytest.mark.parametrize(
        "name", ["a/b", "..", "/abs", "real photos", "photos", "all", "real", "real.json", "a,b", ""]
    )
    def test_names_that_cannot_be_a_method_s(self, name: str, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"cannot be a method's name; make it of letters"):
            parse_methods("dreambooth", {name: {}})
        facts = {"settings": {"suite": "mine"}, "methods": [name], "members": []}
        (tmp_path / "benchmark.json").write_text(json.dumps(facts))
        with pytest.raises(RunError, match="is no method's name"):
            Results(tmp_path).plan()

    def test_a_subject_of_a_plan_lies_in_its_folder(self, tmp_path: Path):
        members = [{"name": "../evil", "class_noun": "dog", "live": True}]
        facts = {"settings": {"suite": "mine"}, "methods": ["base"], "members": members}
        (tmp_path / "benchmark.json").write_text(json.dumps(facts))
        with pytest.raises(RunError, match=r"'\.\./evil' is no subject's name"):
            Results(tmp_path).plan()

    def test_subjects_have_noise_of_their_own_and_methods_share_it(self):
        plan = self.plan()
        rex, max_ = plan.members[0], Member(name="max", class_noun="dog", live=True)
        assert rex.seed(plan.settings, "picture", 0) != max_.seed(plan.settings, "picture", 0)
        assert rex.seed(plan.settings, "run") != rex.seed(Settings(suite="mine", seed=1), "run")


class TestTheTruth:
    def test_renders_are_judged_as_pictures_of_a_model_are(
        self, tiny_model: Path, judges: dict[str, str], tmp_path: Path
    ):
        subject = suites()["toybox"]().choose(1)[0]
        members = [Member(name=subject.name, class_noun=subject.class_noun, live=subject.live)]
        plan = Plan(settings=settings(tiny_model, judges, suite="toybox"), methods=["truth"], members=members)
        results = Results(tmp_path)
        set_up(results, plan, [subject], False, Display(quiet=True))
        benchmark.keep_truth(results, plan, [subject], Display(quiet=True))
        finish(results)
        (cell,) = results.all_cells(plan)
        found = [(score.method, score.metric) for score in read_json(cell.scores)]
        assert Counter(found) == {("truth", metric): 4 for metric in ("dino", "clip-i", "clip-t", "div")} | {
            ("truth", "pres"): 2
        }
        assert not cell.run.exists(), "nothing is trained"
        (photo, *_), drawn = results.photos(subject.name), benchmark.read_drawn(cell.folder / "pictures")
        assert {picture.image.size for picture in drawn} == {photo.size}
        assert [picture.prompt for picture in drawn[::2]] == list(subject_prompts(subject.live, 2))

    def test_it_is_known_of_rendered_suites_alone(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path
    ):
        with pytest.raises(ConfigError, match="such as toybox, and not of pets; leave truth out"):
            prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["truth"], count=1)
        assert not list((tmp_path / "out").iterdir()), "before anything is kept"

    def test_a_worker_alone_cannot_draw_it(self, tiny_model: Path, judges: dict[str, str], tmp_path: Path):
        subject = suites()["toybox"]().choose(1)[0]
        members = [Member(name=subject.name, class_noun=subject.class_noun, live=subject.live)]
        plan = Plan(settings=settings(tiny_model, judges, suite="toybox"), methods=["truth"], members=members)
        results = Results(tmp_path)
        set_up(results, plan, [subject], False, Display(quiet=True))
        work(results)
        assert "give the benchmark's own command again" in results.all_cells(plan)[0].failure.read_text()


class TestWrongTurns:
    def test_other_settings_in_the_same_folder(
        self, finished: Results, tiny_model: Path, suite: Path, judges: dict[str, str]
    ):
        with pytest.raises(ConfigError, match=r"images_per_prompt was 2, now 3\).*another --out"):
            prepared(finished.path, suite, settings(tiny_model, judges, images_per_prompt=3), ["base"], count=1)

    def test_a_subject_without_usable_photos(self, tiny_model: Path, tmp_path: Path):
        (tmp_path / "suite/dog").mkdir(parents=True)
        (tmp_path / "suite/dog/a.png").write_text("no picture")
        subject = read_folder(tmp_path / "suite").subjects[0]
        with pytest.raises(PhotoError, match="The subject dog: No usable photo"):
            keep_photos(Results(tmp_path), Settings(suite="s", model=str(tiny_model)), subject, Display(quiet=True))
        assert not (tmp_path / "subjects/dog/photos").exists()

    def test_masks_are_kept_with_the_photos(self, tiny_model: Path, photos: Path, tmp_path: Path, capsys):
        shutil.copytree(photos, tmp_path / "dog")
        subject = SuiteSubject("dog", "dog", True, lambda _: [tmp_path / "dog"])
        given = Settings(suite="s", model=str(tiny_model), own={"masked": {"masked_loss": True}})
        results = Results(tmp_path)
        with pytest.raises(PhotoError, match=r"The subject dog: There is no mask for 0\.png"):
            keep_photos(results, given, subject, Display(quiet=True))
        for index in range(3):
            Image.new("L", (80, 64), 150 + 50 * index).save(tmp_path / f"dog/{index}.mask.png")
        keep_photos(results, given, subject, Display(quiet=True))
        assert len(results.photos("dog")) == 3
        kept = with_masks(load_subject(list(map(str, results.photo_files("dog"))), "dog", 64), None).masks
        assert kept and [mask.getpixel((0, 0)) for mask in kept] == [150, 200, 250]
        assert capsys.readouterr().err == ""

    def test_photos_of_a_version_that_kept_no_record(self, tiny_model: Path, photos: Path, tmp_path: Path):
        subject = SuiteSubject("dog", "dog", True, lambda _: [photos])
        results, given = Results(tmp_path), Settings(suite="s", model=str(tiny_model))
        keep_photos(results, given, subject, Display(quiet=True))
        (tmp_path / "subjects/dog/photos/subject.json").unlink()
        (tmp_path / "subjects/dog/photos/02.png").unlink()
        keep_photos(results, given, subject, Display(quiet=True))
        kept = results.kept("dog")
        assert kept and kept.photos == [pixel_hash(image) for image in results.photos("dog")] and len(kept.photos) == 2

    def test_a_file_that_is_left_out_is_told(self, tiny_model: Path, photos: Path, tmp_path: Path, capsys):
        shutil.copytree(photos, tmp_path / "dog")
        (tmp_path / "dog/notes.txt").write_text("mine")
        subject = SuiteSubject("dog", "dog", True, lambda _: [tmp_path / "dog"])
        keep_photos(Results(tmp_path), Settings(suite="s", model=str(tiny_model)), subject, Display(quiet=True))
        assert "The subject dog: notes.txt is left out" in capsys.readouterr().err
        assert len(Results(tmp_path).photos("dog")) == 3

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--suite", "nowhere"], "There is no suite 'nowhere'; give toybox, toybox-tuning, dreambench"),
            (["--methods", "dremabooth"], "did you mean dreambooth"),
            (["--subjects", "3"], "has 2 subjects; 3 were asked for"),
            (["--model", "no-such-model"], "There is no model"),
            (["--dino", "no-such-judge"], "no-such-judge"),
            (["--perceptual", "taste"], "There is no perceptual distance 'taste'"),
            (["--config", "none.toml"], "There is no configuration file none.toml"),
            (["--device", "abacus"], "not available"),
            (["--out", "bench.toml/out"], "cannot be written"),
        ],
    )
    def test_the_command(
        self, tiny_model: Path, suite: Path, judges: dict, tmp_path: Path, words: list, told: str, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        command = flags(tiny_model, suite, judges, tmp_path / "out", tmp_path / "bench.toml")
        code, _, err = dreambooth(monkeypatch, capsys, *command, *words)
        assert code == 1 and err.startswith("error: ") and told in err and "Traceback" not in err
        assert not (tmp_path / "out/subjects").exists()

    def test_a_model_that_is_missing_is_told_before_judges_are_looked_for(
        self, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The paper's, which such a model would have, may be nowhere but on the hub."""
        fetched: list[object] = []
        monkeypatch.setattr("dreambooth.evaluation.encoders.judges_for", lambda *given, **named: fetched.append(given))
        with pytest.raises(ModelError, match="There is no model 'nope'"):
            prepared(tmp_path / "results", suite, settings(Path("nope"), {}), ["base"])
        assert not fetched

    def test_judges_that_nobody_asked_for_are_not_loaded(self, judges: dict[str, str], monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr(encoders, "lpips_package", lambda: None)
        given = Settings(suite="s", model="owner/model", dino=judges["dino"], clip=judges["clip"])
        found = make_judges(given, "cpu")
        assert found.perceptual.name == f"dino-patch:{found.dino.name}"

    def test_an_error_that_nobody_foresaw_stops_one_cell_alone(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, capfd
    ):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["base"])
        cat, dog = results.all_cells(results.plan())
        cat.folder.mkdir()
        (cat.folder / "pictures").write_text("no folder")
        work(results)
        assert "not foreseen (FileExistsError: " in cat.why_failed() and "Traceback" in capfd.readouterr().err
        assert dog.scores.exists()

    def test_where_memory_ends(self):
        assert "fewer --workers" in benchmark.why_stopped(torch.OutOfMemoryError("CUDA out of memory."))

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_a_full_disk_is_nobody_s_fault(self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["base"])
        cell = results.all_cells(results.plan())[0]
        (cell.folder / "pictures").mkdir(parents=True)
        (cell.folder / f"pictures/.000.webp.{os.getpid()}").symlink_to("/dev/full")
        with pytest.raises(RunError, match=r"The disk is full \(.*No space left on device\)\. Free some room"):
            work(results)
        assert not any(one.over for one in results.all_cells(results.plan()))

    def test_a_folder_that_the_disk_refuses(
        self, tiny_model: Path, suite: Path, judges: dict[str, str], tmp_path: Path, monkeypatch, capsys
    ):
        results = prepared(tmp_path / "out", suite, settings(tiny_model, judges), ["base"])
        shutil.rmtree(tmp_path / "out/subjects")
        (tmp_path / "out/subjects").write_text("no folder")
        command = flags(tiny_model, suite, judges, results.path, tmp_path / "bench.toml")
        for words in (["benchmark-worker", results.path], [*command, "--methods", "base"]):
            code, _, err = dreambooth(monkeypatch, capsys, *words)
            assert code == 1 and "The benchmark cannot go on: " in err and "subjects/cat" in err, err

    def test_tables_and_worker_without_a_benchmark(self, tmp_path: Path, monkeypatch, capsys):
        for command, told in (("tables", "holds no scores"), ("benchmark-worker", "holds no benchmark")):
            code, _, err = dreambooth(monkeypatch, capsys, command, tmp_path)
            assert code == 1 and told in err

    def test_a_worker_that_is_killed_is_told(self, tmp_path: Path):
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/worker-0.log").write_text("warning: x\n")
        worker = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
        worker.wait()
        assert "was ended by signal 9" in workers._why(Results(tmp_path), [worker])
        (tmp_path / "logs/worker-0.log").write_text("warning: x\nerror: It is so:\n  and so\n")
        assert workers._why(Results(tmp_path), [worker]) == "It is so:\n  and so"


def test_a_worker_ends_when_its_pipe_closes():
    code = "import sys, time; from dreambooth.evaluation.workers import die_with; die_with(0); print(1, flush=True)"
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin and worker.stdout and worker.stdout.readline()
    os.close(worker.stdin.fileno())
    assert worker.wait(timeout=20) == 1


@pytest.mark.parametrize("module", [benchmark, variants, workers])
def test_examples(module: object):
    assert not doctest.testmod(module).failed  # pyright: ignore[reportArgumentType]
