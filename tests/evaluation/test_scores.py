"""Scores of a subject, on tiny real encoders: which rows there are, what they hold, and that files keep them."""

import codecs
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth.drawing import Picture
from dreambooth.errors import ConfigError
from dreambooth.evaluation.encoders import Judges, clip_encoder, dino_encoder, perceptual
from dreambooth.evaluation.metrics import diversity
from dreambooth.evaluation.scores import (
    METRICS,
    REAL,
    Score,
    per_subject,
    read_csv,
    read_json,
    score_real,
    score_subject,
    write_csv,
    write_json,
)
from tests import tiny


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    folder = tmp_path_factory.mktemp("judges")
    clip, dino = tiny.saved_clip(folder), tiny.saved_dino(folder)
    return Judges(dino_encoder(str(dino)), clip_encoder(str(clip)), perceptual(f"dino-patch:{dino}"))


def images(count: int, first: int = 0) -> list[Image.Image]:
    shapes = [np.random.default_rng(first + i).integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(count)]
    return [Image.fromarray(shape).resize((32, 32), Image.Resampling.BICUBIC) for shape in shapes]


def drawn(templates: list[str], seeds: int, identifier: str = "zq dog", first: int = 10) -> list[Picture]:
    jobs = [(template, seed) for template in templates for seed in range(seeds)]
    pictures = zip(images(len(jobs), first), jobs, strict=True)
    return [Picture(image, template.format(subject=identifier), template, seed) for image, (template, seed) in pictures]


BEACH, JUNGLE, CLASS = "a {subject} on the beach", "a {subject} in the jungle", "a dog"
FACTS = {"method": "dreambooth", "subject": "dog6", "class_noun": "dog"}


def of(scores: list[Score], metric: str) -> list[float]:
    return [score.value for score in scores if score.metric == metric]


class TestSubject:
    @pytest.fixture(scope="class")
    def scores(self, judges: Judges) -> list[Score]:
        return score_subject(judges, images(3), drawn([BEACH, JUNGLE], 2), drawn([CLASS], 3, first=40), **FACTS)

    def test_one_row_a_picture_and_metric(self, scores: list[Score]):
        counts = {metric: len(of(scores, metric)) for metric in METRICS}
        assert counts == {"dino": 4, "clip-i": 4, "clip-t": 4, "pres": 3, "div": 4}
        keys = {(score.prompt, score.seed, score.metric) for score in scores}
        assert len(keys) == len(scores) == 19
        assert {score.prompt for score in scores if score.metric == "pres"} == {CLASS}
        assert {score.prompt for score in scores if score.metric != "pres"} == {BEACH, JUNGLE}
        assert all((score.method, score.subject, score.class_noun) == ("dreambooth", "dog6", "dog") for score in scores)

    def test_rows_name_their_judge(self, scores: list[Score], judges: Judges):
        by = {score.metric: (score.encoder, score.fingerprint) for score in scores}
        assert by["dino"] == by["pres"] == ("dino", judges.dino.fingerprint)
        assert by["clip-i"] == by["clip-t"] == ("clip", judges.clip.fingerprint)
        assert by["div"] == ("dino-patch:dino", judges.perceptual.fingerprint)

    def test_values_are_those_of_the_definitions(self, scores: list[Score], judges: Judges):
        """Loops over pairs, the other way round than the implementation's matrix products."""
        pictures, real = drawn([BEACH, JUNGLE], 2), images(3)
        for metric, judge in (("dino", judges.dino), ("clip-i", judges.clip)):
            expected = [
                np.mean([float(judge.embed_images([p.image])[0] @ judge.embed_images([r])[0]) for r in real])
                for p in pictures
            ]
            assert of(scores, metric) == pytest.approx(expected, abs=1e-5)
        texts = ["a dog on the beach"] * 2 + ["a dog in the jungle"] * 2
        cosines = [
            float(judges.clip.embed_images([p.image])[0] @ judges.clip.embed_texts([text])[0])
            for p, text in zip(pictures, texts, strict=True)
        ]
        assert of(scores, "clip-t") == pytest.approx(cosines, abs=1e-5)

    def test_mean_of_the_div_rows_is_the_mean_over_pairs(self, judges: Judges):
        pictures = drawn([BEACH], 4)
        found = of(score_subject(judges, images(1), pictures, **FACTS), "div")
        distances = judges.perceptual.distances([picture.image for picture in pictures])
        assert np.mean(found) == pytest.approx(diversity(distances))
        pairs = [float(distances[i, j]) for i in range(4) for j in range(i)]
        assert np.mean(found) == pytest.approx(np.mean(pairs))

    def test_order_changes_no_row(self, scores: list[Score], judges: Judges):
        pictures, real = drawn([BEACH, JUNGLE], 2), images(3)
        turned = score_subject(judges, real[::-1], pictures[::-1], drawn([CLASS], 3, first=40)[::-1], **FACTS)

        def key(score: Score) -> tuple[str, str, int]:
            return score.metric, score.prompt, score.seed

        for one, other in zip(sorted(scores, key=key), sorted(turned, key=key), strict=True):
            assert key(one) == key(other) and one.value == pytest.approx(other.value, abs=1e-5)

    def test_copies_of_the_photo_score_one_and_have_no_diversity(self, judges: Judges):
        """Learned by heart: likeness 1, the class drawn as the subject too, and nothing differs."""
        photo = images(1)[0]
        copies = [replace(picture, image=photo) for picture in drawn([BEACH], 3)]
        of_class = [replace(picture, image=photo) for picture in drawn([CLASS], 2)]
        scores = score_subject(judges, [photo, photo], copies, of_class, **FACTS)
        assert of(scores, "dino") == pytest.approx([1] * 3) and of(scores, "clip-i") == pytest.approx([1] * 3)
        assert of(scores, "pres") == pytest.approx([1] * 2)
        assert of(scores, "div") == pytest.approx([0] * 3, abs=1e-5)

    def test_the_identifier_is_removed_from_the_prompt(self, judges: Judges):
        """However the template holds the subject, CLIP-T compares to the class noun alone."""
        plain = drawn([BEACH], 1)
        literal = [replace(plain[0], template="a zq dog on the beach")]
        inverted = [replace(plain[0], template="a <rex> on the beach")]
        expected = of(score_subject(judges, images(1), plain, **FACTS), "clip-t")
        for pictures, word in ((literal, "zq"), (inverted, "<rex>")):
            assert of(score_subject(judges, images(1), pictures, **FACTS, identifier=word), "clip-t") == expected

    def test_a_lone_picture_of_a_prompt_has_no_div(self, judges: Judges):
        assert of(score_subject(judges, images(2), drawn([BEACH, JUNGLE], 1), **FACTS), "div") == []

    def test_nothing_drawn_gives_no_rows(self, judges: Judges):
        assert score_subject(judges, images(2), [], **FACTS) == []

    def test_no_photo_is_refused(self, judges: Judges):
        with pytest.raises(ValueError, match="real"):
            score_subject(judges, [], drawn([BEACH], 1), **FACTS)


class TestReal:
    def test_each_photo_to_the_other_ones(self, judges: Judges):
        photos = images(3)
        scores = score_real(judges, photos, subject="dog6", class_noun="dog")
        assert [(score.metric, score.seed) for score in scores] == [
            (m, i) for m in ("dino", "clip-i") for i in range(3)
        ]
        assert {(score.method, score.prompt) for score in scores} == {(REAL, "")}
        rows = judges.dino.embed_images(photos)
        assert scores[0].value == pytest.approx(float((rows[0] @ rows[1] + rows[0] @ rows[2]) / 2), abs=1e-5)

    def test_equal_photos_give_one_and_a_single_photo_nothing(self, judges: Judges):
        photo = images(1)[0]
        found = score_real(judges, [photo] * 4, subject="s", class_noun="dog")
        assert [score.value for score in found] == pytest.approx([1] * 8)
        assert score_real(judges, [photo], subject="s", class_noun="dog") == []


ODD = [
    Score("dreambooth", "dog6", "dog", 'a {subject}, "in" the\tjungle', 3, "dino", 0.1 + 0.2, "clip", "abc"),
    Score("textual-inversion", "bär", "stuffed animal", "", 0, "div", 1e-17, "dino-patch:toybox-dino", "00ff"),
]


@pytest.mark.parametrize(("write", "read"), [(write_csv, read_csv), (write_json, read_json)])
class TestFiles:
    def test_records_come_back_as_they_were(self, tmp_path: Path, write, read):
        write(ODD, tmp_path / "scores")
        assert read(tmp_path / "scores") == ODD
        assert [path.name for path in tmp_path.iterdir()] == ["scores"]

    def test_no_records_come_back_as_none(self, tmp_path: Path, write, read):
        write([], tmp_path / "scores")
        assert read(tmp_path / "scores") == []

    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", b'{"method": 1}', b'[{"method": "x"}]', b"[3]", b"method,value\nx,1\n", b"\xff\xfe\x00"],
    )
    def test_other_files_are_told_in_one_sentence(self, tmp_path: Path, write, read, content: bytes):
        (tmp_path / "scores").write_bytes(content)
        with pytest.raises(ConfigError, match="scores") as told:
            read(tmp_path / "scores")
        assert "\n" not in str(told.value)

    def test_a_damaged_value_and_a_missing_file_are_told(self, tmp_path: Path, write, read):
        write(ODD, tmp_path / "scores")
        text = (tmp_path / "scores").read_text(encoding="utf-8").replace("1e-17", '"high"')
        (tmp_path / "scores").write_text(text, encoding="utf-8")
        for name in ("scores", "none"):
            with pytest.raises(ConfigError, match=name):
                read(tmp_path / name)

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ("1e-17", "NaN", "div of textual-inversion on bär is nan"),
            ("1e-17", "Infinity", "div of textual-inversion on bär is inf"),
            ("div", "DIV", "has scores of 'DIV'; the metrics are dino, clip-i, clip-t, pres, div."),
        ],
    )
    def test_what_no_table_can_show_is_told(self, tmp_path: Path, write, read, before: str, after: str, told: str):
        write(ODD, tmp_path / "scores")
        text = (tmp_path / "scores").read_text(encoding="utf-8").replace(before, after)
        (tmp_path / "scores").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape(told)):
            read(tmp_path / "scores")

    def test_a_spreadsheet_s_byte_order_mark_is_no_matter(self, tmp_path: Path, write, read):
        write(ODD, tmp_path / "scores")
        (tmp_path / "scores").write_bytes(codecs.BOM_UTF8 + (tmp_path / "scores").read_bytes())
        assert read(tmp_path / "scores") == ODD


class TestBrokenFiles:
    def test_a_stray_quotation_mark(self, tmp_path: Path):
        """It makes all that follows one field, which in a long file is longer than a field may be."""
        write_csv([*ODD, *ODD[1:] * 3000], tmp_path / "scores.csv")
        text = (tmp_path / "scores.csv").read_text(encoding="utf-8").replace("stuffed", '"stuffed', 1)
        (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="cannot be read from line 3 on"):
            read_csv(tmp_path / "scores.csv")

    def test_a_last_line_that_was_cut_short(self, tmp_path: Path):
        write_csv(ODD, tmp_path / "scores.csv")
        text = (tmp_path / "scores.csv").read_text(encoding="utf-8")
        (tmp_path / "scores.csv").write_text(text[: text.index("e-17")], encoding="utf-8")
        with pytest.raises(ConfigError, match="something else than scores"):
            read_csv(tmp_path / "scores.csv")

    def test_a_seed_without_end(self, tmp_path: Path):
        write_json(ODD, tmp_path / "scores.json")
        text = (tmp_path / "scores.json").read_text(encoding="utf-8").replace('"seed": 0', '"seed": Infinity')
        (tmp_path / "scores.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="something else than scores"):
            read_json(tmp_path / "scores.json")


def test_means_of_subjects_leave_other_methods_and_metrics_out():
    def score(subject: str, value: float, method: str = "m", metric: str = "dino") -> Score:
        return Score(method, subject, "dog", "", 0, metric, value, "e", "f")

    scores = [score("b", 0.5), score("a", 1), score("b", 0.7), score("b", 9, metric="pres"), score("a", 9, method="n")]
    found = per_subject(scores, "m", "dino")
    assert list(found) == ["b", "a"] and math.isclose(found["b"], 0.6) and found["a"] == 1
    assert per_subject(scores, "m", "div") == {}
