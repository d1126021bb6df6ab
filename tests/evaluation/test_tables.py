"""The paper's tables from stored scores: hand-computed intervals, gaps that are told, and the page."""

import doctest
import itertools
import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth.errors import ConfigError, RunError
from dreambooth.evaluation import bootstrap, tables, tables_page, tables_text
from dreambooth.evaluation.benchmark_plan import Member, Plan, Settings
from dreambooth.evaluation.bootstrap import Interval
from dreambooth.evaluation.results import Results
from dreambooth.evaluation.scores import REAL, Score, write_csv, write_json
from dreambooth.evaluation.tables import make_tables
from dreambooth.evaluation.tables_page import write_tables
from tests.evaluation.test_report import Page

CLIP, DINO = "toybox-clip", "toybox-dino"
JUDGES = {"dino": DINO, "clip-i": CLIP, "clip-t": CLIP, "pres": DINO, "div": "dino-patch"}


def score(method: str, subject: str, metric: str, value: float, seed: int = 0, fingerprint: str = "f00d") -> Score:
    prompt = "" if method == REAL else "a {class}" if metric == "pres" else "a {subject} in the snow"
    return Score(method, subject, "dog", prompt, seed, metric, value, JUDGES[metric], fingerprint)


def scores(methods: dict[str, float], metrics: tuple[str, ...] = ("dino", "clip-i", "clip-t")) -> list[Score]:
    """Two subjects, 0.1 above and below each method's mean, with two pictures 0.02 apart each."""
    return [
        score(method, subject, metric, mean + offset + 0.01 * sign, seed)
        for method, mean in methods.items()
        for subject, offset in (("rex", 0.1), ("max", -0.1))
        for metric in metrics
        for seed, sign in enumerate((-1, 1))
        if not (method == REAL and metric not in ("dino", "clip-i"))
    ]


class TestBootstrap:
    def test_two_subjects_by_hand(self):
        """Resampled means are 0 in a quarter of the cases, 1 in another, and 0.5 else."""
        assert bootstrap.mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0, 2)
        assert bootstrap.mean([0.0, 1.0], level=0.49) == Interval(0.5, 0.5, 0.5, 2)
        assert bootstrap.mean([0.0, 1.0], level=0.51) == Interval(0.5, 0.0, 1.0, 2)

    def test_three_subjects_by_enumeration(self):
        values = [0.1, 0.4, 0.7]
        means = [statistics.fmean(drawn) for drawn in itertools.product(values, repeat=3)]
        found = bootstrap.mean(values, level=0.6)
        low, high = np.quantile(means, [0.2, 0.8])
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))

    def test_many_subjects_as_the_normal_law_has_it(self):
        values = np.random.default_rng(1).normal(0.7, 0.1, 400)
        found = bootstrap.mean(values.tolist())
        reach = 1.96 * values.std() / 20
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == (
            pytest.approx(values.mean() - reach, abs=6e-4),
            pytest.approx(values.mean() + reach, abs=6e-4),
        )

    def test_the_same_again_and_in_any_order(self):
        values = np.random.default_rng(2).random(30).tolist()
        assert bootstrap.mean(values) == bootstrap.mean(values)
        one, other = bootstrap.mean(values), bootstrap.mean(values[::-1])
        assert one.value == pytest.approx(other.value) and one.low == pytest.approx(other.low, abs=3e-3)

    def test_equal_subjects_have_no_spread_and_one_has_no_interval(self):
        assert bootstrap.mean([0.3] * 5) == Interval(0.3, 0.3, 0.3, 5)
        assert bootstrap.mean([0.3]) == Interval(0.3, None, None, 1)
        with pytest.raises(ValueError, match="no value"):
            bootstrap.mean([])

    def test_differences_are_paired(self):
        """What all subjects have in common, however hard each is, is certain."""
        hard = {f"s{index}": index / 10 for index in range(9)}
        better = {name: value + 0.05 for name, value in hard.items()} | {"alone": 0.0}
        assert bootstrap.difference(better, hard) == Interval(0.05, 0.05, 0.05, 9)
        assert bootstrap.ratio({name: 2 * value for name, value in hard.items()}, hard) == Interval(2.0, 2.0, 2.0, 9)
        assert bootstrap.difference({"a": 1.0}, {"b": 1.0}) is None

    def test_zero_is_excluded_only_by_an_interval(self):
        cases = [(0.1, 0.01, 0.2), (0.1, -0.01, 0.2), (0.1, None, None), (-0.1, -0.2, -0.1)]
        assert [Interval(*case, 2).excludes_zero for case in cases] == [True, False, False, True]


class TestTables:
    def test_figures_are_means_over_subjects(self):
        made = make_tables(scores({REAL: 0.8, "dreambooth": 0.7, "textual-inversion": 0.5, "base": 0.4}))[0]
        rows = {row.title: row for row in made.rows}
        assert rows["DreamBooth"].figures["dino"] == Interval(
            pytest.approx(0.7), pytest.approx(0.6), pytest.approx(0.8), 2
        )
        assert rows["Real photos"].text("clip-t") == "–"
        assert rows["Textual Inversion"].text("clip-i") == "0.500 [0.400, 0.600]"
        assert made.contrasts[0].title == "DreamBooth − textual inversion"
        assert made.contrasts[0].figures["dino"].low == pytest.approx(0.2)
        assert "87.5 % [85.7, 88.9] of the real photos'" in made.notes[0]

    def test_subjects_weigh_the_same_however_many_pictures_they_have(self):
        many = [score("dreambooth", "rex", "dino", 1.0, seed) for seed in range(9)]
        made = make_tables([*many, score("dreambooth", "max", "dino", 0.0)])[0]
        assert made.rows[1].figures["dino"].value == 0.5

    def test_what_was_not_run_says_so(self):
        found = make_tables(scores({REAL: 0.8, "dreambooth": 0.7}))
        assert [table.spec.key for table in found] == ["table-1", "table-3", "table-4", "photos"]
        gaps = {(table.spec.key, row.title) for table in found for row in table.rows if row.text("dino") == "not run"}
        assert {("table-1", "Textual Inversion"), ("table-3", "Without it"), ("table-4", "No noun")} <= gaps
        assert all(row.count == 0 for row in found[3].rows if row.title != "2 photos")
        text = tables_text.markdown(found, scores({"dreambooth": 0.7}))
        assert "| Textual Inversion | not run | 0.569 | not run | 0.780 | not run | 0.255 | – |" in text

    def test_methods_that_the_paper_does_not_have_stand_below(self):
        made = make_tables(scores({"dreambooth": 0.7, "lora": 0.6, "truth": 0.9, "mine": 0.5}))[0]
        assert [row.title for row in made.rows[4:]] == ["LoRA", "True renders", "mine"]
        assert made.rows[5].figures["clip-t"].value == pytest.approx(0.9)
        assert [row.title for row in make_tables(scores({"dreambooth": 0.7}))[0].rows][4:] == []

    def test_the_paper_s_figures_stand_beside_ours(self):
        text = tables_text.markdown(make_tables(scores({"dreambooth": 0.7})), [])
        for printed in ("0.774", "0.885", "0.668 (Imagen 0.696)", "0.305 (Imagen 0.306)", "0.569", "0.780", "0.255",
                        "0.493", "0.391", "0.684", "0.815", "0.308", "0.664", "0.371", "0.712", "0.828", "0.306",
                        "0.744", "0.853", "0.454", "0.728", "0.303", "0.607"):  # fmt: skip
            assert f"| {printed} |" in text, printed

    def test_all_photos_are_the_last_point_of_the_curve(self):
        """Both subjects have two photos, so DreamBooth itself is "2 photos"."""
        found = make_tables(scores({REAL: 0.8, "dreambooth": 0.7, "dreambooth-photos-1": 0.6}))[3]
        assert [row.text("dino").split()[0] for row in found.rows] == ["0.600", "0.700", "not", "not", "not"]

    def test_rows_are_over_the_subjects_that_all_of_them_have(self):
        some = [one for one in scores({"dreambooth-no-prior": 0.6}) if one.subject == "rex"]
        made = make_tables([*scores({"dreambooth": 0.7}), *some])[1]
        assert [row.count for row in made.rows] == [1, 1, 0]
        assert [row.figures["dino"].value for row in made.rows[:2]] == [pytest.approx(0.8), pytest.approx(0.7)]
        assert made.notes == ["Over the 1 of 2 subjects that were run in all rows."]
        assert made.contrasts[0].figures["dino"] == Interval(pytest.approx(0.1), None, None, 1)

    def test_the_share_of_the_ceiling_is_over_the_subjects_of_its_table(self):
        """DreamBooth is at the ceiling for the one subject that the other row has too, and far below for the rest."""
        made = make_tables(
            [
                *(score(REAL, subject, "dino", 0.8) for subject in ("max", "rex", "tom")),
                score("dreambooth", "rex", "dino", 0.8),
                *(score("dreambooth", subject, "dino", 0.2) for subject in ("max", "tom")),
                score("base", "rex", "dino", 0.3),
            ]
        )[0]
        assert made.notes[0] == "Over the 1 of 3 subjects that were run in all rows."
        assert "100.0 % of the real photos', over 1 subject;" in made.notes[1]

    def test_a_subject_with_one_photo_is_in_the_table_though_it_has_no_ceiling(self):
        some = [one for one in scores({REAL: 0.8}) if one.subject == "rex"]
        found = make_tables([*some, *scores({"dreambooth": 0.7, "base": 0.4})])
        rows = {row.title: row for row in found[0].rows}
        assert rows["Real photos"].count == 1 and rows["DreamBooth"].count == rows["Untouched model"].count == 2
        assert found[0].contrasts[0].figures["dino"].count == 2
        assert found[0].notes[0].startswith("The real photos' row is over 1 of 2 subjects: a single photo")
        assert "over 1 subject;" in found[0].notes[1]
        photos = {row.title: row.text("dino") for row in found[3].rows if row.count}
        assert photos == {"1 photo": "0.600", "2 photos": "0.800"}

    def test_scores_without_any_ceiling_do_not_tell_how_many_photos_there_are(self):
        assert not any(row.count for row in make_tables(scores({"dreambooth": 0.7}))[3].rows)

    def test_a_ceiling_alone_is_over_all_its_subjects(self):
        made = make_tables(scores({REAL: 0.8}))[0]
        assert made.rows[0].count == 2 and made.notes == []

    def test_rows_without_a_subject_in_common_are_pointed_at(self):
        one = [one for one in scores({"dreambooth": 0.7}) if one.subject == "max"]
        other = [one for one in scores({"dreambooth-no-prior": 0.6}) if one.subject == "rex"]
        made = make_tables([*one, *other])[1]
        assert [row.count for row in made.rows] == [1, 1, 0] and "No subject" in made.notes[0]
        assert not made.contrasts

    def test_methods_of_the_configuration_file_join_table_1(self):
        made = make_tables(scores({"dreambooth": 0.7, "dreambooth-slow": 0.72}))[0]
        assert made.rows[-1].title == "dreambooth-slow" and made.rows[-1].text("dino").startswith("0.720")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A benchmark of two subjects with pictures, as its workers leave it; textual-inversion failed for one."""
    found = Results(tmp_path / "results")
    settings = Settings(suite="mine", prompts=2, images_per_prompt=2, class_images=2)
    members = [Member(name=name, class_noun="dog", live=True) for name in ("max", "rex")]
    found.path.mkdir()
    methods = ["dreambooth", "dreambooth-no-prior", "dreambooth-photos-1", "textual-inversion"]
    found.begin(Plan(settings=settings, methods=methods, members=members))
    for member in members:
        folder = found.subject(member.name)
        (folder / "photos").mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (16, 16), "teal").save(folder / "photos" / f"{index:02d}.png")
        mine = [one for one in scores({REAL: 0.8}) if one.subject == member.name]
        write_json(mine, folder / "real.json")
    for cell in found.all_cells(found.plan()):
        if cell.method == "textual-inversion":
            cell.record()
            cell.failure.write_text("The loss is not finite <here>.\n")
            continue
        for place, templates in (("pictures", cell.templates(settings)), ("class", cell.class_templates(settings))):
            (cell.folder / place).mkdir(parents=True)
            jobs = []
            for index, (template, seed) in enumerate(templates):
                Image.new("RGB", (16, 16), (index * 20, 0, 0)).save(cell.folder / place / f"{index:03d}.webp")
                words = template.replace("{subject}", "zqk dog").replace("{class}", "dog")
                jobs.append({"file": f"{index:03d}.webp", "template": template, "prompt": words, "seed": seed})
            (cell.folder / place / "pictures.json").write_text(json.dumps(jobs))
        metrics = ("dino", "clip-i", "clip-t", "pres", "div")
        mine = [one for one in scores({cell.method: 0.7}, metrics) if one.subject == cell.member.name]
        write_json(mine, cell.scores)
    return found


class TestPage:
    def test_it_shows_figures_pictures_and_failures(self, results: Results):
        paths = write_tables(results)
        assert paths == (results.path / "tables.md", results.path / "tables.html")
        page = Page(paths[1])
        assert page.open == [] and page.sections == ["table-1", "table-3", "table-4", "photos", "failures"]
        for words in (
            "a [V] dog in the jungle", "photos of rex", "a dog", "not run", "toybox-dino", "The loss is not finite",
            "mine", "[0.600, 0.800]",
        ):  # fmt: skip
            assert words in page.text, words
        assert len(page.all("svg")) == 3 and len(page.all("circle")) == 6

    def test_strips_show_equal_prompts_and_drift_shows_the_class(self, results: Results):
        made = make_tables(results.scores())
        nouns = {"max": "dog", "rex": "dog"}
        first = tables_page.examples(results, made[0], nouns)
        assert [one.subject for one in first] == ["max", "rex"]
        assert first[0].headings == [("a [V] dog in the jungle", 1), ("a [V] dog wearing a rainbow scarf", 1)]
        assert [strip.title for strip in first[0].strips] == ["DreamBooth"] and len(first[0].photos) == 2
        drift = tables_page.examples(results, made[1], nouns)[0]
        assert drift.headings == [("a [V] dog in the jungle", 2), ("a dog", 2)]
        assert [strip.title for strip in drift.strips] == ["With it", "Without it"]
        assert [strip.title for strip in tables_page.examples(results, made[3], nouns)[0].strips] == [
            "1 photo", "2 photos",
        ]  # fmt: skip

    def test_it_is_self_contained_and_accessible(self, results: Results):
        page = Page(write_tables(results)[1])
        pictures = [image for image in page.all("img") if "src" in image]
        assert pictures and all(str(image["src"]).startswith("data:image/webp") and image["alt"] for image in pictures)
        assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r'src="data:[^"]*"', "", page.source))
        assert {link["href"] for link in page.all("a")} == {f"#{section}" for section in page.sections}
        assert "<here>" not in page.source

    def test_scores_alone_are_enough(self, results: Results, tmp_path: Path):
        passed_on = tmp_path / "passed-on"
        passed_on.mkdir()
        write_csv(results.scores(), passed_on / "scores.csv")
        markdown, page = write_tables(Results(passed_on), tmp_path / "tables")
        assert markdown.read_text() == write_tables(results)[0].read_text()
        assert not [image for image in Page(page).all("img") if "src" in image]

    @pytest.mark.parametrize("file", ["rex/photos/00.png", "rex/dreambooth/pictures/000.webp"])
    def test_a_broken_picture_leaves_a_note(self, results: Results, file: str):
        (results.path / "subjects" / file).write_bytes(b"half")
        assert "cannot be shown" in Page(write_tables(results)[1]).text

    def test_a_missing_or_broken_list_leaves_its_strip_out(self, results: Results):
        (results.subject("rex") / "dreambooth/pictures/pictures.json").write_text('[{"file": ')
        (results.subject("max") / "dreambooth/pictures/pictures.json").unlink()
        assert Page(write_tables(results)[1]).open == []


class TestWrongTurns:
    def test_no_scores(self, tmp_path: Path):
        with pytest.raises(RunError, match="holds no scores"):
            write_tables(Results(tmp_path))
        (tmp_path / "subjects").mkdir()
        with pytest.raises(RunError, match="holds no scores yet"):
            write_tables(Results(tmp_path))

    @pytest.mark.parametrize(("metric", "value"), [("dino", math.nan), ("dino", math.inf), ("DINO", 0.5)])
    def test_scores_that_no_table_can_show(self, tmp_path: Path, metric: str, value: float):
        rows = scores({REAL: 0.8, "dreambooth": 0.7, "dreambooth-photos-1": 0.6})
        write_csv([*rows, replace(rows[-1], metric=metric, value=value)], tmp_path / "scores.csv")
        with pytest.raises(ConfigError, match=r"scores\.csv has "):
            write_tables(Results(tmp_path))

    @pytest.mark.parametrize("broken", [True, False])
    def test_a_failure_that_cannot_be_read(self, results: Results, broken: bool):
        failure = results.subject("rex") / "textual-inversion/failed.txt"
        failure.unlink()
        if broken:
            failure.write_bytes(b"The loss is not \xff finite.")
        else:
            failure.mkdir()
        told = "The loss is not \ufffd finite." if broken else "why it failed cannot be read"
        assert f"rex, textual-inversion: {told}" in Page(write_tables(results)[1]).text

    def test_scores_of_several_judges(self, tmp_path: Path):
        mixed = [score("dreambooth", "rex", "dino", 0.7), score("base", "rex", "dino", 0.7, fingerprint="beef")]
        write_csv(mixed, tmp_path / "scores.csv")
        with pytest.raises(ConfigError, match=r"toybox-dino \(f00d\) and toybox-dino \(beef\); judge all.*--rescore"):
            write_tables(Results(tmp_path))

    @pytest.mark.parametrize("text", ["", "{}", '{"settings": {}}'])
    def test_a_broken_plan(self, results: Results, text: str):
        (results.path / "benchmark.json").write_text(text)
        with pytest.raises(RunError, match=r"benchmark\.json cannot be read"):
            write_tables(results)

    def test_a_folder_that_cannot_be_written(self, results: Results, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="give another --out"):
            write_tables(results, tmp_path / "file" / "tables")


@pytest.mark.parametrize("module", [bootstrap, tables, tables_text])
def test_examples(module: object):
    assert not doctest.testmod(module).failed  # pyright: ignore[reportArgumentType]
