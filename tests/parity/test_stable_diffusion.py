"""The backbone does what the plain diffusers pipeline does, on tiny real components."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth import backbones
from dreambooth.backbones.files import reading
from dreambooth.backbones.latent_diffusion import make_scheduler
from dreambooth.backbones.protocol import Sampler, Sampling
from dreambooth.backbones.source import CascadeParts
from dreambooth.errors import ModelError
from dreambooth.process import Diffusion, RectifiedFlow, from_scheduler
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


class TestFlow:
    """A U-Net that predicts a flow: diffusers' pipelines of U-Nets cannot be run with the flow's own scheduler."""

    @pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
    @pytest.mark.parametrize("shift", [1.0, 3.0])
    def test_a_straight_path_is_followed_to_its_end(self, sampler: Sampler, shift: float):
        from diffusers import FlowMatchEulerDiscreteScheduler

        own = FlowMatchEulerDiscreteScheduler(shift=shift)
        process, scheduler = from_scheduler(own), make_scheduler(sampler, own)
        assert isinstance(process, RectifiedFlow) and process.shift == shift
        scheduler.set_timesteps(8)
        clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
        drawn = noise * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            level = scheduler.sigmas[scheduler.step_index or 0]
            assert process.model_time(level[None]) == pytest.approx(float(time), abs=1)
            drawn = scheduler.step((drawn - clean) / level, time, drawn).prev_sample
        torch.testing.assert_close(drawn, clean, rtol=0, atol=1e-3)

    def test_it_draws_by_what_can_follow_it_and_refuses_the_rest(self, tmp_path: Path):
        from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

        for number, scheduler in enumerate(
            (
                FlowMatchEulerDiscreteScheduler(shift=3.0),
                UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
            )
        ):
            pipeline = tiny.stable_diffusion(tmp_path / f"parts{number}")
            pipeline.scheduler = scheduler
            pipeline.save_pretrained(tmp_path / f"model{number}")
            backbone = backbones.load(str(tmp_path / f"model{number}"))
            assert backbone.process == RectifiedFlow(shift=3.0) and backbone.spec.sampler == "dpm++"
            assert backbone.sample_latents(["a dog"], [0], Sampling(2, 1.0)).isfinite().all()
            with pytest.raises(ModelError, match=r"flow.*give dpm\+\+ or unipc"):
                backbone.sample_latents(["a dog"], [0], Sampling(2, 1.0, "ddim"))


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

    def test_what_is_saved_has_the_names_that_other_programs_expect(self, tiny_model: Path, tmp_path: Path):
        """Transformers 4 draws a text encoder at random whose names lack their beginning, as version 5 writes it."""
        backbones.load(str(tiny_model)).save_pipeline(tmp_path)
        names = load_file(tmp_path / "text_encoder" / "model.safetensors").keys()
        assert "text_model.embeddings.token_embedding.weight" in names
        assert all(name.startswith("text_model.") for name in names)
        vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())
        assert vocabulary == backbones.load(str(tmp_path)).tokenizers[0].get_vocab()
        assert (tmp_path / "tokenizer" / "merges.txt").is_file()

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_a_folder_that_lacks_weights_is_refused(self, tiny_model: Path, tmp_path: Path, part: str):
        """Diffusers and transformers put random numbers in their place."""
        shutil.copytree(tiny_model, tmp_path / "model")
        (file,) = (tmp_path / "model" / part).glob("*.safetensors")
        weights = load_file(file)
        weights.pop(next(name for name in weights if name.endswith("bias")))
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(ModelError, match=rf"{part} of .* lacks 1 of its weights") as caught:
            backbones.load(str(tmp_path / "model"))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_a_part_that_is_missing_is_named_once(
        self, tiny_model: Path, tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
    ):
        """Diffusers also writes it out by itself, which --quiet would not keep off the terminal."""
        shutil.copytree(tiny_model, tmp_path / "model")
        (file,) = (tmp_path / "model" / part).glob("*.safetensors")
        file.unlink()
        logger = logging.getLogger("diffusers")
        logger.addHandler(caplog.handler)
        try:
            with pytest.raises(ModelError, match=rf"^The {part} of .*model cannot be read: "):
                backbones.load(str(tmp_path / "model"))
        finally:
            logger.removeHandler(caplog.handler)
        assert not caplog.records

    @pytest.mark.parametrize("mistake", [NameError, AssertionError])
    def test_a_mistake_in_a_program_does_not_pass_for_a_broken_model(self, mistake: type[Exception]):
        with pytest.raises(mistake), reading("The model cannot be read"):
            raise mistake("name 'pipe' is not defined")

    @pytest.mark.parametrize("lost", ["tokenizer", "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json"])
    def test_a_folder_that_lacks_its_tokenizer_is_refused(self, tiny_model: Path, tmp_path: Path, lost: str):
        """In its place is otherwise read one without words, or one without a greatest length."""
        shutil.copytree(tiny_model, tmp_path / "model")
        path = tmp_path / "model" / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(ModelError, match=r"The tokenizer of .*model lacks some of its files"):
            backbones.load(str(tmp_path / "model"))

    @pytest.mark.parametrize("part", ["model.diffusion_model", "first_stage_model", "cond_stage_model"])
    def test_and_so_is_a_single_file(self, tiny_model: Path, tmp_path: Path, part: str):
        file = tiny.single_file(tiny_model, tmp_path / "tiny.safetensors")
        weights = load_file(file)
        weights.pop(next(name for name in weights if name.startswith(part) and name.endswith("bias")))
        save_file(weights, file)
        with pytest.raises(ModelError, match=r"lacks .* of its weights"):
            backbones.load(str(file), tiny_model)

    @pytest.mark.parametrize("marks", [("v_pred",), ("v_pred", "ztsnr")])
    def test_marks_of_a_single_file_say_what_it_predicts(self, tiny_model: Path, tmp_path: Path, marks: tuple):
        file = tiny.single_file(tiny_model, tmp_path / "tiny.safetensors")
        save_file(load_file(file) | {mark: torch.zeros(0) for mark in marks}, file)
        backbone = backbones.load(str(file), tiny_model)
        backbone.save_pipeline(tmp_path / "saved")
        for process in (backbone.process, backbones.load(str(tmp_path / "saved")).process):
            assert isinstance(process, Diffusion) and process.prediction == "v_prediction"
            assert (process.alphas_cumprod[-1] == 0) == ("ztsnr" in marks)

    @pytest.mark.parametrize(
        ("extra", "told"),
        [
            ({"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, "EDM"),
            (
                {
                    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(
                        320, 1024
                    )
                },
                "Stable Diffusion 2.x.*--model-config",
            ),
        ],
    )
    def test_a_single_file_that_says_too_little_is_refused(
        self, tiny_model: Path, tmp_path: Path, extra: dict[str, torch.Tensor], told: str
    ):
        file = tiny.single_file(tiny_model, tmp_path / "tiny.safetensors")
        save_file(load_file(file) | extra, file)
        with pytest.raises(ModelError, match=told):
            backbones.native_resolution(backbones.resolve(str(file)))

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda folder: "no-such-model", "There is no model"),
            (lambda folder: str(folder), "no model_index.json"),
            (lambda folder: _write(folder / "weights.ckpt", b"x"), "Only safetensors"),
            (lambda folder: _write(folder / "broken.safetensors", b"x"), "cannot be read"),
            (lambda folder: _write(folder / "model_index.json", b"{").rpartition("/")[0], "cannot be read"),
            (lambda folder: _write(folder / "model_index.json", b"[]").rpartition("/")[0], "cannot be read"),
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

    @pytest.mark.parametrize("flag", ["--model-config", "--super-resolver", "--upscaler"])
    def test_a_model_that_goes_with_it_and_is_nowhere_is_refused_at_once(self, tiny_model: Path, flag: str):
        """And not looked for on the hub, or taken for a broken file of the model."""
        config = Path("nope") if flag == "--model-config" else None
        parts = CascadeParts("nope" if flag == "--super-resolver" else None, "nope" if flag == "--upscaler" else None)
        with pytest.raises(ModelError, match=f"There is no .*nope.* for {flag}"):
            backbones.resolve(str(tiny_model), config, parts)

    def test_a_lender_that_lacks_a_file_is_named(self, tiny_model: Path, tmp_path: Path):
        (tmp_path / "lender").mkdir()
        with pytest.raises(ModelError, match=r"unet/config\.json of the folder .*lender of --model-config"):
            backbones.native_resolution(backbones.resolve(str(tiny_model), tmp_path / "lender"))

    @pytest.mark.parametrize("name", ["nope", "toybox-clip"])
    def test_judges_are_not_offered_as_models(self, name: str):
        with pytest.raises(ModelError, match="toybox-sd") as caught:
            backbones.native_resolution(backbones.resolve(name))
        offered = str(caught.value).partition("Give ")[2]
        assert "toybox-if" in offered and "toybox-clip" not in offered and "toybox-dino" not in offered

    def test_hub_that_cannot_be_reached_is_told(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="cannot be fetched"):
            backbones.load("nobody/no-such-model")

    def test_native_resolution_is_read_without_loading(self, tiny_model: Path):
        assert backbones.native_resolution(backbones.resolve(str(tiny_model))) == 64


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
