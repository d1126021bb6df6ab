"""Commands of the benchmark."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreambooth.errors import ConfigError, RunError
from dreambooth.ui import Display

if TYPE_CHECKING:
    from dreambooth.evaluation.benchmark_plan import Plan
    from dreambooth.evaluation.results import Results
    from dreambooth.evaluation.suite import SuiteSubject

FULL: dict[str, Any] = {"subjects": None, "prompts": 25, "images_per_prompt": 4, "class_images": 16}
# What --quick means: ten minutes on two cores with the embedded model. Every method trains in full all the same, for
# methods need different numbers of steps, and half-trained ones compare badly.
QUICK: dict[str, Any] = {
    "subjects": 5,
    "prompts": 8,
    "images_per_prompt": 2,
    "class_images": 8,
}


def add_commands(app: typer.Typer) -> None:
    """Puts the commands into `app`, whose context's `obj` has the suites whose photos are made here, by name."""
    app.command()(benchmark)
    app.command()(benchmark_worker)
    app.command()(tables)


def benchmark(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option(help="toybox, toybox-tuning, dreambench, or a folder with a folder of photos a subject.")
    ] = "toybox",
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods, or table-1, table-3, table-4, photos, all.")
    ] = "dreambooth,textual-inversion,base",
    model: Annotated[str, typer.Option(help="Embedded name, folder, file or hub id.")] = "toybox-sd",
    model_config: Annotated[
        str | None, typer.Option(help="Diffusers folder that lends a single file its configuration.")
    ] = None,
    subjects: Annotated[int | None, typer.Option(min=1, help="How many, evenly spread; all by default.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, max=25, help="How many of a subject's 25 prompts.")] = None,
    images_per_prompt: Annotated[int | None, typer.Option(min=1, help="Pictures of each; 4 by default.")] = None,
    class_images: Annotated[int | None, typer.Option(min=0, help="Pictures of the class; 16 by default.")] = None,
    max_train_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of every method.")] = None,
    num_class_images: Annotated[int | None, typer.Option(min=1, help="Prior samples of every method.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file: training settings, and a table a method.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few subjects, prompts and pictures.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    dino: Annotated[str | None, typer.Option(help="Judge of DINO and PRES, by name, folder or hub id.")] = None,
    clip: Annotated[str | None, typer.Option(help="Judge of CLIP-I and CLIP-T, likewise.")] = None,
    perceptual: Annotated[str | None, typer.Option(help="Judge of DIV: lpips or dino-patch:ENCODER.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side; see the docs.")] = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep the weights of every run.")] = False,
    rescore: Annotated[bool, typer.Option("--rescore", help="Judge anew what was drawn before.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results; goes on with what is there.")] = Path(
        "runs/benchmark"
    ),
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and the result.")] = False,
) -> None:
    """Train, draw and judge many subjects by several methods, and write the paper's tables."""
    from dreambooth.evaluation.benchmark_plan import Member, Plan, Settings
    from dreambooth.evaluation.results import Results
    from dreambooth.evaluation.suite import find_suite
    from dreambooth.evaluation.variants import parse_methods

    given = {
        "subjects": subjects,
        "prompts": prompts,
        "images_per_prompt": images_per_prompt,
        "class_images": class_images,
        "max_train_steps": max_train_steps,
        "num_class_images": num_class_images,
    }
    size = FULL | (QUICK if quick else {}) | {name: value for name, value in given.items() if value is not None}
    train, own = read_bench_config(config)
    chosen = find_suite(suite, context.obj)
    members = chosen.choose(size.pop("subjects"))
    last = {name: size.pop(name) for name in ("max_train_steps", "num_class_images") if name in size}
    settings = Settings(
        suite=chosen.name,
        model=model,
        model_config_folder=model_config,
        seed=seed,
        dino=dino,
        clip=clip,
        perceptual=perceptual,
        train=train,
        own=own,
        last=last,
        **size,
    )
    plan = Plan(
        settings=settings,
        methods=parse_methods(methods, own),
        members=[Member(name=one.name, class_noun=one.class_noun, live=one.live) for one in members],
        device=device,
        keep_models=keep_models,
    )
    _conduct(Results(out), plan, members, workers, rescore, Display(quiet))


def benchmark_worker(
    results: Annotated[Path, typer.Argument(help="Folder of a benchmark that was begun.")],
    leashed: Annotated[bool, typer.Option("--leashed", hidden=True)] = False,
) -> None:
    """Help with a benchmark that another process began, here or on a machine that shares its folder."""
    import sys

    from dreambooth.evaluation.benchmark import work
    from dreambooth.evaluation.results import Results
    from dreambooth.evaluation.workers import die_with

    if leashed:
        die_with(sys.stdin.fileno())
    work(Results(results))


def tables(
    results: Annotated[Path, typer.Argument(help="Folder of a benchmark, or one with its scores.csv.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; that of the results by default.")] = None,
) -> None:
    """Write the paper's tables anew from stored scores; no model is needed."""
    from dreambooth.evaluation.results import Results
    from dreambooth.evaluation.tables_page import write_tables

    for path in write_tables(Results(results), out):
        typer.echo(str(path))


def _conduct(
    results: Results, plan: Plan, subjects: Sequence[SuiteSubject], workers: int | None, rescore: bool, display: Display
) -> None:
    """From the plan to the tables. Raises the DreamBoothError of whatever cannot work, and of runs that failed."""
    from dreambooth.evaluation.benchmark import held, keep_truth
    from dreambooth.evaluation.benchmark_setup import make_folder, set_up
    from dreambooth.evaluation.results import disk_errors, write_results
    from dreambooth.evaluation.tables_page import failures, write_tables
    from dreambooth.evaluation.workers import default_workers, run_workers

    make_folder(results.path)
    with disk_errors(results), held(results.path / ".lock") as free:
        if not free:
            raise RunError(
                f"Another benchmark is at work in {results.path}. Give another --out, or help it along by "
                f"`dreambooth benchmark-worker {quote(str(results.path))}`."
            )
        plan = set_up(results, plan, subjects, rescore, display)
        keep_truth(results, plan, subjects, display)
        run_workers(results, plan, workers or default_workers(plan.device, plan.settings.model), display)
        write_results(results, plan)
    if any(not cell.failure.exists() for cell in results.all_cells(plan)):
        for path in write_tables(results):
            typer.echo(str(path))
    if failed := failures(results, plan):
        total = len(results.all_cells(plan))
        raise RunError(
            f"{len(failed)} of {total} runs failed; give the same command to try them again. The first: {failed[0]}"
        )


def read_bench_config(path: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Training settings of every method, and those of single methods, from a TOML file.

    Raises ConfigError when the file cannot be read.
    """
    if path is None:
        return {}, {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {path}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error}.") from error
    tables: dict[str, dict[str, Any]] = {name: value for name, value in values.items() if isinstance(value, dict)}
    return {name: value for name, value in values.items() if name not in tables}, tables
