"""The picture of docs/results.md from a finished benchmark: one subject, what the methods made of it, and its class.

    python examples/results_picture.py runs/toybox dog-6 docs/results.jpg
"""

import json
import sys
from pathlib import Path

from PIL import Image

from dreambooth.sheets import contact_sheet

COLUMNS = 6
ROWS = (
    ("DreamBooth", "dreambooth", "pictures"),
    ("Textual Inversion", "textual-inversion", "pictures"),
    ("with the prior loss", "dreambooth", "class"),
    ("without the prior loss", "dreambooth-no-prior", "class"),
    ("wrong noun", "dreambooth-wrong-noun", "pictures"),
)


def main(results: Path, subject: str, out: Path) -> None:
    folder = results / "subjects" / subject
    photos = sorted((folder / "photos").glob("*.png"))[:COLUMNS]
    pictures: list[Image.Image | None] = [Image.open(path) for path in photos]
    captions = [f"photo {number + 1}" for number in range(len(photos))]
    pictures += [None] * (COLUMNS - len(photos))
    captions += [""] * (COLUMNS - len(photos))
    for title, method, place in ROWS:
        jobs = json.loads((folder / method / place / "pictures.json").read_text())
        if place == "pictures":
            jobs = list({job["template"]: job for job in reversed(jobs)}.values())[::-1]  # the first of each prompt
        for job in jobs[:COLUMNS]:
            pictures.append(Image.open(folder / method / place / job["file"]))
            captions.append(f"{title}: {job['prompt']}")
    blank = Image.new("RGB", pictures[0].size, "white")
    contact_sheet([picture or blank for picture in pictures], COLUMNS, captions, tile=144).save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
