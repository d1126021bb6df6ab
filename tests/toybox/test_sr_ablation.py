"""Super-resolvers compared with the truth: the measures by hand, and the whole command on tiny models."""

import json
import sys
from pathlib import Path

import pytest
import torch

from dreambooth.__main__ import main
from dreambooth.toybox.sr_measures import detail, detail_error, masked_psnr
from tests import tiny


def test_psnr_counts_the_subject_alone():
    truth = torch.rand(1, 3, 8, 8) * 0.5
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    wrong = truth + 0.1 * mask + 0.4 * (1 - mask)
    assert float(masked_psnr(wrong, truth, mask)) == pytest.approx(20, abs=1e-4)


def test_detail_is_what_the_small_picture_cannot_hold():
    even = torch.full((1, 3, 16, 16), 0.3)
    stripes = even + 0.2 * (torch.arange(16) % 2 * 2.0 - 1)
    assert detail(even, 4).abs().max() < 1e-6
    torch.testing.assert_close(detail(stripes, 4), stripes - even)
    mask = torch.ones(1, 1, 16, 16)
    assert float(detail_error(stripes, stripes, mask, 4)) == 0
    assert float(detail_error(even, stripes, mask, 4)) == pytest.approx(1)
    assert float(detail_error(2 * even - stripes, stripes, mask, 4)) == pytest.approx(2)  # made up, and wrong


def test_the_command(tiny_cascade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dino = tiny.saved_dino(tmp_path)
    command = [
        "dreambooth", "toybox", "ablation-sr", "--model", tiny_cascade, "--out", tmp_path / "out", "--pictures", 2,
        "--sr-max-train-steps", 1, "--sr-num-class-images", 1, "--num-inference-steps", 1, "--dino", dino, "--quiet",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    for _ in range(2):  # the second time nothing is trained anew
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code in (0, None)
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["bicubic", "not fine-tuned", "original noise", "lowered noise"]
    assert [row["noise_level"] for row in found["rows"]] == [None, 0.25, 0.25, 1e-5]
    assert all(len(found["pictures"][row["name"]]) == 2 for row in found["rows"])
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<figure>") == 2 * 6 and "lowered noise" in page


def test_a_model_without_a_super_resolver_is_told(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    dino = tiny.saved_dino(tmp_path)
    command = ["dreambooth", "toybox", "ablation-sr", "--model", tiny_model, "--out", tmp_path / "out", "--dino", dino]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 1 and "no super-resolver" in capsys.readouterr().err
