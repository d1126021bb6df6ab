"""LoRA, DoRA and pivotal tuning: small files for the plain base, that diffusers reads as we do."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dreambooth
from dreambooth import backbones
from dreambooth.backbones.protocol import LoraTargets, Recipe
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import ConfigError, DreamBoothError, ModelError, RunError
from dreambooth.methods import LoRA, make_method
from dreambooth.methods.lora import LORA_FILE, Shape
from dreambooth.methods.protocol import Adapter
from dreambooth.plan import make_plan, resolve_defaults
from tests.methods.test_contract import train, weights
from tests.test_cli import FAST, process
from tests.test_cli import dreambooth as command

WIDE = {"train_text_encoder": True, "lora_layers": "linear", "lora_alpha": 8.0, "lora_rank": 4}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "lora, convolutions": {"method": "lora", "lora_layers": "all"},
    "lora, text": {"method": "lora", **WIDE},
    "dora, text": {"method": "dora", **WIDE, "lora_layers": "all"},
    "pivotal": {"method": "pivotal", "num_vectors": 2},
}


def trained(kind: str, model: Path, folder: Path) -> tuple[Any, Adapter]:
    """A backbone with a trained adapter on it, and that adapter."""
    backbone, method = backbones.load(str(model)), make_method(make_config(KINDS[kind]), "dog")
    train(backbone, method, folder)
    assert isinstance(method, Adapter)
    return backbone, method


def pictures(pipeline: Any, prompt: str) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipeline(prompt, num_inference_steps=3, generator=generator, output_type="np").images)


def know(pipeline: Any, file: Path) -> None:
    """Teaches a plain pipeline the word of a file, as the documentation says."""
    if not hasattr(pipeline, "text_encoder_2"):
        pipeline.load_textual_inversion(file)
        return
    word = load_file(file)
    for name, ending in (("clip_l", ""), ("clip_g", "_2")):
        parts = {part: getattr(pipeline, part + ending) for part in ("text_encoder", "tokenizer")}
        pipeline.load_textual_inversion(word[name], token="<dog>", **parts)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_draws_the_same_with_the_files_on_the_plain_base(kind: str, latent_model: Path, tmp_path: Path):
    from diffusers import DiffusionPipeline

    backbone, method = trained(kind, latent_model, tmp_path / "run")
    prompt = "a <dog> in snow" if kind == "pivotal" else "a zqk dog in snow"
    method.save(tmp_path, {"identifier": "zqk"})
    pipeline = DiffusionPipeline.from_pretrained(latent_model)
    plain = pictures(pipeline, prompt)
    if kind == "pivotal":
        know(pipeline, tmp_path / "embedding.safetensors")
    pipeline.load_lora_weights(tmp_path)
    ours, theirs = pictures(backbone.pipeline, prompt), pictures(pipeline, prompt)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert (theirs - plain).abs().max() > 1e-3
    left = {"run", LORA_FILE} | ({"embedding.safetensors"} if kind == "pivotal" else set())
    assert {path.name for path in tmp_path.iterdir()} == left


def test_the_header_tells_what_a_stranger_needs(tiny_model: Path, tmp_path: Path):
    _, method = trained("lora, text", tiny_model, tmp_path / "run")
    method.save(tmp_path, {"identifier": "zqk", "class_noun": "dog"})
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        header = file.metadata()
    settings = json.loads(header["lora_adapter_metadata"])
    assert (header["identifier"], header["class_noun"], header["format"]) == ("zqk", "dog", "pt")
    assert (settings["unet.r"], settings["unet.lora_alpha"], settings["text_encoder.r"]) == (4, 8.0, 4)


def test_text_encoders_have_the_names_that_other_programs_look_for(latent_model: Path, tmp_path: Path):
    """ComfyUI and the diffusers of transformers 4 know `text_model`, which transformers 5 leaves out of one of them."""
    _, method = trained("lora, text", latent_model, tmp_path / "run")
    method.save(tmp_path)
    names = [name for name in load_file(tmp_path / LORA_FILE) if name.startswith("text_encoder")]
    assert names and all(name.partition(".")[2].startswith("text_model.encoder.layers.") for name in names)


def shapes(tensors: Mapping[str, torch.Tensor], part: str) -> set[str]:
    """The layers of a part that adapters are on, by the last word of their names."""
    return {key.split(".lora_")[0].rpartition(".")[2] for key in tensors if key.startswith(part)}


def test_rank_and_layers_are_those_asked_for(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    attention = LoRA(Shape(rank=3))
    attention.prepare(backbone)
    state = attention.state_dict()
    assert shapes(state, "unet") == {"to_q", "to_k", "to_v", "0"} and shapes(state, "text_encoder") == set()
    assert {value.shape[0] for key, value in state.items() if "lora_A" in key} == {3}
    attention.eject()
    everywhere = LoRA(Shape(layers="all"), train_text_encoder=True)
    groups = everywhere.prepare(backbone)
    state = everywhere.state_dict()
    assert {"conv1", "conv2", "conv_shortcut", "proj", "proj_in"} < shapes(state, "unet")
    assert shapes(state, "text_encoder") == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    assert groups.keys() == {"denoiser", "text_encoder"} and len(state) == sum(map(len, groups.values()))


def test_alpha_scales_what_is_added(tiny_model: Path):
    """Twice α is twice the product, which the same product with B doubled proves."""
    backbone, results = backbones.load(str(tiny_model)), []
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for alpha, factor in ((4.0, 2.0), (8.0, 1.0)):
        method = LoRA(Shape(rank=4, alpha=alpha))
        method.prepare(backbone)
        draw = torch.Generator().manual_seed(1)
        state = {key: torch.randn(value.shape, generator=draw) * 0.1 for key, value in method.state_dict().items()}
        method.load_state_dict({key: value * (factor if "lora_B" in key else 1.0) for key, value in state.items()})
        with torch.no_grad():
            results.append(backbone.denoise(noisy, torch.tensor([500]), backbone.encode_prompts(["a dog"])))
        method.eject()
    torch.testing.assert_close(*results)


def test_it_begins_by_seed_alone(tiny_model: Path):
    def start(seed: int) -> dict[str, torch.Tensor]:
        method = LoRA(Shape(), seed=seed)
        torch.rand(seed + 1)
        before = torch.random.get_rng_state()
        method.prepare(backbones.load(str(tiny_model)))
        assert torch.equal(before, torch.random.get_rng_state())
        return method.state_dict()

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if "lora_A" in key)


def test_gradient_checkpointing_changes_no_gradient(tiny_model: Path):
    gradients: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        backbone, method = backbones.load(str(tiny_model)), LoRA(Shape(kind="dora"), train_text_encoder=True)
        groups = method.prepare(backbone)
        if checkpointing:
            backbone.enable_gradient_checkpointing()
        noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        backbone.denoise(noisy, torch.tensor([500]), backbone.encode_prompts(["a dog"])).square().mean().backward()
        gradients.append([p.grad for group in groups.values() for p in group if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_family_without_layers_is_told(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    backbone.spec = replace(backbone.spec, lora_targets={})
    for kind in ("lora", "pivotal"):
        method = make_method(make_config({"method": kind}), "dog")
        with pytest.raises(ModelError, match="No layers for LoRA"):
            method.prepare(backbone)
        assert "<dog>" not in backbone.tokenizers[0].get_vocab()


def test_layers_that_are_not_there_are_told_and_change_nothing(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    targets = {"denoiser": LoraTargets("unet", ("to_q",)), "text_encoder": LoraTargets("text_encoder", ("nowhere",))}
    backbone.spec = replace(backbone.spec, lora_targets=targets)
    method, before = LoRA(Shape(), train_text_encoder=True), weights(backbone).keys()
    with pytest.raises(ModelError, match="An adapter does not fit this model"):
        method.prepare(backbone)
    method.detach()
    assert weights(backbone).keys() == before


@pytest.mark.parametrize("damage", ["missing", "broken", "another"])
def test_a_file_that_cannot_be_used_is_told(damage: str, tiny_model: Path, tmp_path: Path):
    backbone, method = backbones.load(str(tiny_model)), LoRA(Shape())
    method.prepare(backbone)
    if damage == "broken":
        (tmp_path / LORA_FILE).write_bytes(b"nothing")
    if damage == "another":
        save_file({"unet.lora": torch.zeros(1)}, tmp_path / LORA_FILE)
    with pytest.raises(RunError, match="does not fit" if damage == "another" else "cannot be read"):
        method.load(tmp_path)


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"lora_rank": 8}, "lora_rank belongs to the methods lora, dora, pivotal"),
            ({"lora_rank": 8, "lora_layers": "all"}, "lora_rank and lora_layers belong to the methods"),
            ({"method": "textual-inversion", "lora_layers": "all"}, "lora_layers belongs"),
            ({"method": "lora", "lora_rank": 0}, "lora_rank"),
            ({"method": "lora", "lora_layers": "some"}, "lora_layers"),
            ({"method": "lora", "num_vectors": 2}, "belong to textual-inversion and pivotal"),
            ({"method": "lora", "identifier": "<rex>"}, "angle brackets"),
            ({"method": "lora", "embedding_lr": 1e-3}, "embedding_lr belongs to pivotal"),
            ({"method": "pivotal", "probe_identifier": True}, "probe_identifier cannot go with pivotal"),
        ],
    )
    def test_what_does_not_go_together_is_told(self, values: dict[str, Any], told: str):
        with pytest.raises(ConfigError, match=told):
            make_config(values)

    @pytest.mark.parametrize("name", ["lora", "dora", "pivotal"])
    def test_defaults_are_the_methods_own(self, tiny_model: Path, name: str):
        spec = backbones.load(str(tiny_model)).spec
        config = resolve_defaults(make_config({"method": name}), spec)
        assert Recipe(*(getattr(config, field) for field in vars(spec.lora))) == spec.lora
        assert config.with_prior_preservation and config.instance_prompt == "a {subject}"
        assert config.embedding_lr == (spec.textual_inversion.learning_rate if name == "pivotal" else None)

    def test_plan_counts_the_adapter_alone(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        plans = {}
        for name in ("dreambooth", "lora"):
            config = resolve_defaults(make_config({"method": name}), backbone.spec)
            plans[name] = make_plan(config, backbone, make_method(config, "dog"), photos=3)
        count = plans["lora"].trained_parameters["denoiser"]
        assert 0 < count < plans["dreambooth"].trained_parameters["denoiser"] / 2
        assert plans["lora"].disk_bytes < plans["dreambooth"].disk_bytes / 2
        assert plans["lora"].memory_bytes < plans["dreambooth"].memory_bytes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: Path) -> Path:
    """A run of pivotal tuning, made by the command in a process of its own on a base that it does not share."""
    folder = tmp_path_factory.mktemp("pivotal")
    (folder / "base").symlink_to(tiny_model)
    flags = ["--class-noun", "dog", "--method", "pivotal", "--lora-rank", "2", *FAST]
    done = process("train", photos, "--model", folder / "base", "--out", folder / "run", *flags, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    assert LORA_FILE in done.stdout
    return folder / "run"


class TestOnTheRoad:
    def test_the_run_keeps_no_copy_of_the_base(self, finished: Path):
        assert not (finished / "model").exists() and (finished / "report.html").is_file()
        assert (finished / "prior.png").is_file(), "the class is preserved"
        assert load_file(finished / "embedding.safetensors")["<dog>"].shape == (1, 32)
        facts = json.loads((finished / "subject.json").read_text())
        assert facts["identifier"] == "<dog>" and facts["instance_prompt"] == "a <dog>"
        with safe_open(finished / LORA_FILE, "pt") as file:
            header = file.metadata()
        assert header["identifier"] == header["modelspec.trigger_phrase"] == "<dog>"
        assert header["class_noun"] == "dog" and header["base_model"] == facts["model"]
        assert RunFolder.open(finished).result.name == LORA_FILE

    def test_generate_draws_what_diffusers_draws(
        self, finished: Path, tiny_model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
    ):
        from diffusers import DiffusionPipeline

        code, _, told = command(
            monkeypatch, capsys, "generate", finished, "a {subject} in the jungle", "-n", 1, "--num-inference-steps", 1,
            "--out", tmp_path / "pictures", "--quiet",
        )  # fmt: skip
        assert code == 0, told
        pipeline = DiffusionPipeline.from_pretrained(tiny_model)
        pipeline.load_textual_inversion(finished / "embedding.safetensors")
        pipeline.load_lora_weights(finished)
        ours = dreambooth.load(finished).backbone
        assert not any(p.requires_grad or m.training for m in ours.modules.values() for p in m.parameters())
        theirs = pictures(pipeline, "a <dog> in the jungle")
        torch.testing.assert_close(theirs, pictures(ours.pipeline, "a <dog> in the jungle"), rtol=0, atol=1e-5)

    def test_without_its_base_it_says_so(self, finished: Path, tmp_path: Path):
        base = finished.parent / "base"
        held = base.readlink()
        try:
            base.unlink()
            with pytest.raises(DreamBoothError, match="keeps an adapter, which needs its base model"):
                _ = dreambooth.load(finished).backbone
            other = backbones.load(str(held))
            with torch.no_grad():
                next(other.modules["denoiser"].parameters()).add_(1)
            other.save_pipeline(base)
            with pytest.raises(RunError, match=r"is not the one that .* was trained on"):
                _ = dreambooth.load(finished).backbone
        finally:
            if base.is_dir() and not base.is_symlink():
                base.rename(tmp_path / "other")
            base.symlink_to(held)
