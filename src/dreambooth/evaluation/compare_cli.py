"""The command `dreambooth compare`: makes the blind page, serves it, and counts what came of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from dreambooth.errors import ConfigError
from dreambooth.seeding import GREATEST_SEED
from dreambooth.ui import Display

if TYPE_CHECKING:
    from dreambooth.evaluation.compare import Match, Pair


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Two finished runs of one subject.")] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help='A prompt such as "a {subject} in the snow"; may repeat. DreamBench\'s 25.')
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with one prompt a line.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Seed of the pictures, and of their order.")] = 0,
    existing: Annotated[bool, typer.Option("--existing", help="Take pictures that both runs have drawn.")] = False,
    out: Annotated[Path, typer.Option(help="The page; its key is written beside it.")] = Path("compare.html"),
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page to this computer and keep its votes.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; by default the page's own.")] = 0,
    votes: Annotated[list[Path] | None, typer.Option(help="Count votes instead, of one file or several.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of the page they were cast on.")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and the result.")] = False,
) -> None:
    """Let people judge two runs blindly, or count their votes."""
    if votes:
        if key is None:
            raise ConfigError("Votes can be counted with the key of their page alone; add --key PAGE.key.json.")
        if serve:
            raise ConfigError("--votes counts votes and --serve collects them; give one of the two.")
        return _count([*votes, *(runs or [])], key)  # a shell's `--votes *.json` leaves all but the first without flag
    if runs:
        if len(runs) != 2:
            raise ConfigError(
                f"A comparison is of two runs, and {len(runs)} {'was' if len(runs) == 1 else 'were'} given."
            )
        templates = _templates(prompts, prompts_file)
        _make(runs, templates, range(seed, seed + count), existing, out, device, Display(quiet))
    elif not serve:
        raise ConfigError("Name two runs of one subject; or --votes FILE and --key KEY; or --serve with --out PAGE.")
    if serve:
        _serve(out, port)
    return None


def _templates(given: list[str] | None, file: Path | None) -> list[str]:
    from dreambooth.evaluation.compare import names_subject
    from dreambooth.prompts import read_prompts

    templates = [*(given or []), *(read_prompts(file) if file else [])]
    for template in templates:
        if not names_subject(template):
            raise ConfigError(f"{template!r} does not name the subject; write {{subject}} where it belongs.")
    return templates


def _make(
    runs: list[Path], templates: list[str], seeds: range, existing: bool, out: Path, device: str, display: Display
) -> None:
    from dreambooth.evaluation import compare as comparison
    from dreambooth.folders import make_writable

    comparison.require_new(out)
    match = comparison.match(runs)
    one, other = match.class_nouns
    if one != other:
        display.warn(f"The runs call their subject {one!r} and {other!r}; people will read {one!r}.")
    make_writable(out.parent)
    if existing:
        pairs = comparison.existing_pairs(match, templates, len(seeds))
    else:
        pairs = _draw(match, templates, seeds, device, display)
    html, key = comparison.make_page(match, pairs, seeds[0])
    beside = comparison.write_page(out, html, key)
    typer.echo(f"{len(pairs)} pair{'s' if len(pairs) != 1 else ''}, two questions each: {out}")
    typer.echo(f"keep to yourself which is which:  {beside}")
    typer.echo(f"count the votes with:  dreambooth compare --votes FILE --key {quote(str(beside))}")


def _draw(match: Match, templates: list[str], seeds: range, device: str, display: Display) -> list[Pair]:
    from dreambooth.evaluation.compare import draw_pairs
    from dreambooth.prompts import dreambench_prompts

    chosen = templates or list(dreambench_prompts(match.class_noun))
    with display.track("pictures", 2 * len(chosen) * len(seeds)) as advance:
        return draw_pairs(match, chosen, seeds, device, advance)


def _serve(page: Path, port: int) -> None:
    from dreambooth.evaluation.compare import key_beside
    from dreambooth.evaluation.vote_server import VoteServer
    from dreambooth.evaluation.votes import read_key

    key, votes = key_beside(page), page.with_suffix(".votes.jsonl")
    try:
        html = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"There is no page {page} that can be read; make one: dreambooth compare RUN_A RUN_B --out PAGE"
        ) from error
    with VoteServer(html, read_key(key), votes, port) as server:
        typer.echo(f"open  {server.address}  on this computer; Ctrl-C ends it. Votes are kept in {votes}")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    if votes.exists():
        _count([votes], key)


def _count(files: list[Path], key_file: Path) -> None:
    from rich.console import Console

    from dreambooth.evaluation.votes import PAPER_STUDY, counted, read_key, read_votes, table

    key = read_key(key_file)
    others = [file for file in files if file.resolve() != key_file.resolve()]  # `--votes *.json` names the key too
    votes = read_votes(others or files, key, Display(quiet=True).warn)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table(votes, key))
    console.print(f"{counted(votes)} Brackets are 95 % intervals: Wilson's, and by person a bootstrap over people.")
    console.print(PAPER_STUDY)
