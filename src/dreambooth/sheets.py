"""Pictures side by side with their words, for looking at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def contact_sheet(
    pictures: Sequence[Image], columns: int, captions: Sequence[str] = (), tile: int | None = None
) -> Image:
    """Pictures row by row, each `tile` pixels a side (the first's own width by default), captions below.

    `captions` is empty or has one text a picture; long ones are wrapped, and cut after three lines.
    """
    from PIL import Image, ImageDraw, ImageFont

    side = tile or pictures[0].width
    columns = min(columns, len(pictures))
    font_size = max(10, side // 14)
    font, line_height = ImageFont.load_default(font_size), round(font_size * 1.25)
    wrapped = [_wrap(caption, font, side - 4)[:3] for caption in captions]
    text_height = max((len(lines) for lines in wrapped), default=0) * line_height + (6 if wrapped else 0)
    rows, gap = -(-len(pictures) // columns), 4
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + text_height + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x = gap + (index % columns) * (side + gap)
        y = gap + (index // columns) * (side + text_height + gap)
        tiled = picture if picture.size == (side, side) else picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(tiled, (x, y))
        for number, line in enumerate(wrapped[index] if wrapped else []):
            pen.text((x + 2, y + side + 2 + number * line_height), line, fill="black", font=font)
    return sheet


def strip(pictures: Sequence[Image]) -> Image:
    """Equal squares in one row, nothing between them."""
    from PIL import Image

    side = pictures[0].width
    row = Image.new("RGB", (side * len(pictures), side))
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * side, 0))
    return row


def save_picture(picture: Image, path: Path, facts: dict[str, str]) -> None:
    """A PNG that carries its facts (prompt, seed, model, ...) as text, also in the form A1111 and ComfyUI show."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value)
    rest = ", ".join(f"{key.capitalize()}: {value}" for key, value in facts.items() if key != "prompt")
    info.add_itxt("parameters", f"{facts.get('prompt', '')}\n{rest}")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, pnginfo=info)


def _wrap(text: str, font: object, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:  # pyright: ignore[reportAttributeAccessIssue]
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
