"""accelerate carries a run of several processes; it learns what one process with the whole batch learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreambooth.checkpoint import RunFolder
from tests.test_cli import FAST, environment, weights


@pytest.mark.parametrize("method", ["dreambooth", "lora"])
def test_two_processes_equal_one_with_the_whole_batch(method: str, tiny_model: Path, photos: Path, tmp_path: Path):
    # Not in bfloat16, which rounds otherwise in other batch sizes, and without gradients that are nothing but rounding.
    exact = ["--no-train-text-encoder", "--mixed-precision", "no"]
    flags = ["--class-noun", "dog", "--model", str(tiny_model), "--method", method, *exact, *FAST]
    one = [sys.executable, "-m", "dreambooth", "train", str(photos), *flags]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *launch, "-m", "dreambooth", "train", str(photos), *flags]
    for name, command, extra in (("one", one, ["--train-batch-size", "2"]), ("two", two, [])):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name), "--device", "cpu", *extra],
            capture_output=True, text=True, env=environment(tmp_path / f"cache-{name}"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for whole, shared in zip(*logs, strict=True):
        assert abs(whole["loss"] - shared["loss"]) < 1e-3 * whole["loss"]
    learned = weights if method == "dreambooth" else lambda run: load_file(RunFolder(run).adapter)
    alone, together = learned(tmp_path / "one"), learned(tmp_path / "two")
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-2, atol=1e-4, msg=key)
    assert (tmp_path / "two" / "report.html").is_file()
