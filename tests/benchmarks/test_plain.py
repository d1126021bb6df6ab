"""The plain loop and ours compute the same thing: equal noise, times and latents give equal losses, step by step."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import plain, sizes
from dreambooth import backbones
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.examples import Examples, noise_and_time
from dreambooth.methods.full import FullFineTuning
from dreambooth.train_state import Settings
from dreambooth.trainer import finetune
from tests import tiny

STEPS, ROWS, RATE = 20, 2, 1e-3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("make", [tiny.saved_stable_diffusion, tiny.saved_stable_diffusion_xl])
def test_twenty_steps_have_the_losses_of_the_plain_loop(
    tmp_path: Path, make: Callable[[Path, str], Path], prediction_type: str
):
    """Within 1e-4: the same sums in another order, carried through twenty updates."""
    model = make(tmp_path, prediction_type)
    backbone = backbones.load(str(model))
    loop = plain.Loop.build(copy.deepcopy(backbone.pipeline), "cpu", torch.float32, RATE)
    torch.manual_seed(0)
    examples = Examples(torch.randn(3, 4, 16, 16), torch.randn(5, 4, 16, 16), ("a zqk dog", "a dog"))
    reports = []
    settings = Settings(STEPS, ROWS, {"denoiser": RATE}, checkpointing_steps=0)
    run = RunFolder.create(tmp_path / "run", make_config({}))
    finetune(backbone, FullFineTuning(), examples, settings, run, reports.append)

    prompts = [list(examples.prompts)] * len(backbone.tokenizers)
    padding = {"padding": "max_length", "max_length": 16, "return_tensors": "pt"}
    ids = [tokenizer(each, **padding).input_ids for tokenizer, each in zip(backbone.tokenizers, prompts, strict=True)]
    tokens = torch.stack(ids, dim=1)
    losses = []
    for step in range(STEPS):
        batch = next(examples.batches(settings.seed, step, ROWS, 1))
        noise, time = noise_and_time(backbone, batch, settings.seed, step)
        with torch.no_grad():
            hidden, added = loop.read(tokens[batch.is_prior.long()], 64)
        losses.append(loop.step_from(batch.clean, hidden, noise, time, added))
    assert [report.loss for report in reports] == pytest.approx(losses, rel=1e-4)
    assert len({round(loss, 4) for loss in losses}) == STEPS
    ours, theirs = backbone.modules["denoiser"].state_dict(), loop.denoiser.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=RATE / 2) for name in ours)


def test_a_step_from_files_encodes_what_ours_encodes(tiny_model: Path, photos: Path, tmp_path: Path):
    """Photos and prompts of the plain loop are ours; only its latents are drawn from the posterior, not its mode."""
    pipeline = sizes.pipeline(sizes.size_of(str(tiny_model)))
    plain.draw_prior(pipeline, "a dog", 3, tmp_path / "class")
    assert len(list((tmp_path / "class").glob("*.png"))) == 3
    files = plain.Files(photos, tmp_path / "class", ("a zqk dog", "a dog"), pipeline, 64)
    pixels, tokens = plain.collate([files[0], files[1]])
    assert pixels.shape == (4, 3, 64, 64) and -1 <= pixels.min() < pixels.max() <= 1
    hidden = backbones.load(str(tiny_model)).encode_prompts(["a zqk dog", "a dog"]).tensors["hidden"]
    with torch.no_grad():
        torch.testing.assert_close(pipeline.text_encoder(tokens[:, 0])[0], hidden[[0, 0, 1, 1]])


def test_training_from_files_reads_encodes_and_learns(tiny_model: Path, photos: Path, tmp_path: Path):
    torch.manual_seed(0)
    pipeline = sizes.pipeline(sizes.size_of(str(tiny_model)))
    plain.draw_prior(pipeline, "a dog", 2, tmp_path / "class")
    loop = plain.Loop.build(pipeline, "cpu", torch.float32, RATE)
    files = plain.Files(photos, tmp_path / "class", ("a zqk dog", "a dog"), pipeline, 64)
    seen: list[int] = []
    losses = plain.train(loop, files, 2, 30, seen.append)
    assert seen == list(range(1, 31)) and sum(losses[-10:]) < sum(losses[:10])
    assert set(loop.seconds) == {
        "read files", "encode photos", "encode prompts", "forward and backward", "optimizer"
    }  # fmt: skip


def test_halves_are_two_means():
    prediction, target = torch.tensor([[1.0], [3.0], [0.0], [2.0]]), torch.zeros(4, 1)
    assert float(plain.halved_loss(prediction, target, 0.5)) == pytest.approx((1 + 9) / 2 + 0.5 * (0 + 4) / 2)
