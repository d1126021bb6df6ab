"""The command line: thin; every training flag is made from the one schema in config.py."""

from __future__ import annotations

import inspect
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, get_args

import typer

from dreambooth.config import SECTIONS, SamplerName, TrainConfig, read_config, to_toml
from dreambooth.errors import ConfigError, Interrupted
from dreambooth.evaluation.cli import add_commands as add_benchmark_commands
from dreambooth.evaluation.compare_cli import compare
from dreambooth.seeding import GREATEST_SEED
from dreambooth.toybox.cli import app as toybox
from dreambooth.toybox.suites import suites as toybox_suites
from dreambooth.ui import Display

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Photos of a subject in, a text-to-image model that knows it out.",
    context_settings={"obj": toybox_suites()},
)
app.add_typer(toybox, name="toybox", help="The embedded world: photos, sheets and models of ray-traced toys.")
add_benchmark_commands(app)


def _versions(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    typer.echo(f"dreambooth {version('dreambooth')}")
    for library in ("torch", "diffusers", "transformers", "accelerate", "peft"):
        typer.echo(f"{library} {version(library)}")
    raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_versions, help="Print versions, for a bug report.")
    ] = False,
) -> None: ...


Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and the result.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


def _train(**given: Any) -> None:
    """Fine-tune a model on three to five photos of one subject."""
    from dreambooth import class_noun, workflow
    from dreambooth.prepare import prepare

    resume, config_file, accept = given.pop("resume"), given.pop("config"), given.pop("yes")
    dry_run, display = given.pop("dry_run"), Display(given.pop("quiet"))
    given["photos"] = [str(path) for path in given["photos"]] if given["photos"] else None
    if resume is not None:
        extra = [name for name, value in given.items() if value is not None]
        if extra or config_file or dry_run:
            raise ConfigError("--resume goes on with the run's own settings; give no others beside it.")
        run = workflow.resume(resume, display)
    else:
        config = read_config(config_file, {_alias(name): value for name, value in given.items()})
        config = class_noun.settle(config, accept, display)
        if dry_run:
            prepared = prepare(config, display, dry=True)
            display.say(prepared.plan.table())
            typer.echo(to_toml(prepared.config), nl=False)
            return
        run = workflow.start(config, display)
    if run.is_background_process:
        return
    typer.echo(f'"{run.fill("a {subject}")}" is ready: {run.folder.result}')
    typer.echo(f"look at it:  {run.report}")
    typer.echo(f'go on with:  dreambooth generate {quote(str(run.path))} "a {{subject}} in the snow"')


def _alias(name: str) -> str:
    return TrainConfig.model_fields[name].alias or name if name in TrainConfig.model_fields else name


def _training_flags() -> list[inspect.Parameter]:
    """One flag a config field; unset flags are None, so that a config file is not overruled."""
    flags: list[inspect.Parameter] = []
    panel = ""
    for name, field in TrainConfig.model_fields.items():
        panel = SECTIONS.get(name, panel)
        if name == "photos":
            continue
        flag = "--" + (field.alias or name).replace("_", "-")
        kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        names = [f"{flag}/--no-{flag[2:]}"] if bool in kinds else [flag]
        default = field.get_default(call_default_factory=True)  # pyright: ignore[reportCallIssue]
        told = (
            ""
            if default in (None, "")
            else f" [default: {'; '.join(default) if isinstance(default, list) else default}]"
        )
        option = typer.Option(*names, help=f"{field.description}{told}", rich_help_panel=panel, show_default=False)
        annotation = Annotated[field.annotation | None, option]
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return flags


def _add_train_command() -> None:
    own = {
        "photos": Annotated[list[Path] | None, typer.Argument(help="Folders or files with photos.")],
        "config": Annotated[Path | None, typer.Option(help="TOML file with any of these settings.")],
        "resume": Annotated[Path | None, typer.Option(help="Go on with this run folder.")],
        "yes": Annotated[bool, typer.Option("--yes", help="Take the class noun that is proposed when none is given.")],
        "dry_run": Annotated[bool, typer.Option("--dry-run", help="Show settings, counts and costs; do nothing.")],
        "quiet": Quiet,
    }
    keyword, switches = inspect.Parameter.KEYWORD_ONLY, ("yes", "dry_run", "quiet")
    parameters = [
        inspect.Parameter(name, keyword, default=False if name in switches else None, annotation=annotation)
        for name, annotation in own.items()
    ] + _training_flags()
    _train.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    _train.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command("train")(_train)


_add_train_command()


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    prompt: Annotated[list[str] | None, typer.Argument(help='Prompts, e.g. "a {subject} in the jungle".')] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with one prompt a line.")] = None,
    application: Annotated[list[str] | None, typer.Option(help="A prompt set, e.g. art or views; may repeat.")] = None,
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1, help="Pictures of each prompt.")] = 4,
    seed: Annotated[
        int, typer.Option(min=0, max=GREATEST_SEED, help="Seed of the first picture of each prompt; the next adds 1.")
    ] = 0,
    num_inference_steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0, help="Guidance; 1 is none.")] = None,
    sampler: Annotated[SamplerName | None, typer.Option(help="Sampler; the run's own by default.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What the pictures should not show.")] = "",
    sr_noise_level: Annotated[
        float | None, typer.Option(min=0, max=1, help="Noise on a super-resolver's small pictures; the run's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures; RUN/generated by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 8,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw prompts with a finished run."""
    from dataclasses import replace

    from dreambooth import drawing, load, prompts
    from dreambooth.checkpoint import free_folder
    from dreambooth.folders import make_writable

    display, finished = Display(quiet), load(run, device)
    templates = [*(prompt or []), *(prompts.read_prompts(prompts_file) if prompts_file else [])]
    for name in application or []:
        templates += prompts.application_prompts(name, finished.class_noun)
    if not templates:
        raise ConfigError('Nothing to draw: give a prompt such as "a {subject} in the snow", or --application art.')
    filled = [(template, finished.fill(template)) for template in templates]
    own = finished.sampling
    sampling = replace(
        own,
        num_inference_steps=num_inference_steps or own.num_inference_steps,
        guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
        sampler=sampler or own.sampler,
        negative_prompt=negative_prompt,
        enlarging=replace(
            own.enlarging,
            noise_level=own.enlarging.noise_level if sr_noise_level is None else sr_noise_level,
        ),
    )
    folder = out or free_folder(run / "generated")
    make_writable(folder)
    for text in drawing.cut_prompts(finished.backbone, [text for _, text in filled]):
        display.warn(
            f"The model reads {finished.backbone.spec.max_tokens} tokens; the end of this prompt is lost: {text}"
        )
    seeds = range(seed, seed + num_images)
    album = drawing.Album(folder, str(run), sampling)
    try:
        with display.track("pictures", len(filled) * num_images) as advance:
            for batch in drawing.batches(finished.backbone, filled, seeds, sampling, batch_size):
                album.add(batch)
                advance(len(batch))
    except KeyboardInterrupt:
        if not album.pictures:
            raise Interrupted("Stopped. Nothing was drawn yet.") from None
        album.write_sheet(num_images)
        told = f"{len(album.pictures)} pictures are" if len(album.pictures) > 1 else "1 picture is"
        raise Interrupted(f"Stopped. {told} in {folder}.") from None
    album.write_sheet(num_images)
    typer.echo(f"{len(album.pictures)} picture{'s' if len(album.pictures) != 1 else ''} and sheet.png in {folder}")


@app.command()
def identifiers(
    model: Annotated[str, typer.Option(help="Embedded name, folder, file or hub id.")] = "toybox-sd",
    model_config: Annotated[
        str | None, typer.Option(help="Diffusers folder that lends a single file its tokenizer.")
    ] = None,
    class_noun: Annotated[str, typer.Option(help="The noun that will stand after it.")] = "dog",
    count: Annotated[int, typer.Option(min=1, help="How many to list.")] = 20,
    check: Annotated[str | None, typer.Option(help="Judge this word instead.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Let the frozen model draw them; weakest reaction first.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Which of the rare tokens are listed.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """List rare tokens of the model's own vocabulary, or judge a word."""
    from rich.table import Table

    from dreambooth import backbones, identifier
    from dreambooth.prepare import probe as probe_candidates
    from dreambooth.run import choose_device

    display = Display(quiet)
    backbone = backbones.load(model, Path(model_config) if model_config else None)
    tokenizer, *others = backbone.tokenizers
    if check is not None:
        found = [identifier.check(check, tokenizer, class_noun, others)]
    else:
        found = identifier.finalists(tokenizer, class_noun, seed, count, others=others)
    reactions: dict[str, float] = {}
    if probe:
        backbone.to(choose_device(device))
        probed = probe_candidates(backbone, found, class_noun, display)
        found = [entry.identifier for entry in probed]
        reactions = {entry.identifier.text: entry.reaction for entry in probed}
    table = Table("identifier", "tokens", "rarity", "reaction", "remarks")
    for one in found:
        reaction = f"{reactions[one.text]:.3f}" if probe else "not probed"
        table.add_row(one.text, str(list(one.token_ids)), f"{one.rarity:.3f}", reaction, " ".join(one.warnings))
    display.console.print(table)


@app.command("class-noun")
def class_noun_command(
    photos: Annotated[list[Path], typer.Argument(help="Folders or files with photos of one subject.")],
    encoder: Annotated[
        str, typer.Option(help="The CLIP that looks; clip-vit-b-32 for photographs. Embedded name, folder or hub id.")
    ] = "toybox-clip",
    nouns: Annotated[Path | None, typer.Option(help="Text file with the nouns to choose from, one a line.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many to list.")] = 10,
    device: Device = "auto",
) -> None:
    """Rank what the photos may show, for --class-noun."""
    from rich.console import Console

    from dreambooth import class_noun

    choice = class_noun.read_nouns(nouns) if nouns else class_noun.nouns_for(encoder)
    ranking = class_noun.look([str(path) for path in photos], encoder, choice, device)
    Console(highlight=False).print(class_noun.table(ranking, count))


app.command()(compare)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    out: Annotated[Path | None, typer.Option(help="The file; RUN/NAME.safetensors by default.")] = None,
    precision: Annotated[
        Literal["fp16", "bf16", "fp32"], typer.Option(help="How exactly weights are stored.")
    ] = "fp16",
) -> None:
    """Write a run's model, or its LoRA, as one file for ComfyUI, A1111 and the like."""
    from dreambooth.checkpoint import RunFolder
    from dreambooth.export import export as write

    path = write(RunFolder.open(run), out, precision)
    typer.echo(f"{path}  {path.stat().st_size / 1e6:.0f} MB")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write RUN/report.html anew."""
    from dreambooth.checkpoint import RunFolder
    from dreambooth.evaluation.report import write_report

    typer.echo(str(write_report(RunFolder.open(run))))


@app.command()
def demo(
    photos: Annotated[Path | None, typer.Option(help="Your own photos; a rendered toy's by default.")] = None,
    class_noun: Annotated[str, typer.Option(help="What the subject is.")] = "dog",
    individual: Annotated[int, typer.Option(min=0, help="Which rendered toy, when there are no photos.")] = 17,
    model: Annotated[str, typer.Option(help="Embedded name, folder, file or hub id.")] = "toybox-sd",
    max_train_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    num_class_images: Annotated[int | None, typer.Option(min=1, help="How many prior samples.")] = None,
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """The whole road on one subject, on an embedded model: minutes on two CPU cores."""
    from dreambooth import workflow
    from dreambooth.checkpoint import free_folder

    out = free_folder(out)
    if photos is None:
        from dreambooth.toybox.cli import save_photos

        photos = free_folder(out.with_name(out.name + "-photos"))
        save_photos(photos, class_noun, individual)
    values = {
        "photos": [str(photos)],
        "class_noun": class_noun,
        "model": model,
        "max_train_steps": max_train_steps,
        "num_class_images": num_class_images,
        "images_per_prompt": images_per_prompt,
        "out": str(out),
    }
    config = read_config(None, values)
    run = workflow.start(config, Display(quiet))
    typer.echo(f'"{run.fill("a {subject}")}" was learned from {photos}.')
    for phase, seconds in run.folder.times().items():
        typer.echo(f"  {phase:<16}{seconds:7.1f} s")
    typer.echo(f"Open this page: {run.report.absolute().as_uri()}")
