"""The base of toybox's cascade: a small pixel-space U-Net at 64 px and its T5 text encoder, trained together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from dreambooth.toybox.data import PLACEHOLDER, SIDED, Corpus, generator
from dreambooth.toybox.denoiser import PROMPTS, Latents, Words, batch, draw_timesteps, v_error
from dreambooth.toybox.fit import Budget, Fitted, Log, Optimisation, fit, processes
from dreambooth.toybox.sheets import save_sheet
from dreambooth.toybox.unigram import rare_words

SIZE = 64
LOG_SNR = (-2.5, 2.2)
"""Mean and deviation of the log signal-to-noise ratio in training. Pixels, unlike latents, repeat their neighbours, so
the same noise hides less of what a picture shows, and more of it is needed to learn that (Hoogeboom et al. 2023)."""
CHANNELS = 3
BLOCKS = (16, 32, 96, 112)


class Pixels(nn.Module):
    """U-Net and text encoder as one module, so that one optimiser and one average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: T5EncoderModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy [B, 3, H, W], timesteps [B] in 0..999, tokens [B, L] -> predicted v [B, 3, H, W]."""
        predicted = self.unet(noisy, timesteps, read(self.text_encoder, tokens), return_dict=False)[0]
        return predicted[:, :CHANNELS]


def read(text_encoder: T5EncoderModel, tokens: Tensor) -> Tensor:
    """Hidden states [B, L, D] of tokens [B, L], as `IFPipeline` makes them."""
    mask = (tokens != text_encoder.config.pad_token_id).long()
    return text_encoder(input_ids=tokens, attention_mask=mask)[0]


def new(tokenizer: T5Tokenizer, *, size: int = SIZE, channels: tuple[int, ...] = BLOCKS, width: int = 128,
        layers: int = 3) -> Pixels:  # fmt: skip
    """An untrained base. The words reach every layer with the time (as in Imagen's pooled text) and, at the smallest
    size, by attention. Half of the output is a learned variance's place, as in IF: it stays zero, the geometric mean
    of both bounds of the posterior's variance."""
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        block_out_channels=channels,
        down_block_types=(*["DownBlock2D"] * (len(channels) - 1), "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * (len(channels) - 1)),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=width,
        attention_head_dim=cast(Any, tuple(max(1, count // 28) for count in channels)),
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    no_variance(unet)
    return Pixels(unet, new_text_encoder(tokenizer, width, layers))


def new_text_encoder(tokenizer: T5Tokenizer, width: int, layers: int) -> T5EncoderModel:
    """An untrained T5 encoder for the tokenizer."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=32,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=max(1, width // 32),
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


@torch.no_grad()
def no_variance(unet: UNet2DConditionModel) -> None:
    """Zeros where a model with a learned variance predicts it; no loss reaches these weights."""
    last: Any = unet.conv_out
    last.weight[CHANNELS:] = 0
    last.bias[CHANNELS:] = 0


def scheduler(thresholding: bool = True) -> DDPMScheduler:
    """Imagen's cosine schedule with v as the target, and its dynamic thresholding (Saharia et al. 2022, 2.3)."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        variance_type="learned_range",
        clip_sample=False,
        thresholding=thresholding,
        dynamic_thresholding_ratio=0.99,
        sample_max_value=1.5,
        timestep_spacing="trailing",
    )


def tokens(tokenizer: T5Tokenizer, texts: list[str]) -> Tensor:
    """Token ids [B, L], in lower case and padded to the tokenizer's length as `IFPipeline` does."""
    lowered = [text.lower().strip() for text in texts]
    length = tokenizer.model_max_length
    return tokenizer(lowered, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def words_of(tokenizer: T5Tokenizer, device: torch.device | str = "cpu") -> Words:
    """Every other rare word is left out: it is never seen in training, as an identifier should be."""
    rare = [int(tokenizer(word, add_special_tokens=False).input_ids[0]) for word in rare_words(tokenizer)]
    return Words(torch.tensor(rare[::2], device=device), rare[0], tokens(tokenizer, [""])[0].to(device))


def encode_captions(captions: list[list[str]], tokenizer: T5Tokenizer) -> tuple[Tensor, Tensor]:
    """Tokens [N, V, L] in int16 and whether a side is named [N, V]."""
    flat = [text.replace(PLACEHOLDER, rare_words(tokenizer)[0]) for texts in captions for text in texts]
    sided = torch.tensor([SIDED.search(text) is not None for text in flat])
    ids = tokens(tokenizer, flat).to(torch.int16)
    return ids.view(len(captions), -1, ids.shape[-1]), sided.view(len(captions), -1)


def examples(corpus: Corpus, tokenizer: T5Tokenizer, size: int = SIZE) -> Latents:
    """The corpus at `size` pixels, both ways round, in -1..1."""
    parts = [F.interpolate(part.float(), (size, size), mode="area") for part in corpus.images.split(512)]
    small = torch.cat([(part / 127.5 - 1).half() for part in parts])
    masks = torch.cat([F.interpolate(part.float(), (size, size)).to(torch.uint8) for part in corpus.masks.split(512)])
    return Latents(torch.stack([small, small.flip(-1)]), masks, *encode_captions(corpus.captions, tokenizer))


def train(
    data: Latents, tokenizer: T5Tokenizer, folder: Path, budget: Budget, rates: Optimisation, *,
    model: Pixels | None = None, device: str = "cpu", seed: int = 0, compiled: bool = False, resume: bool = True,
    snapshot: Callable[[Pixels], None] | None = None, log: Log = print,
) -> Fitted[Pixels]:  # fmt: skip
    """Train U-Net and text encoder together on v; `snapshot` is given the averaged weights at every checkpoint."""
    torch.manual_seed(seed)
    pixels = (model or new(tokenizer, size=data.values.shape[-1])).to(device)
    schedule = scheduler()
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(device)
    log_snr = log_snr_of(schedule)
    data, words = data.to(device), words_of(tokenizer, device)
    if device == "cpu":
        pixels.unet.set_attn_processor(AttnProcessor())  # with so few pixels the fused one takes twice as long
    forward = torch.compile(pixels) if compiled else pixels
    rank, count = processes()

    def loss(step: int, _progress: float) -> Tensor:
        draw = generator(seed, f"base/{rank}", step, device)
        clean, masks, text = batch(data, words, draw, rates.batch // count)
        noise = torch.randn(clean.shape, generator=draw, device=device)
        timesteps = cast("torch.IntTensor", draw_timesteps(log_snr, len(clean), draw, LOG_SNR))
        noisy = schedule.add_noise(clean, noise, timesteps)
        with torch.autocast(device, torch.bfloat16):
            predicted = forward(noisy, timesteps, text)
        return v_error(predicted.float(), schedule.get_velocity(clean, noise, timesteps), masks).mean()

    def sheet(average: Pixels, path: Path) -> None:
        save_sheet(sample(pipeline(average, tokenizer), list(PROMPTS), seed=seed), path, columns=8)
        if snapshot is not None:
            snapshot(average)

    return fit("base", pixels, loss, budget, rates, folder, resume=resume, sheet=sheet, log=log)


def log_snr_of(schedule: DDPMScheduler) -> Tensor:
    """The log signal-to-noise ratio of each timestep [T]."""
    alphas = schedule.alphas_cumprod
    return (alphas / (1 - alphas)).log()


def pipeline(model: Pixels, tokenizer: T5Tokenizer) -> IFPipeline:
    """The parts as an ordinary IFPipeline."""
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=model.text_encoder,
        unet=model.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def sample(pipe: Any, prompts: list[str], *, steps: int = 25, guidance: float = 4.0, seed: int = 0,
           **more: Any) -> Tensor:  # fmt: skip
    """One picture a prompt, [N, 3, H, W] in -1..1, by DPM-Solver++ in bfloat16 autocast."""
    from diffusers import DPMSolverMultistepScheduler

    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    # Without a learned variance in the schedule the pipeline drops the channels that are its place.
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(own.config, variance_type=None)
    draws = [torch.Generator().manual_seed(seed * 1000 + index) for index in range(len(prompts))]
    try:
        with torch.inference_mode(), torch.autocast(pipe.device.type, torch.bfloat16):
            output: Any = pipe(
                prompt=prompts, num_inference_steps=steps, guidance_scale=guidance, generator=draws, output_type="pt",
                clean_caption=False,
                **more,
            )  # fmt: skip
    finally:
        pipe.scheduler = own
    return output.images.float()
