"""Masked loss: where masks come from, what they do to the loss, and that they stay with their photos."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import backbones
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import ConfigError, ModelError, PhotoError
from dreambooth.examples import Examples, augmented_views
from dreambooth.loss import row_errors
from dreambooth.masks import coverage, pixel_weights, to_tensor, with_masks
from dreambooth.methods import make_method
from dreambooth.segmentation import Segmenter
from dreambooth.subject import Subject, inspect, load_subject
from dreambooth.train_state import Settings
from dreambooth.trainer import finetune
from tests import tiny
from tests.test_cli import FAST
from tests.test_cli import dreambooth as command


def left_half(width: int, height: int) -> Image.Image:
    """A mask of a subject in the left half."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 255
    return Image.fromarray(mask)


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Three photos of 80 x 64 pixels, of their own."""
    place = tmp_path / "photos"
    place.mkdir()
    for file in photos.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def subject(folder: Path, **given: Any) -> Subject:
    return load_subject(folder, "dog", 64, **given)


class TestWhereTheyComeFrom:
    def test_beside_the_photos(self, folder: Path):
        for name in "012":
            left_half(80, 64).save(folder / f"{name}.mask.png")
        inspection = inspect(folder, 64)
        assert [photo.path.name for photo in inspection.photos] == ["0.png", "1.png", "2.png"]
        assert {f.reason for f in inspection.findings if not f.taken} == {"the mask of another photo"}
        masks = to_tensor(with_masks(subject(folder), None).masks or ())
        assert masks.shape == (3, 1, 64, 64) and masks[..., :30].min() == 1 and masks[..., 34:].max() == 0
        named = to_tensor(with_masks(subject(folder), folder).masks or ())  # and not the photos, which lie there too
        assert torch.equal(named, masks)

    def test_of_a_folder_first(self, folder: Path, tmp_path: Path):
        masks = tmp_path / "masks"
        masks.mkdir()
        for name in "012":
            Image.new("L", (80, 64), 0).save(folder / f"{name}.mask.png")
            left_half(160, 128).convert("RGB").save(masks / f"{name}{'.mask' if name == '1' else ''}.png")
        assert coverage(with_masks(subject(folder), masks).masks or ()) == pytest.approx(0.5, abs=0.02)

    def test_of_transparency(self, folder: Path):
        for file in folder.iterdir():
            image = Image.open(file).convert("RGB")
            image.putalpha(left_half(80, 64))
            image.save(file)
        masks = to_tensor(with_masks(subject(folder), None).masks or ())
        assert masks[..., :30].min() == 1 and masks[..., 34:].max() == 0

    @pytest.mark.parametrize(("crop", "share"), [("center", 0.5), ("pad", 0.4)])
    def test_cropped_as_the_photos_are(self, folder: Path, crop: Any, share: float):
        for name in "012":
            left_half(80, 64).save(folder / f"{name}.mask.png")
        masks = with_masks(subject(folder, crop=crop), None).masks or ()
        assert coverage(masks) == pytest.approx(share, abs=0.02) and masks[0].size == (64, 64)

    def test_turned_as_the_photos_are(self, tmp_path: Path):
        """A phone's photo lies on its side in the file; its mask was drawn on the upright picture."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.effect_noise((80, 64), 50).convert("RGB").save(tmp_path / "a.jpg", exif=exif)
        left_half(64, 80).save(tmp_path / "a.mask.png")
        masks = to_tensor(with_masks(subject(tmp_path), None).masks or ())
        assert masks[..., :30].min() == 1 and masks[..., 34:].max() == 0

    def test_by_a_model_for_those_without(self, folder: Path):
        left_half(80, 64).save(folder / "1.mask.png")
        asked: list[int] = []

        def segment(pictures: Any) -> Any:
            asked.append(len(pictures))
            return [Image.new("L", picture.size, 255) for picture in pictures]

        masks = with_masks(subject(folder), None, segment).masks or ()
        assert asked == [2] and [round(coverage([mask]), 1) for mask in masks] == [1.0, 0.5, 1.0]

    def test_a_photo_without_is_told_with_the_ways(self, folder: Path):
        left_half(80, 64).save(folder / "1.mask.png")
        with pytest.raises(PhotoError, match=r"no mask for 0\.png, 2\.png: put NAME\.mask\.png"):
            with_masks(subject(folder), None)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (Image.new("L", (80, 64), 0), "shows no subject"),
            (Image.new("L", (64, 80), 255), "not the shape of its photo, 80x64"),
            (b"no picture", "not an image"),
        ],
    )
    def test_one_that_cannot_be_used_is_told(self, folder: Path, content: Any, told: str):
        for name in "012":
            left_half(80, 64).save(folder / f"{name}.mask.png")
        if isinstance(content, bytes):
            (folder / "1.mask.png").write_bytes(content)
        else:
            content.save(folder / "1.mask.png")
        with pytest.raises(PhotoError, match=told):
            with_masks(subject(folder), None)

    def test_no_folder_is_told(self, folder: Path):
        with pytest.raises(ConfigError, match="no folder"):
            with_masks(subject(folder), folder / "nowhere")


class TestLoss:
    def test_a_weighted_mean_of_each_row(self):
        draw = torch.Generator().manual_seed(0)
        prediction, target = torch.randn(2, 2, 3, 4, 4, generator=draw)
        mask = torch.rand(2, 1, 4, 4, generator=draw)
        squared = (prediction - target) ** 2
        by_hand = [(squared[row] * mask[row]).sum() / (3 * mask[row].sum()) for row in range(2)]
        found = row_errors(prediction, target, torch.tensor([1.0, 2.0]), mask)
        torch.testing.assert_close(found, torch.stack(by_hand) * torch.tensor([1.0, 2.0]))

    def test_equal_weights_are_the_plain_mean(self):
        prediction, target = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        plain = row_errors(prediction, target, torch.ones(3))
        torch.testing.assert_close(row_errors(prediction, target, torch.ones(3), torch.full((3, 1, 8, 8), 0.3)), plain)

    def test_the_background_has_no_gradient_at_weight_zero(self):
        prediction = torch.randn(1, 4, 4, 4, requires_grad=True)
        weights = pixel_weights(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), (4, 4, 4), background=0.0)
        row_errors(prediction, torch.zeros(1, 4, 4, 4), torch.ones(1), weights).sum().backward()
        assert prediction.grad is not None
        assert prediction.grad[..., :2].abs().min() > 0 and prediction.grad[..., 2:].abs().max() == 0

    def test_a_row_without_any_subject_counts_nothing(self):
        found = row_errors(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1, 1, 2, 2))
        assert found.tolist() == [0.0]


class TestExamples:
    weights = torch.tensor([0.1, 0.2, 0.3])[:, None, None, None].expand(3, 1, 2, 2)
    examples = Examples(torch.arange(3.0)[:, None, None, None].expand(3, 4, 2, 2), torch.zeros(5, 4, 2, 2), ("a", "b"))

    def test_weights_go_with_their_photos_and_prior_rows_count_alike(self):
        masked = Examples(self.examples.subject, self.examples.prior, self.examples.prompts, self.weights)
        for step in range(4):
            for batch in masked.to(torch.device("cpu")).batches(0, step, 2, 2):
                assert batch.pixel_weights is not None
                expected = (batch.clean[:2, 0, 0, 0] + 1) / 10
                assert torch.equal(batch.pixel_weights[:2, 0, 0, 0], expected)
                assert batch.pixel_weights[2:].min() == 1
        assert next(self.examples.batches(0, 0, 2, 1)).pixel_weights is None

    def test_views_crop_and_mirror_masks_with_their_photos(self):
        mask = torch.zeros(2, 1, 16, 16)
        mask[:, :, 4:9, 2:7] = 1
        both = augmented_views(torch.cat([mask * 2 - 1] * 4, 1), 3, True, seed=1)
        assert both.shape == (12, 4, 16, 16) and torch.equal(both[:, 0], both[:, 3])

    def test_training_minds_them(self, tiny_model: Path, tmp_path: Path):
        trained = []
        for name, weights in (("plain", None), ("masked", torch.rand(3, 1, 16, 16))):
            backbone, method = backbones.load(str(tiny_model)), make_method(make_config({"method": "lora"}), "dog")
            latents = torch.randn(5, 4, 16, 16, generator=torch.Generator().manual_seed(0))
            examples = Examples(latents[:3], latents[3:], ("a zqk dog", "a dog"), weights)
            run = RunFolder.create(tmp_path / name, make_config({}))
            finetune(backbone, method, examples, Settings(1, 2, {"denoiser": 1e-3}), run)
            trained.append(run.read_log()[0])
        plain, masked = trained
        assert plain["loss_subject"] != masked["loss_subject"] and plain["loss_prior"] == masked["loss_prior"]


class TestSegmenter:
    def test_not_installed_is_told_and_nothing_is_fetched(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it went to the network"))
        for name in ("nobody/nothing", "no such name"):
            with pytest.raises(ModelError, match="is not on this machine"):
                Segmenter(name, "dog")([Image.new("RGB", (32, 32))])

    def test_a_folder_of_something_else_is_told(self, tmp_path: Path):
        with pytest.raises(ModelError, match="a clip model that does not segment"):
            Segmenter(str(tiny.saved_clip(tmp_path)), "dog")([Image.new("RGB", (32, 32))])

    @pytest.mark.parametrize("noun", ["stuffed dog", "cat"])
    def test_labels(self, tmp_path: Path, noun: str):
        """A Segformer whose last layer says "dog" everywhere, and never "cat"."""
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        settings = {"hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
        names = {"id2label": {0: "wall", 1: "dog", 2: "cat"}, "label2id": {"wall": 0, "dog": 1, "cat": 2}}
        model = SegformerForSemanticSegmentation(SegformerConfig(depths=[1] * 4, **settings, **names))
        torch.nn.init.zeros_(model.decode_head.classifier.weight)
        model.decode_head.classifier.bias.data = torch.tensor([0.0, 1.0, 0.0])
        model.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "SegformerImageProcessor", "size": {"height": 32, "width": 32}})
        )
        segment, pictures = Segmenter(str(tmp_path), noun), [Image.effect_noise((48, 48), 50).convert("RGB")]
        if noun == "cat":
            with pytest.raises(PhotoError, match="sees no cat in photo 1 of those without a mask, but dog"):
                segment(pictures)
        else:
            (mask,) = segment(pictures)
            assert mask.size == (48, 48) and coverage([mask]) == 1

    def test_words(self, tmp_path: Path):
        """An untrained CLIPSeg: some mask of the right size, another for another word."""
        from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

        tokenizer = tiny.clip_tokenizer(tmp_path / "words")
        small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4}
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
        config = CLIPSegConfig(
            text_config=small | text,
            vision_config=small | {"image_size": 32, "patch_size": 8},
            projection_dim=16,
            reduce_dim=16,
            extract_layers=[1, 2],
            decoder_intermediate_size=32,
        )
        torch.manual_seed(0)
        CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        tiny.save_preparation(tmp_path, "ViTImageProcessor", size={"height": 32, "width": 32})
        picture = Image.effect_noise((40, 40), 50).convert("RGB")
        (dog,), (cat,) = (Segmenter(str(tmp_path), noun)([picture]) for noun in ("dog", "cat"))
        assert dog.size == cat.size == (40, 40) and dog.tobytes() != cat.tobytes()


def test_the_gain_is_told_as_means_over_subjects():
    """The script that measures it, without the hour it takes."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "masked_loss.py"))
    rows = [script["Row"](f"dog {n}", weight, 0.5, 0.1 * n, 0.4, 1.0) for n in (1, 3) for weight in (None, 0.1)]
    assert script["table"](rows).splitlines()[2:] == [
        "| plain | 2 | 50% | 20% | 0.400 |",
        "| masked, background 0.1 | 2 | 50% | 20% | 0.400 |",
    ]


class TestOnTheRoad:
    def test_masks_are_kept_with_the_run(self, folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch, capsys):
        for name in "012":
            left_half(80, 64).save(folder / f"{name}.mask.png")
        given = ["train", folder, "--class-noun", "dog", "--model", tiny_model, "--masked-loss", *FAST]
        given += ["--applications", "reconstruction", "--views", "2"]
        code, _, told = command(monkeypatch, capsys, *given, "--mask-weight", 0, "--out", tmp_path / "run")
        assert code == 0, told
        facts = json.loads((tmp_path / "run/subject.json").read_text())
        assert [entry["mask"] for entry in facts["photos"]] == [f"photos/0{index}.mask.png" for index in range(3)]
        assert Image.open(tmp_path / "run/photos/00.mask.png").size == (64, 64)
        assert "masked_loss = true" in (tmp_path / "run/config.toml").read_text()

    def test_without_masks_it_ends_before_the_model_is_loaded(self, folder: Path, monkeypatch, capsys, tmp_path: Path):
        given = ["train", folder, "--class-noun", "dog", "--masked-loss", "--out", tmp_path / "run"]
        code, _, told = command(monkeypatch, capsys, *given)
        assert code != 0 and "There is no mask for 0.png, 1.png, 2.png" in told.replace("\n", " ")
        assert not (tmp_path / "run").exists()

    def test_settings_without_their_switch_are_told(self):
        for values in ({"masks": "m"}, {"mask_weight": 0.5}, {"segmenter": "x"}):
            with pytest.raises(ConfigError, match="belongs to masked_loss"):
                make_config(values)
