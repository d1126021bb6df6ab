"""Pretraining on a CUDA device: bfloat16, compiled, on pictures that the cores render meanwhile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dreambooth.toybox import data, denoiser, pretrain
from dreambooth.toybox.fit import Budget, Optimisation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_pretrain_on_cuda_makes_a_pipeline_and_sees_fresh_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD", 8)
    joined: list[int] = []
    take = data.Stream.take

    def counted(stream: data.Stream) -> list[data.Corpus]:
        ready = take(stream)
        joined.extend(len(corpus) for corpus in ready)
        return ready

    monkeypatch.setattr(data.Stream, "take", counted)
    config = pretrain.PretrainConfig(
        images=16,
        autoencoder=Budget(20),
        denoiser=Budget(10**6, minutes=2),
        autoencoder_rates=Optimisation(rate=3e-3, batch=2, warmup=1),
        denoiser_rates=Optimisation(rate=2e-3, batch=4, warmup=1),
    )
    lines: list[str] = []
    made = pretrain.pretrain(tmp_path / "toy", config, work=tmp_path / "work", device="cuda", log=lines.append)
    assert joined, "the cores rendered nothing in two minutes"
    assert made.denoiser.steps > 20 and made.denoiser.loss < 2
    more = replace(config, denoiser=Budget(made.denoiser.steps + 2))
    again = pretrain.pretrain(tmp_path / "toy", more, work=tmp_path / "work", device="cuda", log=lines.append)
    assert again.denoiser.steps == made.denoiser.steps + 2
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "toy", local_files_only=True)
    pictures = denoiser.sample(pipe, ["a dog"], steps=2)
    assert pictures.shape == (1, 3, 128, 128) and pictures.isfinite().all()
