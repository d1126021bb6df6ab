"""Suites: DreamBench as published, folders of one's own, and the embedded world's thirty."""

import doctest
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dreambooth import prompts
from dreambooth.errors import ConfigError
from dreambooth.evaluation import suite
from dreambooth.evaluation.suite import find_suite, read_dreambench, read_folder, subject_prompts
from dreambooth.subject import inspect
from dreambooth.toybox import captions, pictures, world
from dreambooth.toybox.suites import FIRST, SPREAD, scene_of, suites
from dreambooth.toybox.world import Scene

OFFICIAL = Path(__file__).parents[3] / "shared" / "dreambench"
LIST = "Classes\n\nsubject_name,class\nrex,dog\nbear_plushie,stuffed animal\n\nPrompts\n\nObject Prompts\n"


@pytest.fixture
def official() -> Path:
    if not OFFICIAL.is_dir():
        pytest.skip("../shared/dreambench is not there")
    return OFFICIAL


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    """Three subjects, each with three photos."""
    for name in ("rex", "stuffed_animal-2", "axel"):
        shutil.copytree(photos, tmp_path / "suite" / name)
    (tmp_path / "suite" / ".cache").mkdir()
    return tmp_path / "suite"


class TestDreamBench:
    def test_the_official_dataset(self, official: Path):
        found = {one.name: one for one in find_suite(str(official), {}).subjects}
        assert len(found) == 30
        assert sorted(name for name, one in found.items() if one.live) == [
            "cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8",
        ]  # fmt: skip
        assert found["bear_plushie"].class_noun == "stuffed animal"
        assert found["backpack_dog"].class_noun == "backpack" and not found["backpack_dog"].live
        assert Counter(one.class_noun for one in found.values()) == SPREAD

    def test_near_duplicates_are_kept(self, official: Path, tmp_path: Path):
        subjects = {one.name: one for one in read_dreambench(official).subjects}
        taken = inspect(subjects["dog5"].photos(tmp_path), 64).photos  # 03 is 02, mirrored
        assert len(taken) == 5

    def test_prompts_are_the_official_ones(self, official: Path):
        text = (official / "prompts_and_classes.txt").read_text().replace("{0} {1}", "{subject}")
        for live, heading in ((False, "Object Prompts"), (True, "Live Subject Prompts")):
            listed = text.split(heading)[-1].split("]")[0]
            assert all(f"'{prompt}'" in listed for prompt in subject_prompts(live, 25))

    def test_the_dataset_folder_of_a_clone(self, tmp_path: Path):
        for name in ("rex", "bear_plushie", "not_listed"):
            (tmp_path / "dataset" / name).mkdir(parents=True)
        (tmp_path / "dataset" / "prompts_and_classes.txt").write_text(LIST)
        found = find_suite(str(tmp_path), {})
        assert [(one.name, one.class_noun, one.live) for one in found.subjects] == [
            ("rex", "dog", True),
            ("bear_plushie", "stuffed animal", False),
        ]

    def test_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DREAMBENCH", raising=False)
        with pytest.raises(ConfigError, match="Clone google/dreambooth"):
            find_suite("dreambench", {})
        (tmp_path / "elsewhere" / "rex").mkdir(parents=True)
        (tmp_path / "elsewhere" / "prompts_and_classes.txt").write_text("subject_name,class\nrex,dog")
        monkeypatch.setenv("DREAMBENCH", str(tmp_path / "elsewhere"))
        assert find_suite("dreambench", {}).name == "dreambench"

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("rex,dog", "no line subject_name,class"),
            (LIST, "lists rex, bear_plushie, but"),
            ("subject_name,class\n\nPrompts\n", "lists no subject"),
        ],
    )
    def test_a_broken_layout_is_told(self, tmp_path: Path, text: str, told: str):
        (tmp_path / "prompts_and_classes.txt").write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_dreambench(tmp_path)

    @pytest.mark.parametrize("name", ["../evil", "{folder}", "", ".", ".hidden"])
    def test_a_listed_subject_lies_in_the_folder(self, tmp_path: Path, name: str):
        name = name.format(folder=tmp_path / "evil")
        for folder in ("evil", "suite/.hidden"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "suite/prompts_and_classes.txt").write_text(f"subject_name,class\n{name},dog\n")
        with pytest.raises(ConfigError, match=r"has a subject '.*'; give it the name of a folder in there"):
            read_dreambench(tmp_path / "suite")


class TestFolder:
    def test_class_nouns_by_folder_name_and_by_list(self, folder: Path, tmp_path: Path):
        (folder / "classes.toml").write_text('rex = "A dog"\naxel = { class_noun = "axolotl", live = true }')
        found = find_suite(str(folder), {})
        assert found.name == "suite"
        assert [(one.name, one.class_noun, one.live) for one in found.subjects] == [
            ("axel", "axolotl", True),
            ("rex", "dog", True),
            ("stuffed_animal-2", "stuffed animal", False),
        ]
        assert len(inspect(found.subjects[0].photos(tmp_path), 32).photos) == 3

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('rexx = "dog"', "did you mean rex"),
            ("rex = 3", 'write rex = "dog"'),
            ('rex = { class_noun = "dog", lives = true }', "class_noun"),
            ("rex = ", "cannot be read"),
            ('rex = ""', "rex needs a class noun"),
        ],
    )
    def test_a_bad_list_is_told(self, folder: Path, text: str, told: str):
        (folder / "classes.toml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_folder(folder)

    def test_no_suite(self, tmp_path: Path, photos: Path):
        with pytest.raises(ConfigError, match="There is no suite 'toybx'; give toybox, dreambench"):
            find_suite("toybx", {"toybox": suites()["toybox"]})
        with pytest.raises(ConfigError, match="holds no folders"):
            find_suite(str(photos), {})

    def test_a_suite_that_cannot_be_read(self):
        with pytest.raises(ConfigError, match=r"The suite x+ cannot be read: File name too long\."):
            find_suite("x" * 300, {})

    def test_a_user_that_there_is_not(self):
        with pytest.raises(ConfigError, match="There is no suite '~nosuch/pets'"):
            find_suite("~nosuch/pets", {})

    def test_names_that_are_not_utf_8(self, tmp_path: Path):
        for place, told in ((b"suite/dog\xe9", "a subject 'dog"), (b"caf\xe9/dog", "name of the folder 'caf")):
            os.makedirs(os.fsencode(tmp_path) + b"/" + place)
            with pytest.raises(ConfigError, match=told + r"\\udce9'.*UTF-8"):
                read_folder(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + place)).parent)

    def test_a_name_that_is_no_noun(self, tmp_path: Path):
        (tmp_path / "2024").mkdir()
        with pytest.raises(ConfigError, match=r"2024 needs a class noun in classes\.toml"):
            read_folder(tmp_path)


class TestToybox:
    def test_thirty_of_dreambench_s_classes(self):
        found = suites()["toybox"]()
        assert len(found.subjects) == 30 and sum(one.live for one in found.subjects) == 9
        assert Counter(one.class_noun for one in found.subjects) == SPREAD
        assert len({one.name for one in found.subjects}) == 30
        assert all("/" not in one.name and " " not in one.name for one in found.subjects)

    def test_nobody_was_seen_in_training_or_tuning(self):
        reported, tuning = (range(first, first + 30) for first in FIRST.values())
        assert not set(reported) & set(tuning)
        held_out = captions.HELD_OUT_INDIVIDUALS
        assert all(held_out[number] not in captions.TRAINING_INDIVIDUALS for number in (*reported, *tuning))

    def test_photos_are_rendered_and_tuning_shows_others(self, tmp_path: Path):
        pictures: dict[str, bytes] = {}
        for name, make in suites().items():
            can = next(one for one in make().subjects if one.name == "can-1")
            found = inspect(can.photos(tmp_path / name), 32).photos
            assert len(found) == 5
            pictures[name] = found[0].image.tobytes()
        assert pictures["toybox"] != pictures["toybox-tuning"]


class TestTheTruth:
    @pytest.mark.parametrize("noun", ["dog", "stuffed animal", "can"])
    def test_every_prompt_of_dreambench_is_a_scene(self, noun: str):
        for template in subject_prompts(noun == "dog", 25):
            scene = scene_of(template, 3, noun, 7)
            assert captions.caption(scene) == prompts.fill(template, None, noun)
            assert (scene.individual, scene.seed) == (7, 3)

    def test_the_class_is_somebody_else_each_time(self):
        others = {scene_of("a {class}", seed, "dog", 7).individual for seed in range(5)}
        assert len(others) == 5 and 7 not in others and others < set(captions.HELD_OUT_INDIVIDUALS)

    def test_words_that_the_world_does_not_have(self):
        with pytest.raises(ConfigError, match="cannot show 'a dog on the moon'"):
            scene_of("a {subject} on the moon", 0, "dog", 7)

    def test_the_photographed_individual_is_drawn(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        asked: list[tuple[int, Scene]] = []
        photographed: list[int] = []
        take = world.photos

        def photos(class_noun: str, individual: int, count: int, size: int, place: str | None) -> world.Pictures:
            photographed.append(individual)
            return take(class_noun, individual, 1, 16, place)

        monkeypatch.setattr(world, "photos", photos)
        monkeypatch.setattr(pictures, "rendered", lambda size: lambda scenes: [asked.append((size, s)) for s in scenes])
        for name, make in suites().items():
            can = next(one for one in make().subjects if one.name == "can-1")
            can.photos(tmp_path / name)
            assert can.truth is not None
            can.truth(32, ["a red {subject}", "a {class}"], [5, 6])
        assert asked[0] == (32, Scene("can", photographed[0], property="red", seed=5))
        assert asked[2][1].individual == photographed[1] != photographed[0]
        assert not {asked[1][1].individual, asked[3][1].individual} & set(photographed)


def test_subjects_are_spread_over_the_suite():
    made = suites()["toybox"]()
    assert [one.class_noun for one in made.choose(5)] == ["backpack", "can", "sneaker", "dog", "toy"]
    assert set(made.choose(5)) <= set(made.choose(15)) and made.choose(None) == made.subjects
    with pytest.raises(ConfigError, match="has 30 subjects; 31 were asked for"):
        made.choose(31)


@pytest.mark.parametrize("live", [True, False])
def test_prompts_are_spread_over_the_25(live: bool):
    assert subject_prompts(live, 25) == (prompts.LIVE_PROMPTS if live else prompts.OBJECT_PROMPTS)
    few = subject_prompts(live, 5)
    assert len(set(few)) == 5 and few[0] == "a {subject} in the jungle" and few[-1].endswith(" {subject}")


def test_examples():
    result = doctest.testmod(suite)
    assert result.attempted and not result.failed
