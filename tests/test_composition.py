"""Composed examples: what they teach is what the words change, at exactly the noise where it was found."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreambooth import backbones, prompts, workflow
from dreambooth.checkpoint import RunFolder
from dreambooth.composition import ComposedSet, Composition
from dreambooth.config import make_config
from dreambooth.errors import ConfigError, RunError
from dreambooth.examples import Composed, Examples, composed_noise
from dreambooth.methods.full import FullFineTuning
from dreambooth.plan import composed_count, resolve_defaults
from dreambooth.trainer import Loss, finetune
from dreambooth.ui import Display
from tests.test_trainer import assert_equal, examples, settings

COMPOSITION = Composition(
    prompts=("a blue zqk dog", "a zqk dog in the snow"),
    bare=("a blue dog", "a dog in the snow"),
    class_prompt="a dog",
    count=7,
    scale=2.0,
    seed=0,
    timestep_shift=None,
    mixed_precision="no",
    batch_size=3,
)


def nothing(_count: int) -> None: ...


def filled(model: Path, folder: Path, composition: Composition = COMPOSITION) -> ComposedSet:
    found = ComposedSet(folder, composition, examples().subject)
    found.fill(backbones.load(str(model)), nothing)
    return found


class TestSet:
    def test_a_shift_is_what_the_words_change_for_a_noisy_photo(self, latent_model: Path, tmp_path: Path):
        """By hand, one example at a time: its photo, its noise, its time, both prompts."""
        backbone, latents = backbones.load(str(latent_model)), examples().subject
        composed = filled(latent_model, tmp_path).load()
        assert composed.prompts == COMPOSITION.prompts and composed.shifts.shape == (7, *latents.shape[1:])
        for example in range(COMPOSITION.count):
            source = composed_noise(0, example)
            time = backbone.process.sample_time(source)
            clean = latents[composed.photos[example]][None]
            noisy = backbone.process.corrupt(clean, torch.randn(clean.shape, generator=source), time)
            told = backbone.process.model_time(time)
            with torch.no_grad():
                bare = COMPOSITION.bare[composed.called[example]]
                worded, plain = (backbone.denoise(noisy, told, backbone.encode_prompts([p])) for p in (bare, "a dog"))
            torch.testing.assert_close(composed.shifts[example][None], 2 * (worded - plain), atol=2e-3, rtol=2e-3)
            assert (worded - plain).abs().max() > 1e-3

    def test_every_photo_and_every_prompt_has_its_turn(self, tiny_model: Path, tmp_path: Path):
        composed = filled(tiny_model, tmp_path).load()
        assert set(composed.photos) == {0, 1, 2} and set(composed.called) == {0, 1}

    def test_what_is_there_is_kept_and_what_is_missing_made_as_it_was(self, tiny_model: Path, tmp_path: Path):
        found = filled(tiny_model, tmp_path)
        before = found.load().shifts
        files = sorted(tmp_path.glob("*.safetensors"))
        assert len(files) == 3 and not found.missing
        kept = files[0].stat().st_mtime_ns
        files[1].unlink()
        assert found.missing == [range(3, 6)]
        told: list[int] = []
        found.fill(backbones.load(str(tiny_model)), told.append)
        assert told == [3] and files[0].stat().st_mtime_ns == kept
        assert torch.equal(found.load().shifts, before)

    def test_processes_share_the_work(self, tiny_model: Path, tmp_path: Path):
        backbone, whole = backbones.load(str(tiny_model)), filled(tiny_model, tmp_path / "whole")
        shared = ComposedSet(tmp_path / "shared", COMPOSITION, examples().subject)
        shared.fill(backbone, nothing, 0, 2)
        assert shared.missing == [range(3, 6)]
        shared.fill(backbone, nothing, 1, 2)
        assert torch.equal(shared.load().shifts, whole.load().shifts)

    def test_another_number_of_examples_takes_no_batch_of_another_size(self, tiny_model: Path, tmp_path: Path):
        """As when a run of one process is gone on with by two."""
        filled(tiny_model, tmp_path)
        more = filled(tiny_model, tmp_path, replace(COMPOSITION, count=8))
        assert more.load().shifts.shape[0] == 8

    def test_a_file_that_cannot_be_read_is_named(self, tiny_model: Path, tmp_path: Path):
        found = filled(tiny_model, tmp_path)
        (tmp_path / "000003-000006.safetensors").write_bytes(b"half a file")
        with pytest.raises(RunError, match=r"000003-000006\.safetensors cannot be read; delete it"):
            found.load()

    def test_predictions_that_are_not_finite_are_not_kept(self, tiny_model: Path, tmp_path: Path):
        backbone = backbones.load(str(tiny_model))
        next(iter(backbone.modules["denoiser"].parameters())).data.fill_(float("nan"))
        with pytest.raises(RunError, match="not finite"):
            ComposedSet(tmp_path, COMPOSITION, examples().subject).fill(backbone, nothing)
        assert not [*tmp_path.iterdir()]


def composed_examples(share: float, count: int = 6) -> Examples:
    """Photos of which some come back composed, with shifts that tell which."""
    plain = examples()
    shifts = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, *plain.subject.shape[1:])
    called = tuple(example % 2 for example in range(count))
    photos = tuple(example % 3 for example in range(count))
    composed = Composed(photos, called, COMPOSITION.prompts, shifts)
    return replace(plain, composed=composed, composed_share=share)


class TestRows:
    def test_some_rows_are_composed_and_the_others_what_they_were(self):
        plain, both = examples(), composed_examples(0.3)
        shares: list[float] = []
        for step in range(200):
            batch, other = (next(data.batches(0, step, 2, 1)) for data in (both, plain))
            called = [both.texts[number] for number in both.prompt_numbers(batch, 0, step)]
            for place in range(4):
                example = batch.composed.get(place)
                shift = torch.zeros(()) if batch.shift is None else batch.shift[place].unique()
                if example is None:
                    assert torch.equal(batch.clean[place], other.clean[place]) and shift == 0
                    assert called[place] == ("a zqk dog" if place < 2 else "a dog")
                else:
                    assert place < 2 and shift == example + 1  # a photo's row, never a prior one
                    assert torch.equal(batch.clean[place], both.subject[example % 3])
                    assert called[place] == COMPOSITION.prompts[example % 2]
            shares.append(len(batch.composed) / 2)
        assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.07)

    def test_processes_and_micro_batches_share_them(self):
        data = composed_examples(0.5)
        for step in range(5):
            whole = next(data.batches(0, step, 4, 1))
            found: dict[int, int | None] = {}
            for batch in (batch for process in (0, 1) for batch in data.batches(0, step, 1, 2, process, 2)):
                found |= {row: batch.composed.get(place) for place, row in enumerate(batch.rows)}
            assert found == {row: whole.composed.get(place) for place, row in enumerate(whole.rows)}

    @pytest.mark.parametrize("trains_text", [False, True])
    def test_a_composed_row_is_trained_towards_its_shifted_target(self, latent_model: Path, trains_text: bool):
        """The loss of a step, by hand: the photo's own target plus the shift, under the prompt of more words."""
        backbone, method = backbones.load(str(latent_model)), FullFineTuning(trains_text)
        data = replace(composed_examples(1.0), prior=torch.empty(0, 4, 16, 16))
        batch = next(data.batches(0, 0, 2, 1))
        method.prepare(backbone)
        loss = Loss(backbone, method, data, settings(), 2)
        expected = 0.0
        assert data.composed is not None
        for place, example in batch.composed.items():
            source = composed_noise(0, example)
            time = backbone.process.sample_time(source)
            clean = data.subject[data.composed.photos[example]][None]
            noise = torch.randn(clean.shape, generator=source)
            words = backbone.encode_prompts([COMPOSITION.prompts[example % 2]])
            with torch.no_grad():
                told = backbone.process.model_time(time)
                prediction = backbone.denoise(backbone.process.corrupt(clean, noise, time), told, words)
            target = backbone.process.target(clean, noise, time) + example + 1
            expected += float((prediction - target).square().mean()) / 2
            assert place in (0, 1)
        assert loss(batch, 0).total.item() == pytest.approx(expected, rel=1e-4)

    def test_training_can_be_cut_anywhere(self, tiny_model: Path, tmp_path: Path):
        data, results = composed_examples(0.5), []
        for name, lengths in (("whole", [4]), ("cut", [2, 4])):
            run = RunFolder.create(tmp_path / name, make_config({}))
            for length in lengths:
                backbone, method = backbones.load(str(tiny_model)), FullFineTuning(True)
                finetune(backbone, method, data, settings(max_train_steps=length, checkpointing_steps=2), run)
                results.append({key: value.clone() for key, value in method.state_dict().items()})
        assert_equal(results[0], results[2])


class TestRun:
    def start(self, model: Path, photos: Path, out: Path, **changes):
        values = {"photos": [str(photos)], "class_noun": "dog", "model": str(model), "out": str(out)}
        short = {"max_train_steps": 2, "num_class_images": 2, "prior_steps": 2, "preview_steps": 0, "applications": []}
        return workflow.start(make_config(values | short | changes), Display(quiet=True))

    def test_a_small_model_is_trained_with_them(self, tiny_model: Path, photos: Path, tmp_path: Path):
        run = self.start(tiny_model, photos, tmp_path / "run")
        assert run.folder.config().composed_share == 0.5
        assert [*(tmp_path / "run" / "composed").glob("*.safetensors")]
        assert "words" in run.folder.read_json("times.json")
        without = self.start(tiny_model, photos, tmp_path / "without", composed_share=0.0)
        assert not (tmp_path / "without" / "composed").exists()
        logs = [(run.path / "log.jsonl").read_text() for run in (run, without)]
        assert logs[0] != logs[1]

    @pytest.mark.parametrize("method", ["lora", "textual-inversion", "pivotal"])
    def test_other_methods_can_be(self, tiny_model: Path, photos: Path, tmp_path: Path, method: str):
        run = self.start(tiny_model, photos, tmp_path / "run", method=method, composed_share=1.0)
        assert [*(tmp_path / "run" / "composed").glob("*.safetensors")]
        assert "loss" in (run.path / "log.jsonl").read_text()

    def test_words_stand_beside_the_rare_word_as_photos_are_called(
        self, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Without the noun in their captions (Table 4), composed examples have none either; the frozen model does."""
        seen: list[Composition] = []

        def spy(folder: Path, composition: Composition, latents: torch.Tensor) -> ComposedSet:
            seen.append(composition)
            return ComposedSet(folder, composition, latents)

        monkeypatch.setattr(workflow, "ComposedSet", spy)
        run = self.start(
            tiny_model,
            photos,
            tmp_path / "run",
            instance_prompt="a {identifier}",
            class_prompt="a bad photo of a {class}",
            composed_prompts=["a blue {subject}"],
            composed_scale=2.5,
        )
        word = run.folder.read_json("subject.json")["identifier"]
        assert seen[0].prompts == (f"a blue {word}",) and seen[0].bare == ("a blue dog",)
        assert seen[0].class_prompt == "a dog" and seen[0].scale == 2.5 and seen[0].count == 4


@pytest.mark.parametrize(("given", "share"), [({}, 0.5), ({"composed_share": 0.0}, 0.0), ({"method": "lora"}, 0.0)])
def test_a_small_model_has_them_by_default(tiny_model: Path, given: dict, share: float):
    spec = backbones.load(str(tiny_model)).spec
    assert resolve_defaults(make_config(given), spec).composed_share == share
    assert resolve_defaults(make_config({}), replace(spec, composed_share=0.0)).composed_share == 0


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 400),  # as many as training uses: 800 steps of one photo
        ({"max_train_steps": 5000}, 800),  # but not more than four a prior sample
        ({"train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 10}, 20),
        ({"composed_share": 0.0}, 0),
    ],
)
def test_how_many_there_are(changes: dict, count: int):
    usual = {"max_train_steps": 800, "train_batch_size": 1, "num_class_images": 200, "composed_share": 0.5}
    config = make_config(usual | changes)
    assert composed_count(config) == count
    whole = config.model_copy(update={"train_batch_size": 2 * (config.train_batch_size or 1)})
    assert composed_count(config, processes=2) == composed_count(whole)  # two processes are one with the whole batch


@pytest.mark.parametrize("chosen", [[], ["a blue dog"]])
def test_prompts_without_the_subject_are_refused(chosen: list[str]):
    with pytest.raises(ConfigError, match=r"composed_prompts must each contain \{subject\}"):
        make_config({"composed_prompts": chosen})


def test_an_unknown_placeholder_is_told_before_anything_is_made(tiny_model: Path, photos: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown placeholder \{place\}"):
        TestRun().start(tiny_model, photos, tmp_path / "run", composed_prompts=["a {subject} in {place}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("noun", ["dog", "backpack"])
def test_dreambench_asks_what_was_not_trained(noun: str):
    templates = prompts.composed_templates(noun)
    assert len(set(templates)) == len(templates) >= 20
    assert not set(templates) & set(prompts.dreambench_prompts(noun))
    assert any("wearing" in template for template in templates) == (noun == "dog")
