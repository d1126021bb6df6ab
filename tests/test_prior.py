"""The prior set: one seed a sample, never lost, never mixed up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.errors import PriorError
from dreambooth.prior import PriorManifest, PriorSet, fingerprint
from tests import tiny


@pytest.fixture(scope="module")
def backbone(tiny_model: Path):
    return backbones.load(str(tiny_model))


def manifest(backbone, **changes) -> PriorManifest:
    values = {"prompt": "a dog", "sampler": "ddim", "steps": 3, "guidance": 2.0, "seed": 0}
    return PriorManifest(model=fingerprint(backbone), native_size=backbone.spec.native_size, **(values | changes))


def filled(folder: Path, backbone, count: int, batch: int, **parts) -> PriorSet:
    prior = PriorSet(folder, manifest(backbone))
    prior.fill(backbone, count, batch, lambda drawn: None, **parts)
    return prior


def test_batch_size_and_workers_do_not_change_samples(tmp_path: Path, backbone):
    one = filled(tmp_path / "one", backbone, 5, 1).load(5)
    big = filled(tmp_path / "big", backbone, 5, 4).load(5)
    for part in (1, 0):
        filled(tmp_path / "workers", backbone, 5, 2, part=part, parts=2)
    workers = PriorSet(tmp_path / "workers", manifest(backbone)).load(5)
    torch.testing.assert_close(one, big, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one, workers, rtol=1e-4, atol=1e-4)
    assert len({tuple(sample.flatten()[:4].tolist()) for sample in one}) == 5


def test_a_sample_is_what_the_model_draws_with_its_seed(tmp_path: Path, backbone):
    prior = filled(tmp_path / "set", backbone, 2, 2)
    drawn = backbone.sample_latents(["a dog"], [prior.seed(1)], Sampling(3, 2.0, "ddim"))
    torch.testing.assert_close(prior.load(2)[1], drawn[0], rtol=1e-4, atol=1e-4)


def test_extended_and_resumed_without_drawing_again(tmp_path: Path, backbone):
    prior = filled(tmp_path / "set", backbone, 3, 2)
    kept = prior.load(3)
    prior.path(1).unlink()
    (tmp_path / "set" / "000004.999.tmp").write_bytes(b"half a sample, left by a kill")
    drawn = []
    assert prior.fill(backbone, 5, 2, drawn.append) == 3
    assert sum(drawn) == 3 and prior.missing(5) == []
    torch.testing.assert_close(prior.load(5)[:3], kept, rtol=1e-4, atol=1e-4)


def test_resumed_in_the_middle_of_a_batch_is_bit_identical(tmp_path: Path, backbone):
    prior = filled(tmp_path / "set", backbone, 5, 3)
    whole = prior.load(5)
    for index in (1, 2, 4):
        prior.path(index).unlink()
    prior.fill(backbone, 5, 3, lambda drawn: None)
    assert torch.equal(prior.load(5), whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"prompt": "a cat"}, "prompt was 'a dog'"), ({"steps": 9}, "steps was 3, now 9"), ({"model": "other"}, "model")],
)
def test_another_manifest_is_refused(tmp_path: Path, backbone, change: dict, told: str):
    PriorSet(tmp_path, manifest(backbone))
    with pytest.raises(PriorError, match=told):
        PriorSet(tmp_path, replace(manifest(backbone), **change))
    assert replace(manifest(backbone), **change).key() != manifest(backbone).key()


def test_samples_of_unknown_origin_are_refused(tmp_path: Path, backbone):
    (tmp_path / "000000.safetensors").write_bytes(b"")
    with pytest.raises(PriorError, match=r"no manifest\.json"):
        PriorSet(tmp_path, manifest(backbone))


def test_broken_files_are_named(tmp_path: Path, backbone):
    prior = filled(tmp_path / "set", backbone, 1, 1)
    prior.path(0).write_bytes(b"broken")
    with pytest.raises(PriorError, match="000000"):
        prior.load(1)
    (tmp_path / "set" / "manifest.json").write_text("{")
    with pytest.raises(PriorError, match="cannot be read"):
        PriorSet(tmp_path / "set", manifest(backbone))


def test_sample_that_is_not_finite_is_refused(tmp_path: Path, tiny_model: Path):
    broken = backbones.load(str(tiny_model))
    with torch.no_grad():
        next(broken.modules["denoiser"].parameters()).fill_(float("nan"))
    with pytest.raises(PriorError, match="not finite"):
        filled(tmp_path, broken, 1, 1)
    assert not list(tmp_path.glob("*.safetensors"))


def test_fingerprint_tells_models_apart(tiny_model: Path):
    one, other = backbones.load(str(tiny_model)), backbones.load(str(tiny_model))
    assert fingerprint(one) == fingerprint(other)
    with torch.no_grad():
        next(other.modules["text_encoder"].parameters()).view(-1)[0] += 1
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline: pipeline.scheduler.register_to_config(prediction_type="v_prediction"),
        lambda pipeline: pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True),
        lambda pipeline: pipeline.vae.register_to_config(scaling_factor=0.5),
    ],
)
def test_equal_weights_that_are_drawn_with_otherwise_are_another_model(tmp_path: Path, change):
    """A wrong scheduler_config.json that was put right must not be given the samples of before."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    pipeline.save_pretrained(tmp_path / "one")
    change(pipeline)
    pipeline.save_pretrained(tmp_path / "other")
    one, other = (fingerprint(backbones.load(str(tmp_path / name))) for name in ("one", "other"))
    assert one != other


def test_manifest_is_readable(tmp_path: Path, backbone):
    PriorSet(tmp_path, manifest(backbone))
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["prompt"] == "a dog" and found["sampler"] == "ddim" and found["steps"] == 3
