"""The README's picture from a finished run: its photos in the first row, what words made of the subject below.

    python examples/readme_picture.py runs/demo docs/demo.jpg
    python examples/readme_picture.py runs/demo-if docs/cascade.jpg 256
"""

import sys
from pathlib import Path

from PIL import Image

import dreambooth as db
from dreambooth.sheets import contact_sheet

PROMPTS = (
    "a {subject} on the beach",
    "a {subject} in the snow",
    "a {subject} in the jungle",
    "a {subject} with the Eiffel Tower in the background",
    "a {subject} on top of a purple rug in a forest",
    "a red {subject}",
    "a {subject} wearing a santa hat",
    "a {subject} seen from behind",
    "a painting of a {subject} in the style of Vincent van Gogh",
    "a pencil sketch of a {subject}",
)


def main(folder: Path, out: Path, tile: int = 192) -> None:
    run = db.load(folder)
    photos = [Image.open(path) for path in sorted((folder / "photos").glob("*.png"))[:5]]
    pictures = run.generate(list(PROMPTS), count=1)
    captions = [f"photo {number + 1}" for number in range(len(photos))] + [run.fill(prompt) for prompt in PROMPTS]
    contact_sheet([*photos, *pictures], 5, captions, tile=tile).save(out, quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
