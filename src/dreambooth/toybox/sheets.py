"""Contact sheets of pictures."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def bytes_of(pixels: Tensor) -> Tensor:
    """Pictures in -1..1, of any shape, as uint8."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save_sheet(pixels: Tensor, path: Path, columns: int) -> None:
    """Save [N, 3, H, W] in -1..1 as one PNG with `columns` pictures a row."""
    size = pixels.shape[-1]
    rows = -(-len(pixels) // columns)
    blank = torch.ones(rows * columns - len(pixels), 3, size, size)
    cells = torch.cat([pixels.detach().float().cpu(), blank]).view(rows, columns, 3, size, size)
    page = cells.permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3)
    Image.fromarray(bytes_of(page).numpy()).save(path)
