"""What every method owes: saved equals loaded, nothing else is touched, and taken off it leaves the base exactly."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth import backbones
from dreambooth.backbones.protocol import Backbone, Sampling, is_text_encoder
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import RunError
from dreambooth.examples import Examples
from dreambooth.methods import PivotalTuning, TextualInversion, make_method
from dreambooth.methods.protocol import Adapter, Method
from dreambooth.train_state import Settings
from dreambooth.trainer import finetune

METHODS: dict[str, dict[str, Any]] = {
    "denoiser": {},
    "denoiser and text encoder": {"train_text_encoder": True},
    "one vector": {"method": "textual-inversion"},
    "three vectors": {"method": "textual-inversion", "num_vectors": 3},
    "lora": {"method": "lora", "lora_rank": 4},
    "lora and text encoder": {"method": "lora", "train_text_encoder": True, "lora_alpha": 2.0, "lora_dropout": 0.5},
    "dora everywhere": {"method": "dora", "lora_layers": "all", "train_text_encoder": True},
    "pivotal": {"method": "pivotal", "num_vectors": 2},
}
RATES = {"denoiser": 1e-3, "text_encoder": 1e-3, "embedding": 5e-2}
DRAFT = Sampling(num_inference_steps=2, guidance_scale=2.0, sampler="ddim")


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest) -> Callable[[], Method]:
    """Makes a method of the kind that is looked at."""
    config = make_config(METHODS[request.param])
    return lambda: make_method(config, "dog")


def subject(method: Method) -> str:
    return "a <dog> in snow" if isinstance(method, TextualInversion | PivotalTuning) else "a zqk dog in snow"


def train(backbone: Backbone, method: Method, folder: Path, steps: int = 3, ema: float | None = None) -> None:
    latents = torch.randn(5, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    examples = Examples(latents[:3], latents[3:], (subject(method), "a dog"))
    settings = Settings(steps, 2, RATES, ema_decay=ema, checkpointing_steps=2)
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, make_config({}))
    finetune(backbone, method, examples, settings, run)


def weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in backbone.modules.items()
        for key, value in module.state_dict().items()
    }


def behaviour(backbone: Backbone, *prompts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and final latents under the prompts, as when pictures are drawn: without dropout."""
    training = [module for module in backbone.modules.values() if module.training]
    for module in training:
        module.eval()
    noisy = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = backbone.encode_prompts(prompts)
        prediction = backbone.denoise(noisy, torch.full((len(prompts),), 500), encoded)
    for module in training:
        module.train()
    return prediction, backbone.sample_latents(prompts, range(len(prompts)), DRAFT)


def assert_same(one: Backbone, other: Backbone, *prompts: str) -> None:
    """Same weights, same vocabulary, same behaviour, bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    vocabularies = [[tokenizer.get_vocab() for tokenizer in each.tokenizers] for each in (one, other)]
    assert vocabularies[0] == vocabularies[1]
    for mine, theirs in zip(behaviour(one, *prompts), behaviour(other, *prompts), strict=True):
        assert torch.equal(mine, theirs)


def test_only_what_it_names_is_trained(make: Callable[[], Method], latent_model: Path):
    backbone, method = backbones.load(str(latent_model)), make()
    groups = method.prepare(backbone)
    trained = {id(parameter) for group in groups.values() for parameter in group}
    assert groups.keys() <= RATES.keys() and trained
    assert all(parameter.requires_grad for group in groups.values() for parameter in group)
    for module in backbone.modules.values():
        assert all(not p.requires_grad or id(p) in trained for p in module.parameters())


def test_prepared_it_behaves_as_before(make: Callable[[], Method], latent_model: Path):
    base, backbone = backbones.load(str(latent_model)), backbones.load(str(latent_model))
    make().prepare(backbone)
    for one, other in zip(behaviour(base, "a dog", "a zqk"), behaviour(backbone, "a dog", "a zqk"), strict=True):
        assert torch.equal(one, other)


def test_detached_at_once_it_leaves_the_base(make: Callable[[], Method], latent_model: Path):
    base, backbone = backbones.load(str(latent_model)), backbones.load(str(latent_model))
    configs = {name: copy.deepcopy(module.config) for name, module in backbone.modules.items()}
    method = make()
    method.prepare(backbone)
    method.detach()
    assert_same(base, backbone, "a dog", subject(method))
    encoders = [name for name in configs if is_text_encoder(name)]
    assert all(backbone.modules[name].config.to_dict() == configs[name].to_dict() for name in encoders)
    assert not any(p.requires_grad or m.training for m in backbone.modules.values() for p in m.parameters())


@pytest.mark.parametrize("ema", [None, 0.5])
def test_trained_and_ejected_it_leaves_the_base(
    make: Callable[[], Method], ema: float | None, latent_model: Path, tmp_path: Path
):
    base, backbone, method = backbones.load(str(latent_model)), backbones.load(str(latent_model)), make()
    train(backbone, method, tmp_path / "run", ema=ema)
    prompt = subject(method)
    assert not torch.equal(behaviour(base, prompt)[0], behaviour(backbone, prompt)[0])
    method.eject()
    assert_same(base, backbone, "a dog", prompt)


def test_saved_equals_loaded(make: Callable[[], Method], latent_model: Path, tmp_path: Path):
    backbone, method = backbones.load(str(latent_model)), make()
    train(backbone, method, tmp_path / "run")
    save_file({key: value.clone() for key, value in method.state_dict().items()}, tmp_path / "trained.safetensors")
    fresh, again = backbones.load(str(latent_model)), make()
    again.prepare(fresh)
    again.load_state_dict(load_file(tmp_path / "trained.safetensors"))
    assert_same(backbone, fresh, "a dog", subject(method))
    assert again.facts() == method.facts()


def test_ejected_and_put_on_again_it_is_as_it_was(make: Callable[[], Method], latent_model: Path, tmp_path: Path):
    backbone, method = backbones.load(str(latent_model)), make()
    train(backbone, method, tmp_path / "run")
    trained = {key: value.clone() for key, value in method.state_dict().items()}
    before = behaviour(backbone, subject(method))
    method.eject()
    method.prepare(backbone)
    method.load_state_dict(trained)
    for one, other in zip(before, behaviour(backbone, subject(method)), strict=True):
        assert torch.equal(one, other)


def test_what_is_kept_is_whole(make: Callable[[], Method], latent_model: Path, tmp_path: Path):
    """Saved at any moment, a plain pipeline, or files for the plain base, that do the same."""
    backbone, method, again = backbones.load(str(latent_model)), make(), make()
    train(backbone, method, tmp_path / "run")
    if isinstance(again, Adapter) and isinstance(method, Adapter):
        method.save(tmp_path)
        fresh = backbones.load(str(latent_model))
        again.prepare(fresh)
        again.load(tmp_path)
    else:
        backbone.save_pipeline(tmp_path / "model")
        fresh = backbones.load(str(tmp_path / "model"))
    assert_same(backbone, fresh, "a dog", subject(method))


def test_cut_and_resumed_it_is_bit_identical(make: Callable[[], Method], latent_model: Path, tmp_path: Path):
    straight, cut = make(), make()
    train(backbones.load(str(latent_model)), straight, tmp_path / "straight", steps=5)
    train(backbones.load(str(latent_model)), make(), tmp_path / "cut", steps=2)
    train(backbones.load(str(latent_model)), cut, tmp_path / "cut", steps=5)
    assert straight.state_dict().keys() == cut.state_dict().keys()
    assert all(torch.equal(value, cut.state_dict()[key]) for key, value in straight.state_dict().items())
    logs = [RunFolder.open(tmp_path / name).read_log() for name in ("straight", "cut")]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in logs[0]] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in logs[1]
    ]


def test_foreign_values_are_refused(make: Callable[[], Method], latent_model: Path):
    method = make()
    method.prepare(backbones.load(str(latent_model)))
    own = method.state_dict()
    key = next(iter(own))
    for wrong in ({}, own | {"more": torch.zeros(1)}, own | {key: torch.zeros(1, 1, 1)}):
        with pytest.raises(RunError, match="resume with"):
            method.load_state_dict(wrong)
