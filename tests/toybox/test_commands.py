"""The embedded world's commands."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth.__main__ import main
from dreambooth.errors import ConfigError
from dreambooth.masks import to_tensor, with_masks
from dreambooth.subject import load_subject
from dreambooth.toybox import captions, pictures, subjects
from dreambooth.toybox.cli import save_photos
from dreambooth.toybox.world import Scene


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


def test_masks_lie_beside_photos_of_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given = ("--class-noun", "teapot", "--count", 2, "--size", 48, "--place", "lawn", "--masks", "--out", tmp_path)
    run(monkeypatch, "photos", *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00.mask.png", "00.png", "01.mask.png", "01.png"]
    subject = with_masks(load_subject(tmp_path, "teapot", 48), None)
    masks = to_tensor(subject.masks or ()).expand(-1, 3, -1, -1) > 0.5
    assert 0.1 < masks.float().mean() < 0.9
    behind = subject.pixels().masked_fill(masks, torch.nan)[:, :, 36:].flatten(2).nanmean(2)
    assert (behind[:, 1] > behind[:, 0]).all() and (behind[:, 1] > behind[:, 2]).all(), "the ground is green"


def test_a_place_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(ConfigError, match="no place 'mars'"):
        save_photos(tmp_path, "teapot", 0, place="mars")


def test_class_power_without_a_start_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    command = ["dreambooth", "toybox", "pretrain", "--class-power", "3", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 1 and "give --start" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["dreambooth", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    told = capsys.readouterr().err
    assert leaving.value.code == 1 and told.startswith("error: ") and len(told.splitlines()) == 1
    return told


def test_photos_of_one_own_are_not_written_over(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "00.png").write_bytes(b"a photo")
    told = refused(monkeypatch, capsys, "toybox", "photos", "--size", 16, "--count", 1, "--out", tmp_path)
    assert "holds other files, such as 00.png" in told
    assert (tmp_path / "00.png").read_bytes() == b"a photo"


def test_a_demo_takes_a_folder_of_its_own_for_photos(tmp_path: Path, monkeypatch, capsys):
    """Even where the run of an earlier demo was deleted and its photos were not."""
    (tmp_path / "demo-photos").mkdir()
    (tmp_path / "demo-photos/00.png").write_bytes(b"a photo")
    refused(monkeypatch, capsys, "demo", "--out", tmp_path / "demo", "--model", "no-such-model")
    assert [path.name for path in (tmp_path / "demo-photos").iterdir()] == ["00.png"]
    assert (tmp_path / "demo-photos/00.png").read_bytes() == b"a photo"
    assert len(list((tmp_path / "demo-photos-2").iterdir())) == 5


@pytest.mark.parametrize("command", ["photos", "sheet"])
def test_a_file_is_no_folder(tmp_path: Path, monkeypatch, capsys, command: str):
    (tmp_path / "file").touch()
    assert "file is no folder" in refused(monkeypatch, capsys, "toybox", command, "--out", tmp_path / "file")


def test_sheets_show_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    chosen = pictures.world_sheets(0)
    assert {scene.class_noun for scene in chosen["classes"]} == set(subjects.CLASSES)
    assert {scene.accessory for scene in chosen["accessories"]} == set(subjects.accessory_names())
    monkeypatch.setattr(pictures, "world_sheets", lambda seed: {name: scenes[:9] for name, scenes in chosen.items()})
    run(monkeypatch, "sheet", "--out", tmp_path, "--size", 32)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(chosen)
    assert Image.open(tmp_path / "classes.png").width > 8 * 32


def test_a_model_draws_what_the_sheets_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path):
    scenes = [Scene("dog", 1, context="beach", seed=4), Scene("cat", 2, seed=5)]
    monkeypatch.setattr(pictures, "world_sheets", lambda seed: {"classes": scenes})
    run(monkeypatch, "sheet", "--size", 32, "--out", tmp_path / "true")
    run(monkeypatch, "sheet", "--size", 32, "--model", tiny_model, "--out", tmp_path / "drawn")
    true, drawn = (Image.open(tmp_path / name / "classes.png") for name in ("true", "drawn"))
    assert true.size == drawn.size and true.tobytes() != drawn.tobytes()
