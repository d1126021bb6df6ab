"""The whole road: photos to subject, identifier, prior, training, pictures, report; each phase resumable."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dreambooth import drawing, prompts, squares, stages
from dreambooth.backbones.protocol import Backbone
from dreambooth.checkpoint import CONFIG, RunFolder, free_folder, refuse_taken, require_free_space
from dreambooth.composition import ComposedSet, composition_of
from dreambooth.config import TrainConfig
from dreambooth.errors import Interrupted, RunError
from dreambooth.evaluation.contents import Contents
from dreambooth.evaluation.report import write_report
from dreambooth.examples import Composed, Examples, augmented_views, encode
from dreambooth.fitting import Fit, finetune_within_memory, settle
from dreambooth.kept import keep
from dreambooth.masks import pixel_weights
from dreambooth.memory import FAST, Tier
from dreambooth.methods import make_method
from dreambooth.methods.protocol import Method
from dreambooth.plan import estimate_memory
from dreambooth.precision import in_bf16
from dreambooth.prepare import load_model, name_subject, prepare
from dreambooth.prior import PriorManifest, PriorSet, cache_folder
from dreambooth.reports import tensorboard
from dreambooth.run import Run, sampling_of, world
from dreambooth.sheets import contact_sheet, strip
from dreambooth.tracking import Tracker, make_evaluator
from dreambooth.train_state import Settings
from dreambooth.trainer import StepReport, from_main_process, never
from dreambooth.ui import Display

DRIFT_PICTURES = 8
UNPROMPTED = 4  # one sample of no prompt for so many of the class
REPORTED_APPLICATIONS = ("recontextualization", "art", "views", "properties", "accessories")


def start(config: TrainConfig, display: Display) -> Run:
    """Begins a new run and carries it to its end."""
    processes = world(config.device)
    display.quiet |= not processes.is_main_process
    if config.out:
        refuse_taken(Path(config.out))
    prepared = prepare(config, display)
    place = [config.out or str(free_folder(Path("runs") / prepared.subject.class_noun.replace(" ", "-")))]
    broadcast_object_list(place)
    path = Path(place[0])
    require_free_space(path, prepared.plan.disk_bytes)
    display.say(prepared.plan.table())
    facts = name_subject(prepared, display)
    if processes.is_main_process:
        resolved = prepared.config.model_copy(update={"out": place[0]})
        folder = RunFolder.create(path, resolved, partial(squares.keep, subject=prepared.subject, facts=facts))
        folder.add_time("load model", prepared.load_seconds)
    processes.wait_for_everyone()
    return _walk(RunFolder.open(path), display, prepared.backbone)


def resume(path: Path, display: Display) -> Run:
    """Carries an existing run to its end, from wherever it was stopped. Raises RunError for one that is damaged."""
    folder = RunFolder.open(stages.root_of(path))
    config = folder.config()
    if config.max_train_steps is None:
        raise RunError(f"{folder.path / CONFIG} lacks settings that a run writes; was it edited?")
    Contents(folder.path).subject()
    display.quiet |= not world(config.device).is_main_process
    return _walk(folder, display, None)


def _walk(folder: RunFolder, display: Display, backbone: Backbone | None) -> Run:
    with folder.lock() if PartialState().is_main_process else nullcontext():
        try:
            return _Road(folder, display).walk(backbone)
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped. What was made so far is kept; go on with: {folder.resume_command}") from None


class _Road:
    """One run, or one stage of it, on its way; every phase looks at the folder first and does only what is missing."""

    def __init__(self, folder: RunFolder, display: Display, stage: str = "") -> None:
        """`stage` is what bars and times call a stage in a folder of its own."""
        self.folder, self.display, self.stage = folder, display, stage
        self.config = folder.config()
        self.facts: dict[str, Any] = folder.read_json("subject.json")
        self.processes = PartialState()
        self.main = self.processes.is_main_process

    def walk(self, backbone: Backbone | None) -> Run:
        if not self.folder.finished:
            self._train(backbone or load_model(self.config, make_method(self.config, self.facts["class_noun"])))
        run = Run(self.folder, self.config.device)
        if self.main:
            self._draw(run)
            with self._timed("report"):
                write_report(self.folder)
        return run

    def _timed(self, phase: str) -> AbstractContextManager[None]:
        clock = RunFolder(stages.root_of(self.folder.path))
        return clock.timed(self._of_stage(phase)) if self.main else nullcontext()

    def _of_stage(self, title: str) -> str:
        return f"{title}, {self.stage}" if self.stage else title

    def _train(self, backbone: Backbone) -> None:
        config, roads = self.config, list[tuple[_Road, Backbone]]()
        for name in stages.names_of(config):
            if self.main:
                stages.folder_of(self.folder, config, name, backbone)
            self.processes.wait_for_everyone()
            folder = stages.folder_of(self.folder, config, name, backbone)
            roads.append((self if name == "base" else _Road(folder, self.display, name), backbone.stage(name)))
        # Measured, and sampled from, before any of the stages is trained.
        tiers = [road._settle(own) for road, own in roads]
        priors = [road._prior(own) for road, own in roads]
        if self.main:
            self._draw_drift(backbone, "base")
        prepared = zip(roads, priors, tiers, strict=True)
        methods = [road._tune(own, *prior, tier) for (road, own), prior, tier in prepared]
        if self.main:
            with self._timed("save model"):
                keep(backbone, methods[0], self.folder)
        self.processes.wait_for_everyone()

    def _settle(self, backbone: Backbone) -> Tier:
        """The memory tier that this stage trains in."""
        config, method = self.config, make_method(self.config, self.facts["class_noun"])
        with self._timed("fit memory"):
            fit = Fit(config.memory, estimate_memory(config, backbone, method), config.with_prior_preservation)
            tier = settle(self.folder, backbone, method, settings_of(config), fit, self.display.say)
        backbone.spare_memory(tier.spares_drawing)
        return tier

    def _tune(self, backbone: Backbone, prior: torch.Tensor, unprompted: torch.Tensor | None, tier: Tier) -> Method:
        """Fine-tunes this stage and leaves the result in `backbone`."""
        config, method = self.config, make_method(self.config, self.facts["class_noun"])
        photos = squares.read(self.folder, backbone.spec.resolution)
        shown = augmented_views(photos, config.views, config.flip, config.seed)
        views, masks = shown[:, :3], shown[:, 3:].add(1).div(2)
        with self._timed("encode"), self.display.track("encoding", len(views)) as advance:
            latents = encode(backbone, views, config.sample_batch_size, advance)
        squares.refuse_broken(latents, [photo["file"] for photo in self.facts["photos"]])
        captions = self.facts.get("instance_prompts", [self.facts["instance_prompt"]])
        weights = pixel_weights(masks, backbone.spec.native_size, config.mask_weight) if config.masked_loss else None
        called = (*captions, self.facts["class_prompt"])
        examples = Examples(
            latents, prior, called, weights, unprompted, config.unprompted_share or 0.0,
            self._composed(backbone, latents), config.composed_share or 0.0,
        )  # fmt: skip
        with self._timed("train"):
            self._finetune(backbone, method, examples, tier)
        return method

    def _prior(self, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents of the prior samples [P, ...], P = 0 without prior preservation, and of those of no prompt."""
        config, count = self.config, self.config.num_class_images or 0
        if not config.with_prior_preservation:
            return torch.empty(0, *backbone.spec.native_size), None
        place = Path(config.prior_dir) if config.prior_dir else None
        with self._timed("prior samples"):
            prior = self._prior_set(backbone, self.facts["class_prompt"], config.prior_guidance, place, count)
            sheet = self.folder.path / "prior.png"
            if self.main and not sheet.exists():
                contact_sheet(prior.pictures(backbone, min(count, 32)), 8, tile=128).save(sheet)
            if not config.unprompted_share:
                return prior.load(count), None
            few = -(-count // UNPROMPTED)
            unprompted = self._prior_set(backbone, "", 1.0, place and place / "unprompted", few)
        return prior.load(count), unprompted.load(few)

    def _prior_set(self, backbone: Backbone, prompt: str, guidance: float, place: Path | None, count: int) -> PriorSet:
        """`count` samples of a prompt, taken from `place`, the shared cache by default, or drawn."""
        config = self.config
        manifest = PriorManifest(
            model=self.facts["fingerprint"],
            prompt=prompt,
            sampler=config.prior_sampler or backbone.spec.sampler,
            steps=config.prior_steps,
            guidance=guidance,
            seed=config.prior_seed,
            native_size=backbone.spec.native_size,
            enlarging=backbone.spec.enlarging,
            mixed_precision="bf16" if in_bf16(config.mixed_precision, backbone.device) else "no",
        )
        prior = PriorSet(place or cache_folder() / manifest.key(), manifest)
        missing = len(prior.missing(count))
        share = (self.processes.process_index, self.processes.num_processes)
        what = "prior samples" if prompt else "samples of no prompt"
        if missing:
            with self.display.track(self._of_stage(what), count, count - missing) as advance:
                prior.fill(backbone, count, config.sample_batch_size, advance, *share)
        else:
            self.display.say(f"The {count} {what} are taken from {prior.folder}.")
        self.processes.wait_for_everyone()
        return prior

    def _composed(self, backbone: Backbone, latents: torch.Tensor) -> Composed | None:
        """Examples under prompts of more words, made now or before; None where training has none."""
        if not self.config.composed_share:
            return None
        composition = composition_of(self.config, self.facts, self.processes.num_processes)
        composed = ComposedSet(self.folder.path / "composed", composition, latents)
        done = composition.count - sum(map(len, composed.missing))
        with self._timed("words"), self.display.track("words", composition.count, done) as advance:
            composed.fill(backbone, advance, self.processes.process_index, self.processes.num_processes)
        self.processes.wait_for_everyone()
        return composed.load()

    def _finetune(self, backbone: Backbone, method: Method, examples: Examples, tier: Tier) -> None:
        config, folder = self.config, self.folder
        noun, word = self.facts["class_noun"], self.facts["identifier"]
        filled = [(template, prompts.fill(template, word, noun)) for template in config.preview_prompts]
        if self.main:
            folder.write_json("previews/prompts.json", [prompt for _, prompt in filled])

        def preview(step: int) -> None:
            if not filled:
                return
            pictures = drawing.draw(backbone, filled, [config.seed], sampling_of(config), config.sample_batch_size)
            strip([picture.image for picture in pictures]).save(folder.path / f"previews/step-{step:06d}.png")

        settings = settings_of(config)
        done = max((checkpoint.step for checkpoint in folder.checkpoints()), default=0)
        tracker = self._tracker(backbone, method) if config.track and self.main else None
        if from_main_process(tracker is not None and tracker.enough(done)):
            settings = replace(settings, max_train_steps=done)  # it had stopped early before it was interrupted
        title = self._of_stage("training")
        track, last = self.display.track(title, settings.max_train_steps, done), done
        with track as advance, tensorboard(folder) as board:

            def on_step(report: StepReport) -> None:
                nonlocal last
                board(report)
                # Where memory ended, steps since the last checkpoint are done again.
                advance(report.step - last, note_of(report) + (f"  {tracker.latest}" if tracker else ""))
                last = report.step

            looks = {"on_step": on_step, "preview": preview, "judge": tracker or never}
            warn = self.display.warn if self.main else _say_nothing
            finetune_within_memory(backbone, method, examples, settings, folder, tier, warn, **looks)
        if tracker is not None:
            if config.keep_best:
                tracker.load_best()
            self.display.say(tracker.summary(config.keep_best))
        if self.main:
            for warning in method.warnings():
                self.display.warn(warning)
                self.facts["warnings"] = [*dict.fromkeys([*self.facts["warnings"], warning])]
                folder.write_json("subject.json", self.facts)

    def _tracker(self, backbone: Backbone, method: Method) -> Tracker:
        """Judges the untouched model first, while `backbone` still is it."""
        config, evaluate = self.config, make_evaluator(self.folder, backbone)
        patience = config.early_stop_patience if config.early_stop else None
        tracker = Tracker(self.folder, method, evaluate, patience)
        with self.display.track("judging, untouched", len(evaluate.each)) as advance:
            tracker.begin(advance)
        return tracker

    def _draw_drift(self, backbone: Backbone, which: str) -> None:
        """Pictures of the bare class, by the base model before training and the tuned one after it."""
        config, folder = self.config, self.folder.path / "samples" / "drift" / which
        if config.applications == [] or (folder / "pictures.json").exists():
            return
        seeds = range(config.seed, config.seed + DRIFT_PICTURES)
        with self._timed("pictures"), self.display.track(f"the class, {which}", len(seeds)) as advance:
            job = [(config.class_prompt, self.facts["class_prompt"])]
            pictures = drawing.draw(backbone, job, seeds, sampling_of(config), config.sample_batch_size, advance)
            drawing.save(pictures, folder, f"{config.model} ({which})", sampling_of(config), 8)

    def _draw(self, run: Run) -> None:
        """The applications' pictures, by the finished model."""
        config, sampling = self.config, run.sampling
        names = suitable_applications(run.class_noun) if config.applications is None else config.applications
        todo = [
            (name, prompts.application_prompts(name, run.class_noun))
            for name in names
            if not (self.folder.path / "samples" / name / "pictures.json").exists()
        ]
        self._draw_drift(run.backbone, "tuned")
        count = sum(len(templates) for _, templates in todo) * config.images_per_prompt
        if not count:
            return
        with self._timed("pictures"), self.display.track("pictures", count) as advance:
            for name, templates in todo:
                jobs = [(template, run.fill(template)) for template in templates]
                seeds = range(config.seed, config.seed + config.images_per_prompt)
                pictures = drawing.draw(run.backbone, jobs, seeds, sampling, config.sample_batch_size, advance)
                columns = max(config.images_per_prompt, 6 // config.images_per_prompt * config.images_per_prompt)
                drawing.save(pictures, self.folder.path / "samples" / name, str(run.path), sampling, columns)


def suitable_applications(class_noun: str) -> list[str]:
    """The applications of the report that have prompts for this class."""
    return [name for name in prompts.applications(class_noun) if name in REPORTED_APPLICATIONS]


def note_of(report: StepReport) -> str:
    """What the bar says of a step.

    >>> note_of(StepReport(1, 0.2, 0.1, 0.1, 1e-4, 1.0, 0.5))
    'subject 0.1000  prior 0.1000'
    >>> note_of(StepReport(1, 0.2, 0.2, 0.0, 5e-3, 1.0, 0.5, {"embedding_norm": 0.4321}))
    'subject 0.2000  norm 0.432'
    """
    terms = {"subject": report.loss_subject, "prior": report.loss_prior}
    told = [f"{name} {value:.4f}" for name, value in terms.items() if value]
    return "  ".join(told + [f"{name.rpartition('_')[2]} {value:.3g}" for name, value in report.facts.items()])


def settings_of(config: TrainConfig) -> Settings:
    """The trainer's plain numbers from a resolved config."""
    assert config.max_train_steps and config.train_batch_size and config.learning_rate
    return Settings(
        max_train_steps=config.max_train_steps,
        train_batch_size=config.train_batch_size,
        learning_rates={
            "denoiser": config.learning_rate,
            "text_encoder": config.text_encoder_lr or config.learning_rate,
            "embedding": config.embedding_lr or config.learning_rate,
        },
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        prior_loss_weight=config.prior_loss_weight,
        snr_gamma=config.snr_gamma,
        timestep_shift=config.timestep_shift,
        crop_size=config.crop_size,
        lr_scheduler=config.lr_scheduler,
        lr_warmup_steps=config.lr_warmup_steps,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        epsilon=config.adam_epsilon,
        use_8bit_adam=config.use_8bit_adam,
        max_grad_norm=config.max_grad_norm,
        ema_decay=config.ema_decay if config.use_ema else None,
        merge_ratio=config.merge_ratio,
        mixed_precision=config.mixed_precision,
        tier=replace(FAST, checkpointing=config.gradient_checkpointing),
        compile_backend="inductor" if config.compile else None,
        checkpointing_steps=config.checkpointing_steps,
        checkpoints_total_limit=config.checkpoints_total_limit,
        preview_steps=config.preview_steps,
        track_steps=config.track_steps if config.track else 0,
        seed=config.seed,
    )


def _say_nothing(text: str) -> None: ...
