"""What has to be settled before a benchmark's first run: photos, judges, and that old scores fit new ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dreambooth import backbones
from dreambooth.backbones.source import CascadeParts
from dreambooth.errors import ConfigError, PhotoError, RunError
from dreambooth.evaluation.benchmark_plan import Plan, Settings, check_settings
from dreambooth.evaluation.results import Results, judges_of
from dreambooth.evaluation.suite import SuiteSubject
from dreambooth.evaluation.variants import TRUTH
from dreambooth.subject import inspect, make_subject
from dreambooth.ui import Display

if TYPE_CHECKING:
    from dreambooth.evaluation.encoders import Judges


def set_up(
    results: Results, plan: Plan, subjects: Sequence[SuiteSubject], rescore: bool, display: Display
) -> dict[str, Any]:
    """Makes the folder ready for workers; returns what is known of the judges. The cheapest checks come first.

    With `rescore` the plan's scores are forgotten, and made again of the pictures that were kept.
    Raises the DreamBoothError of whatever cannot work.
    """
    check_settings(plan.settings, plan.methods)
    if TRUTH in plan.methods and any(subject.truth is None for subject in subjects):
        raise ConfigError(
            "What a perfect method would draw is known of rendered suites, such as toybox, and not of "
            f"{plan.settings.suite}; leave {TRUTH} out of --methods."
        )
    judges = known_judges(make_judges(plan.settings, plan.device))
    results.begin(plan, other_judges=rescore)
    if rescore:
        for member in plan.members:
            (results.subject(member.name) / "real.json").unlink(missing_ok=True)
        for cell in results.all_cells(plan):
            cell.scores.unlink(missing_ok=True)
    refuse_other_judges(results, judges)
    missing = [subject for subject in subjects if not (results.subject(subject.name) / "photos").exists()]
    if missing:
        with display.track("photos", len(missing)) as advance:
            for subject in missing:
                keep_photos(results, plan.settings, subject, display)
                advance(1, subject.name)
    return judges


def make_folder(path: Path) -> None:
    """Raises RunError when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
    except OSError as error:
        raise RunError(f"The folder {path} cannot be written: {error.strerror}; give another --out.") from error


def known_judges(judges: Judges) -> dict[str, dict[str, str]]:
    """Name and fingerprint by metric."""
    by_metric = {
        "dino": judges.dino, "clip-i": judges.clip, "clip-t": judges.clip, "pres": judges.dino, "div": judges.perceptual
    }  # fmt: skip
    return {metric: {"name": judge.name, "fingerprint": judge.fingerprint} for metric, judge in by_metric.items()}


def refuse_other_judges(results: Results, judges: dict[str, dict[str, str]]) -> None:
    """Raises ConfigError when scores in the folder were given by others than those who would judge now."""
    if not any(results.path.glob("subjects/*/*/scores.json")):
        return
    for metric, given in judges_of(results.scores()).items():
        now = (judges[metric]["name"], judges[metric]["fingerprint"])
        if given != [now]:
            raise ConfigError(
                f"In {results.path} {metric} was judged by {given[0][0]} ({given[0][1]}), and now would be by {now[0]} "
                f"({now[1]}). Give --rescore, with all methods and subjects of before, to judge what was drawn anew."
            )


def keep_photos(results: Results, settings: Settings, subject: SuiteSubject, display: Display) -> None:
    """The subject's photos as the squares that the model sees, so that the folder needs no other from now on.

    Warns of files that are left out. Raises PhotoError when there is no photo.
    """
    folder = results.subject(subject.name) / "photos"
    if folder.exists():
        return
    lender = settings.model_config_folder
    parts = CascadeParts(super_resolver=settings.train.get("super_resolver"))
    side = backbones.native_resolution(backbones.resolve(settings.model, Path(lender) if lender else None, parts))
    crop: dict[str, Any] = {key: settings.train[key] for key in ("crop", "background") if key in settings.train}
    with TemporaryDirectory() as workspace:
        try:
            inspection = inspect(subject.photos(Path(workspace) / "photos"), side, **crop)
            photos = make_subject(inspection, subject.class_noun).photos
        except PhotoError as error:
            raise PhotoError(f"The subject {subject.name}: {error}") from error
    for finding in inspection.findings:
        if not finding.taken:
            display.warn(f"The subject {subject.name}: {finding.path.name} is left out: {finding.reason}.")
    draft = folder.with_name(".photos")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for index, photo in enumerate(photos):
        photo.image.save(draft / f"{index:02d}.png")
    os.rename(draft, folder)


def make_judges(settings: Settings, device: str) -> Judges:
    """The judges of the model, or those that the settings name. Raises ConfigError or ModelError."""
    from dreambooth.evaluation import encoders

    named = (settings.dino, settings.clip, settings.perceptual)
    usual = None if all(named) else encoders.judges_for(settings.model, device)
    return encoders.Judges(
        dino=usual.dino if usual and not settings.dino else encoders.dino_encoder(settings.dino or "", device),
        clip=usual.clip if usual and not settings.clip else encoders.clip_encoder(settings.clip or "", device),
        perceptual=(
            usual.perceptual
            if usual and not settings.perceptual
            else encoders.perceptual(settings.perceptual or "", device)
        ),
    )
