"""What a run will do and cost, told before it starts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreambooth import transfer
from dreambooth.backbones.protocol import Backbone, Spec, windows
from dreambooth.config import ADAPTERS, TierName, TrainConfig
from dreambooth.lending import as_if_lent, frozen, lendable, lends
from dreambooth.memory import EIGHT_BIT_BYTES, FLOAT32_BYTES, LEAN, TIERS, Estimate, is_encoder
from dreambooth.meter import available_bytes
from dreambooth.methods.protocol import Adapter, Method
from dreambooth.precision import autocast, in_bf16
from dreambooth.prompts import INSTANCE_TEMPLATE

if TYPE_CHECKING:
    from rich.table import Table

# What is left of the activations where they are computed twice: each block's input, and one block's own.
RECOMPUTED_SHARE = 0.25
WITH_TEXT = ("dreambooth", "lora", "dora")  # methods that train the text encoder too where the model needs it
MOST_COUNTED = 16  # rows whose activations are counted one by one
MOST_COMPOSED = 4  # composed examples for each sample of the class
BEST_COPIES = 3  # the best weights, the best at the newest checkpoint, and those being written


def resolve_defaults(config: TrainConfig, spec: Spec) -> TrainConfig:
    """The config with every field left at None filled from method and model, where they have a say."""
    inversion = config.method == "textual-inversion"
    recipe = spec.lora if config.method in ADAPTERS else spec.textual_inversion if inversion else spec
    learning_rate = config.learning_rate or recipe.learning_rate
    adapted = config.method in ADAPTERS
    text = (spec.lora_text_share if adapted else spec.text_encoder_share) if config.method in WITH_TEXT else None
    full = config.method == "dreambooth"  # what was measured for full fine-tuning alone is a default there alone
    filled = {
        "with_prior_preservation": config.with_prior_preservation and config.prior_loss_weight > 0,
        "resolution": config.resolution or spec.resolution,
        "instance_prompt": config.instance_prompt or (None if inversion else INSTANCE_TEMPLATE),
        "learning_rate": learning_rate,
        "train_text_encoder": text is not None if config.train_text_encoder is None else config.train_text_encoder,
        "text_encoder_lr": config.text_encoder_lr or learning_rate * (text or 1),
        "use_ema": full and spec.averaged if config.use_ema is None else config.use_ema,
        "embedding_lr": config.embedding_lr
        or (spec.textual_inversion.learning_rate if config.method == "pivotal" else None),
        "max_train_steps": config.max_train_steps or recipe.max_train_steps,
        "train_batch_size": config.train_batch_size or recipe.train_batch_size,
        "num_class_images": config.num_class_images or spec.num_class_images,
        "unprompted_share": (spec.unprompted_share if full else 0.0)
        if config.unprompted_share is None
        else config.unprompted_share,
        "composed_share": (spec.composed_share if full else 0.0)
        if config.composed_share is None
        else config.composed_share,
        "timestep_shift": config.timestep_shift or spec.timestep_shift,
        "track": config.track or config.early_stop,
        "prior_sampler": config.prior_sampler or spec.sampler,
        "sampler": config.sampler or spec.sampler,
        "num_inference_steps": config.num_inference_steps or spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale if config.guidance_scale is None else config.guidance_scale,
    }
    return config.model_copy(update=filled)


def composed_count(config: TrainConfig, processes: int = 1) -> int:
    """How many composed examples a resolved config has: one for each row that is one, up to MOST_COMPOSED.

    They are measured by the prior samples, whether or not there are any: what is made before training stays short.
    """
    photos = (config.train_batch_size or 1) * config.gradient_accumulation_steps * processes
    rows = (config.max_train_steps or 1) * photos
    return min(math.ceil(rows * (config.composed_share or 0)), MOST_COMPOSED * (config.num_class_images or 1))


@dataclass(frozen=True)
class Plan:
    """Counts and estimates; bytes are estimates for float32 training on one device."""

    model: str
    family: str
    trained_parameters: dict[str, int]
    frozen_parameters: int
    photos: int
    prior_samples: int
    composed: int
    prior_loss_weight: float
    steps: int
    rows_per_step: tuple[int, int]
    memory: str
    tiers: dict[TierName, int]
    expected_tier: TierName
    disk_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Of the expected tier."""
        return self.tiers[self.expected_tier]

    def table(self) -> Table:
        """The plan for the terminal."""
        from rich.table import Table

        trained = ", ".join(f"{name} {_count(count)}" for name, count in self.trained_parameters.items())
        subject_rows, prior_rows = self.rows_per_step
        prior = (
            f" + {self.prior_loss_weight:g} × {prior_rows} prior samples" if prior_rows else ", no prior preservation"
        )
        table = Table(title="What will be done", show_header=False, title_justify="left")
        table.add_row("model", f"{self.model} ({self.family})")
        table.add_row("trained", f"{trained} parameters")
        table.add_row("frozen", f"{_count(self.frozen_parameters)} parameters")
        table.add_row("photos", str(self.photos))
        table.add_row("prior samples", str(self.prior_samples) if prior_rows else "none")
        table.add_row("composed examples", str(self.composed) if self.composed else "none")
        table.add_row("loss of a step", f"mean of {subject_rows} photos{prior}")
        table.add_row("steps", str(self.steps))
        measured = "a step is measured first; by the estimate " if self.memory == "auto" else ""
        table.add_row("memory tier", f"{measured}{self.expected_tier}")
        tiers = ", ".join(f"{name} {_gigabytes(count)}" for name, count in self.tiers.items())
        table.add_row("memory, estimated", tiers)
        table.add_row("disk, estimated", _gigabytes(self.disk_bytes))
        return table


def make_plan(
    config: TrainConfig,
    backbone: Backbone,
    method: Method,
    photos: int,
    processes: int = 1,
    device: torch.device | None = None,
) -> Plan:
    """What the resolved `config` will train and need; leaves the backbone as it was.

    `device` is where it will train, for a backbone without weights, which is on none.
    """
    here = device or backbone.device
    groups = method.prepare(backbone)
    trained = {name: sum(p.numel() for p in group) for name, group in groups.items()}
    total = sum(p.numel() for module in backbone.modules.values() for p in module.parameters())
    result = sum(trained.values()) if isinstance(method, Adapter) else total
    method.detach()
    estimate = estimate_memory(config, backbone, method, here)
    in_bf16_here, on_gpu = in_bf16(config.mixed_precision, here), transfer.has_own_memory(here)
    tiers: dict[TierName, int] = {name: estimate.total(tier, in_bf16_here, on_gpu) for name, tier in TIERS.items()}
    there = backbone.device.type == here.type
    room = available_bytes(here) + (estimate.weights(in_bf16_here, on_gpu) if there else 0)
    fitting: list[TierName] = [tier.name for tier in TIERS.values() if tiers[tier.name] <= room]
    expected = fitting[0] if fitting else LEAN.name
    moments = 0.5 if config.use_8bit_adam else 2
    copies = 1 + moments + (1 if config.use_ema else 0)
    trained_bytes = sum(trained.values()) * FLOAT32_BYTES
    kept = copies * (config.checkpoints_total_limit + 1) + (BEST_COPIES if config.track else 0)
    per_step = (config.train_batch_size or 1) * config.gradient_accumulation_steps * processes
    return Plan(
        model=config.model,
        family=backbone.spec.family,
        trained_parameters=trained,
        frozen_parameters=total - sum(trained.values()),
        photos=photos,
        prior_samples=config.num_class_images or 0 if config.with_prior_preservation else 0,
        composed=composed_count(config, processes),
        prior_loss_weight=config.prior_loss_weight,
        steps=config.max_train_steps or 0,
        rows_per_step=(per_step, per_step if config.with_prior_preservation else 0),
        memory=config.memory,
        tiers=tiers,
        expected_tier=expected if config.memory == "auto" else config.memory,
        disk_bytes=int(trained_bytes * kept + result * FLOAT32_BYTES),
    )


def estimate_memory(
    config: TrainConfig, backbone: Backbone, method: Method, device: torch.device | None = None
) -> Estimate:
    """What training the resolved `config` takes on `device`, by default the backbone's; leaves that as it was."""
    trained = [parameter for group in method.prepare(backbone).values() for parameter in group]
    rows = (config.train_batch_size or 1) * (2 if config.with_prior_preservation else 1)
    here, weightless = device or backbone.device, backbone.device.type == "meta"
    precision = "bf16" if in_bf16(config.mixed_precision, here) else "no"
    # Without weights, float32 is counted, which is the more.
    bf16 = nullcontext() if weightless else autocast(precision, backbone.device)
    # On loan, weights are not rounded for each step, and no rounded ones are kept for the backward pass.
    lent = frozen(backbone, trained) if lends(precision, here) and not weightless else []
    with bf16, as_if_lent(lent):
        activations = activations_of(backbone, rows, method.trains_text, config.crop_size)
    kept = {id(parameter) for parameter in trained}
    rounded = {
        name: sum(p.numel() for p in weights if id(p) not in kept) for name, weights in lendable(backbone).items()
    }
    method.detach()
    sizes = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in backbone.modules.items()
        if name not in backbone.spec.released  # gone before training
    }
    unused = sum(size for name, size in sizes.items() if is_encoder(name, method.trains_text))
    count = sum(parameter.numel() for parameter in trained)
    rounded_encoders = sum(size for name, size in rounded.items() if is_encoder(name, method.trains_text))
    recomputed = int(activations * RECOMPUTED_SHARE)
    return Estimate(
        frozen=max(0, sum(sizes.values()) - unused - count),
        encoders=unused,
        trained=count,
        activations=recomputed if config.gradient_checkpointing else activations,
        recomputed=recomputed,
        moment_bytes=2 * (EIGHT_BIT_BYTES if config.use_8bit_adam else FLOAT32_BYTES),
        ema=bool(config.use_ema),
        accumulates=config.gradient_accumulation_steps > 1,
        largest=max(parameter.numel() for parameter in trained),
        lendable=sum(rounded.values()) - rounded_encoders,
        lendable_encoders=rounded_encoders,
    )


def activations_of(backbone: Backbone, rows: int, trains_text: bool, crop_size: int | None = None) -> int:
    """As `activation_bytes`, for batches that this machine has no room for: the many rows grow as the few do."""
    few, fewer = MOST_COUNTED, MOST_COUNTED // 2
    if rows <= few:
        return activation_bytes(backbone, rows, trains_text, crop_size)
    of_few, of_fewer = (activation_bytes(backbone, count, trains_text, crop_size) for count in (few, fewer))
    return of_few + (rows - few) * (of_few - of_fewer) // (few - fewer)


def activation_bytes(backbone: Backbone, rows: int, trains_text: bool, crop_size: int | None = None) -> int:
    """Bytes that one forward pass of the denoiser keeps for its backward pass, counted on fake tensors.

    Where text is trained, the gradient goes on through the conditioning, even of a denoiser that is frozen.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.multiprocessing.reductions import StorageWeakRef

    from dreambooth.backbones.outline import FusedAttention

    own = {StorageWeakRef(p.untyped_storage()) for module in backbone.modules.values() for p in module.parameters()}
    kept: dict[StorageWeakRef, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (key := StorageWeakRef(storage)) not in own:
            kept[key] = storage.nbytes()
        return tensor

    with torch.no_grad():
        encoded = backbone.encode_prompts(["a"]).take([0] * rows)
        clean = torch.zeros(rows, *backbone.spec.native_size, device=backbone.device)
        conditioning = backbone.conditioned_on(encoded, clean, [torch.Generator()] * rows)
        if crop_size is not None:
            corners = [(0, 0)] * rows
            clean, conditioning = windows(clean, corners, crop_size), conditioning.cut(corners, crop_size)
    counted = backbone.device.type == "meta"  # a model without weights needs no fake tensors beside them
    with FusedAttention() if counted else FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode if isinstance(mode, FakeTensorMode) else None
        noisy = torch.empty_like(clean)
        time = torch.zeros(rows, dtype=torch.long, device=backbone.device)
        faked = type(conditioning)(
            {
                name: (fake.from_tensor(value) if fake else value).requires_grad_(
                    trains_text and value.is_floating_point()
                )
                for name, value in conditioning.tensors.items()
            }
        )
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            backbone.denoise(noisy, time, faked)
    return sum(kept.values())


def _count(count: int) -> str:
    """
    >>> _count(11_234_567), _count(768)
    ('11.2 M', '768')
    """
    return f"{count / 1e6:.1f} M" if count >= 1e5 else str(count)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
