"""The whole road: photos to subject, identifier, prior, training, pictures, report; each phase resumable."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dreambooth import backbones, drawing, identifier, prompts
from dreambooth.backbones.protocol import Backbone, Sampling, Source
from dreambooth.checkpoint import RunFolder, free_folder, require_free_space, write_whole
from dreambooth.config import TrainConfig, to_toml
from dreambooth.errors import ConfigError
from dreambooth.evaluation.report import write_report
from dreambooth.examples import Examples, augmented_views, encode
from dreambooth.methods.full import FullFineTuning
from dreambooth.plan import Plan, make_plan, resolve_defaults
from dreambooth.prior import PriorManifest, PriorSet, cache_folder, fingerprint
from dreambooth.run import Run, choose_device, sampling_of, world
from dreambooth.sheets import contact_sheet, strip
from dreambooth.subject import Subject, clean_class_noun, inspect, load_subject, make_subject, preflight_table
from dreambooth.train_state import Settings, optimizer_class
from dreambooth.trainer import StepReport, finetune
from dreambooth.ui import Display

PROBED_CANDIDATES = 8
REPORTED_APPLICATIONS = ("recontextualization", "art", "views", "properties", "accessories")


def start(config: TrainConfig, display: Display) -> Run:
    """Begins a new run and carries it to its end."""
    subject = _inspect(config, display)
    processes = world(config.device)
    place = [str(_new_folder(config))]
    broadcast_object_list(place)
    path = Path(place[0])
    if processes.is_main_process:
        folder = RunFolder.create(path, config.model_copy(update={"out": str(path)}))
        _keep_subject(folder, subject)
    processes.wait_for_everyone()
    return resume(path, display)


def resume(path: Path, display: Display) -> Run:
    """Carries an existing run to its end, from wherever it was stopped."""
    folder = RunFolder.open(path)
    if not world(folder.config().device).is_main_process:
        display.quiet = True
        return _Road(folder, display).walk()
    with folder.lock():
        return _Road(folder, display).walk()


def dry_run(config: TrainConfig, display: Display) -> tuple[TrainConfig, Plan]:
    """The resolved config and the plan of a run, without touching the disk."""
    subject = _inspect(config, display)
    backbone = _load(config)
    resolved = resolve_defaults(config, backbone.spec)
    return resolved, make_plan(resolved, backbone, _method(resolved), len(subject.photos))


@dataclass
class _Road:
    """One run on its way; every phase looks at the folder first and does only what is missing."""

    folder: RunFolder
    display: Display

    def walk(self) -> Run:
        config = self.folder.config()
        main = PartialState().is_main_process
        if not self.folder.finished:
            config = self._train(config)
        if main:
            self._draw(config)
            with self.folder.timed("report"):
                write_report(self.folder)
        return Run(self.folder)

    def _train(self, config: TrainConfig) -> TrainConfig:
        processes = PartialState()
        with self.folder.timed("load model"):
            backbone = _load(config)
            backbone.to(choose_device(config.device))
        optimizer_class(config.use_8bit_adam, backbone.device)
        config = resolve_defaults(config, backbone.spec)
        if processes.is_main_process:
            write_whole(self.folder.path / "config.toml", to_toml(config))
        method = _method(config)
        pixels = _photos(self.folder)
        plan = make_plan(config, backbone, method, len(pixels), processes.num_processes)
        require_free_space(self.folder.path, plan.disk_bytes)
        self.display.say(plan.table())
        facts = self._identify(config, backbone)
        prior = self._prior(config, backbone, facts)
        if processes.is_main_process:
            self._draw_drift(config, backbone, facts, "base")
        with self.folder.timed("encode"):
            views = augmented_views(pixels, config.views, config.flip, config.seed)
            latents = encode(backbone, views, config.sample_batch_size)
        examples = Examples(latents, prior, (facts["instance_prompt"], facts["class_prompt"]))
        if config.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        with self.folder.timed("train"):
            self._finetune(config, backbone, method, examples, facts)
        if processes.is_main_process:
            with self.folder.timed("save model"):
                temporary = self.folder.path / ".model"
                shutil.rmtree(temporary, ignore_errors=True)
                backbone.save_pipeline(temporary)
                self.folder.publish_model(temporary)
        processes.wait_for_everyone()
        return config

    def _identify(self, config: TrainConfig, backbone: Backbone) -> dict[str, Any]:
        """subject.json with the identifier in it; chosen once, then kept."""
        facts = self.folder.read_json("subject.json")
        if "identifier" in facts:
            return facts
        with self.folder.timed("identifier"):
            chosen = find_identifier(config, backbone, facts["class_noun"], self.display)
        for warning in chosen.warnings:
            self.display.warn(warning)
        noun = facts["class_noun"]
        facts |= {
            "identifier": chosen.text,
            "token_ids": list(chosen.token_ids),
            "instance_prompt": prompts.fill(config.instance_prompt, chosen.text, noun),
            "class_prompt": prompts.fill(config.class_prompt, chosen.text, noun),
            "model": config.model,
            "fingerprint": fingerprint(backbone),
            "warnings": [*facts["warnings"], *chosen.warnings],
        }
        if PartialState().is_main_process:
            self.folder.write_json("subject.json", facts)
        self.display.say(f'Every photo is called "{facts["instance_prompt"]}" (token {facts["token_ids"]}).')
        return facts

    def _prior(self, config: TrainConfig, backbone: Backbone, facts: dict[str, Any]) -> torch.Tensor:
        """Latents of the prior samples, [P, ...]; P = 0 without prior preservation."""
        count = config.num_class_images or 0
        if not config.with_prior_preservation or config.prior_loss_weight == 0:
            return torch.empty(0, *backbone.spec.native_size)
        processes = PartialState()
        manifest = PriorManifest(
            model=facts["fingerprint"],
            prompt=facts["class_prompt"],
            sampler=config.prior_sampler or backbone.spec.sampler,
            steps=config.prior_steps,
            guidance=config.prior_guidance,
            seed=config.seed,
            native_size=backbone.spec.native_size,
        )
        place = Path(config.prior_dir) if config.prior_dir else cache_folder() / manifest.key()
        prior = PriorSet(place, manifest)
        missing = len(prior.missing(count))
        with self.folder.timed("prior samples"):
            if missing:
                with self.display.track("prior samples", count, count - missing) as advance:
                    prior.fill(
                        backbone,
                        count,
                        config.sample_batch_size,
                        advance,
                        processes.process_index,
                        processes.num_processes,
                    )
            else:
                self.display.say(f"The {count} prior samples are taken from {place}.")
            processes.wait_for_everyone()
            latents = prior.load(count)
            sheet = self.folder.path / "prior.png"
            if processes.is_main_process and not sheet.exists():
                contact_sheet(prior.pictures(backbone, min(count, 32)), 8, tile=128).save(sheet)
        return latents

    def _finetune(
        self,
        config: TrainConfig,
        backbone: Backbone,
        method: FullFineTuning,
        examples: Examples,
        facts: dict[str, Any],
    ) -> None:
        templates = config.preview_prompts
        filled = [(t, prompts.fill(t, facts["identifier"], facts["class_noun"])) for t in templates]
        self.folder.write_json("previews/prompts.json", [prompt for _, prompt in filled])

        def preview(step: int) -> None:
            if not filled:
                return
            pictures = drawing.draw(backbone, filled, [config.seed], sampling_of(config), config.sample_batch_size)
            strip([picture.image for picture in pictures]).save(self.folder.path / f"previews/step-{step:06d}.png")

        settings = settings_of(config, backbone.device)
        checkpoints = self.folder.checkpoints()
        done = checkpoints[-1].step if checkpoints else 0
        with (
            self.display.track("training", settings.max_train_steps, done) as advance,
            tensorboard(self.folder) as board,
        ):

            def on_step(report: StepReport) -> None:
                board(report)
                advance(1, f"subject {report.loss_subject:.4f}  prior {report.loss_prior:.4f}")

            finetune(backbone, method, examples, settings, self.folder, on_step, preview)

    def _draw_drift(self, config: TrainConfig, backbone: Backbone, facts: dict[str, Any], which: str) -> None:
        """Pictures of the bare class, by the base model before training and the tuned one after it."""
        folder = self.folder.path / "samples" / "drift" / which
        if (folder / "pictures.json").exists():
            return
        with self.folder.timed("pictures"):
            seeds = range(config.seed, config.seed + 8)
            job = [(config.class_prompt, facts["class_prompt"])]
            pictures = drawing.draw(backbone, job, seeds, sampling_of(config), config.sample_batch_size)
            drawing.save(pictures, folder, f"{config.model} ({which})", sampling_of(config), 8)

    def _draw(self, config: TrainConfig) -> None:
        """The applications' pictures, by the finished model."""
        run, sampling = Run(self.folder), sampling_of(config)
        facts = self.folder.read_json("subject.json")
        todo = [
            (name, prompts.application_prompts(name, run.class_noun))
            for name in config.applications or suitable_applications(run.class_noun)
            if not (self.folder.path / "samples" / name / "pictures.json").exists()
        ]
        self._draw_drift(config, run.backbone, facts, "tuned")
        count = sum(len(templates) for _, templates in todo) * config.images_per_prompt
        if not count:
            return
        with self.folder.timed("pictures"), self.display.track("pictures", count) as advance:
            for name, templates in todo:
                jobs = [(template, run.fill(template)) for template in templates]
                seeds = range(config.seed, config.seed + config.images_per_prompt)
                pictures = drawing.draw(run.backbone, jobs, seeds, sampling, config.sample_batch_size, advance)
                columns = max(config.images_per_prompt, 6 // config.images_per_prompt * config.images_per_prompt)
                drawing.save(pictures, self.folder.path / "samples" / name, str(run.path), sampling, columns)


def find_identifier(
    config: TrainConfig, backbone: Backbone, class_noun: str, display: Display
) -> identifier.Identifier:
    """The user's identifier, checked; or a rare one, drawn by seed or, with `probe_identifier`, by weakest reaction."""
    if config.identifier is not None:
        return identifier.check(config.identifier, backbone.tokenizer, class_noun)
    if not config.probe_identifier:
        return identifier.choose(backbone.tokenizer, class_noun, config.seed)
    candidates = identifier.finalists(backbone.tokenizer, class_noun, config.seed, PROBED_CANDIDATES)
    return probe(backbone, candidates, class_noun, display)[0].identifier


def probe(
    backbone: Backbone, candidates: Sequence[identifier.Identifier], class_noun: str, display: Display
) -> list[identifier.Probed]:
    """Candidates with how far each moves the frozen model's pictures of "a [class noun]", weakest first.

    The reaction is the mean absolute difference of the latents that the same noise is drawn to.
    """
    seeds, sampling = range(4), Sampling(num_inference_steps=15, guidance_scale=3.0, sampler="dpm++")

    def latents(text: str) -> torch.Tensor:
        drawn = backbone.sample_latents([text] * len(seeds), seeds, sampling)
        advance(1)
        return drawn

    with display.track("probing identifiers", len(candidates) + 1) as advance:
        neutral = latents(prompts.class_prompt(class_noun))
        return identifier.probe(
            candidates,
            lambda texts: [float((latents(text) - neutral).abs().mean()) for text in texts],
            class_noun,
        )


def suitable_applications(class_noun: str) -> list[str]:
    """The applications of the report that have prompts for this class."""
    return [name for name in prompts.applications(class_noun) if name in REPORTED_APPLICATIONS]


def settings_of(config: TrainConfig, device: torch.device) -> Settings:
    """The trainer's plain numbers from a resolved config."""
    assert config.max_train_steps and config.train_batch_size and config.learning_rate
    bf16 = config.mixed_precision == "bf16" or (
        config.mixed_precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return Settings(
        max_train_steps=config.max_train_steps,
        train_batch_size=config.train_batch_size,
        learning_rates={
            "denoiser": config.learning_rate,
            "text_encoder": config.text_encoder_lr or config.learning_rate,
        },
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        prior_loss_weight=config.prior_loss_weight,
        snr_gamma=config.snr_gamma,
        lr_scheduler=config.lr_scheduler,
        lr_warmup_steps=config.lr_warmup_steps,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        epsilon=config.adam_epsilon,
        use_8bit_adam=config.use_8bit_adam,
        max_grad_norm=config.max_grad_norm,
        ema_decay=config.ema_decay if config.use_ema else None,
        autocast=torch.bfloat16 if bf16 else None,
        checkpointing_steps=config.checkpointing_steps,
        checkpoints_total_limit=config.checkpoints_total_limit,
        preview_steps=config.preview_steps,
        seed=config.seed,
    )


def _inspect(config: TrainConfig, display: Display) -> Subject:
    """The pre-flight: reads the photos and shows what was found, before any model is loaded."""
    if not config.photos:
        raise ConfigError("No photos were given; name a folder or files with three to five photos of the subject.")
    resolution = config.resolution or backbones.native_resolution(_source(config))
    inspection = inspect(config.photos, resolution, config.crop, config.background)
    display.say(preflight_table(inspection))
    subject = make_subject(inspection, config.class_noun)
    for warning in subject.warnings:
        display.warn(warning)
    for template in [*config.preview_prompts, config.instance_prompt, config.class_prompt]:
        prompts.fill(template, "x", subject.class_noun)
    for name in config.applications or []:
        prompts.application_prompts(name, subject.class_noun)
    return subject


def _keep_subject(folder: RunFolder, subject: Subject) -> None:
    """The squares that the model will see, losslessly, and what is known of them."""
    manifest = subject.manifest()
    for index, (photo, entry) in enumerate(zip(subject.photos, manifest["photos"], strict=True)):
        entry["file"] = f"photos/{index:02d}.png"
        entry["source"] = photo.path.name
        photo.image.save(folder.path / entry["file"])
    folder.write_json("subject.json", manifest | {"warnings": list(subject.warnings)})


def _photos(folder: RunFolder) -> torch.Tensor:
    """The run's own photos [N, 3, R, R] in -1..1, so that a resumed run needs no original."""
    files = [str(folder.path / entry["file"]) for entry in folder.read_json("subject.json")["photos"]]
    facts = folder.read_json("subject.json")
    return load_subject(files, facts["class_noun"], facts["resolution"]).pixels()


def _source(config: TrainConfig) -> Source:
    lender = config.model_config_folder
    return backbones.resolve(config.model, Path(lender) if lender else None)


def _load(config: TrainConfig) -> Backbone:
    source = _source(config)
    backbone = backbones.load(source.name, source.config)
    if config.resolution:
        backbone.set_resolution(config.resolution)
    return backbone


def _method(config: TrainConfig) -> FullFineTuning:
    return FullFineTuning(config.train_text_encoder)


def _new_folder(config: TrainConfig) -> Path:
    """The folder that was asked for, or the first free one named after the class noun."""
    if config.out:
        return Path(config.out)
    return free_folder(Path("runs") / clean_class_noun(config.class_noun).replace(" ", "-"))


@contextmanager
def tensorboard(folder: RunFolder) -> Generator[Callable[[StepReport], None]]:
    """Writes steps to RUN/tensorboard where TensorBoard is installed; does nothing where it is not."""

    def ignore(report: StepReport) -> None: ...

    if importlib.util.find_spec("tensorboard") is None or not PartialState().is_main_process:
        yield ignore
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder.path / "tensorboard"))

    def write(report: StepReport) -> None:
        for name in ("loss", "loss_subject", "loss_prior", "learning_rate", "grad_norm"):
            writer.add_scalar(name, getattr(report, name), report.step)

    try:
        yield write
    finally:
        writer.close()
