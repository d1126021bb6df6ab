"""What has to be settled before a benchmark's first run: photos, judges, and that old scores fit new ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dreambooth import backbones
from dreambooth.backbones.source import CascadeParts
from dreambooth.checkpoint import write_whole
from dreambooth.errors import ConfigError, PhotoError, RunError
from dreambooth.evaluation.benchmark_plan import Plan, Settings, check_settings
from dreambooth.evaluation.results import KEPT_FILE, Kept, Results, judges_of, pixel_hash
from dreambooth.evaluation.suite import SuiteSubject
from dreambooth.evaluation.variants import TRUTH
from dreambooth.masks import mask_of, with_masks
from dreambooth.subject import MASK_SUFFIX, Inspection, Subject, inspect, make_subject
from dreambooth.ui import Display

if TYPE_CHECKING:
    from PIL.Image import Image

    from dreambooth.evaluation.encoders import Judges


def set_up(results: Results, plan: Plan, subjects: Sequence[SuiteSubject], rescore: bool, display: Display) -> Plan:
    """Makes the folder ready for workers; returns the plan with its judges. The cheapest checks come first.

    With `rescore` the plan's scores are forgotten, and made again of the pictures that were kept.
    Raises the DreamBoothError of whatever cannot work; no score has been forgotten then.
    """
    check_settings(plan.settings, plan.methods)
    if TRUTH in plan.methods and any(subject.truth is None for subject in subjects):
        raise ConfigError(
            "What a perfect method would draw is known of rendered suites, such as toybox, and not of "
            f"{plan.settings.suite}; leave {TRUTH} out of --methods."
        )
    model_side(plan.settings)  # which judges that have to be fetched would keep waiting
    plan = plan.model_copy(update={"judges": known_judges(make_judges(plan.settings, plan.device))})
    forgotten = (
        {path for cell in results.grid(plan) for path in (cell.ceiling, cell.scores)} if rescore else set[Path]()
    )
    results.refuse(plan, other_judges=rescore)
    refuse_other_judges(results, plan, forgotten)
    results.begin(plan)
    with display.track("photos", len(subjects)) as advance:
        for subject in subjects:
            keep_photos(results, plan.settings, subject, display)
            advance(1, subject.name)
    for path in forgotten:
        path.unlink(missing_ok=True)
    return plan


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


def refuse_other_judges(results: Results, plan: Plan, forgotten: Collection[Path]) -> None:
    """Raises ConfigError when scores that stay in the folder were given by others than those who would judge now."""
    if not any(results.path.glob("subjects/*/*/scores.json")):
        return
    for metric, given in judges_of(results.scores(without=forgotten)).items():
        now = (plan.judges[metric]["name"], plan.judges[metric]["fingerprint"])
        if given != [now]:
            raise ConfigError(
                f"In {results.path} {metric} was judged by {given[0][0]} ({given[0][1]}), and now would be by {now[0]} "
                f"({now[1]}). Give --rescore, with all methods and subjects of before, to judge what was drawn anew."
            )


def keep_photos(results: Results, settings: Settings, subject: SuiteSubject, display: Display) -> None:
    """The subject's photos as the squares that the model sees, so that the folder needs no other from now on.

    What was kept stays what the benchmark is about: it is made anew where it is lost, and where the suite has other
    photos by now, that is told. Warns of files that are left out.
    Raises PhotoError when there is no photo or no mask, or what was lost cannot be had again.
    """
    folder, kept = results.subject(subject.name) / "photos", results.kept(subject.name)
    with TemporaryDirectory() as workspace:
        if are_whole(results, subject.name):
            if kept is None:
                write_kept(folder, subject, results.photos(subject.name))
            elif subject.truth is None and hashes_of(read_photos(settings, subject, Path(workspace))) != kept.photos:
                display.warn(
                    f"The photos of {subject.name} in the suite have changed; the benchmark goes on with those that it "
                    "kept. For the new ones give another --out."
                )
            return
        try:
            inspection = read_photos(settings, subject, Path(workspace))
            masks = masks_of(settings, make_subject(inspection, subject.class_noun))
        except PhotoError as error:
            raise PhotoError(f"The subject {subject.name}: {error}") from error
    if kept and hashes_of(inspection) != kept.photos:
        raise PhotoError(
            f"Photos in {folder} are missing or broken, and the suite has others by now. Put the old ones back into "
            "the suite, or give another --out."
        )
    for finding in inspection.findings:
        if not finding.taken and not finding.path.name.endswith(MASK_SUFFIX):
            display.warn(f"The subject {subject.name}: {finding.path.name} is left out: {finding.reason}.")
    draft = folder.with_name(".photos")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for index, photo in enumerate(inspection.photos):
        photo.image.save(draft / f"{index:02d}.png")
    for index, mask in masks.items():
        mask.save(draft / f"{index:02d}{MASK_SUFFIX}")
    write_kept(draft, subject, [photo.image for photo in inspection.photos])
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(draft, folder)


def read_photos(settings: Settings, subject: SuiteSubject, workspace: Path) -> Inspection:
    """The suite's photos of the subject, as the model sees them; possibly none."""
    crop: dict[str, Any] = {key: settings.train[key] for key in ("crop", "background") if key in settings.train}
    return inspect(subject.photos(workspace / "photos"), model_side(settings), **crop)


def model_side(settings: Settings) -> int:
    """Pixels a side of the model's pictures. Raises ModelError where there is no such model; nothing is loaded."""
    lender = settings.model_config_folder
    parts = CascadeParts(super_resolver=settings.train.get("super_resolver"))
    return backbones.native_resolution(backbones.resolve(settings.model, Path(lender) if lender else None, parts))


def masks_of(settings: Settings, subject: Subject) -> dict[int, Image]:
    """The masks that come with the photos, by the photo's number, where a method of the benchmark asks for masks.

    Raises PhotoError for one that is missing, unless a segmenter will draw it, or cannot be used.
    """
    given = (settings.train, *settings.own.values())
    if not any(values.get("masked_loss") for values in given):
        return {}
    if not any(values.get("segmenter") for values in given):
        return dict(enumerate(with_masks(subject, None).masks or ()))
    found = enumerate(mask_of(photo, subject, None) for photo in subject.photos)
    return {index: mask for index, mask in found if mask is not None}


def are_whole(results: Results, name: str) -> bool:
    """Whether the subject's photos are those that were kept."""
    try:
        return bool(results.photos(name))
    except RunError:
        return False


def hashes_of(inspection: Inspection) -> list[str]:
    return [pixel_hash(photo.image) for photo in inspection.photos]


def write_kept(folder: Path, subject: SuiteSubject, photos: Sequence[Image]) -> None:
    """What the subject and its photos are, beside them."""
    kept = Kept(class_noun=subject.class_noun, live=subject.live, photos=[pixel_hash(image) for image in photos])
    write_whole(folder / KEPT_FILE, kept.model_dump_json(indent=2) + "\n")


def make_judges(settings: Settings, device: str) -> Judges:
    """The judges of the model, or those that the settings name. Raises ConfigError or ModelError."""
    from dreambooth.evaluation.encoders import judges_for

    return judges_for(settings.model, device, dino=settings.dino, clip=settings.clip, distance=settings.perceptual)
