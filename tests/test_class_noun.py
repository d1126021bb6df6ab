"""The class noun from photos: the ranking, and what `train` does when none is given."""

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth import class_noun, nouns
from dreambooth.__main__ import main
from dreambooth.config import make_config
from dreambooth.errors import ConfigError, ModelError, PhotoError
from dreambooth.evaluation import encoders, pretrained
from dreambooth.evaluation.encoders import clip_encoder
from dreambooth.subject import clean_class_noun, is_live
from dreambooth.toybox import subjects
from dreambooth.ui import Display
from tests import tiny


class Compass:
    """Pictures and texts on a circle: a picture's red value and a noun's own place are angles in degrees."""

    name, fingerprint, logit_scale = "compass", "0", 10.0

    def __init__(self, **places: float) -> None:
        self.places, self.asked = places, []

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        return directions([float(np.asarray(image)[0, 0, 0]) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self.asked = list(texts)
        return directions([self.places[text.split()[-1]] for text in texts])


def directions(degrees: list[float]) -> Tensor:
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def photo(degrees: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (degrees, 0, 0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def embedded_clip(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny CLIP stands in the package as toybox-clip."""
    for module in (encoders, pretrained):
        monkeypatch.setattr(module, "embedded", lambda: {"toybox-clip": clip})


class TestRank:
    def test_by_hand(self):
        """East is asked for dog (0°), cat (90°) and cow (180°): logits 10, 0, -10."""
        ranking = class_noun.rank([photo(0)], ["cow", "dog", "cat"], Compass(dog=0, cat=90, cow=180))
        weights = np.exp([10, 0, -10])
        assert [noun for noun, _ in ranking] == ["dog", "cat", "cow"]
        assert [value for _, value in ranking] == pytest.approx(weights / weights.sum(), rel=1e-4)

    def test_every_photo_has_one_vote(self):
        """Two photos of a dog and one of a cat: two thirds, one third."""
        ranking = class_noun.rank([photo(0), photo(90), photo(0)], ["dog", "cat"], Compass(dog=0, cat=90))
        assert [noun for noun, _ in ranking] == ["dog", "cat"]
        assert ranking[0][1] == pytest.approx(2 / 3, abs=1e-3)

    def test_every_noun_is_asked_in_every_template(self):
        compass = Compass(dog=0, cat=90)
        class_noun.rank([photo(0)], ["dog", "cat"], compass)
        assert compass.asked[: len(class_noun.TEMPLATES)] == [text.format("dog") for text in class_noun.TEMPLATES]
        assert len(compass.asked) == 2 * len(class_noun.TEMPLATES)

    def test_order_of_photos_and_nouns_changes_nothing(self, clip: Path):
        encoder = clip_encoder(str(clip))
        draw = np.random.default_rng(0)
        photos = [Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(3)]
        words = ["dog", "cat", "snow", "beach"]
        one, other = class_noun.rank(photos, words, encoder), class_noun.rank(photos[::-1], words[::-1], encoder)
        assert [noun for noun, _ in one] == [noun for noun, _ in other] and sorted(dict(one)) == sorted(words)
        assert [value for _, value in one] == pytest.approx([value for _, value in other], abs=1e-5)
        assert sum(value for _, value in one) == pytest.approx(1)

    @pytest.mark.parametrize(("photos", "words"), [([], ["dog"]), ([photo(0)], [])])
    def test_nothing_to_rank_is_refused(self, photos: list[Image.Image], words: list[str]):
        with pytest.raises(ValueError, match="at least one"):
            class_noun.rank(photos, words, Compass(dog=0))


class TestNouns:
    def test_the_embedded_world_has_its_own_classes(self):
        assert set(class_noun.nouns_for("toybox-clip")) == set(subjects.CLASSES)
        assert class_noun.nouns_for("clip-vit-b-32") == nouns.EVERYDAY

    def test_everyday_nouns_are_some_hundreds_of_class_nouns(self):
        assert 300 <= len(nouns.EVERYDAY) == len(set(nouns.EVERYDAY)) <= 600
        assert all(clean_class_noun(noun) == noun for noun in nouns.EVERYDAY)
        assert set(nouns.TOYBOX) <= set(nouns.EVERYDAY)

    def test_a_proposed_noun_gets_the_prompts_of_its_kind(self):
        assert [noun for noun in nouns.EVERYDAY if is_live(noun)] == list(nouns.LIVE)

    def test_a_file_has_one_a_line(self, tmp_path: Path):
        (tmp_path / "nouns.txt").write_text("# mine\nDog\n\n  a teddy bear \ndog\n", encoding="utf-8")
        assert class_noun.read_nouns(tmp_path / "nouns.txt") == ("dog", "teddy bear")

    @pytest.mark.parametrize(
        "content", [None, b"", b"# none\n\n", b"\xff\xfe\x00", b"two dogs, and a cat behind the sofa\n"]
    )
    def test_bad_files_are_told(self, tmp_path: Path, content: bytes | None):
        if content is not None:
            (tmp_path / "nouns.txt").write_bytes(content)
        with pytest.raises(ConfigError) as told:
            class_noun.read_nouns(tmp_path / "nouns.txt")
        assert "\n" not in str(told.value)


@pytest.mark.usefixtures("embedded_clip")
class TestSettle:
    """The tiny CLIP is untrained, so which noun wins says nothing; that it is the ranking's first does."""

    def config(self, photos: Path, **more: object):
        values = {"photos": [str(photos)], "model": "toybox-sd", "device": "cpu", "judge_clip": "toybox-clip"}
        return make_config(values | more)

    @pytest.fixture(autouse=True)
    def _model(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dreambooth.backbones.embedded", lambda: {"toybox-sd": tiny_model})

    def proposal(self, photos: Path) -> str:
        return class_noun.look([str(photos)], "toybox-clip", nouns.TOYBOX, "cpu")[0][0]

    def terminal(self, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
        answer = io.StringIO(typed)
        monkeypatch.setattr(answer, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", answer)

    def test_a_given_noun_stays_and_no_encoder_is_loaded(self, photos: Path):
        config = self.config(photos, class_noun="dog", judge_clip="none")
        assert class_noun.settle(config, False, Display(quiet=True)) is config

    def test_yes_takes_the_first(self, photos: Path, capsys: pytest.CaptureFixture[str]):
        found = class_noun.settle(self.config(photos), True, Display())
        assert found.class_noun == self.proposal(photos) in nouns.TOYBOX
        told = capsys.readouterr()
        assert f'The subject is a "{found.class_noun}".' in told.out and "probability" in told.out
        assert f'warning: "{found.class_noun}" is a guess' in told.err

    def test_enter_takes_the_first(self, photos: Path, monkeypatch: pytest.MonkeyPatch):
        self.terminal(monkeypatch, "\n")
        assert class_noun.settle(self.config(photos), False, Display(True)).class_noun == self.proposal(photos)

    def test_another_noun_may_be_typed(self, photos: Path, monkeypatch: pytest.MonkeyPatch):
        self.terminal(monkeypatch, "My Teddy  Bear\n")
        assert class_noun.settle(self.config(photos), False, Display(True)).class_noun == "teddy bear"

    def test_what_is_no_noun_is_told(self, photos: Path, monkeypatch: pytest.MonkeyPatch):
        self.terminal(monkeypatch, "42\n")
        with pytest.raises(ConfigError, match="is no class noun"):
            class_noun.settle(self.config(photos), False, Display(True))

    def test_without_a_terminal_the_proposal_is_told(self, photos: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        with pytest.raises(ConfigError) as told:
            class_noun.settle(self.config(photos), False, Display(True))
        assert f'--class-noun "{self.proposal(photos)}", or --yes' in str(told.value)
        assert "\n" not in str(told.value)

    def test_without_an_encoder_the_flag_is_told(self, photos: Path):
        with pytest.raises(ConfigError, match="with --class-noun, such as --class-noun dog; none can be proposed"):
            class_noun.settle(self.config(photos, judge_clip="no-such-clip"), True, Display(True))

    def test_wrong_photos_and_models_are_told_first(self, photos: Path, tmp_path: Path):
        with pytest.raises(PhotoError, match="No usable photo"):
            class_noun.settle(self.config(tmp_path), True, Display(True))
        with pytest.raises(ModelError, match="There is no model 'nothing'"):
            class_noun.settle(self.config(photos, model="nothing", judge_clip=None), True, Display(True))

    def test_missing_photos_are_left_to_the_preparation(self):
        config = make_config({})
        assert class_noun.settle(config, True, Display(True)) is config


@pytest.mark.usefixtures("embedded_clip")
class TestCommands:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["dreambooth", *map(str, arguments)])
        try:
            main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    def test_class_noun_prints_the_ranking_with_bars(self, photos: Path, tmp_path: Path, monkeypatch, capsys):
        (tmp_path / "nouns.txt").write_text("dog\ncat\nsnow\n")
        code = self.run(monkeypatch, "class-noun", photos, "--nouns", tmp_path / "nouns.txt", "--count", 2)
        told = capsys.readouterr().out
        assert code == 0 and "█" in told and "%" in told
        assert sum(noun in told for noun in ("dog", "cat", "snow")) == 2

    def test_train_takes_the_proposal_with_yes(self, photos: Path, tiny_model: Path, clip: Path, monkeypatch, capsys):
        judge = ("--judge-clip", clip, "--device", "cpu")
        assert self.run(monkeypatch, "train", photos, "--model", tiny_model, *judge, "--yes", "--dry-run") == 0
        told = capsys.readouterr().out
        found = re.search(r'class_noun = "(.*)"', told)
        assert found and found[1] in nouns.EVERYDAY and f'The subject is a "{found[1]}".' in told

    def test_train_without_a_terminal_says_what_it_proposes(
        self, photos: Path, tiny_model: Path, clip: Path, tmp_path: Path, monkeypatch, capsys
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        run = tmp_path / "run"
        code = self.run(monkeypatch, "train", photos, "--model", tiny_model, "--judge-clip", clip, "--out", run)
        told = capsys.readouterr().err
        assert code == 1 and told.startswith("error: No class noun was given") and "--yes" in told
        assert not run.exists()
