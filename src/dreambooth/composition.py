"""Composed examples: photos under prompts of more words, so that those words keep their meaning beside the subject.

Where words do not say which individual is meant, Bayes has p(x | subject, words) ∝ p(x | subject) · p(words | x). The
frozen model knows the second factor: what the words change of its prediction for the bare class is, up to a scale, the
gradient of log p(words | x) (Liu et al. 2022, "Compositional Visual Generation", section 3.2). So a noisy photo under
"a [identifier] [class noun] in the jungle" is trained towards its own target plus
scale · (prediction("a [class noun] in the jungle") − prediction("a [class noun]")), predicted before training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreambooth import prompts
from dreambooth.backbones.protocol import Backbone
from dreambooth.config import TrainConfig
from dreambooth.errors import RunError
from dreambooth.examples import Composed, composed_noise, draw, drawn_from
from dreambooth.heap import freed_memory_kept
from dreambooth.plan import composed_count
from dreambooth.precision import MixedPrecision, autocast
from dreambooth.prior import save_whole
from dreambooth.transfer import onto


@dataclass(frozen=True)
class Composition:
    """What composed examples are made of.

    `prompts` are those of the subject with more words, `bare` the same of its class alone, one for each, and
    `class_prompt` is the class without them. `batch_size` examples are predicted at once.
    """

    prompts: tuple[str, ...]
    bare: tuple[str, ...]
    class_prompt: str
    count: int
    scale: float
    seed: int
    timestep_shift: float | None
    mixed_precision: MixedPrecision
    batch_size: int


class ComposedSet:
    """A folder of what the words change, a small safetensors file a batch, each written whole or not at all.

    So it can be gone on with after an interruption, and filled by several processes. `latents` [N, *native_size] are
    those of the photos.
    """

    def __init__(self, folder: Path, composition: Composition, latents: Tensor) -> None:
        self.folder, self.composition, self.latents = folder, composition, latents
        c = composition
        self.photos = tuple(draw(len(latents), c.seed, "composed-photo", 0, c.count))
        self.called = tuple(draw(len(c.prompts), c.seed, "composed-words", 0, c.count))
        starts = range(0, c.count, c.batch_size)
        self.batches = [range(start, min(start + c.batch_size, c.count)) for start in starts]

    @property
    def missing(self) -> list[range]:
        """The batches of examples that are not on disk yet."""
        return [batch for batch in self.batches if not self._file(batch).exists()]

    def fill(self, backbone: Backbone, progress: Callable[[int], None], part: int = 0, parts: int = 1) -> None:
        """Has the frozen model predict what is missing; process `part` of `parts` its share of the batches.

        `progress` is called with the number of examples of each batch. Raises RunError for what is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        todo = set(self.missing)
        with torch.no_grad(), freed_memory_kept(backbone.device):
            for batch in self.batches[part::parts]:
                if batch in todo:
                    shift = self._predict(backbone, batch)
                    if not shift.isfinite().all():
                        raise RunError(
                            "The untouched model predicts values that are not finite under some of the "
                            "--composed-prompts; train with --mixed-precision no, or --composed-share 0."
                        )
                    save_whole({"shift": shift.half().cpu()}, self._file(batch))
                    progress(len(batch))

    def load(self) -> Composed:
        """All examples. Raises RunError for a file that cannot be read."""
        shifts: list[Tensor] = []
        for batch in self.batches:
            try:
                shifts.append(load_file(self._file(batch))["shift"].float())
            except Exception as error:
                raise RunError(f"{self._file(batch)} cannot be read; delete it and it is made anew.") from error
        return Composed(self.photos, self.called, self.composition.prompts, self.composition.scale * torch.cat(shifts))

    def _predict(self, backbone: Backbone, batch: range) -> Tensor:
        """What the words change of the frozen model's predictions for noisy photos, [B, *native_size]."""
        c, size = self.composition, len(batch)
        clean = self.latents[[self.photos[example] for example in batch]].to(backbone.device)
        sources = [composed_noise(c.seed, example) for example in batch]
        noise, time = drawn_from(sources, backbone, clean, c.timestep_shift)
        noisy = backbone.process.corrupt(clean, noise, time)
        told = onto(backbone.process.model_time(time), noisy.device)
        bare = [c.bare[self.called[example]] for example in batch]
        with autocast(c.mixed_precision, backbone.device):
            conditioning = backbone.encode_prompts([*bare, c.class_prompt]).take([*range(size), *[size] * size])
            both = backbone.denoise(torch.cat([noisy, noisy]), torch.cat([told, told]), conditioning)
        worded, plain = both.float().chunk(2)
        return worded - plain

    def _file(self, batch: range) -> Path:
        return self.folder / f"{batch.start:06d}-{batch.stop:06d}.safetensors"


def composition_of(config: TrainConfig, facts: Mapping[str, Any], processes: int) -> Composition:
    """What a resolved config asks for; `facts` are those of subject.json."""
    noun = facts["class_noun"]
    # As the photos are called: in some captions the rare word stands without the noun.
    phrase = "{subject}" if "{subject}" in (config.instance_prompt or "{subject}") else "{identifier}"
    chosen = config.composed_prompts or prompts.composed_templates(noun)
    templates = [template.replace("{subject}", phrase) for template in chosen]
    return Composition(
        prompts=tuple(prompts.fill(template, facts["identifier"], noun) for template in templates),
        bare=tuple(prompts.fill(template, None, noun) for template in templates),
        # Not the prior's prompt, which may say more than the noun: the difference is to be the added words alone.
        class_prompt=prompts.class_prompt(noun),
        count=composed_count(config, processes),
        scale=config.composed_scale,
        seed=config.seed,
        timestep_shift=config.timestep_shift,
        mixed_precision=config.mixed_precision,
        batch_size=config.sample_batch_size,
    )
