"""Votes of a blind comparison, and what they come to: shares with intervals, as in Table 2 of the paper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from dreambooth.errors import ConfigError
from dreambooth.evaluation import bootstrap
from dreambooth.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from rich.table import Table

Question = Literal["subject", "prompt"]
Side = Literal["left", "right"]
Winner = Literal["a", "b", "undecided"]

WINNERS: tuple[Winner, ...] = ("a", "b", "undecided")
QUESTIONS: dict[Question, str] = {"subject": "Subject fidelity", "prompt": "Prompt fidelity"}
# Table 2 of the paper, both methods on Stable Diffusion.
PAPER_STUDY = "The paper's study (Table 2, Stable Diffusion) had 72 people with 25 questions each."
PAPER: dict[str, dict[Question, int]] = {
    "DreamBooth": {"subject": 68, "prompt": 81},
    "Textual Inversion": {"subject": 22, "prompt": 12},
    "undecided": {"subject": 10, "prompt": 7},
}
NORMAL_QUANTILE = 1.959964  # of 97.5 %
UNFIT = "was not made by the page of `dreambooth compare`"


class Placed(BaseModel):
    """An item of the page: which prompt and seed it shows, and on which side run A stands."""

    text: str
    template: str
    seed: int
    a_is: Side


class Key(BaseModel):
    """What the page does not tell."""

    page: str
    runs: tuple[str, str]
    items: list[Placed]


class Vote(BaseModel):
    """One answer of one person; `item` counts from 0, and `at` is when it was given."""

    model_config = ConfigDict(extra="forbid")

    page: str
    rater: str = Field(min_length=1, max_length=100)
    item: int = Field(ge=0)
    question: Question
    answer: Literal["left", "right", "undecided"]
    seconds: float | None = None
    at: AwareDatetime | None = None


class Answers(BaseModel):
    """The file that the page's download button gives."""

    votes: list[Vote]


@dataclass(frozen=True)
class Share:
    """How many of `total` votes one side got; `by_rater` is the interval over the people, if there are several."""

    count: int
    total: int
    by_rater: Interval | None = None

    def told(self) -> str:
        """
        >>> Share(17, 25).told()
        '68 % [48, 83]'
        """
        low, high = wilson(self.count, self.total)
        told = f"{100 * self.count / self.total:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        if self.by_rater is None or self.by_rater.low is None or self.by_rater.high is None:
            return told
        return f"{told}\nby person [{100 * self.by_rater.low:.0f}, {100 * self.by_rater.high:.0f}]"


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): right for few votes too, and never outside 0..1.

    >>> tuple(round(bound, 3) for bound in wilson(8, 10)), wilson(0, 4)[0], wilson(4, 4)[1]
    ((0.49, 0.943), 0.0, 1.0)

    Raises ValueError without a vote.
    """
    if total < 1:
        raise ValueError("there is no vote")
    share, square = count / total, NORMAL_QUANTILE**2
    middle = share + square / (2 * total)
    spread = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    low, high = ((middle + sign * spread) / (1 + square / total) for sign in (-1, 1))
    return (low if count else 0.0, high if count < total else 1.0)


def read_key(path: Path) -> Key:
    """The key of a page. Raises ConfigError."""
    try:
        return Key.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The key {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise ConfigError(f"{path} is no key of a comparison; the key lies beside its page.") from error


def read_votes(paths: Sequence[Path], key: Key, warn: Callable[[str], None] = lambda sentence: None) -> list[Vote]:
    """All votes of downloaded files (.json) and of served pages (.jsonl); who voted twice changed their mind.

    Lines that were cut short are left out, and `warn` tells of them. Raises ConfigError for a file that cannot be
    read, or votes of another page than the key's.
    """
    cast: list[tuple[datetime, Vote]] = []
    for path in paths:
        for at, vote in _votes_in(path, warn):
            if fault := misfit(vote, key):
                raise ConfigError(f"The votes in {path} do not match the key: {fault}.")
            cast.append((at, vote))
    if not cast:
        raise ConfigError("There is no vote in " + ", ".join(map(str, paths)) + ".")
    in_order = sorted(cast, key=lambda dated: dated[0])
    return list({(vote.rater, vote.item, vote.question): vote for _, vote in in_order}.values())


def misfit(vote: Vote, key: Key) -> str | None:
    """Why a vote cannot be of the key's page; None where it can."""
    if vote.page != key.page:
        return f"they are of the page {vote.page}, and the key is of {key.page}"
    if vote.item >= len(key.items):
        return f"they name item {vote.item + 1}, and the page has {len(key.items)}"
    return None


def winner(vote: Vote, key: Key) -> Winner:
    if vote.answer == "undecided":
        return "undecided"
    return "a" if vote.answer == key.items[vote.item].a_is else "b"


def shares(votes: Iterable[Vote], key: Key) -> dict[Question, dict[Winner, Share]]:
    """The share of each run, and of those who could not decide, for each question that was answered."""
    counts: dict[Question, dict[str, Counter[Winner]]] = {question: {} for question in QUESTIONS}
    for vote in votes:
        counts[vote.question].setdefault(vote.rater, Counter())[winner(vote, key)] += 1
    return {
        question: {side: _share(by_rater, side) for side in WINNERS}
        for question, by_rater in counts.items()
        if by_rater
    }


def table(votes: Sequence[Vote], key: Key) -> Table:
    """As Table 2 of the paper, with the paper's own rows below."""
    from rich.markup import escape
    from rich.table import Table

    found = shares(votes, key)
    names = [Path(run).name for run in key.runs]
    runs = names if names[0] != names[1] else key.runs
    result = Table("", *(f"{title} ↑" for title in QUESTIONS.values()))
    for side, name in zip(WINNERS, (*runs, "undecided"), strict=True):
        result.add_row(
            escape(name), *(found[question][side].told() if question in found else "–" for question in QUESTIONS)
        )
    result.add_section()
    for name, figures in PAPER.items():
        result.add_row(f"paper: {name}", *(f"{figures[question]} %" for question in QUESTIONS))
    return result


def counted(votes: Sequence[Vote]) -> str:
    """
    >>> counted([Vote(page="p", rater="r", item=0, question="subject", answer="left")])
    '1 vote by 1 person; of those who decided, 100 % took the left picture.'
    """
    people = len({vote.rater for vote in votes})
    decided = [vote.answer for vote in votes if vote.answer != "undecided"]
    told = f"{len(votes)} vote{'s' if len(votes) != 1 else ''} by {people} {'people' if people != 1 else 'person'}"
    if not decided:
        return f"{told}; nobody could decide."
    return f"{told}; of those who decided, {100 * decided.count('left') / len(decided):.0f} % took the left picture."


def _share(by_rater: dict[str, Counter[Winner]], side: Winner) -> Share:
    """People differ more than their votes, so with several of them the interval is also taken over people."""
    won = {rater: float(counter[side]) for rater, counter in by_rater.items()}
    cast = {rater: float(counter.total()) for rater, counter in by_rater.items()}
    several = bootstrap.ratio(won, cast) if len(by_rater) > 1 else None
    return Share(int(sum(won.values())), int(sum(cast.values())), several)


def _votes_in(path: Path, warn: Callable[[str], None]) -> list[tuple[datetime, Vote]]:
    """The votes, and when each was cast: one that does not say so is as old as its file."""
    try:
        content, written = path.read_bytes(), datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ConfigError(f"The votes {path} cannot be read: {error.strerror}.") from error
    try:
        if path.suffix == ".jsonl":
            votes = TypeAdapter(list[Vote]).validate_python(_whole_lines(path, content, warn))
        else:
            votes = Answers.model_validate_json(content).votes
    except ValidationError as error:
        raise ConfigError(f"{path} {UNFIT}, or was changed since; ask for it again.") from error
    return [(vote.at or written, vote) for vote in votes]


def _whole_lines(path: Path, content: bytes, warn: Callable[[str], None]) -> list[Any]:
    """The values of the lines, those aside that a full disk or a power cut has cut short."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    found: list[Any] = []
    for line in lines:
        with suppress(ValueError):
            found.append(from_json(line))
    if cut := len(lines) - len(found):
        warn(f"{path} has {cut} line{'s' if cut > 1 else ''} cut short, and what stood there is not counted.")
    return found
