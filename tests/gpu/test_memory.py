"""Memory tiers where they matter."""

from pathlib import Path

import pytest
import torch

from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.examples import noise_and_time
from dreambooth.fitting import finetune_within_memory, fitted, measure
from dreambooth.lending import multiplied, place
from dreambooth.memory import BALANCED, FAST, LEAN, TIERS
from dreambooth.methods import make_method
from dreambooth.methods.full import FullFineTuning
from dreambooth.train_state import TrainState
from dreambooth.trainer import Loss
from tests.test_trainer import examples, settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_every_tier_trains_alike_and_leaves_all_on_the_device(tiny_model: Path, tmp_path: Path):
    losses = {}
    for tier in TIERS.values():
        backbone = backbones.load(str(tiny_model))
        backbone.to("cuda")
        reports, places = [], set()

        def on_step(report, backbone=backbone, reports=reports, places=places) -> None:
            reports.append(report)
            places.add(next(backbone.modules["autoencoder"].parameters()).device.type)

        run = RunFolder.create(tmp_path / tier.name, make_config({}))
        chosen = settings(max_train_steps=20, mixed_precision="bf16")
        finetune_within_memory(
            backbone, FullFineTuning(), examples(), chosen, run, tier, lambda text: pytest.fail(text), on_step=on_step
        )
        losses[tier.name] = [report.loss for report in reports]
        assert places == ({"cpu"} if tier.encoders_away else {"cuda"})
        for module in backbone.modules.values():
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {("cuda", torch.float32)}
    assert losses["balanced"] == pytest.approx(losses["fast"], rel=2e-2)
    assert losses["lean"] == pytest.approx(losses["fast"], rel=5e-2)


def test_frozen_weights_take_half_the_memory_and_come_back(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    backbone.to("cuda")
    weights = multiplied(backbone.modules["denoiser"])
    before = [weight.detach().cpu() for weight in weights]
    taken = torch.cuda.memory_allocated()
    state = TrainState.build(
        backbone, make_method(make_config({"method": "lora"}), "dog"), settings(mixed_precision="bf16")
    )
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert torch.cuda.memory_allocated() < taken
    state.release()
    assert {weight.device.type for weight in weights} == {"cuda"}
    assert all(torch.equal(weight.cpu(), old) for weight, old in zip(weights, before, strict=True))


def test_the_float32_model_is_never_there(tiny_model: Path):
    config = make_config({"method": "lora"})
    whole, lent, device = backbones.load(str(tiny_model)), backbones.load(str(tiny_model)), torch.device("cuda")
    sampling = Sampling(3, 3.0, "ddim", mixed_precision="bf16")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    place(lent, device, make_method(config, "dog"), "bf16")
    numbers = [p.numel() * p.element_size() for module in lent.modules.values() for p in module.parameters()]
    # Each tensor is rounded up to a whole block of the allocator.
    assert torch.cuda.max_memory_allocated() - before <= sum(numbers) + 512 * (len(numbers) + 64)
    samples = lent.sample_latents(["a dog", "a cat"], [1, 2], sampling)
    whole.to(device)
    assert torch.equal(samples, whole.sample_latents(["a dog", "a cat"], [1, 2], sampling))
    method = make_method(config, "dog")
    trained = [parameter for group in method.prepare(lent).values() for parameter in group]
    assert {(parameter.device.type, parameter.dtype) for parameter in trained} == {("cuda", torch.float32)}


def test_a_measured_step_tells_its_memory(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    backbone.to("cuda")
    chosen = settings(train_batch_size=64)
    fast, balanced = (measure(backbone, FullFineTuning(), chosen, tier) for tier in (FAST, BALANCED))
    assert fast is not None and balanced is not None and fast > balanced > 0


@pytest.mark.parametrize("tier", [FAST, LEAN], ids=str)
def test_the_host_waits_for_nothing_within_a_step(tiny_model: Path, tier):
    backbone, method, data = backbones.load(str(tiny_model)), FullFineTuning(), examples()
    backbone.to("cuda")
    data = data.to(torch.device("cuda"))
    chosen = fitted(settings(mixed_precision="bf16"), tier)
    state = TrainState.build(backbone, method, chosen)
    loss = Loss(backbone, method, data, chosen, chosen.train_batch_size)
    try:
        for step in range(3):
            torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
            state.begin(step)
            for batch in data.batches(0, step, chosen.train_batch_size, 1):
                noise_and_time(backbone, batch, 0, step)
                state.backward(loss(batch, step).total, last=True)
            state.clipped()
            state.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
