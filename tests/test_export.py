"""One file for the programs of others: diffusers reads it back as it was, under the names of published checkpoints."""

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.sizes import UNET_XL
from dreambooth import backbones, original
from tests import tiny
from tests.methods.test_lora import KINDS, know, pictures, trained
from tests.test_cli import FAST, process
from tests.test_cli import dreambooth as command

SD: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD_2: dict[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


def exported(finished: Path, out: Path, *flags: str, monkeypatch: Any, capsys: Any) -> Path:
    code, told, errors = command(monkeypatch, capsys, "export", finished, "--out", out, *flags)
    assert code == 0, errors
    assert told.startswith(str(out))
    return out


def test_examples():
    result = doctest.testmod(original)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("config", [SD, SD_2, UNET_XL])
def test_every_weight_of_the_published_sizes_has_its_place(config: dict[str, Any]):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    names = unet.state_dict().keys()
    parts = original.unet_parts(unet.config)
    file = {original.UNET + original.unet_name(name, parts): name for name in names}
    assert len(file) == len(names)
    # Names in place of tensors: each comes back in its own place.
    assert convert_ldm_unet_checkpoint(dict(file), unet.config) == {name: name for name in names}


def test_every_weight_of_the_published_autoencoder_has_its_place():
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    weights = vae.state_dict()
    file = {original.AUTOENCODER + original.autoencoder_name(name, 4): value for name, value in weights.items()}
    for name, value in file.items():
        if ".attn_1." in name and ".norm." not in name and name.endswith("weight"):
            file[name] = value[..., None, None]
    back = convert_ldm_vae_checkpoint(dict(file), vae.config)
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in weights.items()}


def test_a_model_comes_back_as_it_was(latent_model: Path, tmp_path: Path):
    backbone = backbones.load(str(latent_model))
    weights = {name: value.contiguous() for name, value in original.checkpoint(backbone.pipeline).items()}
    save_file(weights, tmp_path / "one.safetensors")
    again = backbones.load(str(tmp_path / "one.safetensors"), latent_model)
    for name, module in backbone.modules.items():
        other = again.modules[name].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(other[key], value), f"{name}.{key}"


def test_a_model_that_predicts_v_says_so(tmp_path: Path):
    pipeline = tiny.stable_diffusion(tmp_path / "parts", "v_prediction")
    pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True)
    assert {"v_pred", "ztsnr"} <= original.checkpoint(pipeline).keys()
    assert "v_pred" not in original.checkpoint(tiny.stable_diffusion(tmp_path / "other"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("lora")])
def test_an_adapter_draws_the_same_by_kohyas_names(kind: str, latent_model: Path, tmp_path: Path):
    backbone, method = trained(kind, latent_model, tmp_path / "run")
    tensors = original.kohya(method.state_dict(), alphas_of(kind, backbone))
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "kohya.safetensors")
    plain: Any = DiffusionPipeline.from_pretrained(latent_model)
    before = pictures(plain, "a zqk dog")
    plain.load_lora_weights(tmp_path / "kohya.safetensors")
    theirs = pictures(plain, "a zqk dog")
    torch.testing.assert_close(theirs, pictures(backbone.pipeline, "a zqk dog"), rtol=0, atol=1e-5)
    assert (theirs - before).abs().max() > 1e-3


def test_dora_says_by_kohyas_names_what_it_computes(latent_model: Path, tmp_path: Path):
    """As LyCORIS and ComfyUI compute it; diffusers leaves `dora_scale` of such files out."""
    backbone, method = trained("dora, text", latent_model, tmp_path / "run")
    tensors = original.kohya(method.state_dict(), alphas_of("dora, text", backbone))
    seen: set[str] = set()
    for part in alphas_of("dora, text", backbone):
        for path, layer in getattr(backbone.pipeline, part).named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            inner = "" if part == "unet" or path.startswith("text_model.") else "text_model."
            name = f"{original.kohya_part(part, alphas_of('dora, text', backbone))}_{(inner + path).replace('.', '_')}"
            weight = layer.get_base_layer().weight.detach().clone()
            down, up, alpha, scale = (
                tensors[f"{name}.{kind}"] for kind in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
            )
            product = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            whole = weight + product * alpha / len(down)
            whole = whole * (scale / whole.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1)))
            layer.merge()
            torch.testing.assert_close(layer.get_base_layer().weight, whole)
            seen.add(name)
    assert len(seen) * 4 == len(tensors) and any("_conv" in name for name in seen)


def alphas_of(kind: str, backbone: Any) -> dict[str, float]:
    """By the parts of the pipeline that an adapter of this kind may be on."""
    parts = ("unet", "text_encoder", "text_encoder_2")
    return {part: float(KINDS[kind].get("lora_alpha", 16)) for part in parts if hasattr(backbone.pipeline, part)}


@pytest.fixture(scope="module", params=["dreambooth", "pivotal", "textual-inversion"])
def finished(
    request: pytest.FixtureRequest, tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--class-noun", "dog", "--model", tiny_model, "--method", request.param, *FAST]
    done = process("train", photos, "--out", folder / "rex", *flags, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return request.param, folder / "rex"


def test_a_run_as_one_file(finished: tuple[str, Path], tiny_model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any):
    method, run = finished
    if method == "textual-inversion":
        code, _, errors = command(monkeypatch, capsys, "export", run)
        assert code == 1 and "embedding.safetensors is the file to load" in errors and "Traceback" not in errors
        return
    file = exported(
        run, tmp_path / "deep" / "rex.safetensors", "--precision", "fp32", monkeypatch=monkeypatch, capsys=capsys
    )
    small = exported(run, tmp_path / "rex.safetensors", monkeypatch=monkeypatch, capsys=capsys)
    assert small.stat().st_size < 0.6 * file.stat().st_size
    assert all(value.dtype == torch.float16 for value in load_file(small).values())
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["class_noun"] == "dog" and opened.metadata()["identifier"]
    if method == "dreambooth":
        kept = backbones.load(str(run / "model"))
        again = backbones.load(str(file), run / "model")
        for name, module in kept.modules.items():
            other = again.modules[name].state_dict()
            assert all(torch.equal(other[key], value) for key, value in module.state_dict().items())
    else:
        drawn = []
        for adapter in (run, file):
            plain: Any = DiffusionPipeline.from_pretrained(tiny_model)
            know(plain, run / "embedding.safetensors")
            plain.load_lora_weights(adapter)
            drawn.append(pictures(plain, "a <dog>"))
        torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)


@pytest.mark.parametrize("finished", ["dreambooth"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("/nowhere",), "is no run folder"),
        (("RUN", "--out", "rex.ckpt"), "has to end in .safetensors"),
        (("RUN", "--out", "/dev/null/rex.safetensors"), "cannot be written"),
        (("CASCADE",), "which no program reads from a single file"),
        (("BEGUN",), "is not finished"),
    ],
)
def test_wrong_turns(
    finished: tuple[str, Path],
    tiny_cascade: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
    arguments: tuple[str, ...],
    told: str,
):
    from dreambooth.checkpoint import RunFolder
    from dreambooth.config import make_config

    for name, source in (("CASCADE", tiny_cascade), ("BEGUN", None)):
        folder = RunFolder.create(tmp_path / name, make_config({}))
        folder.write_json("subject.json", {"identifier": "zqk", "class_noun": "dog"})
        if source is not None:
            (tmp_path / name / "model").symlink_to(source)
    places = {"RUN": str(finished[1]), "CASCADE": str(tmp_path / "CASCADE"), "BEGUN": str(tmp_path / "BEGUN")}
    code, _, errors = command(monkeypatch, capsys, "export", *(places.get(word, word) for word in arguments))
    assert code == 1 and told in errors and "Traceback" not in errors
