"""Entry point: runs the command line and turns every error a user can cause into one sentence."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """The `dreambooth` command."""
    from dreambooth.cli import app
    from dreambooth.errors import DreamBoothError, Interrupted

    # A sign that the terminal or log file cannot show, such as the × of a table, must not end a training.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # diffusers' scripts spell their flags with underscores; both spellings are understood.
    sys.argv[1:] = [_dashes(word) for word in sys.argv[1:]]
    try:
        app()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except DreamBoothError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(
            "The device ran out of memory. Use --gradient-checkpointing, a smaller --train-batch-size with more "
            "--gradient-accumulation-steps, or a smaller --sample-batch-size; --dry-run estimates the need."
        )


def _dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
