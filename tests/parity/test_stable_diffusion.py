"""The backbone does what the plain diffusers pipeline does, on tiny real components."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.errors import ModelError
from dreambooth.process import Diffusion
from tests import tiny

PROMPTS = ["a zqk dog in the jungle", "a photo of a cat"]


def plain_pipeline(folder: Path):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("sampler", [None, "ddim", "dpm++", "unipc", "euler", "ancestral", "ddpm"])
def test_generate_equals_the_plain_pipeline(tiny_model: Path, sampler: str | None):
    import diffusers

    backbone = backbones.load(str(tiny_model))
    ours = backbone.generate(PROMPTS, [3, 4], Sampling(4, 5.0, sampler))
    plain = plain_pipeline(tiny_model)
    name = {
        None: None,
        "ddim": "DDIMScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
        "unipc": "UniPCMultistepScheduler",
        "euler": "EulerDiscreteScheduler",
        "ancestral": "EulerAncestralDiscreteScheduler",
        "ddpm": "DDPMScheduler",
    }[sampler]
    if name:
        plain.scheduler = getattr(diffusers, name).from_config(plain.scheduler.config)
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = plain(PROMPTS, generator=seeds, num_inference_steps=4, guidance_scale=5.0).images
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_denoise_and_encode_equal_the_components(tiny_model: Path):
    backbone, plain = backbones.load(str(tiny_model)), plain_pipeline(tiny_model)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = plain.vae.encode(pixels).latent_dist.mode() * plain.vae.config.scaling_factor
        hidden, _ = plain.encode_prompt(PROMPTS, "cpu", 1, False)
        expected = plain.unet(latents, torch.tensor([5, 900]), hidden).sample
        torch.testing.assert_close(backbone.encode_images(pixels), latents)
        ours = backbone.denoise(latents, torch.tensor([5, 900]), backbone.encode_prompts(PROMPTS))
    torch.testing.assert_close(ours, expected)


def test_sampling_leaves_training_mode_and_scheduler_alone(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    backbone.modules["denoiser"].train()
    before = backbone.pipeline.scheduler
    backbone.generate(["a dog"], [0], Sampling(2, 2.0, "unipc"))
    assert backbone.modules["denoiser"].training and backbone.pipeline.scheduler is before


def test_v_prediction_is_read_from_the_scheduler(tmp_path: Path):
    process = backbones.load(str(tiny.saved_stable_diffusion(tmp_path, "v_prediction"))).process
    assert isinstance(process, Diffusion) and process.prediction == "v_prediction"


def test_resolution_must_fit_the_model(tiny_model: Path):
    backbone = backbones.load(str(tiny_model))
    backbone.set_resolution(96)
    assert backbone.generate(["a dog"], [0], Sampling(1, 1.0))[0].size == (96, 96)
    with pytest.raises(ModelError, match="multiple of 8"):
        backbone.set_resolution(90)


class TestLoading:
    def test_saved_pipeline_is_plain_diffusers(self, tiny_model: Path, tmp_path: Path):
        backbones.load(str(tiny_model)).save_pipeline(tmp_path / "saved")
        assert type(plain_pipeline(tmp_path / "saved")).__name__ == "StableDiffusionPipeline"
        assert not list((tmp_path / "saved").rglob("*.bin"))

    def test_single_file(self, tiny_model: Path, tmp_path: Path):
        file = tiny.single_file(tiny_model, tmp_path / "tiny.safetensors")
        single = backbones.load(str(file), tiny_model)
        folder = backbones.load(str(tiny_model))
        for name, module in folder.modules.items():
            other = single.modules[name].state_dict()
            for key, value in module.state_dict().items():
                torch.testing.assert_close(other[key], value, rtol=0, atol=0, msg=f"{name}.{key}")

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda folder: "no-such-model", "There is no model"),
            (lambda folder: str(folder), "no model_index.json"),
            (lambda folder: _write(folder / "weights.ckpt", b"x"), "Only safetensors"),
            (lambda folder: _write(folder / "broken.safetensors", b"x"), "cannot be read"),
            (lambda folder: _write(folder / "model_index.json", b"{").rpartition("/")[0], "cannot be read"),
            (
                lambda folder: _write(folder / "model_index.json", b'{"_class_name": "FluxPipeline"}').rpartition("/")[
                    0
                ],
                "not supported yet",
            ),
            (
                lambda folder: _write(
                    folder / "model_index.json", b'{"_class_name": "StableDiffusionPipeline"}'
                ).rpartition("/")[0],
                "cannot be read",
            ),
        ],
    )
    def test_what_cannot_be_loaded_is_told_in_a_sentence(self, tmp_path: Path, make, told: str):
        name = make(tmp_path)
        with pytest.raises(ModelError, match=told) as caught:
            backbones.load(name, tmp_path if name.endswith("broken.safetensors") else None)
        assert "\n" not in str(caught.value)

    def test_hub_that_cannot_be_reached_is_told(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="cannot be fetched"):
            backbones.load("nobody/no-such-model")

    def test_native_resolution_is_read_without_loading(self, tiny_model: Path):
        assert backbones.native_resolution(backbones.resolve(str(tiny_model))) == 64


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
