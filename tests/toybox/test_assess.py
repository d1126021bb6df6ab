"""The measuring of the embedded models: numbers against values by hand, and the whole command on tiny real models."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth.__main__ import main
from dreambooth.toybox import (
    assess,
    assessment,
    autoencoder,
    captions,
    cards,
    clip,
    denoiser,
    dino,
    judges,
    measures,
    pretrain,
    tokenizer,
)
from dreambooth.toybox.assessment import Assessment, Row
from dreambooth.toybox.world import Scene


def test_auc_is_the_share_of_pairs_that_are_in_order() -> None:
    torch.manual_seed(0)
    one, other = torch.randint(5, (20,)).float(), torch.randint(4, (30,)).float()
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in one.tolist() for b in other.tolist())
    assert measures.auc(one, other) == pytest.approx(wins / 600)
    assert measures.auc(torch.tensor([2.0]), torch.tensor([1.0])) == 1


def test_individuals_are_compared_within_their_class() -> None:
    def at(angle: float) -> list[float]:
        return [math.cos(angle), math.sin(angle)]

    embeddings = torch.tensor([at(0.0), at(0.1), at(1.0), at(1.1), at(0.0), at(0.5), at(0.1), at(0.6)])
    classes = ["dog"] * 4 + ["cat"] * 4
    areas = measures.identity_auc(embeddings, [1, 1, 2, 2, 3, 3, 4, 4], classes)
    assert areas["dog"] == 1
    # Cats: one individual's photos are 0.5 apart, twice; two individuals' are 0.1, 0.6, 0.4 and 0.1 apart.
    assert areas["cat"] == pytest.approx(1 / 4)


def test_frechet_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    cloud = torch.randn(400, 3, dtype=torch.float64)
    assert measures.frechet(cloud, cloud) == pytest.approx(0, abs=1e-9)
    assert measures.frechet(cloud, cloud + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25)
    # Diagonal covariances a and b: the sum of (sqrt(a) - sqrt(b))^2; here b = 4 a.
    diagonal = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, -2.0], [-1.0, 2.0]])
    variances = diagonal.double().var(0)
    assert measures.frechet(diagonal, 2 * diagonal) == pytest.approx(variances.sum().item())
    with pytest.raises(ValueError, match="two pictures"):
        measures.frechet(cloud[:1], cloud)


def test_a_floor_is_met_from_its_own_side() -> None:
    assert Row("accuracy", 0.96, "%", 10, 0.95).met is True
    assert Row("seconds", 0.4, "s", 10, 0.35, below=True).met is False
    assert Row("photos", None, "dB", 0, 25.0).met is None
    assert Row("ratio", 3.0, "", 10).met is None
    assert Row("accuracy", 0.961, "%", 1000, 0.95, 0.99).cells() == (
        "accuracy", "96.1 %", "≥ 95.0 %", "yes", "99.0 %", "1,000"
    )  # fmt: skip
    assert Row("photos", None, "dB", 0, 25.0, note="left out").cells()[1] == "left out"


def test_numbers_have_their_place_in_a_card() -> None:
    begin, end = cards.NUMBERS
    card = f"# A\n\n{begin}\nold\n{end}\n\nrest\n"
    assert cards.with_numbers(card, "new") == f"# A\n\n{begin}\nnew\n{end}\n\nrest\n"
    assert cards.with_numbers("# A\n", "new") == f"# A\n\n{begin}\nnew\n{end}\n"
    twice = cards.with_numbers(cards.with_numbers("# A\n", "new"), "newer")
    assert twice.count(begin) == 1 and "newer" in twice


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models of 32 px with the classes of the real ones: sd, clip and dino."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    words = tokenizer.build(captions.caption(captions.sample_scene(seed), seed=seed) for seed in range(200))
    generator = denoiser.new(words, size=32, channels=(32, 64), width=40, layers=1)
    pretrain.save(folder / "sd", autoencoder.new((8, 8, 16, 16), size=32), generator, words)
    towers = clip.Towers(size=32, patch=8, width=32, layers=1, head=16, text_width=32, text_layers=1, projection=16)
    judges.save_clip(folder / "clip", clip.new(words, towers), words)
    sizes = dino.Sizes(size=32, patch=8, width=32, layers=1, head=16, prototypes=8)
    judges.save_dino(folder / "dino", dino.Pupil(sizes).backbone)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sampling step, a few pictures, no compiler."""
    monkeypatch.setattr(assess, "STEPS", 1)
    monkeypatch.setattr(assess.Plan, "compiled", False)
    draw = assess.references.rendered
    monkeypatch.setattr(assess.references, "rendered", lambda *a, **k: draw(*a, **{**k, "compiled": False}))
    faces = [Scene("dog", individual, seed=seed) for individual in (1, 2) for seed in (3, 4)]
    monkeypatch.setattr(judges, "unseen_individuals", lambda each, photos: faces)


def run(monkeypatch: pytest.MonkeyPatch, models: Path, *more: object) -> int:
    arguments = ["--model", models / "sd", "--clip", models / "clip", "--dino", models / "dino", *more]
    monkeypatch.setattr(sys, "argv", ["dreambooth", "toybox", "assess", "--device", "cpu", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    return int(leaving.value.code or 0)


@pytest.mark.usefixtures("quick")
def test_the_command_measures_everything(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.effect_noise((200, 160), 60).convert("RGB").save(tmp_path / "photos" / "cat" / "a.png")
    (tmp_path / "photos" / "note.txt").write_text("no photo")
    common = ("--prompts", 4, "--work", tmp_path / "work", "--write-cards")
    with_judges = (*common, "--judge-cards", "--json", "--photos", tmp_path / "photos")
    assert run(monkeypatch, models, *with_judges) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["count"] for row in found["autoencoder"]] == [4, 1]
    values = [row["value"] for part in assessment.PARTS for row in found[part] if row["count"]]
    assert all(math.isfinite(value) for value in values)
    kinds = [row["what"] for row in found["samples"]]
    assert kinds[:2] == ["samples: class right", "samples: context right"] and len(kinds) == 8
    assert found["facts"]["prompts"] == 4 and 0 <= found["facts"]["auc_by_class"]["dino"]["dog"] <= 1
    for name, text in (("sd", "autoencoder: PSNR, toybox"), ("clip", "clip: class of"), ("dino", "AUC")):
        assert text in (models / name / "README.md").read_text("utf-8")

    monkeypatch.setattr(assess.references.world, "draw", None)  # nothing is rendered or sampled again
    monkeypatch.setattr("dreambooth.backbones.latent_diffusion.LatentDiffusion.generate", None)
    (models / "clip" / "README.md").write_text("of more pictures", "utf-8")
    assert run(monkeypatch, models, *common) == 0
    assert (models / "clip" / "README.md").read_text("utf-8") == "of more pictures"
    table = capsys.readouterr().out
    assert "no --photos" in table and "samples: class right" in table


@pytest.mark.usefixtures("quick")
def test_a_cascade_is_measured_against_large_renders(
    models: Path, tiny_cascade: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(assess, "ENLARGED", 2)
    assert run(monkeypatch, models, "--prompts", 2, "--work", tmp_path, "--json", "--model", tiny_cascade) == 0
    found = json.loads(capsys.readouterr().out)
    values = {row["what"]: row["value"] for row in found["autoencoder"]}
    assert list(values) == [
        "super-resolution: PSNR", "super-resolution: DINO to the truth", "bicubic: PSNR", "bicubic: DINO to the truth"
    ]  # fmt: skip
    assert values["super-resolution: PSNR"] < values["bicubic: PSNR"], "it was never trained"
    assert {row["what"]: row["floor"] for row in found["samples"]}["samples: class right"] == 0.9


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "no-such-model"), "There is no model 'no-such-model'"),
        (("--clip", "no-such-judge"), "There is no encoder 'no-such-judge'"),
        (("--dino", "clip"), "is a clip model"),
        (("--photos", "nowhere"), "There is no folder nowhere"),
        (("--photos", "empty"), "holds no usable photo"),
        (("--device", "abacus"), "The device 'abacus' is not available"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: tuple[str, str], sentence: str, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    flag, value = arguments
    value = {"empty": str(tmp_path / "empty"), "clip": str(models / "clip")}.get(value, value)
    assert run(monkeypatch, models, "--work", tmp_path, flag, value) == 1
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1 and "Traceback" not in told


def test_an_assessment_as_a_table_and_as_json() -> None:
    facts = {"model": "m", "prompts": 5, "clip": "c", "dino": "d", "device": "cpu", "threads": 2}
    found = Assessment((Row("a", 30.5, "dB", 5, 30.0),), (), (), (Row("b", None, "%", 0, 0.5, note="none"),), facts)
    assert json.loads(found.as_json())["autoencoder"][0]["met"] is True
    assert found.as_table().row_count == 2
    assert "| a | 30.5 dB | ≥ 30.0 dB | yes |  | 5 |" in found.numbers("autoencoder")
