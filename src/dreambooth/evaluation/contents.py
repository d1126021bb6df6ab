"""What a run folder holds, read for its report: each part may be missing, and each picture broken."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from dreambooth.checkpoint import TRACK, RunFolder
from dreambooth.errors import RunError
from dreambooth.evaluation.curves import logged
from dreambooth.prompts import APPLICATIONS, subject_phrase

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

PREVIEW_ROWS = 12
PICTURE_SIDE, SHEET_SIDE = 1024, 2048  # pixels; what is larger is scaled down


class Photo(BaseModel):
    """A photo in subject.json."""

    file: str
    source: str = ""
    sha256: str = ""
    size: tuple[int, int] | None = None
    upscaled: bool = False


class Subject(BaseModel):
    """What the page tells of subject.json."""

    class_noun: str
    identifier: str = ""
    token_ids: list[int] = []
    instance_prompt: str = ""
    instance_prompts: list[str] = []
    class_prompt: str = ""
    model: str = ""
    fingerprint: str = ""
    photos: list[Photo] = []
    warnings: list[str] = []

    @property
    def phrase(self) -> str:
        """What stands for the subject in prompts."""
        return subject_phrase(self.identifier, self.class_noun)


class Entry(BaseModel):
    """A picture in a pictures.json."""

    file: str
    prompt: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Picture:
    """A picture inside the page; `uri` is empty when its file cannot be read."""

    file: str
    uri: str = ""
    width: int = 0
    height: int = 0
    prompt: str = ""
    seed: int | None = None


# What one application drew: the pictures of each prompt.
Grid = dict[str, list[Picture]]


@dataclass(frozen=True)
class Contents:
    """Reads the parts of a run folder, any of which may be missing or broken."""

    path: Path

    def subject(self) -> Subject:
        """Raises RunError when subject.json is missing or not what a run writes."""
        path = self.path / "subject.json"
        try:
            return Subject.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error.strerror}); the run folder is incomplete.") from error
        except ValidationError as error:
            first = error.errors()[0]
            told = ": ".join([*map(str, first["loc"]), first["msg"]])
            raise RunError(f"{path} is not what a run writes ({told}); was it edited?") from error

    def json(self, name: str, kind: type[T], default: T) -> T:
        """The value in a JSON file, or `default` when it is not there or not of this kind."""
        try:
            return TypeAdapter(kind).validate_json((self.path / name).read_bytes())
        except (OSError, ValidationError):
            return default

    def judgements(self) -> list[dict[str, Any]]:
        """The lines of track.jsonl, each with the ceiling that its first line tells of."""
        rows = RunFolder(self.path).read_log(TRACK)
        return [row | {"ceiling": rows[0].get("ceiling")} for row in rows]

    def applications(self) -> dict[str, Grid]:
        """What each application drew, the paper's applications in their order, then the others."""
        found = {path.parent.name for path in self.path.glob("samples/*/pictures.json")} - {"drift"}
        order = [name for name in APPLICATIONS if name in found] + sorted(found - APPLICATIONS.keys())
        return {name: by_prompt(self.pictures(f"samples/{name}")) for name in order}

    def drift(self) -> dict[str, list[Picture]]:
        """The class as the base and the tuned model drew it."""
        return {which: self.pictures(f"samples/drift/{which}") for which in ("base", "tuned")}

    def pictures(self, folder: str) -> list[Picture]:
        """The pictures that the folder's pictures.json tells of."""
        entries = self.json(f"{folder}/pictures.json", list[Entry], [])
        return [self.picture(f"{folder}/{entry.file}", entry.prompt, entry.seed) for entry in entries]

    def picture(self, file: str, prompt: str = "", seed: int | None = None, side: int = PICTURE_SIDE) -> Picture:
        image = self.image(file)
        return embed(image, file, prompt, seed, side) if image else Picture(file, prompt=prompt, seed=seed)

    def previews(self) -> dict[str, list[Picture]]:
        """The squares of each preview strip, by step: of many strips a few, evenly spread, the last too."""
        strips = sorted(self.path.glob("previews/step-*.png"))
        last, rows = len(strips) - 1, min(len(strips), PREVIEW_ROWS)
        chosen = [strips[round(row * last / max(1, rows - 1))] for row in range(rows)]
        return {_step(path): self.squares(f"previews/{path.name}") for path in chosen}

    def squares(self, file: str) -> list[Picture]:
        image = self.image(file)
        if image is None:
            return [Picture(file)]
        side = image.height
        boxes = [(left, 0, left + side, side) for left in range(0, image.width - side + 1, side)]
        return [embed(image.crop(box), file) for box in boxes]

    def image(self, file: str) -> Image | None:
        """The decoded file; None when that cannot be done."""
        from PIL import Image

        try:
            with Image.open(self.path / file) as image:
                return image.convert("RGB")
        except Exception:  # Pillow's decoders raise errors of many kinds on broken files
            return None


def embed(image: Image, file: str, prompt: str = "", seed: int | None = None, side: int = PICTURE_SIDE) -> Picture:
    """The image as WebP in a data URI, a fifth to a tenth of its PNG."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, use_sharp_yuv=True)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(file, uri, image.width, image.height, prompt, seed)


def best_step(judgements: Sequence[Mapping[str, Any]]) -> int | None:
    """The first step of best balance; None where nothing was judged."""
    balanced = logged(judgements, "balance")
    return int(max(balanced, key=lambda point: point[1])[0]) if balanced else None


def by_prompt(pictures: Sequence[Picture]) -> Grid:
    """The pictures of each prompt, prompts in the order of their first picture."""
    grid: Grid = {}
    for picture in pictures:
        grid.setdefault(picture.prompt, []).append(picture)
    return grid


def _step(preview: Path) -> str:
    return preview.stem.removeprefix("step-").lstrip("0") or "0"
