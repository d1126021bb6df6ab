"""Which subjects a benchmark is about: DreamBench's own, or any folder laid out like it.

A suite is a name and a list of subjects; a subject has photos, a class noun, and the 25 prompts that suit it.
Suites whose photos have to be made first, such as the embedded world's, are built elsewhere and handed in.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dreambooth import prompts
from dreambooth.errors import ConfigError
from dreambooth.subject import clean_class_noun, is_live

if TYPE_CHECKING:
    from PIL.Image import Image

DREAMBENCH = "dreambench"
DREAMBENCH_FILE = "prompts_and_classes.txt"
CLASSES_FILE = "classes.toml"
T = TypeVar("T")


@dataclass(frozen=True)
class SuiteSubject:
    """One subject; `name` is the name of its folder, and `live` says which 25 prompts are its own.

    `photos` gives the photo files or folders; one whose photos have to be made puts them into the folder it is given.
    `truth`, where it is known, draws what a perfect method would: (pixels a side, templates, seeds) to pictures.
    """

    name: str
    class_noun: str
    live: bool
    photos: Callable[[Path], Sequence[Path]]
    truth: Callable[[int, Sequence[str], Sequence[int]], list[Image]] | None = None


@dataclass(frozen=True)
class Suite:
    """Subjects under one name; the names of the subjects are unique."""

    name: str
    subjects: tuple[SuiteSubject, ...]

    def choose(self, count: int | None) -> tuple[SuiteSubject, ...]:
        """`count` subjects, evenly spread over the suite; all of them by default.

        Raises ConfigError when there are not so many.
        """
        if count is not None and count > len(self.subjects):
            raise ConfigError(f"The suite {self.name} has {len(self.subjects)} subjects; {count} were asked for.")
        return tuple(evenly(self.subjects, len(self.subjects) if count is None else count))


def subject_prompts(live: bool, count: int) -> tuple[str, ...]:
    """`count` of DreamBench's 25 templates for a live subject or an object, evenly spread over them."""
    return tuple(evenly(prompts.LIVE_PROMPTS if live else prompts.OBJECT_PROMPTS, count))


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, in their order, evenly spread.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [items[index * len(items) // count] for index in range(count)]


def class_by_class(subjects: Sequence[T], noun_of: Callable[[T], str]) -> list[T]:
    """The first of every class, then the second of every class, and so on.

    In this order workers that go through the subjects side by side seldom need one class's prior samples at once.

    >>> class_by_class(["dog 1", "dog 2", "can 1", "dog 3"], lambda name: name.split()[0])
    ['dog 1', 'can 1', 'dog 2', 'dog 3']
    """
    classes: dict[str, list[T]] = {}
    for subject in subjects:
        classes.setdefault(noun_of(subject), []).append(subject)
    return [subject for row in zip_longest(*classes.values()) for subject in row if subject is not None]


def find_suite(name: str, made: Mapping[str, Callable[[], Suite]]) -> Suite:
    """The suite of that name: one of `made`, "dreambench", or a folder.

    Raises ConfigError when there is none, or what is there is no suite.
    """
    if name in made:
        return made[name]()
    folder = Path(os.environ.get("DREAMBENCH", DREAMBENCH) if name == DREAMBENCH else os.path.expanduser(name))
    try:
        return _find(name, folder, ", ".join([*made, DREAMBENCH]))
    except OSError as error:
        raise ConfigError(f"The suite {folder} cannot be read: {error.strerror}.") from error


def is_plain_name(name: str) -> bool:
    """Whether a folder of that name lies where it is put, on any system, and can be told in UTF-8.

    >>> [is_plain_name(name) for name in ("my dog", "dog.2", "..", "../dog", "")]
    [True, True, False, False, False]
    """
    return bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\")


def _find(name: str, folder: Path, known: str) -> Suite:
    for place in (folder, folder / "dataset"):
        if (place / DREAMBENCH_FILE).is_file():
            return read_dreambench(place)
    if name == DREAMBENCH:
        raise ConfigError(
            f"DreamBench is not in {folder}: it has no {DREAMBENCH_FILE}. Clone google/dreambooth from GitHub and "
            "give --suite the path of its dataset folder, or set the variable DREAMBENCH to it."
        )
    if not folder.is_dir():
        raise ConfigError(f"There is no suite {name!r}; give {known}, or a folder with one folder of photos a subject.")
    return read_folder(folder)


def read_dreambench(folder: Path) -> Suite:
    """The official layout: a folder a subject, and their classes in prompts_and_classes.txt (google/dreambooth).

    The file does not say which subjects are live: those of class cat and dog are, backpack_dog is a backpack. No photo
    is left out: the near duplicates that the authors list (dog5, cat) are part of the benchmark.
    Raises ConfigError when the list cannot be read or a subject's folder is missing.
    """
    lines = _read(folder / DREAMBENCH_FILE).splitlines()
    try:
        start = [line.strip() for line in lines].index("subject_name,class") + 1
    except ValueError:
        told = f"{folder / DREAMBENCH_FILE} has no line subject_name,class; is it the file of google/dreambooth?"
        raise ConfigError(told) from None
    listed: dict[str, str] = {}
    for line in lines[start:]:
        name, comma, noun = line.partition(",")
        if not comma:
            break
        listed[name.strip()] = noun.strip()
    if not listed:
        raise ConfigError(f"{folder / DREAMBENCH_FILE} lists no subject under subject_name,class; fetch it again.")
    if missing := [name for name in listed if not (folder / name).is_dir()]:
        raise ConfigError(f"{DREAMBENCH_FILE} lists {', '.join(missing)}, but {folder} has no such folder.")
    return _suite(DREAMBENCH, folder, listed, {})


def read_folder(folder: Path) -> Suite:
    """One folder a subject. Its class noun stands in classes.toml, or else is the folder's name without its number.

    A line of classes.toml is `my_dog = "dog"`, or `axel = { class_noun = "axolotl", live = true }` where the program
    does not know that the noun is an animal's.
    Raises ConfigError when there are no folders, or classes.toml does not fit them.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ConfigError(f"{folder} holds no folders; a suite has a folder of photos for each subject.")
    given = _read_classes(folder / CLASSES_FILE)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"{CLASSES_FILE} names {name!r}, but {folder} has no such folder"
                + (f"; did you mean {near[0]}?" if near else ".")
            )
    nouns = {name: given[name][0] if name in given else _noun_of(name) for name in names}
    return _suite(folder.resolve().name, folder, nouns, {name: live for name, (_, live) in given.items()})


def _suite(name: str, folder: Path, nouns: Mapping[str, str], live: Mapping[str, bool | None]) -> Suite:
    if not name.isprintable():
        raise ConfigError(f"The name of the folder {name!a} is not UTF-8 text; rename it.")
    if bad := [subject for subject in nouns if not is_plain_name(subject)]:
        raise ConfigError(
            f"The suite {folder} has a subject {bad[0]!a}; give it the name of a folder in there, in UTF-8, without / "
            "and not beginning with a dot."
        )
    subjects: list[SuiteSubject] = []
    for subject, text in nouns.items():
        try:
            noun = clean_class_noun(text)
        except ConfigError as error:
            raise ConfigError(f"The subject {subject} needs a class noun in {CLASSES_FILE}: {error}") from error
        told = live.get(subject)
        subjects.append(SuiteSubject(subject, noun, is_live(noun) if told is None else told, _files(folder / subject)))
    return Suite(name, tuple(subjects))


def _files(folder: Path) -> Callable[[Path], Sequence[Path]]:
    return lambda _workspace: [folder]


def _noun_of(name: str) -> str:
    """The folder's name as a noun: "stuffed_animal-2" is a stuffed animal."""
    return re.sub(r"[_\W]+", " ", re.sub(r"[_\W]*\d+$", "", name)).strip()


def _read_classes(path: Path) -> dict[str, tuple[str, bool | None]]:
    """Class noun and, where it is said, whether it is live, by subject."""
    if not path.exists():
        return {}
    try:
        lines = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    return {name: _read_entry(path, name, entry) for name, entry in lines.items()}


def _read_entry(path: Path, name: str, entry: Any) -> tuple[str, bool | None]:
    match entry:
        case str():
            return entry, None
        case {"class_noun": str(noun), **rest} if not rest:
            return noun, None
        case {"class_noun": str(noun), "live": bool(live), **rest} if not rest:
            return noun, live
        case _:
            raise ConfigError(
                f'{path} says {name} = {entry!r}; write {name} = "dog", or '
                f'{name} = {{ class_noun = "dog", live = true }}.'
            )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as a plain text file.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from None
