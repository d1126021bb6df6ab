"""Scores as tidy records, one a picture and metric, kept so that every table can be made again without drawing.

`score_subject` judges what one method drew of one subject, `score_real` the photos themselves: the ceiling.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import prompts
from dreambooth.checkpoint import write_whole
from dreambooth.drawing import Picture
from dreambooth.errors import ConfigError
from dreambooth.evaluation.metrics import distance_to_others, pairwise_fidelity, prompt_fidelity, real_ceiling

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dreambooth.evaluation.encoders import ImageEncoder, Judges, Perceptual

METRICS = ("dino", "clip-i", "clip-t", "pres", "div")
REAL = "real photos"


@dataclass(frozen=True)
class Score:
    """One metric of one picture.

    `prompt` is the template, so that rows of several subjects line up, and "" for a photo; `seed` is the picture's,
    or the number of the photo. `encoder` and `fingerprint` say who judged: only equal judges may be compared.
    """

    method: str
    subject: str
    class_noun: str
    prompt: str
    seed: int
    metric: str
    value: float
    encoder: str
    fingerprint: str


def score_subject(
    judges: Judges,
    real: Sequence[Image],
    pictures: Sequence[Picture],
    class_pictures: Sequence[Picture] = (),
    *,
    method: str,
    subject: str,
    class_noun: str,
    identifier: str | None = None,
) -> list[Score]:
    """The paper's five metrics (section 4.2) of what one method drew of one subject.

    Every picture has a row of dino, clip-i and clip-t, and one of div where its prompt has other pictures: its mean
    distance to them, so that the mean over a prompt's rows is the mean over its pairs. Every class picture has a
    row of pres.

    Args:
        judges: from `encoders.judges_for`.
        real: the subject's photos, at least one.
        pictures: of the subject, any prompts and seeds.
        class_pictures: of the bare class ("a {class}"), by the same tuned model.
        class_noun: what the subject is, also where a method was told something else: CLIP-T compares to it.
        identifier: the rare word; needed only where a template holds it in the place of {subject}.

    Raises:
        ValueError: there is no photo.
    """
    facts = {"method": method, "subject": subject, "class_noun": class_noun}
    images = [picture.image for picture in pictures]
    plain = [prompts.without_identifier(picture.template, identifier or "", class_noun) for picture in pictures]
    clip, photos = judges.clip.embed_images(images), judges.dino.embed_images(real)
    of_class = judges.dino.embed_images([picture.image for picture in class_pictures])
    scores = [
        *_rows("dino", judges.dino, pictures, pairwise_fidelity(judges.dino.embed_images(images), photos), facts),
        *_rows("clip-i", judges.clip, pictures, pairwise_fidelity(clip, judges.clip.embed_images(real)), facts),
        *_rows("clip-t", judges.clip, pictures, prompt_fidelity(clip, judges.clip.embed_texts(plain)), facts),
        *_rows("pres", judges.dino, class_pictures, pairwise_fidelity(of_class, photos), facts),
    ]
    for template in dict.fromkeys(picture.template for picture in pictures):
        group = [picture for picture in pictures if picture.template == template]
        if len(group) > 1:
            distances = judges.perceptual.distances([picture.image for picture in group])
            scores += _rows("div", judges.perceptual, group, distance_to_others(distances), facts)
    return scores


def score_real(judges: Judges, real: Sequence[Image], *, subject: str, class_noun: str) -> list[Score]:
    """The ceiling, Table 1's "Real Images": dino and clip-i of each photo to the other ones; none for a single photo.

    Photos that look alike are kept, as the paper keeps them: they lift the ceiling and the scores alike.
    """
    if len(real) < 2:
        return []
    facts = {"method": REAL, "subject": subject, "class_noun": class_noun}
    photos = [Picture(image, "", "", number) for number, image in enumerate(real)]
    return [
        *_rows("dino", judges.dino, photos, real_ceiling(judges.dino.embed_images(real)), facts),
        *_rows("clip-i", judges.clip, photos, real_ceiling(judges.clip.embed_images(real)), facts),
    ]


def per_subject(scores: Iterable[Score], method: str, metric: str) -> dict[str, float]:
    """Each subject's mean of one metric and method, in the order of the records; subjects are the bootstrap's unit."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if (score.method, score.metric) == (method, metric):
            values.setdefault(score.subject, []).append(score.value)
    return {subject: math.fsum(found) / len(found) for subject, found in values.items()}


def write_csv(scores: Iterable[Score], path: Path) -> None:
    """One row a record under a header, whole or not at all; numbers come back as they were."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    write_whole(path, text.getvalue())


def read_csv(path: Path) -> list[Score]:
    """What `write_csv` wrote. Raises ConfigError for a file that holds no such records."""
    reader = csv.DictReader(io.StringIO(_text(path)))
    try:
        if reader.fieldnames != [field.name for field in fields(Score)]:
            raise ConfigError(f"{path} does not begin with the columns of scores; name a file that holds them.")
        return [_record(row, path) for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path} cannot be read from line {reader.line_num + 1} on: {error}.") from error


def write_json(scores: Iterable[Score], path: Path) -> None:
    """A list of objects, one a line, whole or not at all."""
    lines = [json.dumps(asdict(score), ensure_ascii=False) for score in scores]
    write_whole(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_json(path: Path) -> list[Score]:
    """What `write_json` wrote. Raises ConfigError for a file that holds no such records."""
    try:
        rows = json.loads(_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); name a file that holds scores.") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path} holds no list of scores; name a file that does.")
    return [_record(row, path) for row in rows]


def _rows(
    metric: str, judge: ImageEncoder | Perceptual, pictures: Sequence[Picture], values: Tensor, facts: dict[str, str]
) -> list[Score]:
    return [
        Score(
            **facts,
            prompt=picture.template,
            seed=picture.seed,
            metric=metric,
            value=float(value),
            encoder=judge.name,
            fingerprint=judge.fingerprint,
        )
        for picture, value in zip(pictures, values, strict=True)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets begin their UTF-8 with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The scores {path} cannot be read ({error}); name a file that holds scores.") from error


def _record(row: Any, path: Path) -> Score:
    try:
        score = Score(**(row | {"seed": int(row["seed"]), "value": float(row["value"])}))
        if None in row.values():
            raise TypeError("a column is missing")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{path} holds something else than scores: {row!r:.80}; name a file that holds them."
        ) from error
    if score.metric not in METRICS:
        raise ConfigError(f"{path} has scores of {score.metric!r}; the metrics are {', '.join(METRICS)}.")
    if not math.isfinite(score.value):
        told = f"{score.metric} of {score.method} on {score.subject} is {score.value}"
        raise ConfigError(f"{path} has a score that is no number: {told}.")
    return score
