"""Memory tiers: what a step keeps, what it computes twice, what leaves the device, and what each is thought to take."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dreambooth.backbones.protocol import is_text_encoder
from dreambooth.config import TierName

# Below this share of all weights, what is trained is an adapter or a word, and rounding it would save nothing.
LEAST_SHARE = 0.1
# Room left for previews, other programs, and what an allocator cannot reuse.
MARGIN = 0.9
FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
SAVED_BYTES = FLOAT32_BYTES - BFLOAT16_BYTES  # by a weight that lies rounded
# One byte, and a float32 scale for every 256 of them.
EIGHT_BIT_BYTES = 1 + 4 / 256


@dataclass(frozen=True)
class Tier:
    """One way to hold a training in memory. `split` cuts each micro-batch into so many, with the same step in all.

    `checkpointing` computes activations twice; `encoders_away` takes what encoded prompts and photos off a GPU while
    the denoiser trains; `lean_optimizer` is `optimizers.LeanAdamW`, with weights in bfloat16 where the run computes
    in it, and with each parameter stepped, and its gradient freed, within the backward pass. `spares_drawing` draws
    picture by picture on a GPU, and decodes with the autoencoder alone on it.
    """

    name: TierName
    checkpointing: bool = False
    encoders_away: bool = False
    lean_optimizer: bool = False
    activations_away: bool = False
    spares_drawing: bool = False
    split: int = 1

    def for_share(self, share: float) -> Tier:
        """The same for a method that trains this share of all weights: whole weights and moments where it is small."""
        return replace(self, lean_optimizer=self.lean_optimizer and share >= LEAST_SHARE)

    def __str__(self) -> str:
        return self.name if self.split == 1 else f"{self.name}, micro-batches cut in {self.split}"


FAST = Tier("fast")
BALANCED = Tier("balanced", checkpointing=True, encoders_away=True)
LEAN = Tier(
    "lean", checkpointing=True, encoders_away=True, lean_optimizer=True, activations_away=True, spares_drawing=True
)
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
    `lendable` are those of the frozen weights, and `lendable_encoders` those of the encoders', that lie rounded on a
    device with a memory of its own where the run computes in bfloat16 (lending.py).
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
    lendable: int = 0
    lendable_encoders: int = 0

    def weights(self, in_bf16: bool = False, on_gpu: bool = False) -> int:
        """Bytes of the model alone, as it is loaded: on a GPU, in bfloat16, with what stays frozen on loan."""
        lent = self.lendable + self.lendable_encoders if in_bf16 and on_gpu else 0
        return (self.frozen + self.encoders + self.trained) * FLOAT32_BYTES - lent * SAVED_BYTES

    def total(self, tier: Tier, in_bf16: bool, on_gpu: bool) -> int:
        """Bytes of the whole in a tier."""
        everything = self.frozen + self.encoders + self.trained
        tier = tier.for_share(self.trained / max(1, everything))
        lean_weights = tier.lean_optimizer and in_bf16
        weight = BFLOAT16_BYTES if lean_weights else FLOAT32_BYTES
        gradients = self.largest if tier.lean_optimizer and not self.accumulates else self.trained
        moments = 2 * EIGHT_BIT_BYTES if tier.lean_optimizer else self.moment_bytes
        lent, lent_encoders = (self.lendable, self.lendable_encoders) if in_bf16 and on_gpu else (0, 0)
        encoders = self.encoders * FLOAT32_BYTES - lent_encoders * SAVED_BYTES
        held = self.frozen * FLOAT32_BYTES - lent * SAVED_BYTES
        held += 0 if tier.encoders_away and on_gpu else encoders
        held += self.trained * (weight + moments + (FLOAT32_BYTES if self.ema else 0)) + gradients * weight
        return int(held + (self.recomputed if tier.checkpointing else self.activations) / tier.split)


def is_encoder(name: str, trains_text: bool) -> bool:
    """Whether the module of that name is done once prompts and photos are encoded."""
    return name == "autoencoder" or (is_text_encoder(name) and not trains_text)
