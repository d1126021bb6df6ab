"""The cascade's pretraining at toy sizes, its tokenizer, and what its super-resolver is trained on."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline
from transformers import T5Tokenizer

from dreambooth import backbones, identifier
from dreambooth.backbones.cascade import SuperResolver
from dreambooth.backbones.cascade_files import SUPER_RESOLUTION
from dreambooth.backbones.if_pipelines import fixed_variance
from dreambooth.backbones.latent_diffusion import make_scheduler
from dreambooth.toybox import captions, cascade, data, pixels, unigram, upscaler
from dreambooth.toybox.cascade import CascadeConfig
from dreambooth.toybox.fit import Budget, Optimisation

TINY = CascadeConfig(
    images=8,
    large_images=4,
    size=64,
    base=Budget(2),
    super_resolution=Budget(2),
    base_rates=Optimisation(batch=4, warmup=1),
    upscaler_rates=Optimisation(batch=2, warmup=1),
    base_channels=(8, 16),
    upscaler_channels=(8, 16),
    width=32,
    layers=1,
    compiled=False,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD", 4)
    monkeypatch.setattr(pixels, "PROMPTS", ("a dog",))
    monkeypatch.setattr(upscaler, "CROP", 32)


@pytest.fixture(scope="module")
def words() -> T5Tokenizer:
    return cascade.learn_words(300)


def test_train_makes_two_pipelines_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    cascade.train(tmp_path / "toy", TINY, work=tmp_path / "work", device="cpu", log=lines.append)
    base = IFPipeline.from_pretrained(tmp_path / "toy", local_files_only=True, safety_checker=None, watermarker=None)
    base.set_progress_bar_config(disable=True)
    small = base("a zqk dog", num_inference_steps=2, output_type="pt", clean_caption=False).images
    assert small.shape == (1, 3, 16, 16) and small.isfinite().all()
    large = IFSuperResolutionPipeline.from_pretrained(
        tmp_path / "toy" / SUPER_RESOLUTION, text_encoder=base.text_encoder, tokenizer=base.tokenizer,
        safety_checker=None, watermarker=None,
    )  # fmt: skip
    large.set_progress_bar_config(disable=True)
    picture = large(image=small, prompt="a dog", noise_level=50, num_inference_steps=2, output_type="pt",
                    clean_caption=False).images  # fmt: skip
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()
    card = (tmp_path / "toy" / "README.md").read_text("utf-8")
    assert "2 steps of 4" in card and "toybox assess --model toybox-if" in card
    cascade.train(tmp_path / "toy", TINY, work=tmp_path / "work", device="cpu", log=lines.append)
    assert "base: resumed at step 2" in lines and "upscaler: resumed at step 2" in lines


def test_no_loss_reaches_the_variance(words: T5Tokenizer, tmp_path: Path) -> None:
    model = pixels.new(words, size=16, channels=(8, 16), width=32, layers=1)
    corpus = data.Corpus(
        torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8),
        torch.randint(256, (4, 1, 4, 4), dtype=torch.uint8),
        [["a dog", "the dog", "dog", "a [v] dog"]] * 4,
    )
    examples = pixels.examples(corpus, words, 16)
    assert examples.values.shape == (2, 4, 3, 16, 16) and examples.masks.shape == (4, 1, 16, 16)
    fitted = pixels.train(examples, words, tmp_path, Budget(2), Optimisation(batch=2, warmup=1), model=model)
    last = fitted.module.unet.conv_out
    assert not last.weight[3:].any() and not last.bias[3:].any() and last.weight[:3].any()


def test_a_prompt_is_read_as_the_pipeline_reads_it(words: T5Tokenizer) -> None:
    model = pixels.new(words, size=16, channels=(8, 16), width=32, layers=1).eval()
    pipe = pixels.pipeline(model, words)
    with torch.no_grad():
        ours = pixels.read(model.text_encoder, pixels.tokens(words, ["A dog in the Snow "]))
        theirs, _ = pipe.encode_prompt("A dog in the Snow ", do_classifier_free_guidance=False)
    assert torch.equal(ours, theirs)


def test_the_small_picture_is_enlarged_as_the_pipeline_enlarges(words: T5Tokenizer) -> None:
    large = torch.rand(2, 3, 64, 64) * 2 - 1
    small = F.interpolate(large, (16, 16), mode="area")
    theirs = F.interpolate(small, (64, 64), mode="bilinear", align_corners=True)
    assert torch.equal(upscaler.enlarged(large, 16), theirs)
    cuts = upscaler.cut(torch.cat([large, theirs], 1), 32, torch.Generator().manual_seed(1))
    assert cuts.shape == (2, 6, 32, 32)
    first, low = cuts.chunk(2, 1)
    places = [(top, left) for top in range(0, 33, 8) for left in range(0, 33, 8)]
    found = [place for place in places if torch.equal(_window(large[0], place), first[0])]
    assert len(found) == 1 and torch.equal(_window(theirs[0], found[0]), low[0])


def _window(image: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
    top, left = place
    return image[:, top : top + 32, left : left + 32]


def test_a_super_resolver_is_drawn_down_to_no_noise(tmp_path: Path) -> None:
    """In even steps of time the last of 15 begins at time 67, and a third of that noise stays as grain."""
    upscaler.scheduler().save_pretrained(tmp_path)
    fresh = DDPMScheduler.from_pretrained(tmp_path)
    shipped = backbones.load("toybox-if")
    assert isinstance(shipped, SuperResolver)
    for scheduler in (fresh, fixed_variance(shipped.pipeline.scheduler)):
        sampler = make_scheduler("dpm++", fixed_variance(scheduler))
        sampler.set_timesteps(15)
        assert sampler.timesteps[-2] < 10 and sampler.timesteps[-1] == 0


def test_levels_cover_the_range_and_are_often_low() -> None:
    levels = upscaler.draw_levels(4000, torch.Generator().manual_seed(0))
    assert levels.min() >= 0 and levels.max() <= 999 and levels.max() > 950
    assert 0.45 < (levels < 250).float().mean() < 0.55  # the square of a uniform draw


def test_words_and_rare_words_are_one_piece_each(words: T5Tokenizer) -> None:
    for word in ("dog", "beach", *unigram.rare_words(words)[:40]):
        assert len(words(word, add_special_tokens=False).input_ids) == 1, word
    assert unigram.rare_words(words)[:2] == ["sks", "zqk"]
    known = {piece for seed in range(300) for piece in unigram.pieces_of(captions.caption(captions.sample_scene(seed)))}
    assert known.isdisjoint(unigram.SPACE + word for word in unigram.rare_words(words))
    letters = words("xylophone", add_special_tokens=False).input_ids
    assert len(letters) > 1 and words.unk_token_id not in letters


def test_a_tokenizer_survives_its_folder(words: T5Tokenizer, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    again = T5Tokenizer.from_pretrained(tmp_path)
    assert again("a zqk dog, seen").input_ids == words("a zqk dog, seen").input_ids
    assert identifier.check("zqk", again, "dog").token_ids == (words.convert_tokens_to_ids("▁zqk"),)
