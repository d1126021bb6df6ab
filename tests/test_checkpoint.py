"""Files of a run folder that are replaced whole, and times that nothing depends on."""

import os
from pathlib import Path

import pytest

from dreambooth import checkpoint
from dreambooth.checkpoint import RunFolder, write_whole
from dreambooth.config import make_config
from dreambooth.errors import RunError


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path: Path, monkeypatch):
    """Or a power cut could leave the new name on an empty file."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == 2
        done.append("sync")
        sync(descriptor)

    monkeypatch.setattr(checkpoint.os, "fsync", synced)
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_whole(tmp_path / "a.txt", "é")
    write_whole(tmp_path / "a.bin", b"\0\1")
    assert done == ["sync", "replace"] * 2
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["[]", "", '{"draw": "long"}'])
def test_broken_times_are_begun_anew(tmp_path: Path, text: str):
    (tmp_path / "times.json").write_text(text)
    folder = RunFolder(tmp_path)
    assert folder.times() == {}
    folder.add_time("draw", 1.5)
    assert folder.times() == {"draw": 1.5}


def test_a_run_is_begun_as_a_whole(tmp_path: Path):
    """A start that is killed leaves nothing that would stand in the way of the next."""

    def killed(run: RunFolder) -> None:
        (run.path / "photos" / "00.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(tmp_path / "run", make_config({}), killed)
    with pytest.raises(RunError, match="no run folder"):
        RunFolder.open(tmp_path / "run")
    run = RunFolder.create(tmp_path / "run", make_config({"seed": 3}), lambda run: run.write_json("subject.json", {}))
    assert sorted(entry.name for entry in run.path.iterdir()) == [
        "checkpoints", "config.toml", "photos", "previews", "subject.json",
    ]  # fmt: skip
    assert RunFolder.open(tmp_path / "run").config().seed == 3 and not any((run.path / "photos").iterdir())
