"""Commands of the embedded world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def photos(
    out: Annotated[Path, typer.Option(help="Folder of the photos.")],
    class_noun: Annotated[str, typer.Option(help="Class of the subject.")] = "dog",
    seed: Annotated[int, typer.Option(min=0, help="Which individual of the class.")] = 17,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many photos.")] = 5,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side.")] = 256,
    place: Annotated[str | None, typer.Option(help="One place for all of them, such as lawn.")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Also NAME.mask.png beside each, for --masked-loss.")] = False,
) -> None:
    """Casual photos of one individual that nobody has seen before."""
    from dreambooth.folders import require_empty

    require_empty(out)
    save_photos(out, class_noun, seed, count, size, place, masks)
    typer.echo(f"{count} photo{'s' if count != 1 else ''} of {class_noun} {seed} in {out}")


def save_photos(
    out: Path,
    class_noun: str,
    individual: int,
    count: int = 5,
    size: int = 256,
    place: str | None = None,
    masks: bool = False,
) -> None:
    """Renders the photos, all in one `place` if it is given. The individual is none that the models were trained on.

    Raises ConfigError for a class or a place that toybox does not have, and a folder that cannot be written.
    """
    from dreambooth.errors import ConfigError
    from dreambooth.folders import make_writable
    from dreambooth.subject import MASK_SUFFIX
    from dreambooth.toybox import captions, scenes, subjects, world
    from dreambooth.toybox.pictures import to_pil

    if class_noun not in subjects.CLASSES:
        raise ConfigError(f"Toybox has no {class_noun!r}; it has {', '.join(sorted(subjects.CLASSES))}.")
    places = scenes.CONTEXTS | scenes.PLACES
    if place is not None and place not in places:
        raise ConfigError(f"Toybox has no place {place!r}; it has {', '.join(sorted(places))}.")
    held_out = captions.HELD_OUT_INDIVIDUALS
    make_writable(out)
    pictures = world.photos(class_noun, held_out[individual % len(held_out)], count, size, place)
    for index, image in enumerate(to_pil(pictures.images)):
        image.save(out / f"{index:02d}.png")
    for index, mask in enumerate(to_pil(pictures.masks.expand(-1, 3, -1, -1)) if masks else []):
        mask.convert("L").save(out / f"{index:02d}{MASK_SUFFIX}")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="Folder of the sheets.")] = Path("toybox-sheets"),
    size: Annotated[int, typer.Option(min=16, max=512, help="Pixels a side of one picture.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Which individuals and places.")] = 0,
    model: Annotated[str | None, typer.Option(help="Let this model draw the same words; its name or folder.")] = None,
) -> None:
    """The whole world on a few sheets: classes, places, accessories, properties, views, styles."""
    from dreambooth.folders import make_writable
    from dreambooth.toybox.pictures import imagined, rendered, write_sheets
    from dreambooth.ui import Display

    make_writable(out)
    draw = rendered(size)
    if model is not None:
        from dreambooth.backbones import load

        draw = imagined(load(model), seed)
    for path in write_sheets(out, draw, size, seed, Display()):
        typer.echo(str(path))


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the finished pipeline.")] = Path("toybox-sd"),
    work: Annotated[Path, typer.Option(help="Folder of data, checkpoints and sheets.")] = Path(".toybox"),
    images: Annotated[int | None, typer.Option(min=64, help="Pictures rendered for training.")] = None,
    start: Annotated[str | None, typer.Option(help="Go on from this model's weights; its name or folder.")] = None,
    autoencoder_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the autoencoder.")] = None,
    denoiser_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the denoiser.")] = None,
    autoencoder_minutes: Annotated[float | None, typer.Option(help="Stop the autoencoder after this time.")] = None,
    denoiser_minutes: Annotated[float | None, typer.Option(help="Stop the denoiser after this time.")] = None,
    autoencoder_rate: Annotated[float | None, typer.Option(min=1e-9, help="Greatest rate of the autoencoder.")] = None,
    denoiser_rate: Annotated[float | None, typer.Option(min=1e-9, help="Greatest rate of the denoiser.")] = None,
    class_power: Annotated[float, typer.Option(min=0, help="Show what --start draws badly more often.")] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where the work folder stands, or train anew.")] = True,
) -> None:
    """Train autoencoder, text encoder and denoiser of the embedded model; goes on where it stopped."""
    from dreambooth.backbones import hush
    from dreambooth.errors import ConfigError
    from dreambooth.models import embedded

    hush()
    from dreambooth.toybox import pretrain as training

    if class_power and start is None:
        raise ConfigError("--class-power goes by what the model of --start draws badly; give --start, or leave it out.")
    plain = training.PretrainConfig()
    steps = (
        plain.autoencoder.steps if autoencoder_steps is None else autoencoder_steps,
        plain.denoiser.steps if denoiser_steps is None else denoiser_steps,
    )
    config = replace(
        plain,
        images=images or plain.images,
        seed=seed,
        autoencoder=training.Budget(steps[0], autoencoder_minutes),
        denoiser=training.Budget(steps[1], denoiser_minutes),
        autoencoder_rates=replace(plain.autoencoder_rates, rate=autoencoder_rate or plain.autoencoder_rates.rate),
        denoiser_rates=replace(plain.denoiser_rates, rate=denoiser_rate or plain.denoiser_rates.rate),
        class_power=class_power,
        start=None if start is None else embedded().get(start, Path(start).expanduser()),
    )
    training.pretrain(out, config, work=work, device=device, resume=resume, log=typer.echo)
    typer.echo(f"The model is in {out}")


@app.command()
def cascade(
    out: Annotated[Path, typer.Option(help="Folder of the finished pipelines.")] = Path("toybox-if"),
    work: Annotated[Path, typer.Option(help="Folder of data, checkpoints and sheets.")] = Path(".toybox"),
    images: Annotated[int | None, typer.Option(min=64, help="Pictures rendered for the base.")] = None,
    large_images: Annotated[int | None, typer.Option(min=64, help="256 px pictures for the super-resolver.")] = None,
    base_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the base.")] = None,
    upscaler_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the super-resolver.")] = None,
    base_minutes: Annotated[float | None, typer.Option(help="Stop the base after this time.")] = None,
    upscaler_minutes: Annotated[float | None, typer.Option(help="Stop the super-resolver after this time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where the work folder stands, or train anew.")] = True,
) -> None:
    """Train the embedded cascade, base and super-resolver, from nothing; goes on where it stopped."""
    from dreambooth.backbones import hush

    hush()
    from dreambooth.toybox import cascade as training
    from dreambooth.toybox.fit import Budget

    plain = training.CascadeConfig()
    config = replace(
        plain,
        images=images or plain.images,
        large_images=large_images or plain.large_images,
        seed=seed,
        base=Budget(base_steps or plain.base.steps, base_minutes),
        super_resolution=Budget(upscaler_steps or plain.super_resolution.steps, upscaler_minutes),
    )
    training.train(out, config, work=work, device=device, resume=resume, log=typer.echo)
    typer.echo(f"The model is in {out}")


@app.command()
def judges(
    out: Annotated[Path, typer.Option(help="Folder that toybox-clip and toybox-dino go to.")] = Path("toybox-judges"),
    work: Annotated[Path, typer.Option(help="Folder of data, checkpoints and sheets.")] = Path(".toybox"),
    images: Annotated[int | None, typer.Option(min=64, help="Pictures rendered for toybox-clip.")] = None,
    individuals: Annotated[int | None, typer.Option(min=64, help="Individuals rendered for toybox-dino.")] = None,
    contrasts: Annotated[int | None, typer.Option(min=64, help="Hard pairs rendered for toybox-clip.")] = None,
    clip_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of toybox-clip.")] = None,
    dino_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of toybox-dino.")] = None,
    minutes_clip: Annotated[float | None, typer.Option(min=0, help="Stop toybox-clip after this time.")] = None,
    minutes_dino: Annotated[float | None, typer.Option(min=0, help="Stop toybox-dino after this time.")] = None,
    only: Annotated[Literal["clip", "dino"] | None, typer.Option(help="Train one of the two alone.")] = None,
    clip_start: Annotated[
        str | None, typer.Option(help="Go on from this toybox-clip, whose patches may be larger; its name or folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where the work folder stands, or train anew.")] = True,
) -> None:
    """Train the judges of the embedded world, toybox-clip and toybox-dino; goes on where it stopped."""
    from dreambooth.backbones import hush

    hush()
    from dreambooth.models import embedded
    from dreambooth.toybox import judges as training
    from dreambooth.toybox.fit import Budget

    plain = training.JudgesConfig()
    config = replace(
        plain,
        images=images or plain.images,
        individuals=individuals or plain.individuals,
        contrasts=contrasts or plain.contrasts,
        seed=seed,
        clip_budget=Budget(clip_steps or plain.clip_budget.steps, minutes_clip),
        dino_budget=Budget(dino_steps or plain.dino_budget.steps, minutes_dino),
        clip_start=None if clip_start is None else embedded().get(clip_start, Path(clip_start).expanduser()),
        only=only,
    )
    training.train(out, config, work=work, device=device, resume=resume, log=typer.echo)


@app.command()
def assess(
    model: Annotated[str, typer.Option(help="What samples: an embedded name or a diffusers folder.")] = "toybox-sd",
    clip: Annotated[str, typer.Option(help="Who judges what pictures show: a name or folder.")] = "toybox-clip",
    dino: Annotated[str, typer.Option(help="Who tells individuals apart: a name or folder.")] = "toybox-dino",
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts to sample.")] = 1000,
    individuals: Annotated[int, typer.Option(min=2, help="Held-out individuals of every class.")] = 8,
    photos: Annotated[Path | None, typer.Option(help="Folder of photos for the autoencoder.")] = None,
    work: Annotated[Path, typer.Option(help="Folder where rendered and sampled pictures are kept.")] = Path(".toybox"),
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON and nothing else.")] = False,
    write_cards: Annotated[bool, typer.Option("--write-cards", help="Put the numbers into the model's card.")] = False,
    judge_cards: Annotated[bool, typer.Option("--judge-cards", help="Put the judges' numbers into theirs.")] = False,
) -> None:
    """How good the embedded models are, on scenes and individuals that no training has seen."""
    from dreambooth.backbones import hush

    hush()
    from dreambooth.run import choose_device
    from dreambooth.toybox import assess as measuring
    from dreambooth.ui import Display

    display = Display(quiet=json)
    plan = measuring.Plan(
        model=model, clip=clip, dino=dino, prompts=prompts, individuals=individuals, photos=photos, work=work,
        device=str(choose_device(device)),
    )  # fmt: skip
    folders = measuring.card_folders(plan, model=write_cards, judges=judge_cards)
    found = measuring.assess(plan, display)
    if json:
        typer.echo(found.as_json())
    else:
        display.say(found.as_table())
    for path in found.write_cards(folders):
        display.say(f"The numbers are in {path}")


@app.command("ablation-sr")
def ablation_sr(
    out: Annotated[Path, typer.Option(help="Folder of runs and results; goes on with what is there.")] = Path(
        "runs/ablation-sr"
    ),
    model: Annotated[str, typer.Option(help="A cascade: embedded name or folder.")] = "toybox-if",
    class_noun: Annotated[str, typer.Option(help="Class of the subjects.")] = "dog",
    individual: Annotated[int, typer.Option(min=0, help="Which individual of the class is the first.")] = 17,
    subjects: Annotated[int, typer.Option(min=1, help="How many individuals.")] = 1,
    pictures: Annotated[int, typer.Option(min=1, help="True pictures of each that are enlarged.")] = 8,
    sr_max_train_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of each way.")] = None,
    sr_num_class_images: Annotated[int | None, typer.Option(min=1, help="Prior samples of the super-resolver.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps of each picture.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    dino: Annotated[str | None, typer.Option(help="Who tells individuals apart: a name or folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and the result.")] = False,
) -> None:
    """Compare super-resolvers with the truth: not fine-tuned, fine-tuned at the original noise, at the lowered one."""
    from dreambooth.backbones import hush
    from dreambooth.errors import ConfigError
    from dreambooth.toybox import subjects as world_subjects

    hush()
    from dreambooth.toybox import sr_ablation
    from dreambooth.ui import Display

    if class_noun not in world_subjects.CLASSES:
        raise ConfigError(f"Toybox has no {class_noun!r}; it has {', '.join(sorted(world_subjects.CLASSES))}.")
    given = {
        "sr_max_train_steps": sr_max_train_steps,
        "sr_num_class_images": sr_num_class_images,
    }
    plan = sr_ablation.Plan(
        out, model, class_noun, individual, subjects, pictures=pictures, seed=seed,
        num_inference_steps=num_inference_steps, dino=dino, device=device,
        settings={name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
    typer.echo(str(sr_ablation.run_ablation(plan, Display(quiet))))
