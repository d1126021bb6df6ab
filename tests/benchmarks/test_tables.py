"""Records to tables: medians, ratios, multiples of the floor, and what was not measured."""

from pathlib import Path

import pytest

from benchmarks import records, tables
from benchmarks.records import Record
from benchmarks.task import Outcome
from dreambooth.errors import RunError

SETTING = {"command": "python -m benchmarks", "machine": "a machine", "rows": 4, "resolution": 64, "steps": 1}


def record(side: str, part: str = "step", note: str = "", **values: list[float]) -> Record:
    return Record("toybox-sd", "cpu", part, side, SETTING | {"prior": 2}, values, note=note)


def lines(*entries: Record) -> list[str]:
    return [line for line in tables.page(list(entries)).splitlines() if line.startswith("| ")]


def test_a_step_beside_the_plain_loop_and_the_floor():
    least = {"flops": [1e9], "flops_per_second": [1e9], "optimizer_bytes": [1.0], "bytes_per_second": [1.0]}
    found = lines(
        record("ours", seconds=[1.0, 1.2, 3.0], peak_bytes=[2e9] * 3),
        record("plain", seconds=[2.4, 2.4, 2.5]),
        record("floor", seconds=[0.5], parameters=[1.0], **least),
    )
    assert found[1:] == [
        "| one step, 4 + 4 rows, 64 px | ours | 1.2 (1–3) s | 2× as fast | 2.4× | 2 GB |",
        "| one step, 4 + 4 rows, 64 px | plain | 2.4 (2.4–2.5) s |  | 4.8× |  |",
    ]


def test_samples_a_second_are_better_when_they_are_more():
    assert (
        "4× as fast" in lines(record("ours", "prior", per_second=[2.0]), record("plain", "prior", per_second=[0.5]))[1]
    )


def test_quality_stands_beside_the_time_of_a_job():
    head, row = lines(record("ours", "job", seconds=[60.0], dino=[0.7, 0.8], clip_t=[0.3, 0.3]))
    assert head.endswith("| DINO | CLIP-T |") and row.endswith("| 0.75 (0.7–0.8) | 0.3 (0.3–0.3) |")
    assert "2 prior samples, 1 steps, 4 pictures" in row


def test_a_job_whose_pictures_could_not_be_judged_says_why():
    one = record("ours", "job", seconds=[60.0])
    one.details["not judged"] = "There is no judge."
    assert "Pictures of ours were not judged: There is no judge." in tables.page([one])


def test_what_was_not_measured_says_why():
    assert (
        "| ours | not measured: there is no CUDA device here |"
        in lines(record("ours", note="not measured: there is no CUDA device here"))[1]
    )


def test_a_failed_turn_ends_the_numbers():
    one = record("ours")
    for outcome in (Outcome({"seconds": 1.0}), Outcome(note="failed: killed"), Outcome({"seconds": 2.0})):
        one.add(outcome)
    assert one.values == {} and one.note == "failed: killed"


def test_parts_that_were_measured_before_are_kept(tmp_path: Path):
    old = [record("ours", seconds=[1.0]), record("ours", "prior", per_second=[1.0])]
    new = [record("ours", seconds=[2.0]), record("ours", "prior", note="not measured")]
    records.save(records.merged(old, new), tmp_path / "results.json")
    kept = records.load(tmp_path / "results.json")
    assert {entry.part: entry.values for entry in kept} == {"step": {"seconds": [2.0]}, "prior": {"per_second": [1.0]}}


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path):
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(RunError, match="move it away"):
        records.load(tmp_path / "results.json")
