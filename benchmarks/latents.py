"""How many channels the latents should have: autoencoders and denoisers trained from nothing, equally long, in turn.

    python -m benchmarks.latents --work .toybox --out runs/latents

`--work` is the folder of `dreambooth toybox pretrain`, with its corpus. What latents keep, and how hard they are to
make, pull in opposite directions, so both are told: how near reconstructions of unseen individuals are to the truth
(PSNR), and the Fréchet distance, in features of toybox-dino and over that between two sets of renders, of
reconstructions and of samples. After so short a training samples are far from anything; what counts is their order.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from benchmarks.designs import Design, Trial
from dreambooth.backbones import hush
from dreambooth.evaluation.encoders import ImageEncoder, dino_encoder
from dreambooth.models import embedded
from dreambooth.toybox import assess, autoencoder, captions, data, denoiser, judges, pretrain, references
from dreambooth.toybox.data import Corpus
from dreambooth.toybox.fit import Budget
from dreambooth.toybox.sheets import bytes_of
from dreambooth.toybox.world import Scene


def distance(teller: ImageEncoder, images: Tensor, true: Tensor, apart: Tensor) -> float:
    """The Fréchet ratio of `assess.frechet_row`, of pictures [N, 3, H, W], uint8."""
    value = assess.frechet_row(teller, images, true, apart).value
    assert value is not None
    return value


def tried(
    channels: int, corpus: Corpus, scenes: list[Scene], true: Tensor, apart: Tensor, teller: ImageEncoder,
    autoencoder_steps: int, steps: int, folder: Path,
) -> dict[str, float]:  # fmt: skip
    """What latents of so many channels come to: PSNR in dB, Fréchet ratios, processor seconds.

    `true` [N, 3, H, W] shows the scenes and `apart` [M, 3, H, W] others, both uint8.
    """
    start = time.process_time()
    model = autoencoder.new(latent_channels=channels)
    rates, budget = pretrain.AUTOENCODER_RATES, Budget(autoencoder_steps)
    vae = autoencoder.train(corpus, folder, budget, rates, model=model, resume=False, log=lambda _line: None).module
    seconds = (time.process_time() - start) / autoencoder_steps
    pixels = true.float() / 127.5 - 1
    restored = autoencoder.reconstruct(vae, pixels)
    found = {
        "channels": float(channels),
        "autoencoder s/step": seconds,
        "PSNR": autoencoder.psnr(restored, pixels).mean().item(),
        "reconstructions": distance(teller, bytes_of(restored), true, apart),
    }
    pipe = StableDiffusionPipeline.from_pretrained(str(embedded()["toybox-sd"]), local_files_only=True)
    pipe.register_modules(vae=vae)
    latents = denoiser.encode_corpus(corpus, vae, pipe.tokenizer)
    average, seconds = Trial(Design(latent_channels=channels), latents, corpus.images, pipe).fit(64 * steps)
    denoiser.without_fused_attention(average)
    prompts = [captions.caption(scene, seed=index) for index, scene in enumerate(scenes)]
    whole = denoiser.pipeline(vae, average, pipe.tokenizer)
    drawn = [denoiser.sample(whole, prompts[first : first + 8], seed=first) for first in range(0, len(prompts), 8)]
    samples = distance(teller, bytes_of(torch.cat(drawn)), true, apart)
    return found | {"denoiser s/picture": seconds, "samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".toybox"))
    parser.add_argument("--out", type=Path, default=Path("runs/latents"))
    parser.add_argument("--images", type=int, default=10_240)
    parser.add_argument("--channels", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--autoencoder-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=120, help="How many batches of 64 the denoiser sees.")
    parser.add_argument("--samples", type=int, default=256)
    options = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    corpus = data.load(options.work / "corpus", options.images)
    groups = [
        [captions.sample_scene(seed, held_out=True) for seed in judges.UNSEEN_SEEDS[first : first + options.samples]]
        for first in (0, options.samples)
    ]
    true, apart = (references.rendered(options.work / "references", scenes) for scenes in groups)
    teller = dino_encoder("toybox-dino", "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    for channels in options.channels:
        folder = options.out / f"{channels}"
        found = tried(
            channels, corpus, groups[0], true, apart, teller, options.autoencoder_steps, options.steps, folder
        )
        print(", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
        with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
