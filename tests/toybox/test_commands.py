"""The embedded world's commands."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.__main__ import main
from dreambooth.toybox import captions, pictures, subjects


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["dreambooth", "toybox", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code in (0, None)


def test_photos_are_of_one_unseen_individual(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        run(
            monkeypatch,
            "photos",
            "--class-noun",
            "teapot",
            "--seed",
            seed,
            "--count",
            2,
            "--size",
            48,
            "--out",
            tmp_path / name,
        )
    read = {
        name: [Image.open(p).tobytes() for p in sorted((tmp_path / name).iterdir())]
        for name in ("one", "again", "other")
    }
    assert read["one"] == read["again"] != read["other"]
    assert read["one"][0] != read["one"][1]
    assert min(captions.HELD_OUT_INDIVIDUALS) > max(captions.TRAINING_INDIVIDUALS)


def test_sheets_show_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    chosen = pictures.world_sheets(0)
    assert {scene.class_noun for scene in chosen["classes"]} == set(subjects.CLASSES)
    assert {scene.accessory for scene in chosen["accessories"]} == set(subjects.accessory_names())
    monkeypatch.setattr(pictures, "world_sheets", lambda seed: {name: scenes[:9] for name, scenes in chosen.items()})
    run(monkeypatch, "sheet", "--out", tmp_path, "--size", 32)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(chosen)
    assert Image.open(tmp_path / "classes.png").width > 8 * 32
