"""How long nothing takes: the interpreter, `import dreambooth`, and `dreambooth --help`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks import process
from benchmarks.records import Record
from benchmarks.task import OURS, Outcome

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import dreambooth": ["-c", "import dreambooth"],
    "dreambooth --help": ["-m", "dreambooth", "--help"],
}


def measure(repeats: int, threads: int, setting: dict[str, Any], say: Callable[[str], None]) -> list[Record]:
    """Wall-clock seconds of whole processes, the interpreter's own start among them, after one run to warm the disk."""
    records = [Record("start-up", "cpu", "startup", OURS, setting | {"what": f"`{name}`"}) for name in COMMANDS]
    for turn in range(repeats + 1):
        for record, arguments in zip(records, COMMANDS.values(), strict=True):
            ended = process.run([sys.executable, *arguments], threads)
            if turn:
                note = f"failed: {process.last_line(ended)}" if ended.status else ""
                record.add(
                    Outcome(
                        {
                            "seconds": ended.seconds,
                            "processor_seconds": ended.processor_seconds,
                            "peak_bytes": ended.peak_bytes,
                        },
                        note=note,
                    )
                )
    for record in records:
        say(f"{record.setting['what']}: {record.note or record.values['seconds']}")
    return records
