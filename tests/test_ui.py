"""What a person sees while something runs."""

import io

import pytest
from rich.console import Console

from dreambooth import ui
from dreambooth.ui import Display


def told(monkeypatch: pytest.MonkeyPatch, seconds: float, *, quiet: bool = False, terminal: bool = False) -> list[str]:
    """The lines that a bar over four pictures leaves in a file, of which one is written every so many seconds."""
    monkeypatch.setattr(ui, "LINE_SECONDS", seconds)
    display, file = Display(quiet), io.StringIO()
    display.console = Console(file=file, force_terminal=terminal, width=100)
    with display.track("pictures", 4) as advance:
        for number in range(4):
            advance(note=f"picture {number}")
    return [line for line in file.getvalue().splitlines() if "pictures" in line]


def test_a_log_file_is_told_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    lines = told(monkeypatch, 0.0)
    assert [line.split("left")[0].split()[-2] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert "picture 1" in lines[1] and "left" in lines[1]


def test_but_not_at_every_step(monkeypatch: pytest.MonkeyPatch):
    lines = told(monkeypatch, 3600.0)
    assert len(lines) == 1 and "4/4" in lines[0]


def test_a_quiet_display_says_nothing(monkeypatch: pytest.MonkeyPatch):
    assert told(monkeypatch, 0.0, quiet=True) == []


def test_a_terminal_has_its_bar_alone(monkeypatch: pytest.MonkeyPatch):
    assert all("\x1b[" in line for line in told(monkeypatch, 0.0, terminal=True))


LONG = "backpack-2 dreambooth, stuffed-animal-2 textual-inversion"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_note_leaves_the_times_whole(terminal: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ui, "LINE_SECONDS", 0.0)
    display, file = Display(), io.StringIO()
    display.console = Console(file=file, force_terminal=terminal, color_system=None, width=80)
    with display.track("benchmark", 120) as advance:
        advance(30, LONG)
    lines = [line for line in file.getvalue().splitlines() if "30/120" in line]
    assert lines and all("0:00:00 left -:--:-- backpack" in line for line in lines)
    assert terminal or LONG in lines[0], "a file has no width to keep to"
