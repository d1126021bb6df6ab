"""Judges the current weights as training goes, and keeps those of best balance.

RUN/track.jsonl has a line a judgement, the first of them the untouched model's; RUN/best holds the best weights.
A judgement depends on weights, prompts and seeds alone, and draws no random number of the training's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dreambooth import drawing, prompts
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.checkpoint import TRACK, RunFolder, read_tensors, write_tensors, write_whole
from dreambooth.config import TrainConfig
from dreambooth.errors import RunError
from dreambooth.evaluation.balance import Scores, balance, no_longer_pays
from dreambooth.evaluation.encoders import (
    ImageEncoder,
    ImageTextEncoder,
    clip_encoder,
    clip_name,
    dino_encoder,
    dino_name,
)
from dreambooth.evaluation.metrics import pairwise_fidelity, prompt_fidelity, real_ceiling
from dreambooth.methods.protocol import Method
from dreambooth.run import sampling_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Probe:
    """A prompt that is judged: its template, as the model reads it, and `plain`, with the class noun alone.

    Where the two are the same it shows the bare class.
    """

    template: str
    prompt: str
    plain: str

    @property
    def shows_subject(self) -> bool:
        return self.prompt != self.plain


class Evaluator:
    """DINO, CLIP-T and PRES of a backbone's pictures of fixed prompts, against the photos of the subject."""

    def __init__(
        self,
        backbone: Backbone,
        dino: ImageEncoder,
        clip: ImageTextEncoder,
        photos: Sequence[Image],
        probes: Sequence[Probe],
        seeds: Sequence[int],
        sampling: Sampling,
        batch_size: int = 8,
    ) -> None:
        """`probes` holds prompts of the subject, for DINO and CLIP-T, and of the bare class, for PRES."""
        self.backbone, self.dino, self.clip = backbone, dino, clip
        self.probes, self.seeds, self.sampling, self.batch_size = probes, seeds, sampling, batch_size
        self.each = [probe for probe in probes for _ in seeds]
        self.photos = dino.embed_images(photos)
        # A single photo resembles no other; then the highest cosine there is stands in.
        self.ceiling = float(real_ceiling(self.photos).mean()) if len(photos) > 1 else 1.0
        # The judging CLIP knows the class noun alone (paper, section 4.2).
        self.texts = clip.embed_texts([probe.plain for probe in self.each if probe.shows_subject])

    def __call__(self, step: int, plain: bool = False, progress: Callable[[int], None] = lambda count: None) -> Scores:
        """What the weights as they are now reach; `plain` asks them for the class noun alone."""
        jobs = [(probe.template, probe.plain if plain else probe.prompt) for probe in self.probes]
        drawn = drawing.draw(self.backbone, jobs, self.seeds, self.sampling, self.batch_size, progress)
        shown = [(probe.shows_subject, picture.image) for probe, picture in zip(self.each, drawn, strict=True)]
        subject, of_class = ([image for shows, image in shown if shows is kind] for kind in (True, False))
        dino = pairwise_fidelity(self.dino.embed_images(subject), self.photos)
        clip_t = prompt_fidelity(self.clip.embed_images(subject), self.texts)
        pres = pairwise_fidelity(self.dino.embed_images(of_class), self.photos)
        return Scores(step, *(round(float(values.mean()), 6) for values in (dino, clip_t, pres)))

    def settings(self) -> dict[str, Any]:
        """All but the weights that a judgement depends on, as JSON gives it back."""
        encoders = {"dino": self.dino, "clip": self.clip}
        facts = {
            "judges": {which: f"{encoder.name} {encoder.fingerprint}" for which, encoder in encoders.items()},
            "prompts": [probe.prompt for probe in self.probes],
            "seeds": list(self.seeds),
            "sampling": asdict(self.sampling),
        }
        return json.loads(json.dumps(facts))


def make_evaluator(folder: RunFolder, backbone: Backbone) -> Evaluator:
    """The evaluator of a run's configuration and photos. Raises ModelError or ConfigError for an encoder."""
    from PIL import Image

    config, facts = folder.config(), folder.read_json("subject.json")
    noun, identifier = facts["class_noun"], facts["identifier"]
    probes = [
        Probe(template, prompts.fill(template, identifier, noun), prompts.fill(template, None, noun))
        for template in config.track_prompts
    ]
    photos = [Image.open(folder.path / entry["file"]).convert("RGB") for entry in facts["photos"]]
    seeds = range(config.seed, config.seed + config.track_images)
    dino, clip = encoders_of(config, str(backbone.device))
    return Evaluator(backbone, dino, clip, photos, probes, seeds, sampling_of(config), config.sample_batch_size)


def encoders_of(config: TrainConfig, device: str) -> tuple[ImageEncoder, ImageTextEncoder]:
    """DINO and CLIP of a configuration. Raises ModelError or ConfigError in one sentence where one cannot be had."""
    dino = dino_encoder(config.judge_dino or dino_name(config.model), device)
    return dino, clip_encoder(config.judge_clip or clip_name(config.model), device)


class Tracker:
    """Called after a step, judges the weights as they are then, and says whether training should end.

    All that it knows it reads from the run folder, so a resumed run goes on as if it had never stopped.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: Method,
        evaluate: Evaluator,
        patience: int | None = None,
    ) -> None:
        """`patience` is the number of judgements without gain after which to stop; None is never."""
        self.folder, self.method, self.evaluate, self.patience = folder, method, evaluate, patience
        self.latest = ""

    def begin(self, progress: Callable[[int], None] = lambda count: None) -> None:
        """Judges the untouched model, which the backbone must still be, unless the run folder has that already.

        `progress` gets the number of pictures each batch drew. Raises RunError when the run was judged in another
        way before.
        """
        rows, settings = self.folder.read_log(TRACK), self.evaluate.settings()
        if not rows or rows[0]["step"] != 0:
            base = vars(self.evaluate(0, plain=True, progress=progress))
            base |= {"ceiling": self.evaluate.ceiling, "settings": settings}
            write_whole(self.folder.path / TRACK, "".join(json.dumps(row) + "\n" for row in [base, *rows]))
        elif rows[0].get("settings") != settings:
            raise RunError(
                f"{self.folder.path} was judged by other encoders or on other prompts before, and both cannot be "
                f"compared: go on with its old settings, or put `track = false` into its config.toml, or delete its "
                f"{TRACK}."
            )

    def __call__(self, step: int) -> bool:
        start = perf_counter()
        course = [scores for scores in self.course() if scores.step < step]
        for kept in self.kept() - {scores.step for scores in course}:  # of steps that a kill undid
            self.file(kept).unlink()
        scores = self.evaluate(step)
        best = self.best(course)
        if best is None or self.balance(scores) > self.balance(best):
            write_tensors(self.method.state_dict(), self.file(step))
        seconds = {"balance": self.balance(scores), "seconds": perf_counter() - start}
        self.folder.append_log(vars(scores) | seconds, TRACK)
        self._prune([*course, scores])
        self.latest = in_words(scores, digits=2)
        return self.enough(step)

    def course(self) -> list[Scores]:
        """All judgements so far, the untouched model's first."""
        names = [field.name for field in fields(Scores)]
        return [Scores(**{name: row[name] for name in names}) for row in self.folder.read_log(TRACK)]

    @cached_property
    def base(self) -> Scores:
        return self.course()[0]

    def balance(self, scores: Scores) -> float:
        return balance(scores, self.base, self.evaluate.ceiling)

    def enough(self, step: int) -> bool:
        """Whether the judgements up to `step` say that training should end there."""
        course = [scores for scores in self.course() if scores.step <= step]
        return self.patience is not None and no_longer_pays(course, self.patience)

    def best(self, course: Sequence[Scores]) -> Scores | None:
        """Of the judgements whose weights are kept, the first of best balance."""
        kept = self.kept()
        return max((scores for scores in course if scores.step in kept), key=self.balance, default=None)

    def load_best(self) -> Scores | None:
        """Puts the best weights in place; returns their judgement, or None when none are kept."""
        best = self.best(self.course())
        if best is not None:
            self.method.load_state_dict(read_tensors(self.file(best.step)))
        return best

    def summary(self, kept_best: bool) -> str:
        """What came out, in a sentence or two."""
        course = self.course()
        last, best, sentences = course[-1], self.best(course), list[str]()
        if self.patience and self.enough(last.step):
            sentences.append(
                f"Stopped after step {last.step}: over {self.patience} judgements DINO rose no more, and PRES rose "
                f"from {course[-self.patience - 1].pres:.3f} to {last.pres:.3f}."
            )
        if best is not None:
            whose = "The model has the weights" if kept_best else f"{self.file(best.step)} has the best weights, those"
            sentences.append(
                f"{whose} of step {best.step}: {in_words(best)} (the untouched model: {in_words(self.base)})."
            )
        return " ".join(sentences)

    def kept(self) -> set[int]:
        """The steps whose weights are in RUN/best."""
        return {int(file.stem.removeprefix("step-")) for file in self.file(0).parent.glob("step-*.safetensors")}

    def file(self, step: int) -> Path:
        return self.folder.path / "best" / f"step-{step:06d}.safetensors"

    def _prune(self, course: Sequence[Scores]) -> None:
        """Leaves the best weights, and those that are best again for a run resumed from its newest checkpoint."""
        resumed = max((checkpoint.step for checkpoint in self.folder.checkpoints()), default=0)
        wanted = [self.best(course), self.best([scores for scores in course if scores.step <= resumed])]
        for kept in self.kept() - {scores.step for scores in wanted if scores}:
            self.file(kept).unlink()


def in_words(scores: Scores, digits: int = 3) -> str:
    """
    >>> in_words(Scores(50, 0.6123, 0.29, 0.4))
    'DINO 0.612, CLIP-T 0.290, PRES 0.400'
    """
    names = {"DINO": scores.dino, "CLIP-T": scores.clip_t, "PRES": scores.pres}
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in names.items())
