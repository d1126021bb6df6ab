"""Base and super-resolver do what the plain diffusers pipelines do, on tiny real components in DeepFloyd's layout."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate

from dreambooth import backbones
from dreambooth.backbones.cascade import PixelBase, SuperResolver
from dreambooth.backbones.protocol import Enlarging, Sampling
from dreambooth.backbones.source import CascadeParts
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import ModelError
from dreambooth.examples import Batch, Examples, noise_and_time
from dreambooth.methods.full import FullFineTuning
from dreambooth.process import Diffusion
from dreambooth.seeding import generator
from dreambooth.train_state import Settings
from dreambooth.trainer import Loss, finetune
from tests import tiny

PROMPTS = ["a zqk dog in the jungle", "A photo of a cat"]
ALL_LEVELS = CascadeParts(augmentation=(0.0, 1.0))


def loaded(folder: Path, parts: CascadeParts | None = None) -> SuperResolver:
    backbone = backbones.load(str(folder), parts=parts)
    assert isinstance(backbone, SuperResolver)
    return backbone


def plain(folder: Path):
    """Both pipelines as anybody would load them; the second borrows T5 by taking embeddings."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    pipelines = (
        IFPipeline.from_pretrained(folder, safety_checker=None, watermarker=None, feature_extractor=None),
        IFSuperResolutionPipeline.from_pretrained(folder / "super_resolution", text_encoder=None, tokenizer=None),
    )
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def changed_scheduler(pipeline, sampler: str | None):
    import diffusers

    names = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler", "ddpm": "DDPMScheduler"}
    if sampler:
        kind = getattr(diffusers, names[sampler])
        pipeline.scheduler = kind.from_config(dict(pipeline.scheduler.config) | {"variance_type": "fixed_small"})


@pytest.mark.parametrize("sampler", [None, "dpm++", "ddim", "ddpm"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pictures_equal_those_of_the_plain_pipelines(tmp_path: Path, sampler: str | None, prediction: str):
    """Base, then super-resolver, one generator a picture through both; thresholding and learned variance as there."""
    folder = tiny.saved_cascade(tmp_path, prediction)
    enlarging = Enlarging(num_inference_steps=3, guidance_scale=2.0, noise_level=0.2)
    backbone = loaded(folder)
    ours = backbone.generate(PROMPTS, [3, 4], Sampling(4, 5.0, sampler, enlarging=enlarging))
    base, larger = plain(folder)
    changed_scheduler(base, sampler)
    changed_scheduler(larger, sampler and backbone.spec.sampler)
    said, unsaid = base.encode_prompt(PROMPTS, negative_prompt=["", ""])
    draws = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    low = base(PROMPTS, generator=draws, num_inference_steps=4, guidance_scale=5.0, output_type="pt").images
    large = larger(
        prompt_embeds=said, negative_prompt_embeds=unsaid, image=low, generator=draws, num_inference_steps=3,
        guidance_scale=2.0, noise_level=200,
    ).images  # fmt: skip
    for one, other in zip(ours, large, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_base_alone_equals_the_plain_pipeline(tiny_cascade: Path):
    stage = loaded(tiny_cascade).stage("base")
    ours = stage.generate(PROMPTS, [3, 4], Sampling(4, 5.0))
    draws = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = plain(tiny_cascade)[0](PROMPTS, generator=draws, num_inference_steps=4, guidance_scale=5.0).images
    for one, other in zip(ours, theirs, strict=True):
        assert one.size == (16, 16)
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_denoise_drops_the_learned_variance(tiny_cascade: Path):
    backbone, (base, larger) = loaded(tiny_cascade), plain(tiny_cascade)
    hidden, _ = base.encode_prompt(PROMPTS, False, clean_caption=False)
    noisy, time = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])
    encoded = backbone.encode_prompts([prompt.lower() for prompt in PROMPTS])
    with torch.no_grad():
        expected = base.unet(noisy, time, hidden).sample[:, :3]
        torch.testing.assert_close(backbone.base.denoise(noisy, time, encoded), expected, rtol=1e-4, atol=1e-5)
        clean, draws = torch.rand(2, 3, 32, 32) * 2 - 1, [generator(0, row) for row in range(2)]
        told = backbone.conditioned_on(encoded, clean, draws)
        both = torch.cat([clean, told.tensors["low"]], dim=1)
        expected = larger.unet(both, time, hidden, class_labels=told.tensors["level"]).sample[:, :3]
        torch.testing.assert_close(backbone.denoise(clean, time, told), expected, rtol=1e-4, atol=1e-5)


class TestConditioning:
    def test_low_is_the_downsampled_photo_enlarged(self, tiny_cascade: Path):
        """At the lowest level hardly noised: the small photo itself, as the pipeline enlarges it."""
        backbone = loaded(tiny_cascade)
        clean = interpolate(torch.rand(2, 3, 4, 4) * 2 - 1, (32, 32), mode="bicubic").clamp(-1, 1)
        told = backbone.conditioned_on(backbone.encode_prompts(PROMPTS), clean, [generator(0, r) for r in range(2)])
        small = clean.reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
        expected = interpolate(small, (32, 32), mode="bilinear", align_corners=True)
        assert told.tensors["level"].tolist() == [0, 0]
        sigma = float((1 - backbone.noising.alphas_cumprod[0]).sqrt())
        rest = (told.tensors["low"] - expected * math.sqrt(1 - sigma**2)) / sigma
        assert abs(float(rest.mean())) < 0.1 and abs(float(rest.std()) - 1) < 0.1

    def test_it_is_noised_as_the_pipeline_noises(self, tiny_cascade: Path):
        backbone, scheduler = loaded(tiny_cascade, ALL_LEVELS), plain(tiny_cascade)[1].image_noising_scheduler
        clean = torch.rand(1, 3, 32, 32) * 2 - 1
        told = backbone.conditioned_on(backbone.encode_prompts(["a dog"]), clean, [generator(5, "row")])
        again = generator(5, "row")
        level = torch.tensor([int(1000 * float(torch.rand((), generator=again)))])
        noise = torch.randn((1, 3, 32, 32), generator=again)
        low = backbone.enlarged(interpolate(clean, (16, 16), mode="area"))
        assert told.tensors["level"].tolist() == level.tolist()
        torch.testing.assert_close(told.tensors["low"], scheduler.add_noise(low, noise, level), rtol=1e-5, atol=1e-6)

    def test_level_is_independent_of_the_timestep(self, tiny_cascade: Path):
        """Public scripts pass the diffusion timestep as the level: their correlation is one."""
        backbone = loaded(tiny_cascade, ALL_LEVELS)
        batch = Batch(torch.zeros(400, 3, 32, 32), torch.zeros(400, dtype=torch.bool), tuple(range(400)))
        _, times = noise_and_time(backbone, batch, seed=0, step=0)
        encoded = backbone.encode_prompts(["a dog"]).take([0] * 400)
        draws = [generator(0, "condition", 0, row) for row in batch.rows]
        levels = backbone.conditioned_on(encoded, batch.clean, draws).tensors["level"]
        assert abs(float(torch.corrcoef(torch.stack([times.float(), levels.float()]))[0, 1])) < 0.15
        assert levels.min() < 30 and levels.max() > 970

    def test_low_is_never_the_noisy_target(self, tiny_cascade: Path):
        """Public scripts feed the noisy target twice: what the model is told would change with the timestep."""
        backbone = loaded(tiny_cascade)
        seen = []
        unet = backbone.pipeline.unet
        unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        examples = Examples(torch.rand(2, 3, 32, 32) * 2 - 1, torch.empty(0, 3, 32, 32), ("a zqk dog", "a dog"))
        settings = Settings(1, 2, {"denoiser": 1e-3})
        loss = Loss(backbone, FullFineTuning(), examples, settings, 2)
        batch = next(examples.batches(0, 7, 2, 1))
        loss(batch, 7)
        noise, time = noise_and_time(backbone, batch, 0, 7)
        noisy = backbone.process.corrupt(batch.clean, noise, time)
        torch.testing.assert_close(seen[0][:, :3], noisy)
        low = backbone.enlarged(interpolate(batch.clean, (16, 16), mode="area"))
        assert float((seen[0][:, 3:] - low).abs().mean()) < 0.02 < float((seen[0][:, 3:] - noisy).abs().mean())


@pytest.mark.parametrize("crop_size", [None, 16])
def test_loss_of_a_super_resolver_by_hand(tmp_path: Path, crop_size: int | None):
    """The whole loss in float64 from the definitions alone: eq. 2 of the paper on what a super-resolver is given.

    A cut-out is given what its place in the whole picture is given, and no other scale.
    """
    folder = tiny.saved_cascade(tmp_path, "v_prediction")
    backbone = loaded(folder, ALL_LEVELS)
    backbone.pipeline.unet.double()
    subject, prior = (torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1 for _ in range(2))
    examples = Examples(subject, prior, ("a zqk dog", "a dog"))
    settings = Settings(1, 2, {"denoiser": 1e-3}, prior_loss_weight=0.5, seed=3, crop_size=crop_size)
    hidden = backbone.encode_prompts(examples.prompts).tensors["hidden"].double()
    loss = Loss(backbone, FullFineTuning(), examples, settings, 2)
    loss.encoded = type(loss.encoded)({"hidden": hidden})
    batch = next(examples.batches(3, 0, 2, 1))
    with torch.no_grad():
        terms = loss(batch, 0)
        errors = []
        for row, clean, is_prior in zip(batch.rows, batch.clean, batch.is_prior.tolist(), strict=True):
            draw = generator(3, "noise", 0, row)
            t = int(torch.randint(1000, (1,), generator=draw))
            noise = torch.randn((3, crop_size or 32, crop_size or 32), generator=draw).double()
            draw = generator(3, "condition", 0, row)
            level = int(1000 * float(torch.rand((), generator=draw)))
            other = torch.randn((3, 32, 32), generator=draw).double()
            bars = [math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
            keep = [1.0]
            for k in range(1000):
                keep.append(keep[-1] * (1 - min(1 - bars[k + 1] / bars[k], 0.999)))
            (a, s), (b, z) = ((math.sqrt(keep[k + 1]), math.sqrt(1 - keep[k + 1])) for k in (t, level))
            small = clean.reshape(3, 16, 2, 16, 2).mean((2, 4))
            low = b * interpolate(small[None], (32, 32), mode="bilinear", align_corners=True) + z * other
            if crop_size:
                y, x = (torch.randint(9, (2,), generator=generator(3, "cut-out", 0, row)) * 2).tolist()
                clean, low = (whole[..., y : y + 16, x : x + 16] for whole in (clean, low))
            both = torch.cat([(a * clean + s * noise)[None], low], dim=1)
            said = hidden[int(is_prior)][None]
            predicted = backbone.pipeline.unet(both, t, said, class_labels=torch.tensor([level])).sample[:, :3]
            errors.append(float(((predicted[0] - (a * noise - s * clean)) ** 2).mean()))
    expected = (errors[0] + errors[1]) / 2 + 0.5 * (errors[2] + errors[3]) / 2
    assert float(terms.total) == pytest.approx(expected, rel=1e-5)


def test_on_a_cpu_it_draws_with_channels_last_and_its_weights_lie_as_before(tiny_cascade: Path):
    backbone = loaded(tiny_cascade)
    unets = (backbone.base.pipeline.unet, backbone.pipeline.unet)
    seen: list[bool] = []
    for unet in unets:
        unet.register_forward_pre_hook(
            lambda module, _: seen.append(module.conv_in.weight.is_contiguous(memory_format=torch.channels_last))
        )
    backbone.generate(PROMPTS, [0, 1], Sampling(2, 3.0, enlarging=Enlarging(2)))
    assert len(seen) == 4 and all(seen)
    assert all(parameter.is_contiguous() for unet in unets for parameter in unet.parameters())


class TestTextEncoder:
    def test_it_is_gone_before_training_and_back_for_new_prompts(self, tiny_cascade: Path, tmp_path: Path):
        backbone = loaded(tiny_cascade)
        assert "text_encoder" in backbone.modules
        before = backbone.encode_prompts(PROMPTS).tensors["hidden"]
        train(backbone, tmp_path / "run")
        assert "text_encoder" not in backbone.modules and "text_encoder" not in backbone.base.modules
        assert backbone.text._encoder is None
        assert torch.equal(backbone.encode_prompts(PROMPTS).tensors["hidden"], before)
        assert backbone.generate(["a red dog"], [0], Sampling(1, 2.0))[0].size == (32, 32)
        assert backbone.text._encoder is None

    def test_a_prompt_does_not_depend_on_its_neighbours(self, tiny_cascade: Path):
        one, other = loaded(tiny_cascade), loaded(tiny_cascade)
        together = one.encode_prompts(PROMPTS).tensors["hidden"]
        apart = torch.cat([other.encode_prompts([prompt]).tensors["hidden"] for prompt in reversed(PROMPTS)])
        assert torch.equal(together, apart.flip(0))

    def test_old_prompts_are_forgotten_at_last(self, tiny_cascade: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("dreambooth.backbones.t5.MOST_KNOWN", 2)
        text = loaded(tiny_cascade).text
        assert text(["a", "dog", "cat"]).shape == (3, 77, 24) and list(text._known) == ["dog", "cat"]


def train(backbone, folder: Path, **changes) -> None:
    side = backbone.spec.resolution
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    examples = Examples(pixels[:2], pixels[2:], ("a zqk dog", "a dog"))
    run = RunFolder.create(folder, make_config({}))
    finetune(backbone, FullFineTuning(), examples, Settings(2, 1, {"denoiser": 1e-3}, **changes), run)


class TestSaved:
    def test_a_trained_cascade_is_plain_diffusers(self, tiny_cascade: Path, tmp_path: Path):
        backbone = loaded(tiny_cascade)
        train(backbone, tmp_path / "run")
        backbone.save_pipeline(tmp_path / "model")
        base, larger = plain(tmp_path / "model")
        assert base.scheduler.config.variance_type == larger.scheduler.config.variance_type == "fixed_small"
        assert not list((tmp_path / "model").rglob("*.bin")) and base.text_encoder is not None
        again = loaded(tmp_path / "model")
        for name, module in again.modules.items():
            if name != "text_encoder":
                for key, value in module.state_dict().items():
                    assert torch.equal(backbone.modules[name].state_dict()[key], value), (name, key)
        ours, theirs = (one.sample_latents(["a dog"], [1], Sampling(2, 2.0, "ddpm")) for one in (backbone, again))
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("stage", ["base", "sr"])
    def test_ejected_each_stage_is_as_it_was(self, tiny_cascade: Path, stage: str, tmp_path: Path):
        backbone, fresh = loaded(tiny_cascade).stage(stage), loaded(tiny_cascade).stage(stage)
        method = FullFineTuning()
        assert set(method.prepare(backbone)) == {"denoiser"}
        with torch.no_grad():
            next(backbone.modules["denoiser"].parameters()).add_(1)
        method.eject()
        for key, value in fresh.modules["denoiser"].state_dict().items():
            assert torch.equal(backbone.modules["denoiser"].state_dict()[key], value)

    def test_gradient_checkpointing_gives_the_same_gradient(self, tiny_cascade: Path):
        gradients = []
        for checkpointing in (False, True):
            backbone, method = loaded(tiny_cascade), FullFineTuning()
            parameters = method.prepare(backbone)["denoiser"]
            if checkpointing:
                backbone.enable_gradient_checkpointing()
            pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
            examples = Examples(pixels[:1], pixels[1:], ("a zqk dog", "a dog"))
            loss = Loss(backbone, method, examples, Settings(1, 1, {"denoiser": 1e-3}), 1)
            loss(next(examples.batches(0, 0, 1, 1)), 0).total.backward()
            gradients.append([parameter.grad for parameter in parameters])
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


class TestUpscaler:
    def test_a_second_super_resolver(self, tiny_cascade: Path, tmp_path: Path):
        _, second = tiny.cascade(sides=(32, 64))
        second.save_pretrained(tmp_path / "up")
        backbone = loaded(tiny_cascade, CascadeParts(upscaler=str(tmp_path / "up")))
        plain, larger = (
            backbone.generate(["a dog"], [0], Sampling(1, 1.0, enlarging=Enlarging(1, 1.0, upscale=upscale)))[0]
            for upscale in (False, True)
        )
        assert plain.size == (32, 32) and larger.size == (64, 64)

    def test_what_is_no_upscaler_is_told(self, tiny_cascade: Path, tiny_model: Path):
        with pytest.raises(ModelError, match=r"is a StableDiffusionPipeline, no upscaler"):
            loaded(tiny_cascade, CascadeParts(upscaler=str(tiny_model)))


class TestLoading:
    def test_base_without_a_super_resolver(self, tmp_path: Path):
        base, _ = tiny.cascade()
        base.save_pretrained(tmp_path / "base")
        backbone = backbones.load(str(tmp_path / "base"))
        assert isinstance(backbone, PixelBase) and backbone.spec.stages == ("base",)
        assert isinstance(backbone.process, Diffusion) and backbone.spec.native_size == (3, 16, 16)

    def test_a_pair_elsewhere(self, tmp_path: Path):
        base, larger = tiny.cascade()
        base.save_pretrained(tmp_path / "base")
        larger.save_pretrained(tmp_path / "larger")
        parts = CascadeParts(super_resolver=str(tmp_path / "larger"))
        assert loaded(tmp_path / "base", parts).spec.stages == ("base", "sr")
        assert backbones.native_resolution(backbones.resolve(str(tmp_path / "base"), parts=parts)) == 32

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"class_embed_type": None}, "is not told how much its small picture was noised"),
            ({"in_channels": 3}, "takes 3 channels"),
            ({"sides": (16, 24)}, "no whole multiple"),
            ({"sides": (16, 16)}, "no whole multiple"),
            ({"encoder_hid_dim": 40}, "different text encoders"),
        ],
    )
    def test_a_super_resolver_that_does_not_fit(self, tmp_path: Path, changes: dict, told: str):
        folder = tiny.saved_cascade(tmp_path, **changes)
        with pytest.raises(ModelError, match=told) as caught:
            backbones.load(str(folder))
        assert "\n" not in str(caught.value)
        with pytest.raises(ModelError, match=told):
            backbones.native_resolution(backbones.resolve(str(folder)))

    def test_a_latent_upscaler_as_super_resolver(self, tiny_cascade: Path, tmp_path: Path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionUpscalePipeline"}')
        with pytest.raises(ModelError, match=r"not an IFSuperResolutionPipeline; it enlarges .* --upscaler"):
            backbones.load(str(tiny_cascade), parts=CascadeParts(super_resolver=str(tmp_path)))

    def test_a_super_resolver_as_model(self, tiny_cascade: Path):
        with pytest.raises(ModelError, match="give its base as --model"):
            backbones.load(str(tiny_cascade / "super_resolution"))

    def test_a_super_resolver_for_stable_diffusion(self, tiny_model: Path, tiny_cascade: Path):
        with pytest.raises(ModelError, match="draws its pictures in one stage"):
            backbones.load(str(tiny_model), parts=CascadeParts(super_resolver=str(tiny_cascade)))

    def test_another_resolution(self, tiny_cascade: Path):
        with pytest.raises(ModelError, match="32 pixels and no other size"):
            loaded(tiny_cascade).set_resolution(64)

    def test_a_text_encoder_is_never_unpickled(self, tmp_path: Path):
        model = tiny.saved_cascade(tmp_path)
        (file,) = (model / "text_encoder").glob("*.safetensors")
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            backbones.load(str(model)).encode_prompts(["a dog"])

    def test_broken_notes(self, tmp_path: Path):
        folder = tiny.saved_cascade(tmp_path)
        (folder / "cascade.json").write_text('{"noise": 1}')
        with pytest.raises(ModelError, match=r"cascade\.json cannot be read"):
            backbones.load(str(folder))
