"""Puts the transforms that the scripts use under torchvision's name, then runs the script as its own main program."""

from __future__ import annotations

import runpy
import sys
from types import ModuleType

from benchmarks.standin import transforms


def main(script: str) -> None:
    # Whether there is a torchvision is asked and remembered before the stand-in is there, so that nobody takes the
    # stand-in for the whole of it.
    import diffusers
    from transformers.utils import is_torchvision_available

    assert diffusers and not is_torchvision_available()
    package = ModuleType("torchvision")
    package.__dict__["transforms"] = transforms
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}
    sys.argv = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
