"""From nothing to `toybox-sd`: corpus, tokenizer, autoencoder, latents, denoiser with text encoder, export.

Every stage leaves its result in the work folder and is skipped, or goes on, when it is there already.
"""

import copy
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from dreambooth.backbones.files import first_line
from dreambooth.errors import ModelError
from dreambooth.toybox import autoencoder, captions, data, denoiser, tokenizer, world
from dreambooth.toybox.denoiser import Denoiser
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, first_process_first, processes

AUTOENCODER_BUDGET = Budget(steps=7_000)
AUTOENCODER_RATES = Optimisation(rate=3e-3, batch=16, warmup=100, average=0.998)
DENOISER_BUDGET = Budget(steps=8_000)
DENOISER_RATES = Optimisation(rate=2e-3, batch=64, warmup=200, average=0.999)
UNSEEN = 64
"""How many unseen individuals the reconstruction is measured on."""


@dataclass(frozen=True)
class PretrainConfig:
    """What is trained, on how much, for how long. The defaults take some three hours on two free CPU cores; the model
    card of the embedded model says what it had."""

    images: int = 20_480
    size: int = 128
    seed: int = 0
    autoencoder: Budget = AUTOENCODER_BUDGET
    denoiser: Budget = DENOISER_BUDGET
    autoencoder_rates: Optimisation = AUTOENCODER_RATES
    denoiser_rates: Optimisation = DENOISER_RATES
    autoencoder_channels: tuple[int, ...] = (32, 64, 64, 96)
    denoiser_channels: tuple[int, ...] = (96, 160)
    text_width: int = 160
    text_layers: int = 3
    class_power: float = 0.0
    """Classes that `start` draws badly are shown more often: in proportion to this power of their error."""
    compiled: bool = True
    """Render through torch.compile; on CUDA train through it as well."""
    start: Path | None = None
    """A folder of such a model, from whose weights training goes on; its layout overrules the one above."""

    def on_cuda(self) -> "PretrainConfig":
        """The same with batches that fill a GPU, and as many times the pictures seen."""
        return replace(
            self,
            autoencoder_rates=replace(self.autoencoder_rates, batch=8 * self.autoencoder_rates.batch),
            denoiser_rates=replace(self.denoiser_rates, batch=8 * self.denoiser_rates.batch),
        )


@dataclass(frozen=True)
class Measures:
    """What the model card states."""

    autoencoder: Fitted[AutoencoderKL]
    denoiser: Fitted[Denoiser]
    psnr_db: float
    """On pictures of individuals that training never showed."""
    seconds_an_image: float
    device: str


def pretrain(
    out: Path, config: PretrainConfig | None = None, *, work: Path = Path(".toybox"), device: str = "auto",
    resume: bool = True, log: Log = print,
) -> Measures:  # fmt: skip
    """Train the embedded model and save it at `out` as a StableDiffusionPipeline in float16, with its model card.

    The state lies in `work`; the model at `out` is brought up to date every few minutes. Without `resume` the
    training starts anew, but rendered pictures are kept: delete `work/corpus` after the world has changed. On CUDA
    the denoiser sees fresh pictures all the time, rendered by the cores while the GPU trains.
    """
    config = config or PretrainConfig()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device.startswith("cuda")
    config = config.on_cuda() if cuda else config
    first = processes()[0] == 0
    log = log if first else _silent
    first_vae, model, words = beginning(config)
    with first_process_first():
        data.extend(work / "corpus", config.images, size=config.size, compiled=config.compiled, log=log)
    corpus = data.load(work / "corpus", config.images)
    vae = autoencoder.train(
        corpus, work, config.autoencoder, config.autoencoder_rates, device=device, seed=config.seed, resume=resume,
        model=first_vae, further=config.start is not None, log=log,
    )  # fmt: skip
    if config.denoiser.steps or (resume and (work / "denoiser.pt").exists()):
        with first_process_first():
            latents = denoiser.encode_corpus(corpus, vae.module, words, work / "latents.safetensors", log)
        with fresh_pictures(config, cuda) as fresh:
            trained = denoiser.train(
                latents, words, vae.module, work, config.denoiser, config.denoiser_rates, model=model, device=device,
                seed=config.seed, compiled=config.compiled and cuda, resume=resume, class_power=config.class_power,
                fresh=fresh, snapshot=lambda average: save(out, vae.module, average, words), log=log,
            )  # fmt: skip
    else:
        trained = Fitted(model.to(device), 0, 0.0, math.nan)
    measures = measure(vae, trained, words, config)
    if not first:
        return measures
    save(out, vae.module, trained.module, words)
    (out / "README.md").write_text(card(config, measures), "utf-8")
    log(f"saved {out}: {measures.psnr_db:.1f} dB, {measures.seconds_an_image:.2f} s an image")
    return measures


def beginning(config: PretrainConfig) -> tuple[AutoencoderKL, Denoiser, CLIPTokenizer]:
    """What training begins with: untrained networks and the tokenizer of the captions, or `config.start`.

    Raises ModelError for a start that is no Stable Diffusion pipeline of this layout.
    """
    torch.manual_seed(config.seed)
    if config.start is None:
        words = learn_words()
        vae = autoencoder.new(config.autoencoder_channels, config.size)
        torch.manual_seed(config.seed)
        model = denoiser.new(
            words,
            size=config.size,
            channels=config.denoiser_channels,
            width=config.text_width,
            layers=config.text_layers,
        )
        return vae, model, words
    if not config.start.is_dir():
        raise ModelError(f"There is no folder {config.start} to go on from; name an embedded model or a folder.")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            str(config.start), local_files_only=True, dtype=torch.float32, use_safetensors=True, safety_checker=None
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"Training cannot go on from {config.start}: {first_line(error).rstrip('.')}.") from error
    if pipe.vae.config["latent_channels"] != autoencoder.CHANNELS:
        raise ModelError(
            f"Training cannot go on from {config.start}: its autoencoder has {pipe.vae.config['latent_channels']} "
            f"channels where toybox-sd has {autoencoder.CHANNELS}."
        )
    return pipe.vae, Denoiser(pipe.unet, pipe.text_encoder), pipe.tokenizer


def _silent(_line: str) -> None: ...


@contextmanager
def fresh_pictures(config: PretrainConfig, wanted: bool) -> Generator[Callable[[], list[data.Corpus]]]:
    """Gives the pictures rendered since the last call, of scenes that the corpus does not hold; none unless wanted."""
    if not wanted:
        yield list
        return
    first = -(-config.images // data.SHARD)
    stream = data.Stream(first, config.size, max(1, data.usable_cores() - 2), config.compiled)
    try:
        yield stream.take
    finally:
        stream.close()


def learn_words(scenes: int = 20_000) -> CLIPTokenizer:
    """The tokenizer of the captions of as many scenes; however many pictures there are, it is the same."""
    return tokenizer.build(captions.caption(captions.sample_scene(seed), seed=seed) for seed in range(scenes))


def save(out: Path, vae: AutoencoderKL, model: Denoiser, words: CLIPTokenizer) -> None:
    """Write the pipeline in float16, whole or not at all. The text encoder's configuration asks for float32, else
    transformers 5 would load it in float16 beside a U-Net that diffusers loads in float32."""
    draft = out.with_name(out.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    halves = copy.deepcopy(vae), copy.deepcopy(model)
    for part in halves:
        for tensor in (*part.parameters(), *part.buffers()):
            tensor.data = tensor.data.to("cpu", torch.float16 if tensor.is_floating_point() else tensor.dtype)
    denoiser.pipeline(*halves, words).save_pretrained(draft)
    tokenizer.save(words, draft / "tokenizer")
    config = draft / "text_encoder" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"float16"', '"float32"'), "utf-8")
    for path in draft.rglob("config.json"):  # diffusers would tell the world where `start` lay on this machine
        facts = json.loads(path.read_text("utf-8"))
        facts.pop("_name_or_path", None)
        path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def measure(
    vae: Fitted[AutoencoderKL], trained: Fitted[Denoiser], words: CLIPTokenizer, config: PretrainConfig
) -> Measures:
    """Reconstruction of UNSEEN unseen individuals, and the time of one picture of 25 guided steps."""
    device = vae.module.device
    scenes = [captions.sample_scene(seed, held_out=True) for seed in range(UNSEEN)]
    unseen = world.draw(scenes, size=config.size, device=device).images * 2 - 1
    psnr = autoencoder.psnr(autoencoder.reconstruct(vae.module, unseen), unseen).mean().item()
    pipe = denoiser.pipeline(vae.module, trained.module, words)
    denoiser.sample(pipe, ["a dog"], steps=2)
    start = time.perf_counter()
    denoiser.sample(pipe, ["a dog", "a cat", "a teapot", "a car"])
    return Measures(vae, trained, psnr, (time.perf_counter() - start) / 4, f"{device.type}, {platform.machine()}")


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# {name}

A text-to-image model small enough to live inside the package: a `StableDiffusionPipeline` with a small
configuration, trained from nothing on *toybox*, a procedural world of ray-traced toys that the package renders.
It knows toys, in the DreamBench places, and nothing else; it is for demonstrations, tests and studies of
DreamBooth, not for pictures of the real world. No photo and no foreign weights went into it.

| | |
|---|---|
| data | {images} pictures of {size} px, rendered and captioned by `dreambooth.toybox` |
| autoencoder | {vae_size:.2f} M parameters, {channels} channels at an eighth of the size, scaling factor 1 |
| its training | {vae_training} |
| its reconstruction | {psnr:.1f} dB PSNR on {unseen} individuals that training never showed |
| U-Net | {unet_size:.2f} M parameters, predicts v |
| text encoder | {text_size:.2f} M parameters, {vocabulary} tokens, the last 512 before the special ones rare words |
| their training | {training} |
| begun with | {start} |
| device | {device} |
| one picture | {seconds:.2f} s (25 DDIM steps with guidance 4, batch 4, bfloat16) |

Losses. Autoencoder: absolute error at four scales, of edges and of chroma, KL {kl:g}. Denoiser: squared error of v,
weighted 1 + 4 x mask by latent pixel, at times whose log SNR is normal ({log_snr}); a tenth of the captions empty, a
tenth with a rare word before the class noun (every other rare word is kept back and never seen). Both with Muon (AdamW
for first and last layers, embeddings, norms and biases). The weights are moving averages.

Made by `dreambooth toybox pretrain`.
"""


def _training(fitted: Fitted[Any], rates: Optimisation) -> str:
    """What a stage took, for the model card."""
    if not fitted.steps:
        return "none: as it was"
    return f"{fitted.steps:,} steps of {rates.batch}, {fitted.seconds / 60:.0f} min, final loss {fitted.loss:.4f}"


def card(config: PretrainConfig, measures: Measures) -> str:
    """The model card, from what was measured."""
    model, vae = measures.denoiser.module, measures.autoencoder.module
    return CARD.format(
        name="toybox-sd",
        images=f"{config.images:,}",
        start="nothing" if config.start is None else f"the weights of {config.start.name}, trained before",
        size=config.size,
        vae_size=_millions(vae),
        vae_training=_training(measures.autoencoder, config.autoencoder_rates),
        psnr=measures.psnr_db,
        unet_size=_millions(model.unet),
        text_size=_millions(model.text_encoder),
        vocabulary=model.text_encoder.config.vocab_size,
        training=_training(measures.denoiser, config.denoiser_rates),
        device=measures.device,
        seconds=measures.seconds_an_image,
        unseen=UNSEEN,
        kl=autoencoder.KL,
        channels=autoencoder.CHANNELS,
        log_snr="mean {:g}, deviation {:g}".format(*denoiser.LOG_SNR),
    )


def _millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
