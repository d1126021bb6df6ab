"""Pretraining at toy sizes: every stage for a few steps, resumed, exported, loaded again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from dreambooth.errors import TrainingError
from dreambooth.models import embedded
from dreambooth.toybox import autoencoder, captions, data, denoiser, fit, pretrain, tokenizer
from dreambooth.toybox.fit import Budget, Optimisation

TINY = pretrain.PretrainConfig(
    images=8,
    size=32,
    autoencoder=Budget(3),
    denoiser=Budget(3),
    autoencoder_rates=Optimisation(batch=4, warmup=1),
    denoiser_rates=Optimisation(batch=4, warmup=1),
    autoencoder_channels=(8, 8, 16, 16),
    denoiser_channels=(32, 64),
    text_width=32,
    text_layers=1,
    compiled=False,
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD", 4)
    monkeypatch.setattr(denoiser, "PROMPTS", ("a dog",))
    monkeypatch.setattr(pretrain, "UNSEEN", 2)


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    scenes = [captions.sample_scene(seed) for seed in range(300)]
    return tokenizer.build(captions.caption(scene, seed=seed) for seed, scene in enumerate(scenes))


def test_pretrain_makes_a_pipeline_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    first = pretrain.pretrain(tmp_path / "toy", TINY, work=tmp_path / "work", device="cpu", log=lines.append)
    assert (first.autoencoder.steps, first.denoiser.steps) == (3, 3)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "toy", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a zqk dog", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 32, 32) and picture.isfinite().all()
    stored = torch.load(tmp_path / "work" / "denoiser.pt", weights_only=True)
    assert stored["step"] == 3
    card = (tmp_path / "toy" / "README.md").read_text("utf-8")
    assert "| data | 8 pictures" in card and "3 steps of 4" in card

    lines.clear()
    longer = replace(TINY, images=10, denoiser=Budget(5))
    second = pretrain.pretrain(tmp_path / "toy", longer, work=tmp_path / "work", device="cpu", log=lines.append)
    assert second.denoiser.steps == 5
    assert "denoiser: resumed at step 3" in lines
    assert "corpus: 12 of 12 pictures" in lines and "corpus: 8 of 12 pictures" not in lines


def test_a_resumed_training_equals_an_unbroken_one(tmp_path: Path) -> None:
    def run(folder: Path, budgets: list[int]) -> list[torch.Tensor]:
        for steps in budgets:
            torch.manual_seed(0)
            model = torch.nn.Linear(4, 4)

            def loss(step: int, _progress: float, model: torch.nn.Linear = model) -> torch.Tensor:
                return model(torch.randn(8, 4, generator=data.generator(0, "test", step))).square().mean()

            rates = Optimisation(batch=8, warmup=4)
            constant = _Constant(steps)
            fitted = fit.fit("test", model, loss, constant, rates, folder, log=lambda _: None)
        return [*fitted.module.parameters(), *model.parameters()]

    whole, broken = run(tmp_path / "a", [9]), run(tmp_path / "b", [4, 9])
    assert all(torch.equal(one, other) for one, other in zip(whole, broken, strict=True))


class _Constant(Budget):
    """A budget whose learning rate does not depend on its length."""

    def progress(self, step: int, seconds: float) -> float:
        return 1.0 if step >= self.steps else 0.0


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="lower learning rate"):
        fit.fit("test", model, lambda _s, _p: model(torch.full((1, 1), torch.nan)).sum(), Budget(1), Optimisation(),
                tmp_path)  # fmt: skip


def test_budget_ends_with_steps_or_minutes() -> None:
    assert Budget(10).progress(5, 1e9) == 0.5
    assert Budget(10, minutes=1).progress(1, 30) == 0.5
    assert Budget(10, minutes=1).progress(1, 90) == 1.0


def test_embeddings_do_not_decay(words: CLIPTokenizer) -> None:
    model = denoiser.new(words, size=32, channels=(32, 64), width=32, layers=1)
    matrices, plain = fit.parameter_groups(model, 0.01)
    table = model.text_encoder.get_input_embeddings().weight
    assert plain["weight_decay"] == 0 and any(table is one for one in plain["params"])
    assert not any(table is one for one in matrices["params"])


def test_common_words_are_one_token_and_rare_words_survive(words: CLIPTokenizer) -> None:
    assert words.tokenize("a photo of a purple dog on the beach") == [
        word + "</w>" for word in "a photo of a purple dog on the beach".split()
    ]
    rare = tokenizer.rare_words(words)
    assert len(rare) == 512 and {"zqk", "sks"} <= set(rare)
    top = len(words) - 2
    for word in rare:
        ids = words(f"a {word} dog").input_ids
        assert len(ids) == 5 and top - 512 <= ids[2] < top
        assert words.decode(ids[1:-1]) == f"a {word} dog"


def test_saved_tokenizer_is_the_same_in_both_formats(words: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save(words, tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    lines = (tmp_path / "merges.txt").read_text("utf-8").splitlines()
    assert len(lines) - 1 + 512 + 2 == len(loaded) == len(words)
    text = "A sks teapot, in the style of Vincent van Gogh: Zürich 2026"
    assert loaded(text).input_ids == words(text).input_ids
    assert loaded.model_max_length == 32


def test_every_caption_fits(words: CLIPTokenizer) -> None:
    scenes = [captions.sample_scene(seed) for seed in range(2000)]
    lengths = [len(words(captions.caption(scene, "zqk", seed)).input_ids) for seed, scene in enumerate(scenes)]
    assert max(lengths) <= words.model_max_length


def _untrained() -> tuple[AutoencoderKL, torch.Tensor]:
    torch.manual_seed(0)
    return autoencoder.new((8, 8, 16, 16), size=32), torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)


def test_white_latents_and_the_same_pictures() -> None:
    vae, images = _untrained()
    pixels = images.float() / 127.5 - 1
    before = autoencoder.reconstruct(vae, pixels)
    autoencoder.whiten(vae, images)
    latents = autoencoder.encode(vae, images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(8), atol=1e-2, rtol=0)
    torch.testing.assert_close(latents.cov(), torch.eye(8), atol=5e-2, rtol=0)
    torch.testing.assert_close(before, autoencoder.reconstruct(vae, pixels), atol=1e-3, rtol=0)


def test_balanced_latents_are_ordered_and_the_pictures_the_same() -> None:
    vae, images = _untrained()
    pixels = images.float() / 127.5 - 1
    autoencoder.whiten(vae, images)
    balanced = autoencoder.balanced(vae, images)
    covariance = autoencoder.encode(balanced, images).transpose(0, 1).flatten(1).cov()
    variances = covariance.diagonal()
    assert (variances.diff() > 0).all() and variances[-1].item() == pytest.approx(2, rel=0.05)
    assert (covariance - variances.diag()).abs().max() < 0.05
    before = autoencoder.reconstruct(vae, pixels)
    torch.testing.assert_close(before, autoencoder.reconstruct(balanced, pixels), atol=1e-3, rtol=0)


def test_the_subject_weighs_more() -> None:
    target = torch.zeros(2, 8, 4, 4)
    predicted, masks = target.clone(), torch.zeros(2, 1, 4, 4)
    predicted[:, :, 0, 0] = 1
    masks[0, :, 0, 0] = 1
    on, off = denoiser.v_error(predicted, target, masks, snr=torch.ones(2)).tolist()
    assert on == pytest.approx(5 / 20 / 2) and off == pytest.approx(1 / 16 / 2)


def test_mirrored_rows_mirror_their_masks_unless_a_side_is_named() -> None:
    values = torch.stack([torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4)]).half()
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    masks[..., 0] = 255
    told = denoiser.Latents(values, masks, [["a dog seen from the left"] * 4])
    free = denoiser.Latents(values, masks, [["a dog"] * 4])
    clean, _, texts = denoiser.batch(told, ["zqk"], data.generator(0, "x", 0), 64)
    assert all(row.max() == 0 for row, text in zip(clean, texts, strict=True) if text)
    clean, shares, _ = denoiser.batch(free, ["zqk"], data.generator(0, "x", 0), 64)
    assert 0 < clean.mean() < 1
    assert all((share[0, :, -1] == row[0, :, 0]).all() for share, row in zip(shares, clean, strict=True))


def test_caption_dropout_and_rare_words() -> None:
    options = [["a dog", "the dog", "my dog", "a [v] dog"]] * 400
    chosen = data.pick_captions(options, ["zqk"], torch.rand(400, 3, generator=data.generator(0, "x", 1)))
    assert 20 < chosen.count("") < 60
    assert 20 < chosen.count("a zqk dog") < 60
    assert set(chosen) == {"", "a zqk dog", "a dog", "the dog", "my dog"}


def test_dead_leaves_fill_the_range() -> None:
    leaves = data.dead_leaves(data.generator(0, "leaves", 0), 3, 32)
    assert leaves.shape == (3, 3, 32, 32)
    assert leaves.min() >= -1 and leaves.max() <= 1 and leaves.std() > 0.2


@pytest.mark.parametrize("name", sorted(embedded()))
def test_embedded_pipelines_load(name: str) -> None:
    folder = embedded()[name]
    if not (folder / "model_index.json").exists():
        pytest.skip("not a pipeline")
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 27e6
    if (folder / "vae").exists():
        vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
        assert isinstance(vae, AutoencoderKL)
