"""Latent diffusion in diffusers' layout: an AutoencoderKL, CLIP text encoders, a U-Net; what its families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambooth import transfer
from dreambooth.backbones.protocol import Conditioning, LoraTargets, Recipe, Sampler, Sampling, Spec, Stage
from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.precision import autocast
from dreambooth.process import RectifiedFlow, from_scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

# Below this many parameters a denoiser is an embedded one, and a higher rate and fewer steps serve it better.
SMALL_DENOISER = 100_000_000
# Of all pictures that go through the autoencoder at once: in float32 one of 512 pixels a side takes 0.8 GB.
MOST_PIXELS = 1 << 18
# Of all pictures that are drawn at once: sixteen of 512 pixels a side, four of 1024.
MOST_DRAWN_PIXELS = 1 << 22

DENOISER_LAYERS = LoraTargets(
    "unet",
    attention=("to_q", "to_k", "to_v", "to_out.0"),
    linear=("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    convolutions=("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
)
CLIP_LAYERS = LoraTargets("text_encoder", attention=("q_proj", "k_proj", "v_proj", "out_proj"), linear=("fc1", "fc2"))

# What a small denoiser is trained and drawn with, whatever its family; measured on the embedded model.
SMALL: dict[str, Any] = {
    "learning_rate": 2e-4,
    "max_train_steps": 300,
    # Without it a small denoiser can tell the rare word from the bare class only by unlearning the class.
    "text_encoder_share": 1.0,
    "lora_text_share": 0.25,
    "averaged": True,  # at so high a rate one step's weights differ from the next one's in what they draw
    "unprompted_share": 0.25,
    "composed_share": 0.5,
    "train_batch_size": 4,
    "num_class_images": 64,
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "sampler": "dpm++",
    "textual_inversion": Recipe(5e-3, 400, 4),
    "lora": Recipe(1e-3, 300, 4),
}


class Words(Protocol):
    """How one family reads prompts, and how its U-Net and its pipeline are told what it read."""

    encoders: tuple[str, ...]
    """The pipeline's text encoders by name; each has a tokenizer of the same ending."""

    def read(self, prompts: Sequence[str], resolution: int) -> Conditioning:
        """One row of conditioning a prompt, for pictures of so many pixels a side."""
        ...

    def for_unet(self, conditioning: Conditioning) -> dict[str, Any]:
        """The U-Net's arguments beside the noisy latents and their times."""
        ...

    def for_pipeline(self, prompts: Sequence[str], sampling: Sampling, resolution: int) -> dict[str, Any]:
        """The pipeline's arguments that say what is drawn, and what is not."""
        ...


class LatentDiffusion:
    """A diffusers pipeline of such a family behind the `Backbone` protocol."""

    def __init__(self, pipeline: Any, source: Source, words: Words, spec: Spec) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.source, self.words = pipeline, source, words
        self.process = from_scheduler(pipeline.scheduler)
        # Diffusers' pipelines of U-Nets can follow a flow by this sampler, and not by the flow's own scheduler.
        self.spec = replace(spec, sampler="dpm++") if isinstance(self.process, RectifiedFlow) else spec
        self._spares = False
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    @property
    def modules(self) -> dict[str, nn.Module]:
        encoders = {name: getattr(self.pipeline, name) for name in self.words.encoders}
        return {"denoiser": self.pipeline.unet} | encoders | {"autoencoder": self.pipeline.vae}

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return tuple(getattr(self.pipeline, tokenizer_of(name)) for name in self.words.encoders)

    @tokenizers.setter
    def tokenizers(self, tokenizers: tuple[Any, ...]) -> None:
        for name, tokenizer in zip(self.words.encoders, tokenizers, strict=True):
            setattr(self.pipeline, tokenizer_of(name), tokenizer)

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    def to(self, device: torch.device | str) -> None:
        self.pipeline.to(device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        vae, parts = self.pipeline.vae, pixels.split(self._rows_at_once)
        with self._autoencoder_alone():
            # The posterior's mode: its standard deviation is far below the smallest noise level trained on.
            modes = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist.mode() for part in parts]
        return normalised(torch.cat(modes), vae)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> list[Image]:
        vae = self.pipeline.vae
        codes = denormalised(latents.to(vae.device, vae.dtype), vae)
        with self._autoencoder_alone():
            pixels = torch.cat([vae.decode(part).sample for part in codes.split(self._rows_at_once)])
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    def _autoencoder_alone(self) -> AbstractContextManager[None]:
        """The others wait in host memory, where memory is spared: SDXL's take twice as much as decoding does."""
        others = [module for name, module in self.modules.items() if name != "autoencoder"]
        return transfer.waiting(others, self.device) if self._spares else nullcontext()

    @property
    def _rows_at_once(self) -> int:
        return max(1, MOST_PIXELS // self.spec.resolution**2)

    def stage(self, name: Stage) -> LatentDiffusion:
        return self

    def count_tokens(self, prompt: str) -> int:
        return max(len(tokenizer(self._written_out(prompt, tokenizer)).input_ids) for tokenizer in self.tokenizers)

    def _written_out(self, prompt: str, tokenizer: Any) -> str:
        return self.pipeline.maybe_convert_prompt(prompt, tokenizer)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return self.words.read(prompts, self.spec.resolution)

    def release_text_encoder(self) -> None:
        """Keeps them: they are small, and may be trained."""

    def conditioned_on(
        self, conditioning: Conditioning, clean: Tensor, draws: Sequence[torch.Generator]
    ) -> Conditioning:
        return conditioning

    def denoise(self, noisy: Tensor, model_time: Tensor, conditioning: Conditioning) -> Tensor:
        return self.pipeline.unet(noisy, model_time, **self.words.for_unet(conditioning), return_dict=False)[0]

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> list[Image]:
        return self.decode_latents(self.sample_latents(prompts, seeds, sampling, on_step))

    @torch.no_grad()
    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        rows = 1 if self._spares else max(1, MOST_DRAWN_PIXELS // self.spec.resolution**2)
        if len(prompts) > rows:
            starts = range(0, len(prompts), rows)
            parts = [(prompts[start : start + rows], seeds[start : start + rows]) for start in starts]
            return torch.cat([self.sample_latents(*part, sampling, on_step) for part in parts])
        pipeline, own_scheduler = self.pipeline, self.pipeline.scheduler

        def tick(_pipe: Any, _step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step()
            return kwargs

        if sampling.sampler is not None or isinstance(self.process, RectifiedFlow):
            pipeline.scheduler = make_scheduler(sampling.sampler or self.spec.sampler, own_scheduler)
        training = [module for module in self.modules.values() if module.training]
        for module in training:
            module.eval()
        try:
            with autocast(sampling.mixed_precision, self.device):
                return pipeline(
                    **self.words.for_pipeline(prompts, sampling, self.spec.resolution),
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                    # One CPU generator a picture: the same noise on any device and in any batch.
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                    height=self.spec.resolution,
                    width=self.spec.resolution,
                    output_type="latent",
                    callback_on_step_end=tick,
                ).images
        finally:
            pipeline.scheduler = own_scheduler
            for module in training:
                module.train()

    def set_resolution(self, resolution: int) -> None:
        scale = self.spec.resolution // self.spec.native_size[-1]
        step = scale * 2 ** (len(self.pipeline.unet.config.down_block_types) - 1)
        if resolution % step:
            raise ModelError(f"The resolution must be a multiple of {step} for this model; {resolution} is not.")
        size = resolution // scale
        self.spec = replace(self.spec, resolution=resolution, native_size=(self.spec.native_size[0], size, size))

    def spare_memory(self, on: bool) -> None:
        self._spares = on and transfer.has_own_memory(self.device)

    def enable_gradient_checkpointing(self) -> None:
        self.pipeline.unet.enable_gradient_checkpointing()
        for name in self.words.encoders:
            encoder = getattr(self.pipeline, name)
            if any(parameter.requires_grad for parameter in encoder.parameters()):
                # Its name since transformers 5; the older one warns there.
                getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()

    def save_pipeline(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder, safe_serialization=True)
        for name, tokenizer in zip(self.words.encoders, self.tokenizers, strict=True):
            _name_as_published(folder / name / "model.safetensors")
            # Beside its tokenizer.json, what transformers 4 and the programs that build on it read.
            tokenizer.backend_tokenizer.model.save(str(folder / tokenizer_of(name)))


def tokenizer_of(encoder: str) -> str:
    """The pipeline's name of a text encoder's tokenizer.

    >>> tokenizer_of("text_encoder_2")
    'tokenizer_2'
    """
    return encoder.replace("text_encoder", "tokenizer")


def check_tokenizers(pipeline: Any, source: Source, encoders: Sequence[str]) -> None:
    """Raises ModelError for a tokenizer without words or length, which is what is read where its files are missing."""
    for encoder in encoders:
        name, most = tokenizer_of(encoder), getattr(pipeline, encoder).config.max_position_embeddings
        tokenizer = getattr(pipeline, name)
        if tokenizer is None or tokenizer.model_max_length > most or len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ModelError(f"The {name} of {source.name} lacks some of its files; fetch the model again.")


def _name_as_published(weights: Path) -> None:
    """Puts back what transformers 5 leaves out of the names of a CLIP text encoder, and all others expect."""
    tensors = load_file(weights)
    if "embeddings.token_embedding.weight" in tensors:
        save_file({f"text_model.{name}": tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})


def padded(pipeline: Any, name: str, prompts: Sequence[str]) -> Any:
    """The prompts as the text encoder of that name takes them: one length, padded and cut."""
    tokenizer = getattr(pipeline, tokenizer_of(name))
    return tokenizer(
        # As the pipeline does: a learned word of several vectors is written out.
        pipeline.maybe_convert_prompt(list(prompts), tokenizer),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


def normalised(codes: Tensor, vae: Any) -> Tensor:
    """The autoencoder's codes [B, C, h, w] as latents, by the scale and, where it has them, the means of its config."""
    scale, moments = vae.config.scaling_factor, _moments(codes, vae)
    return codes * scale if moments is None else (codes - moments[0]) * scale / moments[1]


def denormalised(latents: Tensor, vae: Any) -> Tensor:
    """The way back, in the order in which diffusers' pipelines compute."""
    scale, moments = vae.config.scaling_factor, _moments(latents, vae)
    return latents / scale if moments is None else latents * moments[1] / scale + moments[0]


def _moments(like: Tensor, vae: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of the codes, each [1, C, 1, 1]."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None
    return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1)


def make_scheduler(sampler: Sampler, scheduler: Any) -> Any:
    """The diffusers scheduler of that name with the model's own noise schedule.

    Raises ModelError for a sampler that cannot follow the flow of a model that predicts one.
    """
    import diffusers

    samplers: dict[Sampler, tuple[str, dict[str, Any]]] = {
        "ddim": ("DDIMScheduler", {}),
        "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        "unipc": ("UniPCMultistepScheduler", {}),
        "euler": ("EulerDiscreteScheduler", {}),
        "ancestral": ("EulerAncestralDiscreteScheduler", {}),
        "ddpm": ("DDPMScheduler", {}),
    }
    name, extra = samplers[sampler]
    flow = from_scheduler(scheduler)
    if isinstance(flow, RectifiedFlow):
        if sampler not in ("dpm++", "unipc"):
            raise ModelError(
                f"The model predicts a flow, which the sampler {sampler} cannot follow; give dpm++ or unipc."
            )
        extra |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow.shift}
    if "clip_sample" not in scheduler.config and sampler in ("ddim", "ddpm"):
        extra = {"clip_sample": False}  # a model whose own scheduler cuts nothing to -1..1 is not to be cut by another
    return getattr(diffusers, name).from_config(scheduler.config, **extra)


def is_small(unet: Any) -> bool:
    return sum(parameter.numel() for parameter in unet.parameters()) < SMALL_DENOISER


def suited(spec: Spec, unet: Any) -> Spec:
    """The spec of a family with the defaults of a small model in place of its own where the denoiser is one."""
    return replace(spec, **SMALL) if is_small(unet) else spec


def native_sizes(pipeline: Any) -> tuple[int, tuple[int, int, int]]:
    """Pixels a side that the model was made for, and the shape of one example's latents."""
    unet, vae = pipeline.unet, pipeline.vae
    size = unet.config.sample_size
    return size * 2 ** (len(vae.config.block_out_channels) - 1), (unet.config.in_channels, size, size)
