"""Fits a training into the memory there is: measures a step, picks a tier, and takes the next where memory ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dreambooth import transfer
from dreambooth.backbones.protocol import Backbone
from dreambooth.checkpoint import RunFolder
from dreambooth.compiling import forget_compiled, is_compile_failure
from dreambooth.config import TierName
from dreambooth.errors import RunError, TrainingError
from dreambooth.examples import Examples
from dreambooth.memory import BALANCED, FAST, LEAN, MARGIN, TIERS, Estimate, Tier, is_out_of_memory, next_tier
from dreambooth.meter import Peak, available_bytes, give_back
from dreambooth.methods.protocol import Method
from dreambooth.precision import in_bf16
from dreambooth.train_state import Settings, TrainState
from dreambooth.trainer import Loss, finetune

RECORD = "memory.json"


@dataclass(frozen=True)
class Fit:
    """What a training is fitted with: the asked tier, and what its memory is thought to be."""

    asked: Literal["auto"] | TierName
    estimate: Estimate
    with_prior: bool


def settle(
    run: RunFolder,
    backbone: Backbone,
    method: Method,
    settings: Settings,
    fit: Fit,
    say: Callable[[str], None] = lambda text: None,
) -> Tier:
    """The tier that the run folder has recorded, else the asked one, else the fastest that fits; recorded from here on.

    Leaves the weights as they were. Raises RunError for a record that cannot be read.
    """
    recorded = [read_tier(run)]
    broadcast_object_list(recorded)  # before any process writes it
    if recorded[0] is not None:
        return recorded[0]
    tier, why = (TIERS[fit.asked], "as asked") if fit.asked != "auto" else choose(backbone, method, settings, fit)
    chosen = [(tier, why)]
    broadcast_object_list(chosen)
    tier, why = chosen[0]
    if PartialState().is_main_process:
        record_tier(run, tier, why)
    say(f"Memory tier {tier}: {why}.")
    return tier


def choose(backbone: Backbone, method: Method, settings: Settings, fit: Fit) -> tuple[Tier, str]:
    """The fastest tier of which a step, done for real, fits; and why. The last one is what remains, unmeasured."""
    device = backbone.device
    bf16, on_gpu = in_bf16(settings.mixed_precision, device), transfer.has_own_memory(device)
    for tier in (FAST, BALANCED):
        free = available_bytes(device)
        expected = fit.estimate.total(tier, bf16, on_gpu) - fit.estimate.weights(bf16, on_gpu)
        # A CPU that runs out of memory does not say so: the system ends the process. So what cannot fit is not tried.
        if not on_gpu and expected > free:
            continue
        taken = measure(backbone, method, settings, tier, fit.with_prior)
        if taken is not None and taken <= MARGIN * free:
            return tier, f"a step takes {taken / 1e9:.2f} GB beside the model, and {free / 1e9:.2f} GB are free"
    return LEAN, f"the others do not fit into the {available_bytes(device) / 1e9:.2f} GB that are free"


def measure(backbone: Backbone, method: Method, settings: Settings, tier: Tier, with_prior: bool = True) -> int | None:
    """Bytes that training takes at most beside the model, by a step and a half at rate zero; None if memory ends.

    The half is the second step's: only it finds the optimizer's moments in memory. Weights stay as they were, so not
    for the lean tier, which rounds them.
    """
    settings = fitted(settings, tier)
    settings = replace(settings, learning_rates=dict.fromkeys(settings.learning_rates, 0.0), compile_backend=None)
    peak = Peak(backbone.device)
    try:
        with peak:
            _try_out(backbone, method, settings, with_prior)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        method.detach()
        give_back(backbone.device)
    return peak.bytes if peak.bytes is not None else 0


def _try_out(backbone: Backbone, method: Method, settings: Settings, with_prior: bool) -> None:
    rows, micro_batches = settings.train_batch_size, min(2, settings.gradient_accumulation_steps)
    latents = torch.randn(rows, *backbone.spec.native_size, generator=torch.Generator().manual_seed(0))
    examples = Examples(latents, latents if with_prior else latents[:0], ("a photo", "a")).to(backbone.device)
    state = TrainState.build(backbone, method, settings)
    try:
        loss = Loss(backbone, method, examples, settings, rows * micro_batches)
        state.holding.send_encoders_away()
        with state.holding.at_work():
            for step in range(2):
                state.begin(step)
                for number, batch in enumerate(examples.batches(0, step, rows, micro_batches), 1):
                    state.backward(loss(batch, step).total, last=number == micro_batches)
                norm = state.clipped()
                if step == 0 and norm.isfinite():  # else the moments would carry it into the weights, even at rate 0
                    state.update()
    finally:
        state.release()


def fitted(settings: Settings, tier: Tier) -> Settings:
    """The settings in a tier: the same photos a step, in micro-batches cut as it says."""
    return replace(
        settings,
        tier=replace(tier, checkpointing=tier.checkpointing or settings.tier.checkpointing),
        train_batch_size=settings.train_batch_size // tier.split,
        gradient_accumulation_steps=settings.gradient_accumulation_steps * tier.split,
    )


def finetune_within_memory(
    backbone: Backbone,
    method: Method,
    examples: Examples,
    settings: Settings,
    run: RunFolder,
    tier: Tier,
    warn: Callable[[str], None],
    **looks: Any,
) -> None:
    """`trainer.finetune` in a tier; where memory ends, in the next one, from the step where it ended if that is whole.

    Each step sees the same photos in every tier. Where compiling fails, it is tried once more without what earlier runs
    had compiled, and after that training goes on without it. `looks` are finetune's callbacks. Raises as finetune does,
    and TrainingError where memory ends in the last tier.
    """
    anew = False
    while (ended := _attempt(backbone, method, examples, fitted(settings, tier), run, looks)) is not None:
        told, of_memory = ended
        if not of_memory:
            if not anew and forget_compiled():
                anew = True
                warn(f"Compiling failed ({told}); what earlier runs had compiled is deleted, and it is tried anew.")
            else:
                warn(f"Compiling failed ({told}); training goes on without it.")
                settings = replace(settings, compile_backend=None)
            _back_to_what_was_saved(method, run)
            continue
        lower = next_tier(tier, settings.train_batch_size)
        if lower is None:
            raise TrainingError(
                f"Memory ended in the leanest tier ({told}). Start anew with a lower --resolution, without "
                "--train-text-encoder, or with --method textual-inversion, or free memory and --resume."
            )
        step = max((checkpoint.step for checkpoint in run.checkpoints()), default=0)
        record_tier(run, lower, f"memory ended in tier {tier}")
        if PartialState().num_processes > 1:
            raise TrainingError(
                f"Memory ended in tier {tier} ({told}). Go on from step {step} in tier {lower} "
                f"with --resume {quote(str(run.path))}"
            )
        _back_to_what_was_saved(method, run)
        give_back(backbone.device)
        photos = settings.train_batch_size * settings.gradient_accumulation_steps
        warn(
            f"Memory ended in tier {tier} ({told}); training goes on after step {step} in tier {lower}, with the same "
            f"{photos} photos a step."
        )
        tier = lower


def _attempt(
    backbone: Backbone, method: Method, examples: Examples, settings: Settings, run: RunFolder, looks: dict[str, Any]
) -> tuple[str, bool] | None:
    """None when training came to its end, else what was told when memory or (False) compiling ended it."""
    try:
        finetune(backbone, method, examples, settings, run, **looks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) and not (settings.compile_backend and is_compile_failure(error)):
            raise
        # Not the error itself: its frames hold the tensors for which there was no room.
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:120], is_out_of_memory(error)
    return None


def _back_to_what_was_saved(method: Method, run: RunFolder) -> None:
    """The next attempt loads the newest checkpoint; where there is none, the base model's weights come back here."""
    if run.checkpoints():
        method.detach()
    else:
        method.eject()


def read_tier(run: RunFolder) -> Tier | None:
    """The tier that the run folder has recorded."""
    if not (run.path / RECORD).is_file():
        return None
    found = run.read_json(RECORD)
    try:
        return replace(TIERS[found["tier"]], split=int(found["split"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.path / RECORD} names no memory tier; delete it, and one is chosen anew.") from error


def record_tier(run: RunFolder, tier: Tier, why: str) -> None:
    run.write_json(RECORD, {"tier": tier.name, "split": tier.split, "why": why})
