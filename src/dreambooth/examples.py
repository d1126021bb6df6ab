"""Training examples, encoded once; which rows meet at a step is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreambooth.backbones.protocol import Backbone, Conditioning, windows
from dreambooth.seeding import derive, generator
from dreambooth.transfer import onto


@dataclass(frozen=True)
class Batch:
    """One micro-batch: `clean` [B, *native_size], `is_prior` [B] bool on the CPU, and row numbers.

    They are unique within a step across micro-batches and processes; noise and time hang on them.
    `pixel_weights` [B, 1, H, W] say what counts in each row's error; prior rows count everywhere alike.
    `composed` names the composed example that a row is, by the row's place, and `shift` [B, *native_size] is what those
    add to their targets.
    """

    clean: Tensor
    is_prior: Tensor
    rows: tuple[int, ...]
    pixel_weights: Tensor | None = None
    composed: Mapping[int, int] = field(default_factory=dict[int, int])
    shift: Tensor | None = None


@dataclass(frozen=True)
class Composed:
    """Photos under prompts of more words, and what the words change of the frozen prediction (composition.py).

    Example k shows photo `photos[k]` under `prompts[called[k]]`, with the noise and the time of `composed_noise`;
    `shifts[k]` of [K, *native_size] is added to its target.
    """

    photos: tuple[int, ...]
    called: tuple[int, ...]
    prompts: tuple[str, ...]
    shifts: Tensor

    def to(self, device: torch.device) -> Composed:
        return replace(self, shifts=self.shifts.to(device))


@dataclass(frozen=True)
class Examples:
    """Latents of the photos [S, ...] and of the prior samples [P, ...] (P may be 0), and what they are called.

    `prompts` are the captions of the photos, one or more, and last the class prompt. `pixel_weights` [S, 1, H, W] are
    those of the photos, where their background is to count less.

    `unprompted` [U, ...] are samples that the frozen model made of no prompt; `unprompted_share` of the prior rows are
    such ones, and are trained without a caption. They keep what guidance starts from: unprotected it turns into the
    subject, and guidance then drives every other prompt, the class itself first, away from the subject.

    `composed_share` of the subject rows are `composed` ones: they keep the other words of a prompt from fading beside
    the subject.
    """

    subject: Tensor
    prior: Tensor
    prompts: tuple[str, ...]
    pixel_weights: Tensor | None = None
    unprompted: Tensor | None = None
    unprompted_share: float = 0.0
    composed: Composed | None = None
    composed_share: float = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """All that a row may be called: `prompts`, then no caption, then those of the composed examples."""
        return (*self.prompts, "", *(self.composed.prompts if self.composed else ()))

    def to(self, device: torch.device) -> Examples:
        tensors = ("subject", "prior", "pixel_weights", "unprompted", "composed")
        moved = {name: value.to(device) for name in tensors if (value := getattr(self, name)) is not None}
        return replace(self, **moved)

    def batches(
        self, seed: int, step: int, micro_batch: int, accumulation: int, process: int = 0, processes: int = 1
    ) -> Iterator[Batch]:
        """The micro-batches of one step for one process: `micro_batch` photos and as many prior samples each."""
        total = micro_batch * accumulation * processes
        subject = draw(len(self.subject), seed, "subject", step * total, total)
        prior = draw(len(self.prior), seed, "prior-order", step * total, total) if len(self.prior) else []
        for micro in range(accumulation):
            first = (micro * processes + process) * micro_batch
            rows = range(first, first + micro_batch)
            composed = self._composed_rows(rows, total, seed, step)
            shown = [subject[row] for row in rows]
            if self.composed is not None:
                for place, example in composed.items():
                    shown[place] = self.composed.photos[example]
            photos = onto(torch.tensor(shown), self.subject.device)
            parts = [self.subject[photos]]
            numbers = list(rows)
            if prior:
                parts.append(self._prior_rows(prior, rows, total, seed, step))
                numbers += [total + row for row in rows]
            clean = torch.cat(parts)
            is_prior = torch.tensor([number >= total for number in numbers])
            weights = None
            if self.pixel_weights is not None:
                masked = self.pixel_weights[photos]
                weights = torch.cat([masked, masked.new_ones(len(clean) - len(masked), *masked.shape[1:])])
            yield Batch(clean, is_prior, tuple(numbers), weights, composed, self._shift(composed, clean))

    def _composed_rows(self, rows: range, total: int, seed: int, step: int) -> dict[int, int]:
        """Which of some of a step's `total` rows, by their place among them, are which of the composed examples."""
        if self.composed is None:
            return {}
        examples = draw(len(self.composed.photos), seed, "composed-order", step * total, total)
        drawn = [float(torch.rand((), generator=generator(seed, "composed-share", step, row))) for row in rows]
        return {place: examples[row] for place, row in enumerate(rows) if drawn[place] < self.composed_share}

    def _shift(self, composed: Mapping[int, int], clean: Tensor) -> Tensor | None:
        if self.composed is None or not composed:
            return None
        shift = torch.zeros_like(clean)
        examples = onto(torch.tensor([*composed.values()]), clean.device)
        shift[onto(torch.tensor([*composed]), clean.device)] = self.composed.shifts[examples].to(clean)
        return shift

    def _prior_rows(self, order: list[int], rows: range, total: int, seed: int, step: int) -> Tensor:
        """The prior samples [B, ...] of some of a step's `total` rows, a few of them of no prompt."""
        samples = self.prior[onto(torch.tensor([order[row] for row in rows]), self.prior.device)]
        if self.unprompted is None:
            return samples
        others = draw(len(self.unprompted), seed, "unprompted-order", step * total, total)
        return torch.stack(
            [
                self.unprompted[others[row]] if self._is_unprompted(seed, step, total + row) else sample
                for row, sample in zip(rows, samples, strict=True)
            ]
        )

    def _is_unprompted(self, seed: int, step: int, row: int) -> bool:
        if self.unprompted is None:
            return False
        return bool(torch.rand((), generator=generator(seed, "unprompted", step, row)) < self.unprompted_share)

    def prompt_numbers(self, batch: Batch, seed: int, step: int) -> Tensor:
        """Which of `texts` each row of the batch is called by, [B] long; of several ones (seed, step, row) draws.

        >>> Examples(torch.zeros(1, 1), torch.zeros(1, 1), ("a zqk dog", "a dog")).prompt_numbers(
        ...     Batch(torch.zeros(2, 1), torch.tensor([False, True]), (0, 1)), seed=0, step=0
        ... )
        tensor([0, 1])
        """
        captions = len(self.prompts) - 1

        def number(place: int, row: int, prior: bool) -> int:
            if prior:
                return captions + self._is_unprompted(seed, step, row)
            if self.composed is not None and place in batch.composed:
                return len(self.prompts) + 1 + self.composed.called[batch.composed[place]]
            return int(torch.randint(captions, (), generator=generator(seed, "caption", step, row)))

        rows = zip(range(len(batch.rows)), batch.rows, batch.is_prior.tolist(), strict=True)
        return torch.tensor([number(*row) for row in rows])


def draw(count: int, seed: int, stream: str, position: int, length: int) -> list[int]:
    """`length` example numbers from `position` on: shuffled epochs over `count` examples, endless.

    >>> sorted(draw(4, 0, "subject", 0, 4))
    [0, 1, 2, 3]
    >>> draw(4, 0, "subject", 0, 8)[3:6] == draw(4, 0, "subject", 3, 3)
    True
    """
    chosen: list[int] = []
    while len(chosen) < length:
        epoch, offset = divmod(position + len(chosen), count)
        order = torch.randperm(count, generator=generator(seed, stream, epoch)).tolist()
        chosen += order[offset : offset + length - len(chosen)]
    return chosen


def cut_out(
    batch: Batch, conditioning: Conditioning, side: int, step_size: int, seed: int, step: int
) -> tuple[Batch, Conditioning]:
    """From each row a square of `side`, anywhere on multiples of `step_size`, and what it is conditioned on there.

    Where is a function of (seed, step, row) alone.
    """
    places = (batch.clean.shape[-1] - side) // step_size + 1
    corners: list[tuple[int, int]] = []
    for row in batch.rows:
        top, left = torch.randint(places, (2,), generator=generator(seed, "cut-out", step, row)).tolist()
        corners.append((top * step_size, left * step_size))
    weights = None if batch.pixel_weights is None else windows(batch.pixel_weights, corners, side)
    shift = None if batch.shift is None else windows(batch.shift, corners, side)
    cut = replace(batch, clean=windows(batch.clean, corners, side), pixel_weights=weights, shift=shift)
    return cut, conditioning.cut(corners, side)


def noise_and_time(
    backbone: Backbone, batch: Batch, seed: int, step: int, shift: float | None = None
) -> tuple[Tensor, Tensor]:
    """Noise [B, ...] where the batch is and times [B] on the CPU, each row's a function of (seed, step, row) alone.

    Prior rows have rows, hence noise and times, of their own, as in eq. 2 of the paper. A composed row has those of its
    example, at which its shift was found.
    """
    sources = [
        composed_noise(seed, batch.composed[place]) if place in batch.composed else generator(seed, "noise", step, row)
        for place, row in enumerate(batch.rows)
    ]
    return drawn_from(sources, backbone, batch.clean, shift)


def composed_noise(seed: int, example: int) -> torch.Generator:
    """What a composed example's noise and time are drawn from."""
    return generator(seed, "composed", example)


def drawn_from(
    sources: Sequence[torch.Generator], backbone: Backbone, like: Tensor, shift: float | None
) -> tuple[Tensor, Tensor]:
    """A row's noise, shaped as those of `like` [B, ...], and its time [B] on the CPU, from each generator."""
    noise: list[Tensor] = []
    times: list[Tensor] = []
    for source in sources:
        times.append(backbone.process.sample_time(source, shift))
        noise.append(torch.randn(like.shape[1:], generator=source))
    return onto(torch.stack(noise), like.device, like.dtype), torch.cat(times)


def augmented_views(pixels: Tensor, views: int, flip: bool, seed: int) -> Tensor:
    """Views of photos [N, C, R, R]: `views` of each, the first the photo itself, the others cropped to 80..100 %.

    With `flip`, every view comes mirrored as well. Result [N · views · (1 or 2), C, R, R]; a mask may be a channel.
    """
    size = pixels.shape[-1]
    result = [pixels]
    for view in range(1, views):
        for index, photo in enumerate(pixels):
            source = generator(seed, "view", index, view)
            side = max(8, round(size * (0.8 + 0.2 * float(torch.rand(1, generator=source)))))
            top, left = (int(torch.randint(size - side + 1, (1,), generator=source)) for _ in range(2))
            window = photo[None, :, top : top + side, left : left + side]
            result.append(interpolate(window, (size, size), mode="bicubic", antialias=True).clamp(-1, 1))
    stacked = torch.cat(result)
    return torch.cat([stacked, stacked.flip(-1)]) if flip else stacked


def encode(
    backbone: Backbone, pixels: Tensor, batch_size: int, progress: Callable[[int], None] = lambda count: None
) -> Tensor:
    """Latents of pixels [N, 3, R, R] in -1..1, on the CPU; `progress` gets the number of each batch."""
    latents: list[Tensor] = []
    for part in pixels.split(batch_size):
        latents.append(backbone.encode_images(part.to(backbone.device)).float().cpu())
        progress(len(part))
    return torch.cat(latents)


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """Seed of torch's global generator at one step, so that dropout, too, resumes exactly, and drops other places in
    each process."""
    return derive(seed, "step", step, *[process] * (process > 0))
