"""Memory tiers: what a step keeps, what it computes twice, what leaves the device; and how much memory there is."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dreambooth.backbones.protocol import Backbone
from dreambooth.config import TierName
from dreambooth.optimizers import SMALL

# Below this share of all weights, what is trained is an adapter or a word, and rounding it would save nothing.
LEAST_SHARE = 0.1
# Room left for previews, other programs, and what an allocator cannot reuse.
MARGIN = 0.9
FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
# One byte, and a float32 scale for every 256 of them.
EIGHT_BIT_BYTES = 1 + 4 / 256


@dataclass(frozen=True)
class Tier:
    """One way to hold a training in memory. `split` cuts each micro-batch into so many, with the same step in all.

    `checkpointing` computes activations twice; `encoders_away` takes what encoded prompts and photos off a GPU while
    the denoiser trains; `lean_optimizer` is `optimizers.LeanAdamW`, with weights in bfloat16 where the run computes
    in it, and with each parameter stepped, and its gradient freed, within the backward pass.
    """

    name: TierName
    checkpointing: bool = False
    encoders_away: bool = False
    lean_optimizer: bool = False
    activations_away: bool = False
    split: int = 1

    def for_share(self, share: float) -> Tier:
        """The same for a method that trains this share of all weights: whole weights and moments where it is small."""
        return replace(self, lean_optimizer=self.lean_optimizer and share >= LEAST_SHARE)

    def __str__(self) -> str:
        return self.name if self.split == 1 else f"{self.name}, micro-batches cut in {self.split}"


FAST = Tier("fast")
BALANCED = Tier("balanced", checkpointing=True, encoders_away=True)
LEAN = Tier("lean", checkpointing=True, encoders_away=True, lean_optimizer=True, activations_away=True)
TIERS: dict[TierName, Tier] = {tier.name: tier for tier in (FAST, BALANCED, LEAN)}


def next_tier(tier: Tier, micro_batch: int) -> Tier | None:
    """The next leaner one for micro-batches of so many photos, None after the last.

    >>> [str(tier) for tier in (next_tier(FAST, 4), next_tier(LEAN, 4), next_tier(replace(LEAN, split=2), 4))]
    ['balanced', 'lean, micro-batches cut in 2', 'lean, micro-batches cut in 4']
    >>> next_tier(LEAN, 1)
    """
    if tier.name != LEAN.name:
        return BALANCED if tier.name == FAST.name else LEAN
    splits = [split for split in range(tier.split + 1, micro_batch + 1) if micro_batch % split == 0]
    return replace(tier, split=splits[0]) if splits else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, on whatever device; CPUs tell it in the text of a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


@dataclass(frozen=True)
class Estimate:
    """What a training takes, by count: numbers of weights, and bytes of activations.

    `encoders` are the weights that no step uses once all is encoded, `recomputed` the activations where they are
    computed twice, `largest` the greatest trained tensor, `moment_bytes` those of a trained number's moments.
    """

    frozen: int
    encoders: int
    trained: int
    activations: int
    recomputed: int
    moment_bytes: float = 2 * FLOAT32_BYTES
    ema: bool = False
    accumulates: bool = False
    largest: int = 0

    def weights(self) -> int:
        """Bytes of the model alone, as it is loaded."""
        return (self.frozen + self.encoders + self.trained) * FLOAT32_BYTES

    def total(self, tier: Tier, in_bf16: bool, on_gpu: bool) -> int:
        """Bytes of the whole in a tier."""
        everything = self.frozen + self.encoders + self.trained
        tier = tier.for_share(self.trained / max(1, everything))
        lean_weights = tier.lean_optimizer and in_bf16
        weight = BFLOAT16_BYTES if lean_weights else FLOAT32_BYTES
        gradients = self.largest if tier.lean_optimizer and not self.accumulates else self.trained
        moments = 2 * EIGHT_BIT_BYTES if tier.lean_optimizer else self.moment_bytes
        held = self.frozen * FLOAT32_BYTES
        held += 0 if tier.encoders_away and on_gpu else self.encoders * FLOAT32_BYTES
        held += self.trained * (weight + moments + (FLOAT32_BYTES if self.ema else 0)) + gradients * weight
        return int(held + (self.recomputed if tier.checkpointing else self.activations) / tier.split)


def available_bytes(device: torch.device) -> int:
    """Memory of the device that this process could still take; for a CPU within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = [_physical_bytes()]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, min(free))


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows: the estimate is all there is
        return sys.maxsize


class Peak:
    """Greatest memory that was taken between entering and leaving, in bytes; None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        give_back(self.device)
        self._before = self._now()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            # What was there before counts as well: a step has to fit beside it, and free memory left it out.
            self.bytes = torch.cuda.max_memory_reserved(self.device) - self._before
        elif (greatest := _resident("VmHWM")) is not None:
            self.bytes = max(0, greatest - self._before)

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_reserved(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets this process's own peak
        except OSError:
            return 0
        return _resident("VmRSS") or 0


def _resident(name: str) -> int | None:
    """A line of /proc/self/status in bytes."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def give_back(device: torch.device) -> None:
    """Returns memory that is no longer used to the device, or to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what was freed
        if trim is not None:
            trim(0)


def is_encoder(name: str, trains_text: bool) -> bool:
    """Whether the module of that name is done once prompts and photos are encoded."""
    return name == "autoencoder" or (name.startswith("text_encoder") and not trains_text)


class Holding:
    """A tier at work on one backbone: changes it for the training, and puts it back as it was."""

    def __init__(
        self,
        backbone: Backbone,
        groups: Mapping[str, list[nn.Parameter]],
        tier: Tier,
        in_bf16: bool,
        trains_text: bool,
    ) -> None:
        """`in_bf16` tells whether the run computes in it, and `trains_text` whether prompts are encoded every step."""
        trained = [parameter for group in groups.values() for parameter in group]
        everything = sum(p.numel() for module in backbone.modules.values() for p in module.parameters())
        self.tier = tier.for_share(sum(parameter.numel() for parameter in trained) / max(1, everything))
        self.backbone, self.trained = backbone, trained
        self.encoders = [module for name, module in backbone.modules.items() if is_encoder(name, trains_text)]
        self.rounded: list[nn.Parameter] = []
        if self.tier.checkpointing:
            backbone.enable_gradient_checkpointing()
        if self.tier.lean_optimizer and in_bf16:
            self.rounded = [parameter for parameter in trained if parameter.numel() >= SMALL]
            for parameter in self.rounded:
                parameter.data = parameter.data.to(torch.bfloat16)

    @property
    def _moves_encoders(self) -> bool:
        return self.tier.encoders_away and self.backbone.device.type == "cuda"

    def send_encoders_away(self) -> None:
        """Once all is encoded: off the device. On a CPU there is nowhere to go."""
        if self._moves_encoders:
            for module in self.encoders:
                module.to("cpu")
            give_back(self.backbone.device)

    @contextmanager
    def complete(self) -> Generator[None]:
        """Everything on the device, for a look at pictures."""
        self._bring_encoders_back()
        try:
            yield
        finally:
            self.send_encoders_away()

    def saved_activations(self) -> AbstractContextManager[object]:
        """Where the forward pass keeps what the backward pass needs: in host memory, where the tier says so."""
        if self.tier.activations_away and self.backbone.device.type == "cuda":
            return torch.autograd.graph.save_on_cpu(pin_memory=True)
        return nullcontext()

    def release(self) -> None:
        """Float32 weights and all modules on the device, as before."""
        for parameter in self.rounded:
            parameter.grad = None
            parameter.data = parameter.data.float()
        self.rounded = []
        self._bring_encoders_back()

    def _bring_encoders_back(self) -> None:
        if self._moves_encoders:
            for module in self.encoders:
                module.to(self.backbone.device)
