"""The loop: what a step is, that it can be cut anywhere, and that bad luck is told."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreambooth import backbones
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import Interrupted, RunError, TrainingError
from dreambooth.examples import Batch, Examples, augmented_views, draw, noise_and_time, step_seed
from dreambooth.memory import LEAN
from dreambooth.methods.full import FullFineTuning
from dreambooth.train_state import Settings, rate_factor
from dreambooth.trainer import Loss, StepReport, finetune

RATES = {"denoiser": 1e-3, "text_encoder": 1e-3}


def examples(subject: int = 3, prior: int = 5) -> Examples:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(subject + prior, 4, 16, 16, generator=source)
    return Examples(latents[:subject], latents[subject:], ("a zqk dog", "a dog"))


def settings(**changes) -> Settings:
    return Settings(**({"max_train_steps": 4, "train_batch_size": 2, "learning_rates": RATES} | changes))


def train(model: Path, folder: Path, text: bool = False, data: Examples | None = None, **changes):
    """Weights after training in a new or existing run folder, and the reports."""
    run = RunFolder.open(folder) if (folder / "config.toml").exists() else RunFolder.create(folder, make_config({}))
    backbone, method = backbones.load(str(model)), FullFineTuning(text)
    reports: list[StepReport] = []
    finetune(backbone, method, data or examples(), settings(**changes), run, reports.append)
    return {key: value.clone() for key, value in method.state_dict().items()}, reports


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


class TestStep:
    def test_accumulation_equals_the_big_batch(self, tiny_model: Path, tmp_path: Path):
        big, big_log = train(tiny_model, tmp_path / "big", text=True, train_batch_size=4, max_train_steps=1)
        small, small_log = train(
            tiny_model,
            tmp_path / "small",
            text=True,
            train_batch_size=1,
            gradient_accumulation_steps=4,
            max_train_steps=1,
        )
        assert big_log[0].loss == pytest.approx(small_log[0].loss, rel=1e-5)
        assert big_log[0].grad_norm == pytest.approx(small_log[0].grad_norm, rel=1e-4)
        moved = [key for key in big if not torch.allclose(big[key], small[key], atol=2e-4)]
        assert not moved

    def test_both_terms_are_logged_and_add_up(self, tiny_model: Path, tmp_path: Path):
        _, reports = train(tiny_model, tmp_path / "run", prior_loss_weight=0.5)
        for report in reports:
            assert report.loss == pytest.approx(report.loss_subject + 0.5 * report.loss_prior, rel=1e-5)
        lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert set(lines[0]) >= {"loss", "loss_subject", "loss_prior", "learning_rate", "grad_norm"}

    def test_without_prior_samples_there_is_no_prior_term(self, tiny_model: Path, tmp_path: Path):
        _, reports = train(tiny_model, tmp_path / "run", data=examples(prior=0))
        assert all(report.loss_prior == 0 and report.loss == report.loss_subject for report in reports)

    def test_prior_rows_have_noise_and_times_of_their_own(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        batch = next(examples().batches(0, 0, 2, 1))
        noise, times = noise_and_time(backbone, batch, seed=0, step=0)
        assert batch.is_prior.tolist() == [False, False, True, True]
        assert len({tuple(row.flatten()[:3].tolist()) for row in noise}) == 4
        assert len(set(times.tolist())) > 1

    def test_noise_hangs_on_seed_step_and_row_alone(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        whole = Batch(torch.zeros(4, 4, 16, 16), torch.zeros(4, dtype=torch.bool), (0, 1, 2, 3))
        part = Batch(torch.zeros(2, 4, 16, 16), torch.zeros(2, dtype=torch.bool), (2, 3))
        noise, times = noise_and_time(backbone, whole, 7, 5)
        part_noise, part_times = noise_and_time(backbone, part, 7, 5)
        assert torch.equal(noise[2:], part_noise) and torch.equal(times[2:], part_times)
        assert not torch.equal(noise, noise_and_time(backbone, whole, 7, 6)[0])

    def test_shifted_times_see_more_noise(self, tiny_model: Path, tmp_path: Path):
        """One number of each row is drawn either way, so the noise stays; and training uses the shifted times."""
        backbone = backbones.load(str(tiny_model))
        batch = Batch(torch.zeros(64, 4, 16, 16), torch.zeros(64, dtype=torch.bool), tuple(range(64)))
        noise, times = noise_and_time(backbone, batch, 0, 0)
        same, later = noise_and_time(backbone, batch, 0, 0, 3.0)
        assert torch.equal(noise, same) and (later >= times).all() and later.sum() > times.sum()
        runs = {s: train(tiny_model, tmp_path / str(s), timestep_shift=s)[1] for s in (None, 1.0, 9.0)}
        losses = [reports[0].loss for reports in runs.values()]
        assert losses[0] == losses[1] != losses[2]

    def test_each_row_is_denoised_under_its_own_prompt(self, tiny_model: Path):
        data = examples()
        backbone = backbones.load(str(tiny_model))
        encoded = backbone.encode_prompts(data.prompts)
        batch = next(data.batches(0, 0, 1, 1))
        hidden = encoded.take(data.prompt_numbers(batch, 0, 0)).tensors["hidden"]
        assert torch.equal(hidden[0], encoded.tensors["hidden"][0]) and torch.equal(
            hidden[1], encoded.tensors["hidden"][1]
        )

    def test_some_prior_rows_are_samples_of_no_prompt(self):
        """They alone are called by no caption, and the other rows are what they would be without them."""
        plain, both = examples(), replace(examples(), unprompted=torch.full((2, 4, 16, 16), 7.0), unprompted_share=0.3)
        shares: list[float] = []
        for step in range(200):
            batch, other = (next(data.batches(0, step, 2, 1)) for data in (both, plain))
            called = both.prompt_numbers(batch, 0, step)
            bare = called == 2
            assert both.texts[2] == "" and called[:2].tolist() == [0, 0]
            assert torch.equal(bare, (batch.clean == 7).flatten(1).all(1))
            assert torch.equal(batch.clean[~bare], other.clean[~bare])
            shares.append(bare[2:].float().mean().item())
        assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.07)
        assert plain.prompt_numbers(other, 0, 0).tolist() == [0, 0, 1, 1]

    def test_processes_and_micro_batches_share_them(self):
        data = replace(examples(), unprompted=torch.randn(2, 4, 16, 16), unprompted_share=0.5)
        whole = next(data.batches(0, 3, 4, 1))
        parts = [batch for process in (0, 1) for batch in data.batches(0, 3, 1, 2, process, 2)]
        found = {row: clean for batch in parts for row, clean in zip(batch.rows, batch.clean, strict=True)}
        assert all(torch.equal(found[row], clean) for row, clean in zip(whole.rows, whole.clean, strict=True))

    @pytest.mark.parametrize("trains_text", [False, True])
    def test_a_row_of_no_prompt_is_denoised_without_one(self, tiny_model: Path, trains_text: bool):
        backbone, method = backbones.load(str(tiny_model)), FullFineTuning(trains_text)
        nothing = backbone.encode_prompts([""]).tensors["hidden"]
        method.prepare(backbone)
        always = replace(examples(), unprompted=torch.randn(2, 4, 16, 16), unprompted_share=1.0)
        loss = Loss(backbone, method, always, settings(), 2)
        told = loss.conditioning(next(always.batches(0, 0, 2, 1)), 0).tensors["hidden"]
        assert torch.allclose(told[2:], nothing.expand(2, -1, -1), atol=1e-6)
        assert not torch.allclose(told[:2], nothing.expand(2, -1, -1), atol=1e-2)

    def test_gradient_checkpointing_gives_the_same_gradient(self, latent_model: Path):
        gradients = []
        for checkpointing in (False, True):
            backbone, method = backbones.load(str(latent_model)), FullFineTuning(True)
            groups = method.prepare(backbone)
            if checkpointing:
                backbone.enable_gradient_checkpointing()
            loss = Loss(backbone, method, examples(), settings(), 2)
            loss(next(examples().batches(0, 0, 2, 1)), 0).total.backward()
            gradients.append([parameter.grad for group in groups.values() for parameter in group])
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)

    def test_without_the_text_encoder_it_stays_untouched(self, tiny_model: Path, tmp_path: Path):
        backbone = backbones.load(str(tiny_model))
        before = {key: value.clone() for key, value in backbone.modules["text_encoder"].state_dict().items()}
        run = RunFolder.create(tmp_path / "run", make_config({}))
        finetune(backbone, FullFineTuning(), examples(), settings(), run)
        assert_equal(before, dict(backbone.modules["text_encoder"].state_dict()))

    @pytest.mark.parametrize(("kind", "last"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.0245)])
    def test_rate_follows_its_schedule(self, kind: str, last: float):
        s = settings(max_train_steps=12, lr_warmup_steps=2, lr_scheduler=kind)
        factors = [rate_factor(step, s) for step in range(12)]
        assert factors[:3] == [0.5, 1.0, 1.0]
        assert factors[-1] == pytest.approx(last, abs=1e-3)

    def test_eight_bit_adam_needs_no_other_package(self, tiny_model: Path, tmp_path: Path):
        _, whole = train(tiny_model, tmp_path / "whole", max_train_steps=10)
        _, eight = train(tiny_model, tmp_path / "eight", max_train_steps=10, use_8bit_adam=True)
        assert [report.loss for report in eight] == pytest.approx([report.loss for report in whole], rel=0.02)

    def test_loss_falls(self, tiny_model: Path, tmp_path: Path):
        _, reports = train(tiny_model, tmp_path / "run", max_train_steps=60, checkpointing_steps=1000)
        first, last = (sum(report.loss for report in part) for part in (reports[:10], reports[-10:]))
        assert last < 0.9 * first


class TestMerge:
    @pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9}, {"tier": LEAN}])
    def test_what_is_kept_lies_between_untouched_and_trained(self, tiny_model: Path, tmp_path: Path, extra: dict):
        trained, _ = train(tiny_model, tmp_path / "whole", text=True, **extra)
        merged, _ = train(tiny_model, tmp_path / "merged", text=True, merge_ratio=0.25, **extra)
        modules = backbones.load(str(tiny_model)).modules
        moved = 0
        for key, value in merged.items():
            module, _, name = key.partition(".")
            start = modules[module].state_dict()[name]
            torch.testing.assert_close(value, start + 0.25 * (trained[key] - start))
            moved += not torch.equal(value, start)
        assert moved > 100

    def test_looks_meet_what_is_kept_and_leave_training_alone(self, tiny_model: Path, tmp_path: Path):
        runs = [RunFolder.create(tmp_path / name, make_config({})) for name in ("looked", "unseen")]
        seen: list[torch.Tensor] = []
        for run, every in zip(runs, (2, 0), strict=True):
            backbone = backbones.load(str(tiny_model))
            first = next(iter(backbone.modules["denoiser"].parameters()))

            def look(_step: int, weights: torch.Tensor = first) -> None:
                seen.append(weights.detach().clone())

            s = settings(max_train_steps=4, preview_steps=every, checkpointing_steps=4, merge_ratio=0.5)
            finetune(backbone, FullFineTuning(), examples(), s, run, preview=look)
            seen.append(first.detach().clone())
        assert len(seen) == 4 and not torch.equal(seen[0], seen[1])
        assert torch.equal(seen[1], seen[2]) and torch.equal(seen[2], seen[3])  # the last look, and both results
        # Checkpoints hold what is trained on, not what is kept.
        states = [run.checkpoints()[-1].tensors("trained") for run in runs]
        assert_equal(*states)
        key = "denoiser." + next(iter(dict(backbones.load(str(tiny_model)).modules["denoiser"].named_parameters())))
        assert not torch.equal(states[0][key], seen[2])


class TestOrder:
    def test_every_photo_comes_once_an_epoch(self):
        numbers = draw(5, 3, "subject", 0, 15)
        assert all(sorted(numbers[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
        assert numbers[:5] != numbers[5:10]

    def test_processes_share_one_step(self):
        data = examples()
        whole = list(data.batches(0, 3, 2, 2))
        rows = sorted(row for batch in whole for row in batch.rows)
        shared = [batch for process in (0, 1) for batch in data.batches(0, 3, 1, 2, process, 2)]
        assert sorted(row for batch in shared for row in batch.rows) == rows == list(range(8))
        by_row = {row: clean for batch in whole for row, clean in zip(batch.rows, batch.clean, strict=True)}
        for batch in shared:
            for row, clean in zip(batch.rows, batch.clean, strict=True):
                assert torch.equal(by_row[row], clean)

    def test_each_process_drops_other_places(self):
        seeds = {step_seed(0, step, process) for step in range(3) for process in range(3)}
        assert len(seeds) == 9 and step_seed(0, 1) == step_seed(0, 1, 0)

    def test_views_begin_with_the_photo_and_differ(self):
        photos = torch.rand(2, 3, 16, 16) * 2 - 1
        views = augmented_views(photos, 3, flip=True, seed=0)
        assert views.shape == (12, 3, 16, 16) and torch.equal(views[:2], photos)
        assert torch.equal(views[6:8], photos.flip(-1))
        assert not torch.equal(views[2], views[4]) and torch.equal(views, augmented_views(photos, 3, True, 0))


class TestResume:
    @pytest.mark.parametrize(
        "extra", [{}, {"ema_decay": 0.9, "merge_ratio": 0.8}, {"lr_scheduler": "cosine", "lr_warmup_steps": 2}]
    )
    def test_resumed_is_bit_identical(self, tiny_model: Path, tmp_path: Path, extra: dict):
        straight, _ = train(tiny_model, tmp_path / "straight", text=True, max_train_steps=6, **extra)
        folder = tmp_path / "cut"

        class Cut(Exception):
            pass

        def cut(report: StepReport) -> None:
            if report.step == 5:
                raise Cut

        run = RunFolder.create(folder, make_config({}))
        with pytest.raises(Cut):
            finetune(
                backbones.load(str(tiny_model)),
                FullFineTuning(True),
                examples(),
                settings(max_train_steps=6, checkpointing_steps=2, **extra),
                run,
                cut,
            )
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [4]
        resumed, reports = train(tiny_model, folder, text=True, max_train_steps=6, checkpointing_steps=2, **extra)
        assert [report.step for report in reports] == [5, 6]
        assert_equal(straight, resumed)
        assert [entry["step"] for entry in run.read_log()] == [1, 2, 3, 4, 5, 6]

    def test_interrupt_saves_and_says_how_to_go_on(self, tiny_model: Path, tmp_path: Path):
        straight, _ = train(tiny_model, tmp_path / "straight")
        run = RunFolder.create(tmp_path / "run", make_config({}))

        def press(report: StepReport) -> None:
            if report.step == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Interrupted, match=r"Stopped at step 3, saved.*--resume"):
            finetune(backbones.load(str(tiny_model)), FullFineTuning(), examples(), settings(), run, press)
        resumed, _ = train(tiny_model, tmp_path / "run")
        assert_equal(straight, resumed)

    def test_weights_of_another_model_are_refused(self, tiny_model: Path, tmp_path: Path):
        method = FullFineTuning()
        method.prepare(backbones.load(str(tiny_model)))
        with pytest.raises(RunError, match="do not fit"):
            method.load_state_dict({"denoiser.conv_in.weight": torch.zeros(1)})

    def test_broken_checkpoint_is_named(self, tiny_model: Path, tmp_path: Path):
        train(tiny_model, tmp_path / "run", checkpointing_steps=2, checkpoints_total_limit=2)
        (tmp_path / "run/checkpoints/step-000004/trained.safetensors").write_bytes(b"broken")
        with pytest.raises(RunError, match="step-000004"):
            train(tiny_model, tmp_path / "run", max_train_steps=6)


class TestBadLuck:
    def test_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(self, tiny_model: Path, tmp_path: Path):
        data = examples()
        run = RunFolder.create(tmp_path / "run", make_config({}))

        def poison(report: StepReport) -> None:
            if report.step == 2:
                data.subject.fill_(float("nan"))

        with pytest.raises(TrainingError, match=r"not finite at step 3.*last good checkpoint is step 2"):
            finetune(
                backbones.load(str(tiny_model)), FullFineTuning(), data, settings(checkpointing_steps=2), run, poison
            )
        saved = run.checkpoints()[-1].tensors("trained")
        assert all(value.isfinite().all() for value in saved.values())

    def test_old_checkpoint_goes_only_after_the_new_one_is_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        run = RunFolder.create(tmp_path / "run", make_config({}))
        run.save_checkpoint(1, {"trained": {"a": torch.ones(2)}}, keep=1)

        def full_disk(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full_disk)
        with pytest.raises(RunError, match=r"step 2 cannot be written.*No space left"):
            run.save_checkpoint(2, {"trained": {"a": torch.ones(2)}}, keep=1)
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [1]
