"""Pretraining at toy sizes: every stage for a few steps, resumed, exported, loaded again."""

import copy
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from dreambooth.errors import ModelError, TrainingError
from dreambooth.models import embedded
from dreambooth.toybox import autoencoder, captions, data, denoiser, fit, pretrain, tokenizer
from dreambooth.toybox.fit import Budget, Optimisation
from tests import tiny

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


FILE = "diffusion_pytorch_model.safetensors"


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
    third = pretrain.pretrain(
        tmp_path / "toy", replace(longer, denoiser=Budget(0)), work=tmp_path / "work", device="cpu", log=lines.append
    )
    assert third.denoiser.steps == 5, "what was trained before is not thrown away"


def test_training_goes_on_from_a_models_weights(tmp_path: Path) -> None:
    """Begun with its weights, latents that its denoiser understands, and no whitening of them."""
    pretrain.pretrain(tmp_path / "toy", TINY, work=tmp_path / "work", device="cpu", log=lambda line: None)
    lines: list[str] = []
    further = replace(TINY, start=tmp_path / "toy", autoencoder=Budget(2), denoiser=Budget(0))
    pretrain.pretrain(tmp_path / "more", further, work=tmp_path / "later", device="cpu", log=lines.append)
    old, new = (StableDiffusionPipeline.from_pretrained(tmp_path / name) for name in ("toy", "more"))
    for name in ("unet", "text_encoder"):
        pairs = zip(getattr(old, name).parameters(), getattr(new, name).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    images = data.load(tmp_path / "later" / "corpus").images
    before, after = (autoencoder.encode(pipe.vae, images) for pipe in (old, new))
    assert not torch.equal(before, after)
    assert torch.nn.functional.mse_loss(after, before) < 0.25 * before.var()
    assert "| begun with | the weights of toy, trained before |" in (tmp_path / "more" / "README.md").read_text("utf-8")
    assert not any("latents" in line for line in lines) and not (tmp_path / "later" / "latents.safetensors").exists()
    assert not any(str(tmp_path) in path.read_text("utf-8") for path in (tmp_path / "more").rglob("*.json"))


def test_an_autoencoder_of_no_steps_stays_as_it_is(tmp_path: Path) -> None:
    pretrain.pretrain(tmp_path / "toy", TINY, work=tmp_path / "work", device="cpu", log=lambda line: None)
    lines: list[str] = []
    further = replace(TINY, start=tmp_path / "toy", autoencoder=Budget(0), denoiser=Budget(2), class_power=3.0)
    pretrain.pretrain(tmp_path / "more", further, work=tmp_path / "later", device="cpu", log=lines.append)
    old, new = (load_file(tmp_path / name / "vae" / FILE) for name in ("toy", "more"))
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert any("8 of 8 pictures, both ways round" in line for line in lines)
    assert any("drawn worst is shown" in line for line in lines)
    card = (tmp_path / "more" / "README.md").read_text("utf-8")
    assert "| its training | none: as it was |" in card and "| their training | 2 steps of 4," in card


def test_latents_are_turned_back_to_what_they_meant() -> None:
    """A linear map of the latents that changes no picture is undone to the last digits."""
    torch.manual_seed(0)
    vae = autoencoder.new((8, 8, 16, 16), 32)
    images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
    turned = copy.deepcopy(vae)
    spread = torch.eye(autoencoder.CHANNELS) + 0.3 * torch.randn(2 * [autoencoder.CHANNELS])
    with torch.no_grad():
        autoencoder._fold(turned, torch.randn(autoencoder.CHANNELS), spread, images)
    wanted = autoencoder.encode(vae, images)
    back = autoencoder.aligned(turned, vae, images)
    assert not torch.allclose(autoencoder.encode(turned, images), wanted, atol=0.1)
    torch.testing.assert_close(autoencoder.encode(back, images), wanted, atol=1e-3, rtol=1e-3)
    pixels = images / 127.5 - 1
    restored = [autoencoder.reconstruct(part, pixels) for part in (vae, back)]
    torch.testing.assert_close(*restored, atol=1e-3, rtol=1e-3)


def test_what_is_no_such_model_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ModelError, match="no folder"):  # before anything is rendered
        nothing = replace(TINY, start=tmp_path / "nothing")
        pretrain.pretrain(tmp_path / "toy", nothing, work=tmp_path / "work", device="cpu", log=lines.append)
    assert not lines and not (tmp_path / "work").exists()
    with pytest.raises(ModelError, match="cannot go on from"):
        pretrain.beginning(replace(TINY, start=tmp_path))
    with pytest.raises(ModelError, match="4 channels where toybox-sd has 16"):
        pretrain.beginning(replace(TINY, start=tiny.saved_stable_diffusion(tmp_path / "sd")))


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


SHARED = """
import sys
from pathlib import Path
import torch
from dreambooth.toybox import fit
torch.manual_seed(0)
rank, count = fit.processes()
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
rows = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1))
loss = lambda step, _progress: model(rows[step][rank::count]).square().mean()
made = fit.fit("shared", model, loss, fit.Budget(6), fit.Optimisation(warmup=2), Path(sys.argv[1]), log=lambda _: None)
if not rank:
    torch.save(made.module.state_dict(), Path(sys.argv[1]) / "result.pt")
"""


def test_two_processes_learn_what_one_with_the_whole_batch_learns(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, extra in (("one", []), ("two", launch)):
        command = [sys.executable, *extra, str(tmp_path / "shared.py"), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(tmp_path / name / "result.pt", weights_only=True) for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-2, atol=1e-3)  # Muon works in bfloat16


def test_budget_ends_with_steps_or_minutes() -> None:
    assert Budget(10).progress(5, 1e9) == 0.5
    assert Budget(10, minutes=1).progress(1, 30) == 0.5
    assert Budget(10, minutes=1).progress(1, 90) == 1.0


def test_embeddings_do_not_decay(words: CLIPTokenizer) -> None:
    model = denoiser.new(words, size=32, channels=(32, 64), width=32, layers=1)
    inside, matrices, plain = fit.parameter_groups(model)
    table = model.text_encoder.get_input_embeddings().weight
    assert any(table is one for one in plain)
    assert not any(table is one for one in [*inside, *matrices])
    assert len(inside) + len(matrices) + len(plain) == len(list(model.parameters()))


def test_muon_trains_the_matrices_inside_in_place() -> None:
    """One step on a quadratic: Muon's update of a convolution is orthogonal, whatever the gradient's spectrum."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8))
    optimizer = fit.Optimizer(model, Optimisation(decay=0.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.randn(2, 4, 8, 8)).square().sum().backward()
    optimizer.step(0.1)
    assert all(parameter.grad is None for parameter in model.parameters())
    moved = [after.detach() - old for after, old in zip(model.parameters(), before, strict=True)]
    singular = torch.linalg.svdvals(moved[0].flatten(1))
    assert singular.min() > 0.6 * singular.max() > 0
    assert moved[2].detach().abs().max().item() == pytest.approx(0.1, rel=1e-3)  # AdamW's first step of a norm's weight


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
    torch.testing.assert_close(latents.mean(1), torch.zeros(16), atol=1e-2, rtol=0)
    torch.testing.assert_close(latents.cov(), torch.eye(16), atol=5e-2, rtol=0)
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


def test_channels_that_no_pixel_moves_with_are_balanced_too() -> None:
    vae, images = _untrained()
    assert vae.post_quant_conv is not None
    vae.post_quant_conv.weight.data[:, :3] = 0
    pixels = images.float() / 127.5 - 1
    before = autoencoder.reconstruct(vae, pixels)
    torch.testing.assert_close(
        before, autoencoder.reconstruct(autoencoder.balanced(vae, images), pixels), atol=5e-3, rtol=0
    )


def test_the_subject_weighs_more() -> None:
    target = torch.zeros(2, 8, 4, 4)
    predicted, masks = target.clone(), torch.zeros(2, 1, 4, 4)
    predicted[:, :, 0, 0] = 1
    masks[0, :, 0, 0] = 1
    on, off = denoiser.v_error(predicted, target, masks).tolist()
    assert on == pytest.approx(5 / 20) and off == pytest.approx(1 / 16)


def _latents(words: CLIPTokenizer, captions_: list[str], values: torch.Tensor) -> denoiser.Latents:
    """One picture of these latents [2, 1, C, h, w], whose mask covers the left column."""
    placeholder = tokenizer.rare_words(words)[0]
    tokens = denoiser.tokens(words, [text.replace(data.PLACEHOLDER, placeholder) for text in captions_])
    masks = torch.zeros(1, 1, *values.shape[-2:], dtype=torch.uint8)
    masks[..., 0] = 255
    sided = torch.tensor([[data.SIDED.search(text) is not None for text in captions_]])
    return denoiser.Latents(values, masks, tokens.to(torch.int16)[None], sided)


def test_mirrored_rows_mirror_their_masks_unless_a_side_is_named(words: CLIPTokenizer) -> None:
    values = torch.stack([torch.zeros(1, 16, 4, 4), torch.ones(1, 16, 4, 4)]).half()
    told = _latents(words, ["a dog seen from the left"] * 3 + ["a [v] dog seen from the left"], values)
    free = _latents(words, ["a dog"] * 3 + ["a [v] dog"], values)
    known = denoiser.Words.of(words)
    clean, _, texts = denoiser.batch(told, known, data.generator(0, "x", 0), 64)
    assert all(row.max() == 0 for row, text in zip(clean, texts, strict=True) if not text.equal(known.empty))
    clean, shares, _ = denoiser.batch(free, known, data.generator(0, "x", 0), 64)
    assert 0 < clean.mean() < 1
    assert all((share[0, :, -1] == row[0, :, 0]).all() for share, row in zip(shares, clean, strict=True))


def test_what_is_drawn_badly_is_shown_more_often(words: CLIPTokenizer) -> None:
    """A denoiser that says 0 is wrong by the size of v, which is greater where the picture is."""
    rows = [
        _latents(words, [f"a {noun}"] * 3 + [f"a [v] {noun}"], torch.full((2, 1, 16, 4, 4), size).half())
        for noun, size in (("dog", 0.0), ("stuffed animal", 2.0)) for _ in range(64)
    ]  # fmt: skip
    latents = denoiser.Latents(torch.cat([row.values for row in rows], 1), *(
        torch.cat([getattr(row, name) for row in rows]) for name in ("masks", "tokens", "sided")
    ))  # fmt: skip
    known = denoiser.Words.of(words)
    assert denoiser.nouns(latents, known).unique().numel() == 2
    model = denoiser.new(words, size=32, channels=(32, 64), width=32, layers=1)
    model.unet.conv_out.weight.data.zero_()
    model.unet.conv_out.bias.data.zero_()
    weights = denoiser.class_weights(model, latents, known, 1.0)
    dog, animal = weights[denoiser.nouns(latents, known)[[0, 64]]].tolist()
    alphas = denoiser.scheduler().alphas_cumprod
    log_snr = (alphas / (1 - alphas)).log()
    keep = float(alphas[denoiser.times_at(log_snr, torch.tensor([denoiser.LOG_SNR[0]]))])
    assert animal / dog == pytest.approx((keep + 4 * (1 - keep)) / keep, rel=0.1)
    assert dog + animal == pytest.approx(2) and (weights == 1).sum() == len(weights) - 2
    squared = denoiser.class_weights(model, latents, known, 2.0)
    assert squared.max().item() == pytest.approx(animal**2, rel=1e-4)
    shares = weights[denoiser.nouns(latents, known)]
    clean, _, _ = denoiser.batch(latents, known, data.generator(0, "x", 0), 2000, shares=shares)
    assert (clean[:, 0, 0, 0] > 0).float().mean().item() == pytest.approx(animal / 2, abs=0.05)


def test_caption_dropout_and_rare_words(words: CLIPTokenizer) -> None:
    latents = _latents(words, ["a dog", "the dog", "my dog", "a [v] dog"], torch.zeros(2, 1, 16, 4, 4).half())
    _, _, tokens = denoiser.batch(latents, denoiser.Words.of(words), data.generator(0, "x", 1), 400)
    texts = [words.decode(row, skip_special_tokens=True).strip() for row in tokens]
    rare = [text.split()[1] for text in texts if len(text.split()) == 3]
    assert 20 < texts.count("") < 60
    assert 20 < len(rare) < 60
    assert len(set(rare)) > 15 and set(rare) <= set(tokenizer.rare_words(words)[::2])
    _, _, tokens = denoiser.batch(latents, denoiser.Words.of(words), data.generator(0, "x", 1), 400, empty_share=0.0)
    assert "" not in {words.decode(row, skip_special_tokens=True).strip() for row in tokens}
    assert set(texts) >= {"", "a dog", "the dog", "my dog"}


def test_fresh_pictures_take_the_place_of_the_oldest(words: CLIPTokenizer) -> None:
    def repeated(one: denoiser.Latents, times: int) -> denoiser.Latents:
        rest = [part.repeat(times, *[1] * (part.ndim - 1)) for part in (one.masks, one.tokens, one.sided)]
        return denoiser.Latents(one.values.repeat(1, times, 1, 1, 1), *rest)

    corpus = repeated(_latents(words, ["a dog"] * 4, torch.zeros(2, 1, 16, 4, 4).half()), 3)
    two = repeated(_latents(words, ["a cat seen from the left"] * 4, torch.ones(2, 1, 16, 4, 4).half()), 2)
    assert corpus.replace(2, two) == 1
    assert corpus.values[0, :, 0, 0, 0].tolist() == [1, 0, 1]
    assert corpus.sided.all(1).tolist() == [True, False, True]
    assert (corpus.tokens[0] == two.tokens[0]).all() and not (corpus.tokens[1] == two.tokens[0]).all()


def test_times_are_drawn_where_pictures_are_settled() -> None:
    alphas = denoiser.scheduler().alphas_cumprod
    log_snr = (alphas / (1 - alphas)).log()
    times = denoiser.draw_timesteps(log_snr, 20_000, data.generator(0, "times", 0))
    mean, deviation = denoiser.LOG_SNR
    drawn = log_snr[times]
    assert times.min() >= 0 and times.max() <= 999
    assert drawn.median().item() == pytest.approx(mean, abs=0.1)
    assert (drawn.quantile(0.84) - drawn.quantile(0.16)).item() / 2 == pytest.approx(deviation, rel=0.1)


def test_a_stream_renders_scenes_that_the_corpus_lacks() -> None:
    stream = data.Stream(first=2, size=16, workers=1, compiled=False)
    try:
        shards: list[data.Corpus] = []
        deadline = time.monotonic() + 120
        while not shards and time.monotonic() < deadline:
            shards = stream.take()
            time.sleep(0.05)
    finally:
        stream.close()
    assert shards[0].captions[0][0] == captions.caption(captions.sample_scene(8), seed=8 * 8)
    assert shards[0].images.shape == (4, 3, 16, 16) and len(shards[0]) == 4


def test_dead_leaves_fill_the_range() -> None:
    leaves = data.dead_leaves(data.generator(0, "leaves", 0), 3, 32)
    assert leaves.shape == (3, 3, 32, 32)
    assert leaves.min() >= -1 and leaves.max() <= 1 and leaves.std() > 0.2


def test_fractals_have_the_spectrum_of_photographs() -> None:
    clouds = data.fractals(data.generator(0, "fractals", 0), 64, 64)
    assert clouds.shape == (64, 3, 64, 64) and clouds.min() >= -1 and clouds.max() <= 1
    power = torch.fft.rfft2(clouds).abs().mean((0, 1))
    slope = (power[0, 16] / power[0, 2]).log() / torch.tensor(8.0).log()
    assert -1.8 < slope.item() < -0.8


PIPELINES = [name for name, folder in embedded().items() if (folder / "model_index.json").exists()]


@pytest.mark.parametrize("name", PIPELINES)
def test_embedded_pipelines_load(name: str) -> None:
    folder = embedded()[name]
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 25e6
    if (folder / "vae").exists():
        vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
        assert isinstance(vae, AutoencoderKL)
