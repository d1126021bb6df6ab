"""The whole road on a tiny SDXL: photos in, a plain `StableDiffusionXLPipeline` or small files for one out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import dreambooth as db
from dreambooth import backbones, identifier
from dreambooth.backbones.protocol import Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import IdentifierError, ModelError
from dreambooth.examples import Examples
from dreambooth.memory import is_encoder
from dreambooth.methods import make_method
from dreambooth.methods.full import FullFineTuning
from dreambooth.plan import make_plan, resolve_defaults
from dreambooth.process import from_scheduler
from dreambooth.reports import StepReport
from dreambooth.train_state import Settings
from dreambooth.trainer import Loss, finetune
from tests import tiny
from tests.methods.test_lora import know
from tests.test_cli import dreambooth as command

FAST: dict[str, Any] = {
    "max_train_steps": 4, "train_batch_size": 1, "num_class_images": 3, "prior_steps": 2, "num_inference_steps": 2,
    "preview_steps": 2, "images_per_prompt": 1, "mixed_precision": "no", "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_xl: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run at a small model's defaults: text encoders, average of the weights, samples of no prompt."""
    out = str(tmp_path_factory.mktemp("road") / "run")
    return db.personalize(
        str(photos), class_noun="dog", model=str(tiny_xl), out=out, applications=["properties"], **FAST
    )


def plain_picture(folder: Path, prompt: str, sampling: Sampling, prepare: Any = lambda pipeline: None) -> np.ndarray:
    from dreambooth.backbones.latent_diffusion import make_scheduler

    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prepare(pipeline)
    if sampling.sampler:
        pipeline.scheduler = make_scheduler(sampling.sampler, pipeline.scheduler)
    steps, guidance = sampling.num_inference_steps, sampling.guidance_scale
    seed = [torch.Generator().manual_seed(7)]
    return np.asarray(pipeline([prompt], num_inference_steps=steps, guidance_scale=guidance, generator=seed).images[0])


class TestTheRoad:
    def test_what_it_leaves_is_a_plain_pipeline(self, finished: Any, tiny_xl: Path):
        model = finished.path / "model"
        assert json.loads((model / "model_index.json").read_text())["_class_name"] == "StableDiffusionXLPipeline"
        drawn = np.asarray(finished.generate("a {subject} in the snow", count=1, seed=7)[0])
        prompt = finished.fill("a {subject} in the snow")
        assert np.array_equal(drawn, plain_picture(model, prompt, finished.sampling))
        assert not np.array_equal(drawn, plain_picture(tiny_xl, prompt, finished.sampling))

    def test_both_text_encoders_were_trained_and_the_autoencoder_was_not(self, finished: Any, tiny_xl: Path):
        def changed(part: str) -> bool:
            before, after = (backbones.load(str(folder)).modules[part].state_dict() for folder in (
                tiny_xl, finished.path / "model"
            ))  # fmt: skip
            return any(not torch.equal(value, after[key]) for key, value in before.items())

        parts = ("denoiser", "text_encoder", "text_encoder_2", "autoencoder")
        assert [changed(part) for part in parts] == [True, True, True, False]

    def test_previews_pictures_and_report(self, finished: Any):
        assert len(list((finished.path / "previews").glob("*.png"))) == 2
        assert (finished.path / "report.html").is_file() and (finished.path / "samples/properties/sheet.png").is_file()

    @pytest.mark.parametrize("method", ["lora", "textual-inversion"])
    def test_other_methods(self, method: str, tiny_xl: Path, photos: Path, tmp_path: Path):
        given = FAST | {"method": method, "applications": [], "preview_steps": 0}
        rate = {"learning_rate": 1e-2, "train_batch_size": 2}
        run = db.personalize(
            str(photos), class_noun="dog", model=str(tiny_xl), out=str(tmp_path / "run"), **given | rate
        )
        drawn = np.asarray(run.generate("a {subject}", count=1, seed=7)[0]).astype(int)
        if method == "lora":
            made = plain_picture(
                tiny_xl, run.fill("a {subject}"), run.sampling, lambda pipeline: pipeline.load_lora_weights(run.path)
            )
        else:
            made = plain_picture(run.path / "model", run.fill("a {subject}"), run.sampling)
            assert np.array_equal(made, drawn)
            file = run.path / "embedding.safetensors"
            assert {name: tuple(value.shape) for name, value in load_file(file).items()} == {
                "clip_l": (1, 32),
                "clip_g": (1, 40),
            }
            made = plain_picture(tiny_xl, "a <dog>", run.sampling, lambda pipeline: know(pipeline, file))
        assert np.abs(made - drawn).max() <= 1


def test_a_dry_run_needs_no_weights(tiny_xl: Path, photos: Path, tmp_path: Path, monkeypatch, capsys):
    shutil.copytree(tiny_xl, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    flags = ["--class-noun", "dog", "--model", tmp_path / "model", "--dry-run"]
    code, out, err = command(monkeypatch, capsys, "train", photos, *flags)
    assert (code, err) == (0, "") and "stable-diffusion-xl" in out and "memory, estimated" in out


@pytest.mark.parametrize("method", [{}, {"method": "lora", "train_text_encoder": True}, {"method": "pivotal"}])
def test_it_is_planned_without_weights_as_with_them(tiny_xl: Path, method: dict[str, Any]):
    def plan(backbone: Any) -> Any:
        config = resolve_defaults(make_config(method | {"mixed_precision": "no"}), backbone.spec)
        return make_plan(config, backbone, make_method(config, "dog"), 3, 1, torch.device("cpu"))

    source = backbones.resolve(str(tiny_xl))
    outlined, loaded = plan(backbones.load_for_counting(source)), plan(backbones.load(str(tiny_xl)))
    assert outlined.trained_parameters == loaded.trained_parameters
    assert outlined.frozen_parameters == loaded.frozen_parameters
    for name, count in loaded.tiers.items():
        assert outlined.tiers[name] == pytest.approx(count, rel=0.1)


def test_loss_falls(tiny_xl: Path, tmp_path: Path):
    backbone, reports = backbones.load(str(tiny_xl)), list[StepReport]()
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    examples = Examples(latents, latents, ("a zqk dog", "a dog"))
    settings = Settings(60, 2, {"denoiser": 3e-3}, checkpointing_steps=0)
    finetune(
        backbone, FullFineTuning(), examples, settings, RunFolder.create(tmp_path / "run", make_config({})),
        reports.append,
    )  # fmt: skip
    losses = [report.loss for report in reports]
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])


@pytest.mark.parametrize("trains_text", [True, False])
def test_rows_of_no_prompt_are_trained_on_what_guidance_starts_from(tiny_xl: Path, trains_text: bool):
    backbone, latents = backbones.load(str(tiny_xl)), torch.randn(2, 4, 16, 16)
    examples = Examples(latents, latents, ("a zqk dog", "a dog"), None, latents, unprompted_share=1.0)
    loss = Loss(backbone, FullFineTuning(trains_text), examples, Settings(1, 2, {}), 2)
    batch = next(examples.batches(0, 0, 2, 1))
    told = loss.conditioning(batch, 0).tensors
    assert not told["hidden"][batch.is_prior].any() and not told["pooled"][batch.is_prior].any()
    assert told["hidden"][~batch.is_prior].any()


def test_samples_of_no_prompt_are_drawn_without_one(tiny_xl: Path):
    """From zeros, as guidance starts, and not from the encoders' reading of an empty text."""
    backbone = backbones.load(str(tiny_xl))
    drawn = backbone.sample_latents(["", "a dog"], [0, 1], Sampling(2, 1.0))
    pipeline: Any = DiffusionPipeline.from_pretrained(tiny_xl)
    zeros = {"prompt_embeds": torch.zeros(1, 16, 72), "pooled_prompt_embeds": torch.zeros(1, 24)}
    expected = pipeline(
        **zeros, guidance_scale=1.0, num_inference_steps=2, generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(drawn[:1], expected)


class TestIdentifier:
    def test_it_is_rare_for_both_tokenizers(self, tmp_path: Path):
        one = tiny.clip_tokenizer(tmp_path / "one")
        other = tiny.clip_tokenizer(tmp_path / "other", rare=["zqk", "qjz"])
        alone = {found.text for found in identifier.finalists(one, "dog", 0, 99)}
        both = {found.text for found in identifier.finalists(one, "dog", 0, 99, others=[other])}
        assert {"zqk", "qjz"} <= both < alone and "vqx" in alone - both
        for text in both:
            assert len(other.encode(text, add_special_tokens=False)) == 1

    def test_equal_vocabularies_change_no_choice(self, tmp_path: Path):
        one, other = tiny.clip_tokenizer(tmp_path / "one"), tiny.clip_tokenizer(tmp_path / "two", pad_token="a")
        assert identifier.choose(one, "dog", 3) == identifier.choose(one, "dog", 3, others=[other])

    def test_what_either_objects_to_is_told(self, tmp_path: Path):
        one, other = tiny.clip_tokenizer(tmp_path / "one"), tiny.clip_tokenizer(tmp_path / "other", rare=["zqk"])
        assert identifier.check("vqx", one, "dog").warnings == ()
        assert "splits into" in " ".join(identifier.check("vqx", one, "dog", [other]).warnings)

    def test_no_common_word_is_told(self, tmp_path: Path):
        one, other = tiny.clip_tokenizer(tmp_path / "one"), tiny.clip_tokenizer(tmp_path / "other", rare=[])
        with pytest.raises(IdentifierError, match="no rare short token"):
            identifier.choose(one, "dog", 0, others=[other])


def test_both_encoders_are_off_the_device_once_all_is_encoded(tiny_xl: Path):
    modules = backbones.load(str(tiny_xl)).modules
    away = {trains: [name for name in modules if is_encoder(name, trains)] for trains in (False, True)}
    assert away == {False: ["text_encoder", "text_encoder_2", "autoencoder"], True: ["autoencoder"]}


def test_another_way_of_noising_is_refused():
    """Playground 2.5 is a `StableDiffusionXLPipeline` whose scheduler has no betas."""
    from diffusers import EDMEulerScheduler

    with pytest.raises(ModelError, match="EDMEulerScheduler"):
        from_scheduler(EDMEulerScheduler())
