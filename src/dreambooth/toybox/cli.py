"""Commands of the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def photos(
    out: Annotated[Path, typer.Option(help="Folder of the photos.")],
    class_noun: Annotated[str, typer.Option(help="Class of the subject.")] = "dog",
    seed: Annotated[int, typer.Option(min=0, help="Which individual of the class.")] = 17,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many photos.")] = 5,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side.")] = 256,
) -> None:
    """Casual photos of one individual that nobody has seen before."""
    from dreambooth.errors import ConfigError
    from dreambooth.toybox import subjects, world
    from dreambooth.toybox.pictures import to_pil

    if class_noun not in subjects.CLASSES:
        raise ConfigError(f"Toybox has no {class_noun!r}; it has {', '.join(sorted(subjects.CLASSES))}.")
    out.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(to_pil(world.photos(class_noun, seed, count, size).images)):
        image.save(out / f"{index:02d}.png")
    typer.echo(f"{count} photos of {class_noun} {seed} in {out}")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="Folder of the sheets.")] = Path("toybox-sheets"),
    size: Annotated[int, typer.Option(min=16, max=512, help="Pixels a side of one picture.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Which individuals and places.")] = 0,
) -> None:
    """The whole world on a few sheets: classes, places, accessories, properties, views, styles."""
    from dreambooth.toybox.pictures import write_sheets
    from dreambooth.ui import Display

    for path in write_sheets(out, size, seed, Display()):
        typer.echo(str(path))


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the finished pipeline.")] = Path("toybox-sd"),
    state: Annotated[Path, typer.Option(help="Folder of data, checkpoints and sheets.")] = Path(".toybox"),
    images: Annotated[int, typer.Option(min=64, help="Pictures rendered for training.")] = 16000,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for the whole training after rendering.")] = 100,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train autoencoder, text encoder and denoiser of the embedded model from nothing; goes on where it stopped."""
    from dreambooth.toybox import pretrain as training

    training.pretrain(out, state=state, images=images, minutes=minutes, device=device, seed=seed)
    typer.echo(f"The model is in {out}")
