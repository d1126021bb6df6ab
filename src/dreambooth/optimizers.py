"""AdamW in little memory: moments of one byte, weights of two, and one parameter at a time.

Moments are quantised in blocks, each with a scale of its own (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
Quantization"), and rounded up or down by chance, so that their expectation is exact: rounded to the nearest, a slow
average such as the second moment would stand still wherever its step is smaller than half a quantum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.seeding import derive

BLOCK = 256
# Tensors below this stay whole: norms and biases are few, and rounding them costs the most.
SMALL = 4096
# Elements worked on at once: the float32 copies that a step needs stay small beside any model.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Quantised:
    """A flat tensor of n numbers as bytes [n] and one scale for each block of 256.

    A number is scale · (code / most)^power with its sign: like floating point, finer towards zero. `signed` codes are
    int8 with power 2, the others uint8 with power 4, which suits a second moment, a square.
    """

    codes: Tensor
    scales: Tensor
    signed: bool

    @classmethod
    def zeros(cls, count: int, signed: bool, device: torch.device) -> Quantised:
        codes = torch.zeros(count, dtype=torch.int8 if signed else torch.uint8, device=device)
        return cls(codes, torch.zeros(math.ceil(count / BLOCK), device=device), signed)

    def read(self, start: int, stop: int) -> Tensor:
        """Numbers start..stop as float32; `start` is a multiple of the block."""
        ratio = self.codes[start:stop].float() / (127 if self.signed else 255)
        value = ratio * ratio.abs() if self.signed else ratio.square().square_()
        return _blocks(value, self.scales[start // BLOCK : math.ceil(stop / BLOCK)], torch.mul)

    def write(self, start: int, values: Tensor, chance: Tensor) -> None:
        """Puts float32 `values` in place from `start` on, rounded up where their remainder exceeds `chance` in 0..1."""
        most = 127 if self.signed else 255
        stop = start + len(values)
        scales = self.scales[start // BLOCK : math.ceil(stop / BLOCK)]
        padding = len(scales) * BLOCK - len(values)
        torch.amax(nn.functional.pad(values.abs(), (0, padding)).view(-1, BLOCK), dim=1, out=scales)
        ratio = _blocks(values, scales.clamp_min(torch.finfo(torch.float32).tiny), torch.div).abs_()
        exact = (ratio if self.signed else ratio.sqrt_()).sqrt_().mul_(most)
        low = exact.floor()
        # The chance is that of the value, not of its root: only so is the expectation exact.
        power = 2 if self.signed else 4
        below, above = low.pow(power), (low + 1).pow(power)
        low += (exact.pow(power) - below) / (above - below) > chance
        low.clamp_(max=most)
        self.codes[start:stop] = torch.copysign(low, values) if self.signed else low


def _blocks(values: Tensor, scales: Tensor, operation: Any) -> Tensor:
    """`values` [n] times or by the scale of each one's block."""
    whole = len(values) // BLOCK * BLOCK
    result = torch.empty_like(values)
    if whole:
        operation(values[:whole].view(-1, BLOCK), scales[: whole // BLOCK, None], out=result[:whole].view(-1, BLOCK))
    if whole < len(values):
        operation(values[whole:], scales[-1], out=result[whole:])
    return result


def to_bfloat16(values: Tensor, chance: Tensor) -> Tensor:
    """float32 [n] to bfloat16, up or down by `chance` (int32 in 0..65535), so that the expectation is the value.

    A bfloat16 is the upper half of a float32: what is added to the lower half carries over as often as it should.
    """
    return (values.view(torch.int32) + chance).bitwise_and_(-65536).view(torch.float32).to(torch.bfloat16)


class LeanAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) that can step one parameter at a time, in little memory.

    Weights may be bfloat16: they are rounded by chance, and need no float32 master. With `eight_bit`, moments of
    tensors of 4096 numbers and more take one byte each, else four. What chance decides is a function of
    (seed, step, parameter), so a resumed run goes on bit for bit.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        eight_bit: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.eight_bit, self.seed = eight_bit, seed
        self._places = {
            parameter: (index, group)
            for index, (parameter, group) in enumerate(
                (parameter, group) for group in self.param_groups for parameter in group["params"]
            )
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Steps every parameter that has a gradient."""
        assert closure is None, "a gradient is all this optimizer takes"
        for parameter in self._places:
            if parameter.grad is not None:
                self.step_parameter(parameter)

    @torch.no_grad()
    def step_parameter(self, parameter: nn.Parameter, scale: Tensor | float = 1.0) -> None:
        """One step of one parameter by `scale` times its gradient, which is left as it is."""
        index, group = self._places[parameter]
        gradient, weight = parameter.grad, parameter.data
        assert gradient is not None
        state = self.state[parameter] or self._begin(parameter)
        state["step"] += 1
        count = int(state["step"])
        source = torch.Generator(weight.device).manual_seed(derive(self.seed, "round", count, index))
        flat, flat_gradient = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1), gradient.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            stop = min(start + CHUNK, len(flat))
            chance = None
            if weight.dtype == torch.bfloat16 or "exp_avg_codes" in state:
                chance = torch.randint(
                    0, 1 << 16, (stop - start,), dtype=torch.int32, device=weight.device, generator=source
                )
            new = self._update(state, group, flat[start:stop], flat_gradient[start:stop].float() * scale, start, chance)
            flat[start:stop] = new if chance is None or weight.dtype != torch.bfloat16 else to_bfloat16(new, chance)
        if not weight.is_contiguous():
            weight.copy_(flat.view(weight.shape))

    def _update(
        self,
        state: dict[str, Any],
        group: dict[str, Any],
        weight: Tensor,
        gradient: Tensor,
        start: int,
        chance: Tensor | None,
    ) -> Tensor:
        """Algorithm 2 of the paper on numbers start.. of one tensor; the new weights as float32."""
        (beta1, beta2), count = group["betas"], int(state["step"])
        stop = start + len(weight)
        if "exp_avg_codes" in state:
            assert chance is not None
            moments = [
                Quantised(state[f"{name}_codes"], state[f"{name}_scales"], name == "exp_avg") for name in MOMENTS
            ]
            mean, square = (moment.read(start, stop) for moment in moments)
        else:
            moments = []
            mean, square = (state[name].view(-1)[start:stop] for name in MOMENTS)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if moments and chance is not None:
            uniform = (chance + 0.5) / (1 << 16)
            for moment, value in zip(moments, (mean, square), strict=True):
                moment.write(start, value, uniform)
        denominator = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        if moments and beta1**2 < beta2:
            # Exact moments never exceed this (Cauchy-Schwarz); of rounded ones a small square can be lost.
            most = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
            mean = mean.clamp(-most * denominator, most * denominator)
        decayed = weight.float() * (1 - group["lr"] * group["weight_decay"])
        return decayed.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**count))

    def _begin(self, parameter: nn.Parameter) -> dict[str, Any]:
        state, flat = self.state[parameter], (parameter.numel(), parameter.device)
        state["step"] = torch.zeros(())
        for name in MOMENTS:
            if self.eight_bit and parameter.numel() >= SMALL:
                empty = Quantised.zeros(flat[0], name == "exp_avg", flat[1])
                state[f"{name}_codes"], state[f"{name}_scales"] = empty.codes, empty.scales
            else:
                state[name] = torch.zeros(parameter.shape, device=parameter.device)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up moments as they are, of this class or of torch's AdamW; the rates stay what they are."""
        for index, parameter in enumerate(self._places):
            self.state.pop(parameter, None)
            if (entry := state_dict["state"].get(index)) is None:
                continue
            state = self._begin(parameter)
            for name, value in (entry if state.keys() == entry.keys() else self._converted(entry, parameter)).items():
                state[name] = value.to(state[name].dtype).to(state[name].device).clone()

    def _converted(self, entry: dict[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
        whole = whole_moments(entry, parameter.shape)
        if not self.eight_bit or parameter.numel() < SMALL:
            return whole
        result = {"step": torch.as_tensor(whole["step"])}
        for name in MOMENTS:
            values = whole[name].float().reshape(-1)
            quantised = Quantised.zeros(len(values), name == "exp_avg", values.device)
            for start in range(0, len(values), CHUNK):
                part = values[start : start + CHUNK]
                quantised.write(start, part, torch.full_like(part, 0.5))
            result |= {f"{name}_codes": quantised.codes, f"{name}_scales": quantised.scales}
        return result


MOMENTS = ("exp_avg", "exp_avg_sq")


def whole_moments(entry: dict[str, Tensor], shape: torch.Size) -> dict[str, Tensor]:
    """The state of one parameter of that shape with float32 moments."""
    if "exp_avg_codes" not in entry:
        return entry
    moments = {
        name: Quantised(entry[f"{name}_codes"], entry[f"{name}_scales"], name == "exp_avg")
        .read(0, shape.numel())
        .view(shape)
        for name in MOMENTS
    }
    return {"step": entry["step"]} | moments


class RunningClip:
    """Clips gradients that are used and freed one by one, when their common norm is not known yet.

    A gradient is scaled by max_norm / norm where that is below 1, with the greater of two norms: that of the gradients
    of this step so far, and that of the whole step before. Where a step's norm stays below `max_norm` nothing is
    scaled, exactly as with the norm of all; a sudden rise is met once the gradients so far exceed the limit.
    """

    def __init__(self, max_norm: float, device: torch.device) -> None:
        self.max_norm = max_norm
        self.before = torch.zeros((), device=device)
        self._squares = torch.zeros((), device=device)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The factor for this gradient; nothing waits for the device."""
        self._squares += torch.linalg.vector_norm(gradient, dtype=torch.float32).square()
        norm = torch.maximum(self.before, self._squares.sqrt())
        return (self.max_norm / (norm + 1e-6)).clamp(max=1.0)

    def finish(self) -> Tensor:
        """The norm of the whole step, which ends here."""
        self.before, self._squares = self._squares.sqrt(), torch.zeros_like(self._squares)
        return self.before
