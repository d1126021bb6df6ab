"""The toybox's denoiser: a small U-Net and its CLIP text encoder, trained together from nothing on latents."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth.attention import PlainAttention
from dreambooth.toybox import autoencoder
from dreambooth.toybox.data import PLACEHOLDER, SIDED, Corpus, generator
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit, processes
from dreambooth.toybox.sheets import save_sheet
from dreambooth.toybox.tokenizer import rare_words

SUBJECT_WEIGHT = 4.0
"""A latent pixel that shows the subject weighs 1 + this."""
EMPTY, RARE = 0.1, 0.1
"""Shares of empty captions and of captions with a rare word."""
AT_ONCE = 2048
"""Pictures encoded between two lines of the log."""
LOG_SNR = (-1.0, 2.2)
"""Mean and deviation of the log signal-to-noise ratio at which the denoiser is trained."""
PROBED = 2048
"""Pictures that tell how hard each class is."""
PROMPTS = (
    "a dog", "a cat", "a teapot", "a robot", "a red car", "a backpack", "a stuffed animal", "a sneaker", "a duck",
    "a dog in the snow", "a cat on the beach", "a teapot on top of a wooden floor", "a robot in the jungle",
    "a clock with a city in the background", "a vase with the Eiffel Tower in the background", "a blue boot",
    "a cat wearing a santa hat", "a dog wearing a red hat", "a painting of a dog", "a dog seen from behind",
    "a duck floating on top of water", "a shiny can", "a zqk dog", "a zqk teapot on the beach",
)  # fmt: skip
"""What the sample sheets show."""


@dataclass(frozen=True)
class Latents:
    """A corpus as the denoiser sees it, on its device.

    values: [2, N, C, h, w], float16; the second half of mirrored pictures.
    masks: [N, 1, h, w], the subject's share, uint8 of 255ths.
    tokens: [N, V, L], int16, of each caption; the last one holds the placeholder's token before the class noun.
    sided: [N, V], whether a caption says left or right, so that the mirrored picture would be wrong.
    """

    values: Tensor
    masks: Tensor
    tokens: Tensor
    sided: Tensor

    def to(self, device: torch.device | str) -> "Latents":
        return Latents(*(part.to(device) for part in (self.values, self.masks, self.tokens, self.sided)))

    def replace(self, first: int, fresh: "Latents") -> int:
        """Put other pictures in the place of rows `first` onwards, round the end; returns the row after them."""
        count = len(self.masks)
        rows = (first + torch.arange(len(fresh.masks), device=self.masks.device)) % count
        self.values[:, rows] = fresh.values.to(self.values)
        self.masks[rows], self.tokens[rows] = fresh.masks.to(self.masks), fresh.tokens.to(self.tokens)
        self.sided[rows] = fresh.sided.to(self.sided)
        return (first + len(fresh.masks)) % count


@dataclass(frozen=True)
class Words:
    """What the choice of captions needs from the tokenizer, as tensors: the rare words' tokens [R], the placeholder's,
    and the empty caption [L]."""

    rare: Tensor
    placeholder: int
    empty: Tensor

    @staticmethod
    def of(tokenizer: CLIPTokenizer, device: torch.device | str = "cpu") -> "Words":
        """Every other rare word is left out: it is never seen in training, as an identifier should be."""
        rare = [_token(tokenizer, word) for word in rare_words(tokenizer)]
        return Words(torch.tensor(rare[::2], device=device), rare[0], tokens(tokenizer, [""])[0].to(device))


def _token(tokenizer: CLIPTokenizer, word: str) -> int:
    return tokenizer(word).input_ids[1]


class Denoiser(nn.Module):
    """U-Net and text encoder as one module, so that one optimiser and one average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy [B, C, h, w], timesteps [B] in 0..999, tokens [B, L] -> predicted v [B, C, h, w]."""
        return self.unet(noisy, timesteps, self.text_encoder(tokens)[0], return_dict=False)[0]


def new(
    tokenizer: CLIPTokenizer, *, size: int = 128, channels: tuple[int, ...] = (96, 160), width: int = 160,
    layers: int = 3, head: int = 32, latent_channels: int = autoencoder.CHANNELS,
) -> Denoiser:  # fmt: skip
    """An untrained denoiser for pictures of `size` pixels. Attention stands at a 16th of the size and below: at an
    eighth it would halve the images a second."""
    lower = len(channels) - 1
    heads: Any = tuple(max(1, count // head) for count in channels)
    unet = UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * lower),
        up_block_types=(*["CrossAttnUpBlock2D"] * lower, "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=heads,
    )
    start, end = len(tokenizer) - 2, len(tokenizer) - 1
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 40),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return Denoiser(unet, CLIPTextModel(text))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v as the target; trailing steps begin at pure noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [B, L], padded to the tokenizer's length as Stable Diffusion pads them."""
    return tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def encode_corpus(
    corpus: Corpus, vae: AutoencoderKL, tokenizer: CLIPTokenizer, path: Path | None = None, log: Log = print
) -> Latents:
    """Encode the pictures and their mirror images once, and their captions; `path` keeps the result for the same
    corpus and weights. The latents stay on the CPU."""
    weight = sum(float(value.double().abs().sum()) for value in vae.state_dict().values())
    stamp = {"pictures": str(len(corpus)), "weights": f"{weight:.6f}"}
    words = _encode_captions(corpus.captions, tokenizer)
    if path is not None and path.exists():
        stored = load_file(path)
        if stored["stamp"].numpy().tobytes().decode() == str(stamp):
            return Latents(stored["values"], corpus.masks, *words)
    parts, start = list[Tensor](), time.monotonic()
    for images in corpus.images.split(AT_ONCE):
        with torch.autocast(vae.device.type, torch.bfloat16):
            ways = [autoencoder.encode(vae, way) for way in (images, images.flip(-1))]
        parts.append(torch.stack(ways).half())
        done = min(len(parts) * AT_ONCE, len(corpus))
        if path is not None:
            left = (time.monotonic() - start) * (len(corpus) / done - 1) / 60
            log(f"latents: {done} of {len(corpus)} pictures, both ways round, {left:.0f} min left")
    values = torch.cat(parts, 1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        save_file({"values": values, "stamp": torch.tensor(list(str(stamp).encode()), dtype=torch.uint8)}, draft)
        os.replace(draft, path)
    return Latents(values, corpus.masks, *words)


def _encode_captions(captions: list[list[str]], tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Tokens [N, V, L] in int16 and whether a side is named [N, V]."""
    flat = [text.replace(PLACEHOLDER, rare_words(tokenizer)[0]) for texts in captions for text in texts]
    sided = torch.tensor([SIDED.search(text) is not None for text in flat])
    ids = tokens(tokenizer, flat).to(torch.int16)
    return ids.view(len(captions), -1, ids.shape[-1]), sided.view(len(captions), -1)


def batch(
    latents: Latents, words: Words, draw: torch.Generator, count: int, empty_share: float = EMPTY,
    shares: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Clean latents [B, C, h, w], masks [B, 1, h, w] in 0..1 and tokens [B, L]; mirrored where no side is named.

    `empty_share` of the captions is empty (for guidance) and a tenth has a rare word before the class noun, a different
    one each time, so that an unknown word stays harmless. Pictures come in proportion to their `shares` [N], or alike.
    """
    where: dict[str, Any] = {"generator": draw, "device": draw.device}
    variants = latents.tokens.shape[1]
    if shares is None:
        rows = torch.randint(len(latents.masks), (count,), **where)
    else:
        rows = torch.multinomial(shares, count, replacement=True, generator=draw)
    kind = torch.rand(count, **where)
    variant = torch.where(kind < RARE, variants - 1, torch.randint(variants - 1, (count,), **where))
    chosen = latents.tokens[rows, variant].long()
    strange = words.rare[torch.randint(len(words.rare), (count, 1), **where)]
    chosen = torch.where((kind < RARE).view(-1, 1) & (chosen == words.placeholder), strange, chosen)
    empty = kind > 1 - empty_share
    chosen = torch.where(empty.view(-1, 1), words.empty, chosen)
    mirrored = (torch.rand(count, **where) < 0.5) & (~latents.sided[rows, variant] | empty)
    clean = latents.values[mirrored.long(), rows].float()
    masks = latents.masks[rows].float() / 255
    return clean, torch.where(mirrored.view(-1, 1, 1, 1), masks.flip(-1), masks), chosen


def nouns(latents: Latents, words: Words) -> Tensor:
    """The first token of each picture's class noun [N]: the one after the placeholder in its last caption."""
    last = latents.tokens[:, -1].long()
    place = (last == words.placeholder).int().argmax(1, keepdim=True)
    return last.gather(1, place + 1).squeeze(1)


@torch.no_grad()
def class_weights(model: Denoiser, latents: Latents, words: Words, power: float, seed: int = 0) -> Tensor:
    """How often to show a class [tokens of the vocabulary, 1 where unknown]: in proportion to this power of how badly
    `model` draws it, the error of v on the subject of PROBED pictures at the log SNR in the middle of training."""
    noise_schedule = scheduler()
    alphas = noise_schedule.alphas_cumprod
    middle = times_at((alphas / (1 - alphas)).log(), torch.tensor([LOG_SNR[0]])).to(latents.masks.device)
    count = min(PROBED, len(latents.masks))
    errors = torch.zeros(count, device=latents.masks.device)
    for rows in torch.arange(count, device=errors.device).split(64):
        clean = latents.values[0, rows].float()
        draw = generator(seed, "class weights", int(rows[0]), clean.device)
        noise = torch.randn(clean.shape, generator=draw, device=clean.device)
        times = cast("torch.IntTensor", middle.expand(len(clean)))
        with torch.autocast(clean.device.type, torch.bfloat16):
            found = model(noise_schedule.add_noise(clean, noise, times), times, latents.tokens[rows, 0].long())
        squared = (found.float() - noise_schedule.get_velocity(clean, noise, times)).square().mean(1, keepdim=True)
        inside = latents.masks[rows].float() / 255
        errors[rows] = (squared * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)
    kinds, which = nouns(latents, words)[:count].unique(return_inverse=True)
    weights = torch.ones(model.text_encoder.config.vocab_size, device=errors.device)
    means = torch.bincount(which, errors) / torch.bincount(which)
    weights[kinds] = (means / means.mean()).pow(power)
    return weights


def v_error(predicted: Tensor, target: Tensor, masks: Tensor, subject_weight: float = SUBJECT_WEIGHT) -> Tensor:
    """Squared error of v, one value a row: the subject's pixels weigh 1 + `subject_weight`.

    predicted, target [B, C, h, w]; masks [B, 1, h, w].
    """
    weights = 1 + subject_weight * masks
    squared = (predicted - target).square().mean(1, keepdim=True)
    return (squared * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))


def draw_timesteps(log_snr: Tensor, count: int, draw: torch.Generator, normal: tuple[float, float] = LOG_SNR) -> Tensor:
    """Timesteps [count] whose log signal-to-noise ratio has mean and deviation `normal` (Karras et al. 2022, section 5,
    in v's terms): what a picture shows is settled at middling noise, and equal chances for all times would spend most
    steps where there is little to learn. log_snr [T] falls with time."""
    mean, deviation = normal
    wanted = mean + deviation * torch.randn(count, generator=draw, device=draw.device)
    return times_at(log_snr, wanted)


def times_at(log_snr: Tensor, wanted: Tensor) -> Tensor:
    """The timesteps [B] at wanted log signal-to-noise ratios [B]; log_snr [T] falls with time."""
    return (len(log_snr) - torch.searchsorted(log_snr.flip(0).contiguous(), wanted)).clamp(0, len(log_snr) - 1)


def train(
    latents: Latents, tokenizer: CLIPTokenizer, vae: AutoencoderKL, folder: Path, budget: Budget, rates: Optimisation,
    *, model: Denoiser | None = None, device: str = "cpu", seed: int = 0, compiled: bool = False, resume: bool = True,
    class_power: float = 0.0, fresh: Callable[[], list[Corpus]] = list,
    snapshot: Callable[[Denoiser], None] | None = None, log: Log = print,
) -> Fitted[Denoiser]:  # fmt: skip
    """Train U-Net and text encoder together; `snapshot` is given the averaged weights at every checkpoint.

    `fresh` may give new pictures at each step; they take the place of the oldest ones. With a `class_power` above 0 the
    classes that `model` draws badly are shown more often (see `class_weights`).
    """
    torch.manual_seed(seed)
    denoiser = (model or new(tokenizer, size=8 * latents.values.shape[-1])).to(device)
    noise_schedule = scheduler()
    noise_schedule.alphas_cumprod = noise_schedule.alphas_cumprod.to(device)
    alphas = noise_schedule.alphas_cumprod
    log_snr = (alphas / (1 - alphas)).log()
    latents, words = latents.to(device), Words.of(tokenizer, device)
    if device == "cpu":
        without_fused_attention(denoiser)
    forward = torch.compile(denoiser) if compiled else denoiser
    rank, count = processes()
    oldest = 0
    weights = class_weights(denoiser, latents, words, class_power, seed) if class_power else None
    shares = None if weights is None else weights[nouns(latents, words)]
    if shares is not None:
        uneven = (shares.max() / shares.min()).item()
        log(f"denoiser: the class drawn worst is shown {uneven:.1f} times as often as the one drawn best")

    def loss(step: int, _progress: float) -> Tensor:
        nonlocal oldest, shares
        for corpus in fresh():
            oldest = latents.replace(oldest, encode_corpus(corpus, vae, tokenizer))
            shares = None if weights is None else weights[nouns(latents, words)]
        draw = generator(seed, f"denoiser/{rank}" if rank else "denoiser", step, device)
        clean, masks, text = batch(latents, words, draw, rates.batch // count, shares=shares)
        noise = torch.randn(clean.shape, generator=draw, device=device)
        timesteps = cast("torch.IntTensor", draw_timesteps(log_snr, len(clean), draw))
        noisy = noise_schedule.add_noise(clean, noise, timesteps)
        target = noise_schedule.get_velocity(clean, noise, timesteps)
        with torch.autocast(device, torch.bfloat16):
            predicted = forward(noisy, timesteps, text)
        return v_error(predicted.float(), target, masks).mean()

    def sheet(average: Denoiser, path: Path) -> None:
        save_sheet(sample(pipeline(vae, average, tokenizer), list(PROMPTS), seed=seed), path, columns=8)
        if snapshot is not None:
            snapshot(average)

    return fit("denoiser", denoiser, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)


def without_fused_attention(denoiser: Denoiser) -> None:
    """Attention as plain products while it is trained: so few positions take the fused kernel of a CPU twice the time
    of a whole step, most of it in its backward pass. Neither is kept in a saved model."""
    PlainAttention(denoiser.unet, denoiser.unet.config["sample_size"] ** 2).switch(True)
    denoiser.text_encoder.set_attn_implementation("eager")


def pipeline(vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as an ordinary StableDiffusionPipeline."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def sample(pipe: StableDiffusionPipeline, prompts: list[str], *, steps: int = 25, guidance: float = 4.0,
           seed: int = 0) -> Tensor:  # fmt: skip
    """One picture a prompt, [N, 3, H, W] in -1..1, in bfloat16 autocast."""
    pipe.set_progress_bar_config(disable=True)
    draws = [torch.Generator().manual_seed(seed * 1000 + index) for index in range(len(prompts))]
    with torch.inference_mode(), torch.autocast(pipe.device.type, torch.bfloat16):
        output: Any = pipe(
            prompts, num_inference_steps=steps, guidance_scale=guidance, generator=draws, output_type="pt"
        )
    return output.images.float() * 2 - 1
