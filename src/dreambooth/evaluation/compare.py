"""A blind comparison of two runs, the user study of the paper's Table 2: one page, and a key kept apart from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dreambooth import drawing, prompts
from dreambooth.checkpoint import RunFolder, write_whole
from dreambooth.errors import ConfigError
from dreambooth.evaluation.contents import Contents, embed
from dreambooth.evaluation.votes import Key, Placed, Side
from dreambooth.folders import make_writable
from dreambooth.pages import render
from dreambooth.run import Run
from dreambooth.seeding import generator

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_PHOTOS = 6
PHOTO_SIDE, PICTURE_SIDE = 320, 768  # pixels; what is larger is scaled down


class Drawn(BaseModel):
    """A picture in a pictures.json, as far as a comparison needs it."""

    file: str
    template: str
    seed: int


@dataclass(frozen=True)
class Pair:
    """What both runs drew for one prompt and seed; `text` is the prompt as people read it, without identifier."""

    template: str
    text: str
    seed: int
    a: Image
    b: Image


@dataclass(frozen=True)
class Match:
    """Two run folders of one subject, what each calls it, and those of its photos that both were trained on."""

    folders: tuple[RunFolder, RunFolder]
    class_nouns: tuple[str, str]
    photos: list[Image]

    @property
    def class_noun(self) -> str:
        """What people read: run A's noun, where the two differ."""
        return self.class_nouns[0]


def match(paths: Sequence[Path]) -> Match:
    """Raises RunError for what is no run folder, ConfigError for two that cannot be compared."""
    a, b = folders = RunFolder.open(paths[0]), RunFolder.open(paths[1])
    if paths[0].resolve() == paths[1].resolve():
        raise ConfigError(f"{paths[0]} cannot be compared to itself; name two runs of one subject.")
    one, other = (Contents(folder.path).subject() for folder in folders)
    known = {photo.sha256 for photo in other.photos} - {""}
    common = [photo.file for photo in one.photos if photo.sha256 in known]
    if not common:
        raise ConfigError(
            f"{paths[0]} and {paths[1]} are of two different subjects: they have no photo in common. "
            "Compare two runs on the same photos."
        )
    images = [image for file in common[:SHOWN_PHOTOS] if (image := Contents(a.path).image(file))]
    if not images:
        raise ConfigError(f"The photos in {a.path / 'photos'} cannot be read, and nobody can judge without them.")
    return Match((a, b), (one.class_noun, other.class_noun), images)


def draw_pairs(
    match: Match,
    templates: Sequence[str],
    seeds: Sequence[int],
    device: str = "auto",
    progress: Callable[[int], None] = lambda count: None,
) -> list[Pair]:
    """Both runs draw every template with every seed. Raises RunError for a run without a model, ConfigError."""
    runs = [Run(folder, device) for folder in match.folders]
    filled = [[(template, run.fill(template)) for template in templates] for run in runs]
    drawn: list[list[drawing.Picture]] = []
    for folder, jobs in zip(match.folders, filled, strict=True):
        run = Run(folder, device)  # one model in memory at a time
        drawn.append(drawing.draw(run.backbone, jobs, seeds, run.sampling, 8, progress))
    return [Pair(a.template, _plain(a.template, match), a.seed, a.image, b.image) for a, b in zip(*drawn, strict=True)]


def existing_pairs(match: Match, templates: Sequence[str] = (), count: int = 1) -> list[Pair]:
    """What both runs have drawn already, of these templates or of all, at most `count` seeds of each.

    Raises ConfigError when there is nothing in common.
    """
    a, b = (_drawn(folder.path) for folder in match.folders)
    used: dict[str, int] = {}
    pairs: list[Pair] = []
    for (template, seed), file in sorted(a.items(), key=lambda entry: entry[0][1]):
        wanted = (not templates or template in templates) and used.get(template, 0) < count
        if not wanted or (template, seed) not in b or not names_subject(template):
            continue
        one = Contents(match.folders[0].path).image(file)
        other = Contents(match.folders[1].path).image(b[template, seed])
        if one is not None and other is not None:
            pairs.append(Pair(template, _plain(template, match), seed, one, other))
            used[template] = used.get(template, 0) + 1
    if not pairs:
        raise ConfigError(
            f"{match.folders[0].path} and {match.folders[1].path} have drawn no prompt with the same seed; "
            "leave out --existing to have both draw."
        )
    return pairs


def make_page(match: Match, pairs: Sequence[Pair], seed: int) -> tuple[str, Key]:
    """The page, and its key. `seed` decides the order of the items and on which side of each run A stands.

    Run A stands on the left as often as on the right, so that a habit of the hand favours neither.
    """
    order = [pairs[index] for index in permutation(len(pairs), seed, "compare-order")]
    sides: list[Side] = ["left" if place % 2 else "right" for place in permutation(len(pairs), seed, "compare-sides")]
    items = [
        {
            "text": pair.text,
            "left": _uri(pair.a if side == "left" else pair.b, PICTURE_SIDE),
            "right": _uri(pair.b if side == "left" else pair.a, PICTURE_SIDE),
        }
        for pair, side in zip(order, sides, strict=True)
    ]
    photos = [_uri(photo, PHOTO_SIDE) for photo in match.photos]
    page = hashlib.blake2b(repr((photos, items)).encode(), digest_size=5).hexdigest()
    data: dict[str, Any] = {"page": page, "noun": match.class_noun, "photos": photos, "items": items}
    html = render("compare", data=data)
    key = Key(
        page=page,
        runs=(str(match.folders[0].path.resolve()), str(match.folders[1].path.resolve())),
        items=[
            Placed(text=pair.text, template=pair.template, seed=pair.seed, a_is=side)
            for pair, side in zip(order, sides, strict=True)
        ],
    )
    return html, key


def write_page(page: Path, html: str, key: Key) -> Path:
    """Writes the page, and its key beside it, and returns the key's path. Raises ConfigError as `require_new`."""
    require_new(page)
    make_writable(page.parent)
    beside = key_beside(page)
    try:
        write_whole(beside, key.model_dump_json(indent=2) + "\n")
        write_whole(page, html)
    except OSError as error:
        raise ConfigError(f"{page} cannot be written: {error.strerror}.") from error
    return beside


def require_new(page: Path) -> None:
    """Raises ConfigError for a page that is there already: votes may have been cast on it; and as `key_beside`."""
    if key_beside(page).exists() or page.exists():
        raise ConfigError(
            f"{page} or its key is there already, and votes may belong to it; give another --out, or serve it again "
            f"with: dreambooth compare --serve --out {quote(str(page))}"
        )


def key_beside(page: Path) -> Path:
    """Raises ConfigError for what can be no file's name."""
    if not page.name:
        raise ConfigError(f"{page} is a folder; give --out the page in it, such as {page / 'compare.html'}.")
    return page.with_suffix(".key.json")


def permutation(count: int, seed: int, purpose: str) -> list[int]:
    import torch

    return torch.randperm(count, generator=generator(seed, purpose)).tolist()


def _drawn(run: Path) -> dict[tuple[str, int], str]:
    """(template, seed) -> file of every picture of a run."""
    contents = Contents(run)
    folders = [*run.glob("samples/*/pictures.json"), *run.glob("generated*/pictures.json")]
    found: dict[tuple[str, int], str] = {}
    for path in sorted(folders):
        folder = path.parent.relative_to(run).as_posix()
        for entry in contents.json(f"{folder}/pictures.json", list[Drawn], []):
            found.setdefault((entry.template, entry.seed), f"{folder}/{entry.file}")
    return found


def names_subject(template: str) -> bool:
    """Whether a template shows the subject and not the bare class. Raises ConfigError for an unknown placeholder."""
    return prompts.fill(template, "x", "dog") != prompts.fill(template, None, "dog")


def _plain(template: str, match: Match) -> str:
    return prompts.fill(template, None, match.class_noun)


def _uri(image: Image, side: int) -> str:
    return embed(image.copy(), "", side=side).uri
