"""Latents of any number of channels are trained, reconstructed and drawn from."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from benchmarks.latents import distance, tried
from dreambooth.evaluation.encoders import dino_encoder
from dreambooth.toybox import captions, references
from dreambooth.toybox.data import Corpus
from dreambooth.toybox.sheets import bytes_of


def test_latents_of_four_channels_are_tried(tmp_path: Path):
    scenes = [captions.sample_scene(seed) for seed in range(4)]
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (4, 3, 4, 4), generator=draw, dtype=torch.uint8)
    images = interpolate(coarse.float(), (64, 64), mode="bilinear").to(torch.uint8)
    masks = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    corpus = Corpus(images, masks, [[captions.caption(scene)] * 2 for scene in scenes])
    apart = images.flip(-1)
    found = tried(
        4, corpus, scenes, images, apart, dino_encoder("toybox-dino", "cpu"), autoencoder_steps=2, steps=1,
        folder=tmp_path / "latents",
    )  # fmt: skip
    assert found["channels"] == 4 and 0 < found["PSNR"] < 40
    assert found["reconstructions"] > 1 and found["samples"] > 1
    assert all(math.isfinite(value) for value in found.values())


def test_true_pictures_have_a_distance_of_one_and_noise_a_larger(tmp_path: Path):
    pictures = references.rendered(tmp_path, [captions.sample_scene(seed) for seed in range(12)], compiled=False)
    teller, true, apart = dino_encoder("toybox-dino", "cpu"), pictures[:6], pictures[6:]
    noise = torch.randint(0, 256, true.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert distance(teller, true, true, apart) == pytest.approx(1)
    assert distance(teller, noise, true, apart) > 1.2


def test_pictures_become_bytes():
    assert bytes_of(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist() == [0, 0, 128, 255]
