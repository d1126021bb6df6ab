"""Photos of one subject and its class noun, checked and cleaned before any model loads."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from PIL import Image, ImageColor, ImageOps

from dreambooth.errors import ConfigError, PhotoError
from dreambooth.photo import Crop, Photo, Refusal, Size, perceptual_hash, read_photo

if TYPE_CHECKING:
    import torch
    from rich.table import Table

MANY_PHOTOS = 20  # the paper's recipe is for three to five, and best at four
MASK_SUFFIX = ".mask.png"  # dog.mask.png is the mask of dog.jpg
NEAR_DUPLICATE_BITS = 6  # of 63; on DreamBench a brighter copy differs by 2, a 2 % crop by 4, others by 8 up

_LIVE_NOUNS = """
    animal baby bear bird boy bunny cat chicken child corgi cow deer dog dolphin duck elephant ferret fish
    fox frog girl goat goldfish hamster hare hedgehog horse human infant kid kitten koala lady lion lizard
    man monkey owl panda parrot penguin person pet pig pigeon pony poodle puppy rabbit rat retriever shark
    sheep shepherd snake spaniel squirrel terrier tiger toddler tortoise turtle whale wolf woman zebra
"""
_LIFELESS_WORDS = """
    cartoon ceramic figurine hot lego origami plastic plush plushie rocking rubber sculpture soft statue
    stuffed toy wooden
"""


@dataclass(frozen=True)
class Finding:
    """One row of the pre-flight table; `reason` says why a file is refused, or what is odd about it."""

    path: Path
    taken: bool
    reason: str = ""
    size: Size | None = None
    upscaled: bool = False
    near_duplicate_of: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: the usable photos, possibly none, and a finding for every file."""

    photos: tuple[Photo, ...]
    findings: tuple[Finding, ...]
    resolution: int
    crop: Crop
    background: str


@dataclass(frozen=True)
class Subject:
    """The subject of a run: at least one photo, and the noun that says what it is (paper, section 3.1)."""

    name: str
    class_noun: str
    live: bool
    photos: tuple[Photo, ...]
    findings: tuple[Finding, ...]
    resolution: int
    crop: Crop
    background: str
    warnings: tuple[str, ...]
    masks: tuple[Image.Image, ...] | None = None  # of each photo, grey, white where the subject is

    def pixels(self) -> torch.Tensor:
        """The photos as one float32 tensor [N, 3, resolution, resolution] in -1..1, in their order."""
        import torch

        stacked = np.stack([np.asarray(photo.image) for photo in self.photos])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1.0)

    def manifest(self) -> dict[str, Any]:
        """What the run folder keeps of the subject: plain values that JSON and TOML can hold, no pixels."""
        photos = [
            {"path": str(p.path.absolute()), "sha256": p.sha256, "size": list(p.size), "upscaled": p.upscaled}
            for p in self.photos
        ]
        return {
            "name": self.name,
            "class_noun": self.class_noun,
            "live": self.live,
            "resolution": self.resolution,
            "crop": self.crop,
            "background": self.background,
            "photos": photos,
        }


def load_subject(
    paths: str | Path | Sequence[str | Path],
    class_noun: str,
    resolution: int,
    crop: Crop = "center",
    background: str = "white",
) -> Subject:
    """Read the photos of one subject: `inspect`, then `make_subject`.

    Raises:
        PhotoError: a path does not exist, or no file in it is a usable photo.
        ConfigError: the class noun, the resolution, the crop or the background cannot be used.
    """
    clean_class_noun(class_noun)  # before the photos, which take longer to read
    return make_subject(inspect(paths, resolution, crop, background), class_noun)


def make_subject(inspection: Inspection, class_noun: str) -> Subject:
    """An inspection's photos and a class noun as a `Subject`.

    Raises:
        PhotoError: there is no usable photo; the message says why of each file.
        ConfigError: the class noun is empty or a sentence.
    """
    noun = clean_class_noun(class_noun)
    photos = usable_photos(inspection)
    return Subject(
        name=photos[0].path.absolute().parent.name or noun,
        class_noun=noun,
        live=is_live(noun),
        photos=photos,
        findings=inspection.findings,
        resolution=inspection.resolution,
        crop=inspection.crop,
        background=inspection.background,
        warnings=_warnings(inspection),
    )


def usable_photos(inspection: Inspection) -> tuple[Photo, ...]:
    """The photos of an inspection, at least one.

    Raises:
        PhotoError: there is none; the message says why of each file.
    """
    if not inspection.photos:
        reasons = [f"{finding.path.name}: {finding.reason}" for finding in inspection.findings]
        told = "; ".join(reasons[:6]) + (f"; and {len(reasons) - 6} more" if len(reasons) > 6 else "")
        raise PhotoError(
            f"No usable photo ({told or 'the folder is empty'}). "
            "Give three to five JPEG, PNG, WebP or HEIC photos of the subject."
        )
    return inspection.photos


def inspect(
    paths: str | Path | Sequence[str | Path],
    resolution: int,
    crop: Crop = "center",
    background: str = "white",
) -> Inspection:
    """Read folders and files, in the natural order of their names, and say of every file what becomes of it.

    A folder's sub-folders are not searched. A picture given twice, by path or by content, is taken once; near
    duplicates (perceptual hash, mirrored ones too) are taken and flagged.

    Args:
        paths: folders, files, patterns such as `photos/*.jpg`, or a mix.
        resolution: side of the square photos, pixels.
        crop: which square of the photo is kept; "pad" keeps all of it, on bars of the background colour.
        background: the colour beneath transparent photos and beside padded ones: a name or #rrggbb.

    Raises:
        PhotoError: a path does not exist or a folder cannot be read.
        ConfigError: the resolution, the crop or the background cannot be used.
    """
    if resolution < 1:
        raise ConfigError(f"The resolution must be at least 1 pixel, not {resolution}.")
    if crop not in get_args(Crop):
        raise ConfigError(f"There is no crop {crop!r}; choose one of {', '.join(get_args(Crop))}.")
    try:
        red, green, blue = ImageColor.getrgb(background)[:3]
    except ValueError:
        raise ConfigError(f"{background!r} is no colour; write one like white or #8090a0.") from None

    photos: list[Photo] = []
    findings: list[Finding] = []
    known: list[tuple[str, np.ndarray]] = []
    candidates = _candidates([paths] if isinstance(paths, str | Path) else paths)
    stems = {path.stem for path in candidates}
    for path in candidates:
        if path.name.endswith(MASK_SUFFIX) and path.name.removesuffix(MASK_SUFFIX) in stems:
            findings.append(Finding(path, taken=False, reason="the mask of another photo"))
            continue
        try:
            photo = read_photo(path, resolution, crop, (red, green, blue))
        except Refusal as refusal:
            findings.append(Finding(path, taken=False, reason=refusal.reason, size=refusal.size))
            continue
        if same := next((earlier for earlier in photos if _same_picture(earlier, photo)), None):
            findings.append(Finding(path, taken=False, reason=f"same picture as {same.path.name}", size=photo.size))
            continue
        twin = _near_duplicate(photo.image, known)
        known.append((path.name, perceptual_hash(photo.image)))
        notes = (photo.note, "scaled up" if photo.upscaled else "", f"looks like {twin}" if twin else "")
        findings.append(Finding(path, True, "; ".join(filter(None, notes)), photo.size, photo.upscaled, twin))
        photos.append(photo)
    return Inspection(tuple(photos), tuple(findings), resolution, crop, background)


def preflight_table(source: Inspection | Subject) -> Table:
    """Every file with its fate, for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    taken = len(source.photos)
    table = Table(title=f"Photos: {taken} taken, {len(source.findings) - taken} passed over")
    for heading in ("file", "verdict", "size", "remark"):
        table.add_column(heading, overflow="fold")
    for finding in source.findings:
        size = f"{finding.size[0]}x{finding.size[1]}" if finding.size else ""
        verdict = "[green]taken[/]" if finding.taken else "[yellow]refused[/]"
        table.add_row(escape(finding.path.name), verdict, size, escape(finding.reason))
    return table


def clean_class_noun(text: str) -> str:
    """The noun without article, capitals and stray blanks: "A Stuffed  Animal" is "stuffed animal".

    Raises:
        ConfigError: nothing is left, or what is left is no noun.
    """
    words = text.lower().split()
    if words and words[0] in ("a", "an", "the", "my", "your"):
        words = words[1:]
    if not words:
        raise ConfigError("The class noun is empty; say what the subject is, such as --class-noun dog.")
    if len(words) > 5 or not all(re.fullmatch(r"[^\W\d_][\w'’.-]*", word) for word in words):
        raise ConfigError(f"{text!r} is no class noun; give one or two words, such as dog or stuffed animal.")
    return " ".join(words)


def is_live(class_noun: str) -> bool:
    """Whether DreamBench would call it a live subject: a dog is, a backpack and a toy dog are not."""
    words = class_noun.lower().split()
    return bool(words) and words[-1] in _LIVE_NOUNS.split() and not set(words) & set(_LIFELESS_WORDS.split())


def _candidates(paths: Sequence[str | Path]) -> list[Path]:
    """Every file to look at, each once, in the order given; folders in the natural order of names."""
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            try:
                found += sorted(path.iterdir(), key=_natural_order)
            except OSError as error:
                reason = f"The folder {path} cannot be read ({error.strerror}); check its permissions."
                raise PhotoError(reason) from None
        elif path.exists() or path.is_symlink():
            found.append(path)
        elif matches := glob.glob(str(path)):  # a shell on Windows leaves patterns to the program
            found += sorted(map(Path, matches), key=_natural_order)
        else:
            near = difflib.get_close_matches(path.name, _names_in(path.parent), n=1)
            hint = f"did you mean {path.parent / near[0]}?" if near else "give a folder of photos, or files."
            raise PhotoError(f"There is no {path}; {hint}")
    return list({path.absolute(): path for path in found}.values())


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _natural_order(path: Path) -> tuple[list[tuple[str, int]], str]:
    """img2 before img10."""
    parts = re.findall(r"(\D*)(\d*)", path.name, re.ASCII)
    return [(text.lower(), int(digits or -1)) for text, digits in parts], path.name


def _same_picture(one: Photo, other: Photo) -> bool:
    """Equal files, or equal pixels in files that differ only in their metadata."""
    return one.sha256 == other.sha256 or one.image.tobytes() == other.image.tobytes()


def _near_duplicate(image: Image.Image, known: Sequence[tuple[str, np.ndarray]]) -> str | None:
    """The name of the first earlier photo that shows the same picture, mirrored or not."""
    for hashed in (perceptual_hash(image), perceptual_hash(ImageOps.mirror(image))):
        for name, other in known:
            if int((hashed != other).sum()) <= NEAR_DUPLICATE_BITS:
                return name
    return None


def _warnings(inspection: Inspection) -> tuple[str, ...]:
    """What a user should know before a run is spent on these photos."""
    count = len(inspection.photos)
    upscaled = sum(photo.upscaled for photo in inspection.photos)
    doubles = sum(finding.near_duplicate_of is not None for finding in inspection.findings)
    told: list[str] = []
    if count == 1:
        told.append(
            "There is one photo only; the paper uses three to five. From one the model cannot tell the "
            "subject from its place: add photos from other sides and in other places."
        )
    if count > MANY_PHOTOS:
        told.append(
            f"There are {count} photos; the paper uses three to five and finds four best. "
            "Keep the clearest ones, or train for more steps."
        )
    if upscaled:
        told.append(
            f"{upscaled} of {count} photos had to be scaled up to {inspection.resolution} pixels; "
            "the model learns their blur with the subject. Use larger photos where you have them."
        )
    if doubles:
        told.append(
            f"{doubles} of {count} photos look like another one (see the table); "
            "they are kept, but different views teach more."
        )
    return tuple(told)
