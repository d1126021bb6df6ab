"""Designs of the denoiser are asked the same whatever their target, and each can be trained."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.designs import DESIGNS, Design, Trial
from dreambooth.models import embedded
from dreambooth.toybox import denoiser
from dreambooth.toybox.denoiser import Latents


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(str(embedded()["toybox-sd"]), local_files_only=True)


def trial(design: Design, pipe: StableDiffusionPipeline) -> Trial:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(2, 8, 16, 16, 16, generator=draw).half()
    words = denoiser.tokens(pipe.tokenizer, ["a dog"] * 16).view(8, 2, -1)
    masks = torch.randint(0, 256, (8, 1, 16, 16), generator=draw, dtype=torch.uint8)
    latents = Latents(values, masks, words.to(torch.int16), torch.zeros(8, 2, dtype=torch.bool))
    images = torch.randint(0, 256, (8, 3, 128, 128), generator=draw, dtype=torch.uint8)
    return Trial(replace(design, batch=2), latents, images, pipe)


@pytest.mark.parametrize("target", ["v", "epsilon", "flow"])
def test_the_true_target_gives_the_clean_latents_back(target: str, pipe: StableDiffusionPipeline):
    tried = trial(Design(target=target), pipe)
    clean, noise = torch.randn(2, 4, 16, 16, 16)
    ratios = torch.tensor([-4.0, -2.0, 0.0, 2.0])
    noisy, _, wanted, a, s = tried.corrupt(clean, noise, ratios)
    torch.testing.assert_close((a / s).square().log().flatten(), ratios, atol=0.05, rtol=0)
    torch.testing.assert_close(tried.cleaned(noisy, wanted, a, s), clean, atol=1e-4, rtol=1e-4)


TRIED = (
    "aligned with toybox-dino (REPA 0.5)",
    "AdamW 6e-4 instead of Muon",
    "rectified flow",
    "a quarter of the places hidden",
    "half of the time at half the size",
    "the last weights, not their average",
)


@pytest.mark.parametrize("name", TRIED)
def test_a_design_is_trained_and_judged(name: str, pipe: StableDiffusionPipeline):
    tried = trial(DESIGNS[name], pipe)
    before = {key: value.clone() for key, value in tried.model.state_dict().items()}
    average, seconds = tried.fit(4)
    moved = [key for key, value in tried.model.state_dict().items() if not torch.equal(value, before[key])]
    assert seconds > 0 and len(moved) > 100
    tokens = denoiser.tokens(pipe.tokenizer, ["a dog"] * 4)
    errors = tried.errors(average, torch.randn(4, 16, 16, 16), tokens)
    assert len(errors) == 4 and all(0 < error < 1000 for error in errors)
