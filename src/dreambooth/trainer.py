"""Fine-tuning: one loop, read from top to bottom."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone, Conditioning
from dreambooth.checkpoint import RunFolder
from dreambooth.errors import Interrupted
from dreambooth.examples import Batch, Examples, cut_out, noise_and_time, step_seed
from dreambooth.loss import Terms, dreambooth_loss, row_errors
from dreambooth.methods.protocol import Method
from dreambooth.precision import autocast
from dreambooth.reports import Reports, StepReport
from dreambooth.seeding import generator
from dreambooth.train_state import Settings, TrainState
from dreambooth.transfer import onto


def never(_step: int) -> bool:
    """No judge: training ends with its last step."""
    return False


def finetune(
    backbone: Backbone,
    method: Method,
    examples: Examples,
    settings: Settings,
    run: RunFolder,
    on_step: Callable[[StepReport], None] = lambda report: None,
    preview: Callable[[int], None] = lambda step: None,
    judge: Callable[[int], bool] = never,
) -> None:
    """Trains up to `max_train_steps`, from the run's newest checkpoint if it has one; leaves the result in `backbone`.

    `preview` and `judge` meet the weights as they would be kept; training ends where `judge` says that it is enough.
    Raises TrainingError when the loss or its gradient is not finite, Interrupted after Ctrl-C.
    """
    world = PartialState()
    state = TrainState.build(backbone, method, settings)
    examples, s = examples.to(backbone.device), settings
    rows = s.train_batch_size * s.gradient_accumulation_steps * world.num_processes
    reports = Reports(run, on_step, world.is_main_process)
    late, enough = backbone.device.type == "cuda", False

    with state.at_work(run, reports.tell), stop_on_interrupt() as stop_requested:
        state.resume(run)
        step_loss = Loss(backbone, method, examples, settings, rows)
        state.holding.send_encoders_away()
        while state.step < s.max_train_steps and not enough:
            start, step = perf_counter(), state.step
            torch.manual_seed(step_seed(s.seed, step, world.process_index))
            rate = state.begin(step)
            sums = torch.zeros(3, device=backbone.device)
            share = (s.train_batch_size, s.gradient_accumulation_steps, world.process_index, world.num_processes)
            for number, batch in enumerate(examples.batches(s.seed, step, *share), 1):
                terms = step_loss(batch, step)
                state.backward(terms.total, last=number == s.gradient_accumulation_steps)
                sums += torch.stack([terms.total, terms.subject, terms.prior]).detach()
            stop = stop_requested()
            if world.num_processes > 1:
                sums, stop = sum_over_processes(sums, stop, state.parameters)
            norm = state.clipped()
            state.update()
            reports.add(state.step, torch.cat([sums, norm.to(sums)[None]]), rate, start, method.facts())
            reports.tell(late=late and not (stop or s.pauses(state.step)))
            if world.is_main_process and s.due(s.preview_steps, state.step):
                with state.kept_weights():
                    preview(state.step)
            if s.due(s.track_steps, state.step):
                with state.kept_weights():
                    enough = from_main_process(world.is_main_process and judge(state.step))
            if world.is_main_process and (stop or enough or s.due(s.checkpointing_steps, state.step)):
                run.save_checkpoint(state.step, state.tensors(), s.checkpoints_total_limit)
            if stop:
                raise Interrupted(f"Stopped at step {state.step}, saved. Go on with: {run.resume_command}")


class Loss:
    """Eq. 2 of the paper for one micro-batch: corrupt, denoise, one error a row, both terms.

    `rows` is the number of subject rows of a whole step, over micro-batches and processes.
    """

    def __init__(self, backbone: Backbone, method: Method, examples: Examples, settings: Settings, rows: int) -> None:
        self.backbone, self.examples, self.settings, self.rows = backbone, examples, settings, rows
        self.prior_rows = rows if len(examples.prior) else 0
        self.autocast = autocast(settings.mixed_precision, backbone.device)
        self.encoded = None
        if not method.trains_text:
            with torch.no_grad(), self.autocast:
                self.encoded = backbone.encode_prompts(examples.texts)
            backbone.release_text_encoder()

    def __call__(self, batch: Batch, step: int) -> Terms:
        backbone, process, s = self.backbone, self.backbone.process, self.settings
        with self.autocast:
            draws = [generator(s.seed, "condition", step, row) for row in batch.rows]
            conditioning = backbone.conditioned_on(self.conditioning(batch, step), batch.clean, draws)
        if s.crop_size is not None and s.crop_size < batch.clean.shape[-1]:
            batch, conditioning = cut_out(batch, conditioning, s.crop_size, backbone.spec.crop_step, s.seed, step)
        noise, time = noise_and_time(backbone, batch, s.seed, step, s.timestep_shift)
        noisy = process.corrupt(batch.clean, noise, time)
        with self.autocast:
            prediction = backbone.denoise(noisy, onto(process.model_time(time), noisy.device), conditioning)
        target, weight = process.target(batch.clean, noise, time), process.weight(time, s.snr_gamma)
        if batch.shift is not None:
            target = target + batch.shift
        errors = row_errors(prediction, target, weight, batch.pixel_weights)
        is_prior = onto(batch.is_prior, errors.device)
        return dreambooth_loss(errors, is_prior, s.prior_loss_weight, self.rows, self.prior_rows)

    def conditioning(self, batch: Batch, step: int) -> Conditioning:
        """Each row's prompt: encoded once for all steps, or anew, each prompt of the batch once, where text trains."""
        numbers = self.examples.prompt_numbers(batch, self.settings.seed, step)
        if self.encoded is not None:
            return self.encoded.take(numbers)
        used, places = numbers.unique(return_inverse=True)
        return self.backbone.encode_prompts([self.examples.texts[number] for number in used]).take(places)


def sum_over_processes(sums: Tensor, stop: bool, parameters: list[nn.Parameter]) -> tuple[Tensor, bool]:
    """Sums gradients, in place, and `sums` over all processes, and whether any of them is to stop."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = reduce(parameter.grad, reduction="sum")  # pyright: ignore[reportAttributeAccessIssue]
    told: Any = reduce(torch.cat([sums, sums.new_tensor([float(stop)])]), reduction="sum")
    return told[:-1], bool(told[-1])


def from_main_process(answer: bool) -> bool:
    """The main process's answer, in every process."""
    answers = [answer]
    broadcast_object_list(answers)
    return answers[0]


@contextmanager
def stop_on_interrupt() -> Generator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a request to stop after the step; the second acts at once."""
    requested = False

    def handler(_signal: int, _frame: Any) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread: signals belong to whoever embeds us
        yield lambda: False
        return
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
