"""Encoders by name, on tiny real CLIP and ViT models: preprocessing, embeddings, fingerprints and wrong turns."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth.errors import ConfigError, ModelError
from dreambooth.evaluation import encoders, perceptual, pretrained
from dreambooth.evaluation.encoders import clip_encoder, dino_encoder, judges_for
from dreambooth.evaluation.vision import Dino
from tests import tiny

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture
def embedded(clip: Path, dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models stand in the package as toybox-clip and toybox-dino."""
    models = {"toybox-clip": clip, "toybox-dino": dino, "toybox-sd": dino.parent}
    for module in (encoders, pretrained):
        monkeypatch.setattr(module, "embedded", lambda: models)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is known to be out of reach, so that nothing waits for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pictures(count: int, size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    """Smooth colourful pictures, all different."""
    shapes = [np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8) for seed in range(count)]
    return [Image.fromarray(shape).resize(size, Image.Resampling.BICUBIC) for shape in shapes]


def normalised(image: Image.Image) -> Tensor:
    """[1, 3, H, W] as CLIP reads it: (value / 255 - mean) / deviation, worked out here in NumPy."""
    values = (np.asarray(image, dtype=np.float64) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(values).permute(2, 0, 1)[None].float()


class TestClip:
    def test_rows_are_unit_vectors_of_one_space(self, clip: Path):
        encoder = clip_encoder(str(clip))
        images, texts = encoder.embed_images(pictures(3)), encoder.embed_texts(["a dog", "a cat on the beach"])
        assert images.shape == (3, 24) and texts.shape == (2, 24)
        assert images.dtype == texts.dtype == torch.float32
        assert torch.allclose(images.norm(dim=1), torch.ones(3)) and torch.allclose(texts.norm(dim=1), torch.ones(2))

    def test_is_what_the_model_says_of_pixels_prepared_by_hand(self, clip: Path):
        """A 64 x 48 photo: shortest side to 32 by bicubic (42 x 32), the middle 32 x 32 of it, mean and deviation."""
        from transformers import CLIPModel

        photo = pictures(1, (64, 48))[0]
        middle = photo.resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
        model = CLIPModel.from_pretrained(clip).eval()
        with torch.no_grad():
            expected = model.visual_projection(model.vision_model(normalised(middle)).pooler_output)[0]
        found = clip_encoder(str(clip)).embed_images([photo])[0]
        assert torch.allclose(found, expected / expected.norm(), atol=1e-5)

    def test_similarity_is_the_models_own_logit(self, clip: Path):
        from transformers import CLIPModel, CLIPTokenizer

        model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
        picture = pictures(1)[0]
        tokens = tokenizer(["a dog", "a cat on the beach"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**tokens, pixel_values=normalised(picture)).logits_per_image[0]
        encoder = clip_encoder(str(clip))
        cosines = encoder.embed_images([picture]) @ encoder.embed_texts(["a dog", "a cat on the beach"]).T
        assert torch.allclose(cosines[0] * model.logit_scale.exp(), logits, atol=1e-4)

    def test_a_text_is_the_same_in_any_company(self, clip: Path):
        encoder = clip_encoder(str(clip))
        alone, beside = encoder.embed_texts(["a dog"]), encoder.embed_texts(["a cat on the beach in the snow", "a dog"])
        assert torch.allclose(alone[0], beside[1], atol=1e-6)

    def test_a_long_text_is_read_as_far_as_the_window(self, clip: Path):
        encoder = clip_encoder(str(clip))
        long = "a dog in the snow " * 40
        assert torch.allclose(encoder.embed_texts([long]), encoder.embed_texts([long + "red cat"]))

    def test_nothing_gives_no_rows(self, clip: Path):
        encoder = clip_encoder(str(clip))
        assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, 24)


class TestDino:
    def test_is_the_last_layers_cls_token(self, dino: Path):
        from transformers import ViTModel

        model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
        picture = pictures(1)[0]
        with torch.no_grad():
            expected = model(normalised(picture)).last_hidden_state[0, 0]
        assert torch.allclose(dino_encoder(str(dino)).embed_images([picture])[0], expected / expected.norm(), atol=1e-5)

    def test_batches_change_nothing(self, dino: Path, monkeypatch: pytest.MonkeyPatch):
        encoder, images = dino_encoder(str(dino)), pictures(5)
        at_once = encoder.embed_images(images)
        monkeypatch.setattr("dreambooth.evaluation.vision.BATCH_SIZE", 2)
        assert torch.allclose(encoder.embed_images(images), at_once, atol=1e-6)

    def test_grey_and_transparent_pictures_are_read_as_rgb(self, dino: Path):
        encoder, grey = dino_encoder(str(dino)), pictures(1)[0].convert("L")
        assert torch.equal(encoder.embed_images([grey]), encoder.embed_images([grey.convert("RGB")]))
        assert torch.equal(encoder.embed_images([grey.convert("RGBA")]), encoder.embed_images([grey]))

    def test_a_pooling_layer_in_the_file_is_passed_over(self, tmp_path: Path):
        pooled = dino_encoder(str(tiny.saved_dino(tmp_path, pooler=True)))
        assert pooled.embed_images(pictures(2)).shape == (2, 24)

    def test_patch_features_end_with_the_models_own_output(self, dino: Path):
        """The last depth is the normed output without its CLS token: 16 patches of 8 px in a picture of 32."""
        from transformers import ViTModel

        picture = pictures(1)[0]
        encoder = dino_encoder(str(dino))
        assert isinstance(encoder, Dino)
        features = encoder.patch_features([picture], (0.25, 1.0))
        model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
        with torch.no_grad():
            expected = model(normalised(picture)).last_hidden_state[:, 1:]
        assert [tuple(layer.shape) for layer in features] == [(1, 16, 24)] * 2
        assert torch.allclose(features[1], expected, atol=1e-5) and not torch.allclose(features[0], features[1])


class TestFingerprint:
    def test_is_the_same_for_the_same_folder_and_its_copy(self, dino: Path, tmp_path: Path):
        copy = shutil.copytree(dino, tmp_path / "copy")
        assert dino_encoder(str(dino)).fingerprint == dino_encoder(str(copy)).fingerprint

    def test_tells_weights_and_preparation_apart(self, dino: Path, tmp_path: Path):
        other = tiny.saved_dino(tmp_path / "weights", seed=1)
        blurred = shutil.copytree(dino, tmp_path / "preparation")
        tiny.save_preparation(blurred, "ViTImageProcessor", size=32, resample=2)
        found = {dino_encoder(str(folder)).fingerprint for folder in (dino, other, blurred)}
        assert len(found) == 3 and all(len(one) == 16 for one in found)

    def test_does_not_mind_bookkeeping(self, dino: Path, tmp_path: Path):
        """The same preparation under the names of older releases, as facebook/dino-vits16 has them."""
        old = shutil.copytree(dino, tmp_path / "old")
        facts = json.loads((old / "preprocessor_config.json").read_text())
        facts["feature_extractor_type"] = facts.pop("image_processor_type").replace(
            "ImageProcessor", "FeatureExtractor"
        )
        (old / "preprocessor_config.json").write_text(json.dumps(facts))
        assert dino_encoder(str(dino)).fingerprint == dino_encoder(str(old)).fingerprint


class TestPatchDistance:
    def test_by_hand(self):
        """Two places: equal in one and at right angles in the other gives (0 + 2) / 2; opposite in both gives 4."""
        one, other = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[5.0, 0.0], [0.0, 2.0]]])
        found = perceptual.patch_distances([torch.stack([one, other, -one])])
        assert torch.allclose(found, torch.tensor([[0.0, 1, 4], [1, 0, 3], [4, 3, 0]]))

    def test_layers_count_alike(self):
        near, far = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        assert perceptual.patch_distances([near, far])[0, 1] == pytest.approx(1.0)

    def test_is_symmetric_and_zero_of_a_picture_to_itself(self, dino: Path):
        judge = encoders.perceptual(f"dino-patch:{dino}")
        images = [*pictures(3), pictures(1)[0]]
        distances = judge.distances(images)
        assert distances.shape == (4, 4) and torch.equal(distances, distances.T)
        assert distances.diagonal().abs().max() == 0 and distances[0, 3] < 1e-5 < distances[0, 1]
        order = [2, 0, 3, 1]
        assert torch.allclose(judge.distances([images[i] for i in order]), distances[order][:, order], atol=1e-6)
        assert judge.distances([]).shape == (0, 0)

    def test_a_small_change_is_a_small_distance(self, dino: Path):
        one, other = pictures(2)
        distances = encoders.perceptual(f"dino-patch:{dino}").distances([one, Image.blend(one, other, 0.05), other])
        assert distances[0, 1] < distances[0, 2] / 2

    def test_carries_its_own_name(self, dino: Path):
        judge = encoders.perceptual(f"dino-patch:{dino}")
        assert judge.name == "dino-patch:dino" and judge.fingerprint == dino_encoder(str(dino)).fingerprint


class TestLpips:
    def test_every_pair_is_measured_once_on_pictures_of_one_size(self):
        """With the mean squared difference as the network: black to white is 2² = 4, black to mid-grey about 1."""

        def squared(one: Tensor, other: Tensor) -> Tensor:
            assert one.shape == other.shape == (1, 3, 8, 10)
            return (one - other).square().mean((1, 2, 3), keepdim=True)

        judge = perceptual.Lpips(squared, "0" * 16, torch.device("cpu"))
        images = [Image.new("RGB", (10, 8), "black"), Image.new("RGB", (12, 9), "white"), Image.new("L", (10, 8), 128)]
        grey = (128 / 127.5) ** 2
        rest = (2 - 128 / 127.5) ** 2
        assert torch.allclose(judge.distances(images), torch.tensor([[0, 4, grey], [4, 0, rest], [grey, rest, 0]]))

    def test_is_told_where_it_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch):
        def broken(name: str):
            raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setattr("importlib.import_module", broken)
        with pytest.raises(ConfigError, match=r"cannot be imported here; use dino-patch instead\.$"):
            encoders.perceptual("lpips")


class TestNames:
    @pytest.mark.usefixtures("embedded")
    def test_embedded_models_are_judged_by_embedded_judges(self):
        judges = judges_for("toybox-sd")
        names = (judges.dino.name, judges.clip.name, judges.perceptual.name)
        assert names == ("toybox-dino", "toybox-clip", "dino-patch:toybox-dino")
        assert encoders.clip_name("toybox-sd") == "toybox-clip"

    @pytest.mark.usefixtures("embedded")
    def test_other_judges_may_be_named(self, clip: Path, dino: Path):
        judges = judges_for("owner/model", dino=str(dino), clip=str(clip), distance="dino-patch:toybox-dino")
        assert (judges.dino.name, judges.clip.name, judges.perceptual.name) == (
            "dino",
            "clip",
            "dino-patch:toybox-dino",
        )

    @pytest.mark.usefixtures("embedded", "offline")
    @pytest.mark.parametrize("model", ["owner/model", "somewhere/sd15.safetensors"])
    def test_other_models_are_judged_as_in_the_paper(self, model: str):
        assert encoders.clip_name(model) == "clip-vit-b-32"
        with pytest.raises(ModelError, match=r"dino-vits16 \(facebook/dino-vits16\) cannot be read"):
            judges_for(model)

    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize(
        ("load", "name", "hub"),
        [
            (clip_encoder, "clip-vit-b-32", "openai/clip-vit-base-patch32"),
            (clip_encoder, "clip-vit-l-14", "openai/clip-vit-large-patch14"),
            (clip_encoder, "laion/CLIP-ViT-H-14", "laion/CLIP-ViT-H-14"),
            (dino_encoder, "dino-vits16", "facebook/dino-vits16"),
        ],
    )
    def test_short_names_and_hub_ids_lead_to_the_hub(self, load, name: str, hub: str):
        with pytest.raises(ModelError) as told:
            load(name)
        assert hub in str(told.value) and "give a folder" in str(told.value) and "\n" not in str(told.value)

    def test_a_folder_is_named_without_the_way_to_it(self, clip: Path):
        assert clip_encoder(str(clip)).name == "clip"

    @pytest.mark.usefixtures("embedded")
    @pytest.mark.parametrize("name", ["toybox-sd", "clip-vit", "", "./nowhere", "a/b/c", "~nosuch/x"])
    def test_unknown_names_are_told_with_the_choices(self, name: str):
        with pytest.raises(ModelError) as told:
            clip_encoder(name)
        assert "toybox-clip, clip-vit-b-32, clip-vit-l-14, a folder" in str(told.value)
        with pytest.raises(ModelError, match="toybox-dino, dino-vits16, a folder"):
            dino_encoder(name)

    @pytest.mark.parametrize("name", ["", "ssim", "lpips:alex", "dinopatch"])
    def test_unknown_distances_are_told_with_the_choices(self, name: str):
        with pytest.raises(ConfigError, match="give lpips, dino-patch or dino-patch:ENCODER"):
            encoders.perceptual(name)

    def test_an_absent_device_is_told(self, dino: Path):
        with pytest.raises(ConfigError, match="not available"):
            dino_encoder(str(dino), "cuda:7")


class TestBadFolders:
    def told(self, load, folder: Path) -> str:
        with pytest.raises(ModelError) as told:
            load(str(folder))
        assert "\n" not in str(told.value)
        return str(told.value)

    def test_the_wrong_kind_of_model(self, clip: Path, dino: Path):
        assert "is a vit model, not CLIP" in self.told(clip_encoder, dino)
        assert "is a clip model, not ViT (DINO)" in self.told(dino_encoder, clip)

    def test_an_empty_folder(self, tmp_path: Path):
        assert "config.json" in self.told(clip_encoder, tmp_path)

    @pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json", "config.json"])
    @pytest.mark.parametrize("fault", ["missing", "damaged"])
    def test_a_file_that_is_missing_or_damaged(self, dino: Path, tmp_path: Path, file: str, fault: str):
        folder = shutil.copytree(dino, tmp_path / "dino")
        if fault == "missing":
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(b"{]")
        assert "cannot be read" in self.told(dino_encoder, folder)

    def test_weights_that_would_be_random(self, dino: Path, tmp_path: Path):
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(dino, tmp_path / "dino")
        weights = load_file(folder / "model.safetensors")
        weights.pop("layernorm.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert "1 weights are missing" in self.told(dino_encoder, folder)

    def test_pickled_weights_are_not_opened(self, dino: Path, tmp_path: Path):
        folder = shutil.copytree(dino, tmp_path / "dino")
        (folder / "model.safetensors").unlink()
        torch.save({"layernorm.weight": torch.ones(24)}, folder / "pytorch_model.bin")
        assert "weights" in self.told(dino_encoder, folder)

    def test_a_preparation_for_another_size(self, dino: Path, tmp_path: Path):
        folder = shutil.copytree(dino, tmp_path / "dino")
        tiny.save_preparation(folder, "ViTImageProcessor", size=64)
        assert "64 x 64 pixels for a model of 32" in self.told(dino_encoder, folder)


def test_the_paper_s_normalisation_of_a_plain_picture(clip: Path):
    """White is (1 - mean) / deviation in every channel: 1.93, 2.07, 2.15."""
    encoder = clip_encoder(str(clip))
    pixels = encoder.processor(images=[Image.new("RGB", (50, 40), "white")], return_tensors="pt")["pixel_values"]
    expected = [(1 - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
    assert pixels.shape == (1, 3, 32, 32) and pixels[0, :, 9, 9].tolist() == pytest.approx(expected, abs=1e-5)
    assert math.isclose(expected[0], 1.9303, abs_tol=1e-4)
