"""In how many pictures of a finished benchmark of the embedded world there is what their prompts ask for.

    python -m benchmarks.obedience runs/toybox

CLIP-T is a cosine. It tells which of two pictures is nearer to a prompt, but not whether either obeys it. So
toybox-clip is asked here what a picture shows, as in `dreambooth toybox assess`: which of all places, which of all
things to wear, which of all properties, and which class. Means over subjects, with 95 % bootstrap intervals. A second
table has the benchmark's own DINO and CLIP-T by the same kinds of prompt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from PIL import Image

from dreambooth.backbones import hush
from dreambooth.errors import DreamBoothError
from dreambooth.evaluation import bootstrap
from dreambooth.evaluation.encoders import ImageTextEncoder, clip_encoder
from dreambooth.evaluation.results import Results
from dreambooth.evaluation.scores import Score, per_subject
from dreambooth.toybox import zeroshot
from dreambooth.toybox.suites import scene_of, suites
from dreambooth.ui import Display

METRICS = ("dino", "clip-t")
KINDS = {"context": "places", "accessory": "accessories", "property": "properties"}
INDEX = "pictures.json"
Shares = dict[tuple[str, str], float]
"""By kind of prompt and by what is looked for, its class or what else it says: the share of pictures that show it."""


def obeyed(folder: Path, class_noun: str, judge: ImageTextEncoder) -> Shares:
    """What the pictures in a folder, which its pictures.json tells of, show of what was asked, as shares 0..1.

    Raises ConfigError for a prompt that is not DreamBench's.
    """
    jobs = json.loads((folder / INDEX).read_text("utf-8"))
    scenes = [scene_of(job["template"], job["seed"], class_noun, individual=0) for job in jobs]
    shown = judge.embed_images([Image.open(folder / job["file"]).convert("RGB") for job in jobs])
    found: Shares = {}
    for attribute, kind in KINDS.items():
        asked = [row for row, scene in enumerate(scenes) if getattr(scene, attribute) is not None]
        for what in ("class_noun", attribute) if asked else ():
            right = zeroshot.judged(shown[asked], [scenes[row] for row in asked], what, judge.embed_texts)
            found[kind, "class" if what == "class_noun" else "asked for"] = fmean(right)
    return found


def table(found: Mapping[str, Mapping[str, Shares]]) -> str:
    """Methods by kinds of prompt as Markdown; `found` has the shares by method and by subject."""
    columns = [(kind, what) for kind in KINDS.values() for what in ("class", "asked for")]
    lines = ["| | " + " | ".join(f"{kind}: {what}" for kind, what in columns) + " | subjects |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for method, subjects in found.items():
        cells: list[str] = []
        for column in columns:
            values = [shares[column] for shares in subjects.values() if column in shares]
            cells.append(bootstrap.percent(bootstrap.mean(values)) if values else bootstrap.NOTHING)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {len(subjects)} |")
    return "\n".join(lines)


def scores_table(scores: Iterable[Score], methods: Sequence[str]) -> str:
    """Means over subjects of DINO and CLIP-T, by kind of prompt, as Markdown.

    Raises ConfigError for a prompt that is not DreamBench's.
    """
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        if score.method in methods and score.metric in METRICS:
            groups.setdefault((score.method, kind_of(score.prompt, score.class_noun), score.metric), []).append(score)
    lines = ["| " + " | ".join(["", *(f"{kind}: {', '.join(METRICS)}" for kind in KINDS.values())]) + " |"]
    lines.append("|---" * (len(KINDS) + 1) + "|")
    for method in methods:
        cells = [
            ", ".join(_mean(groups.get((method, kind, metric), []), method, metric) for metric in METRICS)
            for kind in KINDS.values()
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@cache
def kind_of(template: str, class_noun: str) -> str:
    """Which of KINDS a prompt is of, "" for none; cached, for each of many scores asks.

    Raises ConfigError for a prompt that is not DreamBench's.
    """
    scene = scene_of(template, 0, class_noun, individual=0)
    return next((kind for attribute, kind in KINDS.items() if getattr(scene, attribute) is not None), "")


def _mean(scores: Sequence[Score], method: str, metric: str) -> str:
    return f"{fmean(per_subject(scores, method, metric).values()):.3f}" if scores else bootstrap.NOTHING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="The folder of a benchmark with --suite toybox.")
    parser.add_argument("--methods", nargs="*", default=["truth", "dreambooth", "textual-inversion", "base"])
    parser.add_argument("--clip", default="toybox-clip")
    options = parser.parse_args()
    hush()
    found: dict[str, dict[str, Shares]] = {}
    results = Results(options.results)
    try:
        judge = clip_encoder(options.clip, "cpu")
        suite = suites().get(results.plan().settings.suite)
        if suite is None:
            parser.error(
                f"{options.results} is of another world; it has to be made with --suite {' or '.join(suites())}"
            )
        drawn = [
            (method, member, folder)
            for member in suite().subjects
            for method in options.methods
            if (folder := results.subject(member.name) / method / "pictures").joinpath(INDEX).exists()
        ]
        with Display().track("judging", len(drawn)) as advance:
            for method, member, folder in drawn:
                found.setdefault(method, {})[member.name] = obeyed(folder, member.class_noun, judge)
                advance()
        methods = [method for method in options.methods if method in found]
        kinds = scores_table(results.scores(), methods)
    except DreamBoothError as error:
        parser.error(str(error))
    print(table({method: found[method] for method in methods}), kinds, sep="\n\n")


if __name__ == "__main__":
    main()
