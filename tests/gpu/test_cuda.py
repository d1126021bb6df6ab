"""What only a CUDA device can show."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.methods.full import FullFineTuning
from dreambooth.methods.textual_inversion import TextualInversion
from dreambooth.precision import MixedPrecision
from dreambooth.trainer import finetune
from tests.test_trainer import examples, settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_noise_and_pictures_are_those_of_the_cpu(tiny_model: Path):
    here, there = backbones.load(str(tiny_model)), backbones.load(str(tiny_model))
    there.to("cuda")
    sampling = Sampling(5, 3.0, "ddim")
    one = here.sample_latents(["a dog"], [1], sampling)
    other = there.sample_latents(["a dog"], [1], sampling).cpu()
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_falls_and_stays_near_the_cpu(tiny_model: Path, tmp_path: Path, precision: MixedPrecision):
    losses = {}
    for device in ("cpu", "cuda"):
        backbone = backbones.load(str(tiny_model))
        backbone.to(device)
        reports = []
        run = RunFolder.create(tmp_path / device, make_config({}))
        chosen = settings(max_train_steps=20, mixed_precision=precision if device == "cuda" else "no")
        finetune(backbone, FullFineTuning(True), examples(), chosen, run, reports.append)
        losses[device] = [report.loss for report in reports]
    assert losses["cuda"][-1] < losses["cuda"][0]
    assert abs(losses["cuda"][0] - losses["cpu"][0]) < 0.05 * losses["cpu"][0]


def test_textual_inversion_learns_and_leaves_all_else(tiny_model: Path, tmp_path: Path):
    base, backbone, data = backbones.load(str(tiny_model)), backbones.load(str(tiny_model)), examples(prior=0)
    backbone.to("cuda")
    method = TextualInversion("<rex>", "dog", 2)
    run = RunFolder.create(tmp_path / "run", make_config({}))
    chosen = settings(learning_rates={"embedding": 5e-2}, max_train_steps=20, mixed_precision="bf16")
    finetune(backbone, method, replace(data, prompts=("a <rex>", "a dog")), chosen, run)
    assert method.warnings() == [] and method.facts()["embedding_distance"] > 0
    method.eject()
    for name, module in base.modules.items():
        for key, value in backbone.modules[name].state_dict().items():
            assert torch.equal(value.cpu(), module.state_dict()[key]), f"{name}.{key}"
