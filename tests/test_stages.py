"""A cascade from photos to pictures: both stages in one run, cut and gone on with anywhere, drawn through both."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dreambooth as db
from dreambooth import stages, workflow
from dreambooth.backbones.cascade import SuperResolver
from dreambooth.backbones.protocol import Conditioning
from dreambooth.checkpoint import RunFolder
from dreambooth.config import TrainConfig, make_config
from dreambooth.errors import ConfigError, DreamBoothError, Interrupted, ModelError
from dreambooth.examples import Batch, cut_out
from dreambooth.prepare import prepare
from dreambooth.ui import Display
from tests import tiny

QUICK = {
    "class_noun": "dog", "max_train_steps": 3, "num_class_images": 2, "prior_steps": 1, "num_inference_steps": 1,
    "images_per_prompt": 1, "train_batch_size": 1, "preview_steps": 2, "applications": ["properties"],
    "sr_max_train_steps": 3, "sr_num_class_images": 2, "sr_num_inference_steps": 1, "sr_train_batch_size": 1,
    "checkpointing_steps": 2, "identifier": "zqk",
}  # fmt: skip
SILENT = Display(quiet=True)


def config(model: Path, photos: Path, out: Path, **changes) -> TrainConfig:
    return make_config(QUICK | {"model": str(model), "photos": [str(photos)], "out": str(out)} | changes)


@pytest.fixture(scope="module")
def finished(tiny_cascade: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cascade") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMBOOTH_CACHE", str(run.parent / "cache"))
        workflow.start(config(tiny_cascade, photos, run), SILENT)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(run)}.{key}": value
        for file in sorted((run / "model").rglob("*.safetensors"))
        for key, value in load_file(file).items()
    }


def log_of(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(run).read_log()]


class TestTheRoad:
    def test_each_stage_has_its_own_log_checkpoints_and_previews(self, finished: Path):
        for folder in (finished, finished / "sr"):
            assert [row["step"] for row in log_of(folder)] == [1, 2, 3]
            assert all(row["loss_subject"] > 0 < row["loss_prior"] for row in log_of(folder))
            assert (folder / "checkpoints/step-000003").is_dir() and (folder / "prior.png").is_file()
            assert len(list((folder / "previews").glob("*.png"))) == 2
        assert log_of(finished)[0]["loss"] != log_of(finished / "sr")[0]["loss"]
        assert {"train", "train, sr", "prior samples", "prior samples, sr"} <= RunFolder(finished).times().keys()

    def test_both_models_moved_and_nothing_else(self, finished: Path, tiny_cascade: Path):
        before = {
            f"model/{file.relative_to(tiny_cascade)}.{key}": value
            for file in tiny_cascade.rglob("*.safetensors")
            for key, value in load_file(file).items()
        }
        after = weights(finished)
        assert before.keys() == after.keys()
        moved = {key.split(".safetensors")[0] for key in before if not torch.equal(before[key], after[key])}
        name = "diffusion_pytorch_model"
        assert moved == {f"model/unet/{name}", f"model/super_resolution/unet/{name}"}

    def test_the_super_resolver_learned_from_large_photos_and_its_own_prior(self, finished: Path):
        caches = [json.loads(file.read_text()) for file in (finished.parent / "cache/prior").glob("*/manifest.json")]
        by_size = {tuple(made["native_size"]): made for made in caches}
        assert by_size.keys() == {(3, 16, 16), (3, 32, 32)}
        assert by_size[3, 32, 32]["enlarging"]["noise_level"] == 0.25 and "enlarging" not in by_size[3, 16, 16]
        assert len({made["model"] for made in caches}) == 2
        facts = json.loads((finished / "sr/subject.json").read_text())
        assert facts["resolution"] == 32 and (finished / "sr" / facts["photos"][0]["file"]).is_file()

    def test_pictures_go_through_both_models(self, finished: Path):
        run = db.load(finished)
        one, two = (run.generate("a {subject}", count=2, seed=3) for _ in range(2))
        assert one[0].size == (32, 32) and one[0].tobytes() == two[0].tobytes() != one[1].tobytes()

    def test_low_augmentation_in_training_is_the_level_in_drawing(self, finished: Path):
        assert json.loads((finished / "model/cascade.json").read_text()) == {
            "noise_level": 1e-5,
            "unlearned": {"upscaler": "zqk"},
        }
        assert db.load(finished).sampling.enlarging.noise_level == 1e-5
        assert db.load(finished).backbone.spec.enlarging.noise_level == 1e-5

    def test_the_result_is_plain_diffusers(self, finished: Path):
        from diffusers import DiffusionPipeline

        names = [type(DiffusionPipeline.from_pretrained(finished / "model")).__name__]
        names += [type(DiffusionPipeline.from_pretrained(finished / "model/super_resolution")).__name__]
        assert names == ["IFPipeline", "IFSuperResolutionPipeline"]

    def test_the_report_shows_both_stages(self, finished: Path):
        page = (finished / "report.html").read_text()
        assert "Loss, super-resolver" in page and "Learning rate, super-resolver" in page


class Cut(Exception):
    pass


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_cut_in_either_stage_and_resumed_it_is_bit_identical(
    stage: str, finished: Path, tiny_cascade: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "run" / ("sr" if stage == "sr" else "")
    append = RunFolder.append_log

    def cut(self, entry, *others):
        append(self, entry, *others)
        if self.path.resolve() == place.resolve() and entry["step"] == 3:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_log", cut)
        with pytest.raises(Cut):
            workflow.start(config(tiny_cascade, photos, tmp_path / "run"), SILENT)
    assert not RunFolder(tmp_path / "run").finished
    assert [point.step for point in RunFolder(place).checkpoints()] == [2]
    workflow.resume(place, SILENT)  # the stage's folder stands for its run
    one, other = weights(finished), weights(tmp_path / "run")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    for name in ("", "sr"):
        assert log_of(finished / name) == log_of(tmp_path / "run" / name)


def test_killed_before_the_second_stage_has_its_folder(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    shutil.rmtree(tmp_path / "run/sr")
    workflow.resume(tmp_path / "run", SILENT)
    one, other = weights(finished), weights(tmp_path / "run")
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("trained", "unlearned"), [("base", "sr"), ("sr", "base")])
def test_a_stage_that_is_not_trained_is_not_told_the_word(
    trained: str, unlearned: str, tiny_cascade: Path, photos: Path, tmp_path: Path
):
    run = workflow.start(
        config(tiny_cascade, photos, tmp_path / "run", stages=trained, applications=[], preview_steps=0), SILENT
    )
    notes = json.loads((tmp_path / "run/model/cascade.json").read_text())
    assert notes["unlearned"] == {unlearned: "zqk", "upscaler": "zqk"}
    assert notes["noise_level"] == (0.25 if trained == "base" else 1e-5)
    assert (tmp_path / "run/sr").exists() == (trained == "sr")
    read: list[str] = []
    text = run.backbone.text
    call = type(text).__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(text), "__call__", lambda self, prompts: read.append(prompts[0]) or call(self, prompts))
        run.generate("a {subject} in snow", count=1)
    told = dict(zip(("base", "sr"), [prompt for prompt in read if prompt], strict=True))
    assert told == {trained: "a zqk dog in snow", unlearned: "a dog in snow"}


@pytest.mark.parametrize(("text", "level"), [("low", 1e-5), ("original", 0.25), ("0.1-0.2", 0.2), ("0.1-0.9", 0.25)])
def test_level_in_drawing_follows_training(text: str, level: float, tiny_cascade: Path, photos: Path, tmp_path: Path):
    made = prepare(config(tiny_cascade, photos, tmp_path / "run", sr_augmentation=text), SILENT).config
    assert made.sr_noise_level == level
    made = prepare(config(tiny_cascade, photos, tmp_path / "run", stages="base", sr_augmentation=text), SILENT).config
    assert made.sr_noise_level == 0.25
    made = prepare(config(tiny_cascade, photos, tmp_path / "run", sr_noise_level=0.5), SILENT).config
    assert made.sr_noise_level == 0.5


def test_a_pair_from_elsewhere_with_an_upscaler(photos: Path, tmp_path: Path):
    base, larger = tiny.cascade()
    _, third = tiny.cascade(sides=(32, 64))
    for name, pipeline in {"base": base, "larger": larger, "third": third}.items():
        pipeline.save_pretrained(tmp_path / name)
    parts = {"super_resolver": str(tmp_path / "larger"), "upscaler": str(tmp_path / "third")}
    run = workflow.start(
        config(tmp_path / "base", photos, tmp_path / "run", applications=[], preview_steps=0, **parts), SILENT
    )
    shutil.rmtree(tmp_path / "larger")  # the run holds what it trained
    monkey = pytest.MonkeyPatch()
    try:
        from diffusers import IFSuperResolutionPipeline

        call = IFSuperResolutionPipeline.__call__
        monkey.setattr(
            IFSuperResolutionPipeline,
            "__call__",
            lambda self, **own: call(self, **({"num_inference_steps": 1, "guidance_scale": 1.0} | own)),
        )
        assert run.generate("a {subject}", count=1)[0].size == (64, 64)
    finally:
        monkey.undo()


WRONG = [
    ({"stages": "base,sr"}, "lone", "has no super-resolver; give one by --super-resolver"),
    ({}, "lone", "has no super-resolver; give one by --super-resolver"),
    ({"stages": "base", "upscaler": "{third}"}, "lone", "--upscaler needs one before it"),
    ({"stages": "sr"}, "flat", "no use for the stage sr"),
    ({"sr_learning_rate": 1e-5}, "flat", "no use for sr_"),
    ({"sr_crop_size": 40}, "cascade", "cut-outs of up to 32 pixels a side, a multiple of 2, not 40"),
    ({"sr_crop_size": 15}, "cascade", "a multiple of 2, not 15; change --sr-crop-size"),
    ({"train_text_encoder": True}, "cascade", "keeps its text encoder as it is.*--train-text-encoder cannot"),
    ({"method": "textual-inversion", "identifier": None}, "cascade", "--method textual-inversion cannot"),
    ({"resolution": 64}, "cascade", "no other size"),
]


@pytest.mark.parametrize(("changes", "model", "told"), WRONG)
def test_what_cannot_work_is_told_before_anything_is_written(
    changes: dict, model: str, told: str, tiny_cascade: Path, tiny_model: Path, photos: Path, tmp_path: Path
):
    base, _ = tiny.cascade()
    base.save_pretrained(tmp_path / "lone")
    places = {"lone": tmp_path / "lone", "cascade": tiny_cascade, "flat": tiny_model}
    changes = {key: str(tiny_cascade / "super_resolution") if value == "{third}" else value
               for key, value in changes.items()}  # fmt: skip
    if model == "flat":
        own = {key: None for key in QUICK if key.startswith("sr_")}
        changes = own | changes
    with pytest.raises((ConfigError, ModelError), match=told) as caught:
        workflow.start(config(places[model], photos, tmp_path / "run", **changes), SILENT)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["lower", "0.3-0.1", "0-2", "0.1", "1.2.3-2"])
def test_augmentation_that_is_no_range_is_told(text: str):
    with pytest.raises(ConfigError, match="sr_augmentation is low, original or a range"):
        make_config({"sr_augmentation": text})


def test_small_photos_are_warned_of(tiny_cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    for index in range(2):
        Image.effect_noise((24, 24), 80 + index).convert("RGB").save(tmp_path / f"{index}.png")
    prepare(config(tiny_cascade, tmp_path, tmp_path / "run"), SILENT)
    assert "2 of 2 photos had to be scaled up to 32 pixels; the model learns their blur" in capsys.readouterr().err


def test_interrupted_in_the_second_stage_it_says_how_to_go_on(
    tiny_cascade: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import signal

    append = RunFolder.append_log

    def press(self, entry, *others):
        append(self, entry, *others)
        if self.path.name == "sr" and entry["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_log", press)
        with pytest.raises(Interrupted, match=r"Stopped at step \d, saved.*--resume") as caught:
            workflow.start(config(tiny_cascade, photos, tmp_path / "run"), SILENT)
    named = Path(str(caught.value).rpartition("--resume ")[2])
    assert workflow.resume(named, SILENT).path == tmp_path / "run"


def test_stages_of_a_resolved_config():
    assert stages.names_of(make_config({})) == ["base"]
    assert stages.names_of(make_config({"stages": "base,sr"})) == ["base", "sr"]
    assert issubclass(ConfigError, DreamBoothError)


@pytest.mark.parametrize(("guidance", "share"), [(1.0, 0.0), (4.0, 0.25)])
def test_samples_of_no_prompt_are_for_stages_that_are_guided(guidance: float, share: float):
    config = make_config({"unprompted_share": 0.25, "sr_guidance_scale": guidance})
    assert stages.stage_config(config, "base").unprompted_share == 0.25
    assert stages.stage_config(config, "sr").unprompted_share == share


def test_shifted_times_are_for_the_base_alone():
    config = make_config({"timestep_shift": 3.0})
    assert stages.stage_config(config, "base").timestep_shift == 3.0
    assert stages.stage_config(config, "sr").timestep_shift is None


def test_cut_outs_are_for_the_super_resolver_alone():
    resolved = make_config({"stages": "base,sr", "sr_crop_size": 16})
    assert stages.stage_config(resolved, "base").crop_size is None
    assert stages.stage_config(resolved, "sr").crop_size == 16


@pytest.mark.parametrize(("size", "seen"), [(None, 16), (24, 24), (32, 32)])
def test_a_super_resolver_trains_on_cut_outs(size: int | None, seen: int, tiny_cascade: Path, photos: Path,
                                             tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    """Each row, photo or prior sample, is seen in part; pictures are drawn whole."""
    sides: dict[bool, set[int]] = {True: set(), False: set()}
    denoise = SuperResolver.denoise

    def watched(self: SuperResolver, noisy: torch.Tensor, *others: Any) -> torch.Tensor:
        sides[torch.is_grad_enabled()].add(noisy.shape[-1])
        return denoise(self, noisy, *others)

    monkeypatch.setattr(SuperResolver, "denoise", watched)
    run = workflow.start(config(tiny_cascade, photos, tmp_path / "run", stages="sr", sr_crop_size=size), SILENT)
    assert sides[True] == {seen}
    assert [picture.size for picture in run.generate("a {subject}", count=1)] == [(32, 32)]


def test_cut_outs_are_what_the_estimate_counts(tiny_cascade: Path, photos: Path, tmp_path: Path):
    tiers = [
        prepare(config(tiny_cascade, photos, tmp_path / "run", sr_crop_size=size), SILENT, dry=True).plan.each[1].tiers
        for size in (16, 32)
    ]
    assert tiers[0]["fast"] < tiers[1]["fast"]


def test_cut_outs_move_from_step_to_step_and_take_their_masks_along():
    clean = torch.arange(32.0).view(1, 1, 1, 32).expand(2, 3, 32, 32)
    batch = Batch(clean, torch.tensor([False, True]), (0, 1), clean[:, :1])
    told = Conditioning({"low": clean, "hidden": torch.zeros(2, 5, 7)})
    seen = set()
    for step in range(20):
        cut, conditioning = cut_out(batch, told, 16, 4, seed=0, step=step)
        assert cut.clean.shape == (2, 3, 16, 16) and conditioning.tensors["hidden"].shape == (2, 5, 7)
        assert torch.equal(cut.clean, conditioning.tensors["low"]) and torch.equal(cut.clean[:, :1], cut.pixel_weights)
        seen |= set(cut.clean[:, 0, 0, 0].tolist())
    assert seen == {0, 4, 8, 12, 16}


def test_a_dry_run_of_a_cascade_of_deepfloyds_size_needs_no_weights(photos: Path, tmp_path: Path):
    """Configurations alone, of about the sizes of IF-I-XL, IF-II-L and T5-XXL."""
    folder = tiny.outlined_deepfloyd(tmp_path)
    assert not list(folder.rglob("*.safetensors"))
    own = dict.fromkeys(("max_train_steps", "sr_max_train_steps", "num_class_images", "train_batch_size"))
    prepared = prepare(config(folder, photos, tmp_path / "run", **own), SILENT, dry=True)
    base, larger = prepared.plan.each
    assert 4.0e9 < base.trained_parameters["denoiser"] < 4.6e9
    assert 1.0e9 < larger.trained_parameters["denoiser"] < 1.5e9
    assert 4.5e9 < base.frozen_parameters < 5e9  # T5-XXL
    trained = 4 * base.trained_parameters["denoiser"] * 4  # weights, gradients, both moments, in float32
    assert trained < base.tiers["fast"] < trained + 4 * base.frozen_parameters, "T5 is gone before training"
    assert prepared.config.learning_rate == 1e-5 and prepared.config.sr_learning_rate == 5e-6
    assert prepared.config.max_train_steps == 1000 and prepared.config.sampler == "ddpm"


def test_each_stage_is_judged_as_it_goes(tiny_cascade: Path, photos: Path, tmp_path: Path):
    """`--track` as for any other model: the super-resolver's pictures are those of the whole cascade."""
    judged = {"track": True, "track_steps": 2, "track_images": 1, "track_prompts": ["a {subject}", "a {class}"],
              "judge_dino": "toybox-dino", "judge_clip": "toybox-clip"}  # fmt: skip
    run = workflow.start(config(tiny_cascade, photos, tmp_path / "run", **judged), SILENT)
    for folder in (run.path, run.path / "sr"):
        rows = [json.loads(line) for line in (folder / "track.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 2, 3]
        assert all(-1 <= row[name] <= 1 for row in rows for name in ("dino", "clip_t", "pres"))
