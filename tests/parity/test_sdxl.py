"""SDXL does what the plain `StableDiffusionXLPipeline` does, on tiny real components."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.errors import ModelError
from dreambooth.process import Diffusion
from tests import tiny
from tests.parity.test_stable_diffusion import plain_pipeline

PROMPTS = ["a zqk dog in the jungle", "a photo of a cat"]


def pictures(plain, prompts: list[str], **settings) -> list[np.ndarray]:
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    return [np.asarray(image) for image in plain(prompts, generator=seeds, num_inference_steps=4, **settings).images]


def assert_equal_pictures(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(one), other)


@pytest.mark.parametrize("sampler", [None, "ddim", "dpm++", "unipc", "euler", "ancestral", "ddpm"])
def test_generate_equals_the_plain_pipeline(tiny_xl: Path, sampler: str | None):
    import diffusers

    ours = backbones.load(str(tiny_xl)).generate(PROMPTS, [3, 4], Sampling(4, 5.0, sampler))
    plain = plain_pipeline(tiny_xl)
    name = {
        "ddim": "DDIMScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
        "unipc": "UniPCMultistepScheduler",
        "ancestral": "EulerAncestralDiscreteScheduler",
        "ddpm": "DDPMScheduler",
    }.get(str(sampler))
    if name:
        # Euler's configuration says nothing of cutting latents to -1..1, so no sampler is to cut them.
        unclipped = {"clip_sample": False} if name.startswith("DD") else {}
        plain.scheduler = getattr(diffusers, name).from_config(plain.scheduler.config, **unclipped)
    assert_equal_pictures(ours, pictures(plain, PROMPTS, guidance_scale=5.0))


@pytest.mark.parametrize("negative", ["", "a red cat"])
@pytest.mark.parametrize("force_zeros", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_guidance_starts_where_the_pipeline_starts(tmp_path: Path, negative: str, force_zeros: bool, guidance: float):
    model = tiny.saved_stable_diffusion_xl(tmp_path, force_zeros=force_zeros)
    sampling = Sampling(4, guidance, None, negative)
    ours = backbones.load(str(model)).generate(PROMPTS, [3, 4], sampling)
    given = {"negative_prompt": [negative] * 2} if negative else {}  # not given is what most users of a pipeline do
    assert_equal_pictures(ours, pictures(plain_pipeline(model), PROMPTS, guidance_scale=guidance, **given))


def test_prompts_are_encoded_as_by_the_pipeline(tiny_xl: Path):
    backbone, plain = backbones.load(str(tiny_xl)), plain_pipeline(tiny_xl)
    with torch.no_grad():
        ours = backbone.encode_prompts(PROMPTS).tensors
        hidden, unsaid, pooled, unsaid_pooled = plain.encode_prompt(PROMPTS)
        nothing = backbone.encode_prompts(["", "a dog"]).tensors
    assert torch.equal(ours["hidden"], hidden) and torch.equal(ours["pooled"], pooled)
    assert ours["hidden"].shape == (2, 16, 72) and ours["pooled"].shape == (2, 24)
    assert torch.equal(nothing["hidden"][:1], unsaid[:1]) and torch.equal(nothing["pooled"][:1], unsaid_pooled[:1])
    assert nothing["hidden"][1].abs().min() > 0


def test_an_empty_prompt_is_read_where_the_model_was_not_trained_with_zeros(tmp_path: Path):
    model = tiny.saved_stable_diffusion_xl(tmp_path, force_zeros=False)
    plain = plain_pipeline(model)
    with torch.no_grad():
        ours = backbones.load(str(model)).encode_prompts([""]).tensors
        _, unsaid, _, pooled = plain.encode_prompt(["a dog"], negative_prompt=[""])
    assert torch.equal(ours["hidden"], unsaid) and torch.equal(ours["pooled"], pooled) and pooled.abs().max() > 0


def test_denoise_equals_the_unet_called_by_hand(tiny_xl: Path):
    backbone, plain = backbones.load(str(tiny_xl)), plain_pipeline(tiny_xl)
    backbone.set_resolution(96)
    noisy, time = torch.randn(2, 4, 24, 24), torch.tensor([5, 900])
    with torch.no_grad():
        hidden, _, pooled, _ = plain.encode_prompt(PROMPTS)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[96.0, 96, 0, 0, 96, 96]] * 2)}
        expected = plain.unet(noisy, time, hidden, added_cond_kwargs=added).sample
        assert torch.equal(backbone.denoise(noisy, time, backbone.encode_prompts(PROMPTS)), expected)
        other = dict(added, time_ids=torch.tensor([[64.0, 64, 0, 0, 96, 96]] * 2))
        assert not torch.equal(plain.unet(noisy, time, hidden, added_cond_kwargs=other).sample, expected)


@pytest.mark.parametrize("moments", [{}, {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}])
def test_latents_are_normalised_as_by_the_pipeline(tmp_path: Path, moments: dict[str, list[float]]):
    model = tiny.saved_stable_diffusion_xl(tmp_path, **moments)
    backbone, plain = backbones.load(str(model)), plain_pipeline(model)
    assert_equal_pictures(
        backbone.generate(PROMPTS, [3, 4], Sampling(2, 1.0)),
        [
            np.asarray(image)
            for image in plain(
                PROMPTS,
                num_inference_steps=2,
                guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            ).images
        ],
    )
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        codes = plain.vae.encode(pixels).latent_dist.mode()
    latents = backbone.encode_images(pixels)
    mean, std = (torch.tensor(moments.get(name, [value] * 4)).view(1, 4, 1, 1) for name, value in (
        ("latents_mean", 0.0), ("latents_std", 1.0)
    ))  # fmt: skip
    torch.testing.assert_close(latents, (codes - mean) / std * 0.13025)


def test_large_pictures_go_through_the_autoencoder_one_by_one(tiny_xl: Path, monkeypatch: pytest.MonkeyPatch):
    backbone = backbones.load(str(tiny_xl))
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    together, drawn = backbone.encode_images(pixels), backbone.decode_latents(torch.randn(3, 4, 16, 16))
    monkeypatch.setattr("dreambooth.backbones.latent_diffusion.MOST_PIXELS", 64 * 64)
    torch.testing.assert_close(backbone.encode_images(pixels), together)
    assert len(backbone.decode_latents(torch.randn(3, 4, 16, 16))) == len(drawn) == 3


def test_large_pictures_are_drawn_a_few_at_a_time(tiny_xl: Path, monkeypatch: pytest.MonkeyPatch):
    backbone, prompts, sampling = backbones.load(str(tiny_xl)), [*PROMPTS, "a dog"], Sampling(2, 3.0)
    together = backbone.sample_latents(prompts, [3, 4, 5], sampling)
    monkeypatch.setattr("dreambooth.backbones.latent_diffusion.MOST_DRAWN_PIXELS", 2 * 64 * 64)
    torch.testing.assert_close(backbone.sample_latents(prompts, [3, 4, 5], sampling), together)


def test_half_a_model_is_computed_whole(tmp_path: Path):
    """The autoencoder overflows in float16, so a checkpoint in it is read as float32."""
    tiny.stable_diffusion_xl(tmp_path / "parts").to(dtype=torch.float16).save_pretrained(tmp_path / "half")
    modules = backbones.load(str(tmp_path / "half")).modules
    assert {p.dtype for module in modules.values() for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_training_noise_follows_the_schedule_of_the_scheduler(tmp_path: Path, prediction_type: str):
    from diffusers import EulerDiscreteScheduler

    process = backbones.load(str(tiny.saved_stable_diffusion_xl(tmp_path, prediction_type))).process
    assert isinstance(process, Diffusion) and process.prediction == prediction_type
    published = EulerDiscreteScheduler(**tiny.SCHEDULE)
    torch.testing.assert_close(process.alphas_cumprod, published.alphas_cumprod.double())


def test_saved_pipeline_is_plain_diffusers(tiny_xl: Path, tmp_path: Path):
    backbones.load(str(tiny_xl)).save_pipeline(tmp_path / "saved")
    saved = plain_pipeline(tmp_path / "saved")
    assert type(saved).__name__ == "StableDiffusionXLPipeline" and not list((tmp_path / "saved").rglob("*.bin"))
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        before = getattr(plain_pipeline(tiny_xl), name).state_dict()
        assert all(torch.equal(value, before[key]) for key, value in getattr(saved, name).state_dict().items())


class TestLoading:
    def test_single_file(self, tiny_xl: Path, tmp_path: Path):
        file = tiny.single_file(tiny_xl, tmp_path / "tiny.safetensors")
        single, folder = backbones.load(str(file), tiny_xl), backbones.load(str(tiny_xl))
        assert type(single.process) is type(folder.process) and single.spec == folder.spec
        for name, module in folder.modules.items():
            other = single.modules[name].state_dict()
            for key, value in module.state_dict().items():
                torch.testing.assert_close(other[key], value, rtol=0, atol=0, msg=f"{name}.{key}")

    def test_resolution_is_read_without_loading(self, tiny_xl: Path, tmp_path: Path):
        file = tiny.single_file(tiny_xl, tmp_path / "tiny.safetensors")
        assert backbones.native_resolution(backbones.resolve(str(tiny_xl))) == 64
        assert backbones.native_resolution(backbones.resolve(str(file), tiny_xl)) == 64
        assert backbones.native_resolution(backbones.resolve(str(file))) == 1024

    def test_offline_a_single_file_without_configuration_says_what_helps(
        self, tiny_xl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        file = tiny.single_file(tiny_xl, tmp_path / "tiny.safetensors")
        with pytest.raises(ModelError, match=r"Stable Diffusion XL.*Pass --model-config") as caught:
            backbones.load(str(file))
        assert "\n" not in str(caught.value)

    def test_a_lender_of_another_architecture_is_told(self, tiny_xl: Path, tiny_model: Path, tmp_path: Path):
        file = tiny.single_file(tiny_xl, tmp_path / "tiny.safetensors")
        with pytest.raises(
            ModelError, match="is a StableDiffusionXLPipeline and the folder of --model-config a Stable"
        ):
            backbones.load(str(file), tiny_model)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "is a refiner"),
            ({"text_encoder": [None, None]}, "is a refiner"),
            ({"_class_name": "StableDiffusionXLInpaintPipeline"}, "is an inpainting model"),
        ],
    )
    def test_what_looks_like_it_is_refused_in_a_sentence(
        self, tiny_xl: Path, tmp_path: Path, change: dict[str, object], told: str
    ):
        index = json.loads((tiny_xl / "model_index.json").read_text()) | change
        (tmp_path / "model_index.json").write_text(json.dumps(index))  # and nothing else: it is told before loading
        for ask in (backbones.load, lambda name: backbones.native_resolution(backbones.resolve(name))):
            with pytest.raises(ModelError, match=told) as caught:
                ask(str(tmp_path))
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda w: {k.replace("embedders.1.", "embedders.0."): v for k, v in w.items()}, "is a refiner"),
            (
                lambda w: w | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)},
                "is an inpainting model",
            ),
        ],
    )
    def test_such_single_files_too(
        self, tiny_xl: Path, tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], dict], told: str
    ):
        from safetensors.torch import load_file, save_file

        weights = load_file(tiny.single_file(tiny_xl, tmp_path / "tiny.safetensors"))
        weights = {key: value for key, value in weights.items() if "embedders.0." not in key}
        save_file({key: value.contiguous() for key, value in damage(weights).items()}, tmp_path / "tiny.safetensors")
        with pytest.raises(ModelError, match=told):
            backbones.native_resolution(backbones.resolve(str(tmp_path / "tiny.safetensors")))

    def test_a_folder_that_is_incomplete_is_told(self, tiny_xl: Path, tmp_path: Path):
        shutil.copytree(tiny_xl, tmp_path / "model")
        shutil.rmtree(tmp_path / "model" / "text_encoder_2")
        with pytest.raises(ModelError, match="cannot be read") as caught:
            backbones.load(str(tmp_path / "model"))
        assert "\n" not in str(caught.value)

    def test_and_so_it_is_to_a_dry_run_and_a_tokenizer_too(self, tiny_xl: Path, tmp_path: Path):
        shutil.copytree(tiny_xl, tmp_path / "model")
        shutil.rmtree(tmp_path / "model" / "tokenizer_2")
        for load in (backbones.load, lambda name: backbones.load_for_counting(backbones.resolve(name))):
            with pytest.raises(ModelError, match=r"tokenizer_2.*; fetch the model again"):
                load(str(tmp_path / "model"))
