"""The denoiser's repeated blocks, compiled: minutes less than the whole of it, for most of the gain."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.caches import cache_folder

# What nn.Module.compile sets, and what is called instead of the module's own code where it is set.
COMPILED_CALL = "_compiled_call_impl"
# Where torch's inductor reads the folder of what it has compiled; by default one that a restart empties.
INDUCTOR_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


class Regions:
    """Blocks of a denoiser that are compiled while they are switched on; parameters and names stay as they are.

    Blocks of one kind and one size share their code, so few are compiled in truth. Shapes are static: pictures are
    drawn in other batches than those that are trained on, and are better drawn with the regions switched off.
    """

    def __init__(self, denoiser: nn.Module, backend: str = "inductor") -> None:
        """Takes the kinds of block that diffusers names as repeated; a denoiser that names none is left as it is."""
        names: Any = getattr(denoiser, "_repeated_blocks", None) or ()
        self._calls: list[tuple[nn.Module, Any]] = []
        if backend == "inductor":
            keep_compiled()
        for block in (module for module in denoiser.modules() if type(module).__name__ in names):
            block.compile(backend=backend, dynamic=False)
            self._calls.append((block, vars(block).pop(COMPILED_CALL)))

    def switch(self, on: bool) -> None:
        for block, call in self._calls:
            if on:
                setattr(block, COMPILED_CALL, call)
            else:
                vars(block).pop(COMPILED_CALL, None)


def is_compile_failure(error: BaseException) -> bool:
    """Whether compiling failed, and not what was compiled: a missing compiler, or something torch cannot compile."""
    origins = [kind.__module__ for kind in type(error).__mro__]
    return any(origin.startswith(("torch._dynamo", "torch._inductor")) for origin in origins)


def keep_compiled() -> Path:
    """Has torch keep what it compiles from here on with our own caches, unless the user has said where.

    In a folder of this torch and this machine, so that no other's code is run.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # Torch itself writes its default there as soon as anything asks for the folder.
    if os.environ.get(INDUCTOR_FOLDER) in (None, os.path.abspath(default_cache_dir())):
        os.environ[INDUCTOR_FOLDER] = str(_own_folder())
    return Path(os.environ[INDUCTOR_FOLDER])


def forget_compiled() -> bool:
    """Deletes what was kept, as when it is broken; False where there was nothing, or where the folder is not ours."""
    folder = _own_folder()
    if os.environ.get(INDUCTOR_FOLDER) != str(folder) or not any(folder.glob("*")):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    torch.compiler.reset()
    return True


def _own_folder() -> Path:
    facts: list[object] = [torch.__version__, platform.python_version(), platform.machine()]
    facts.append(sorted(torch.cpu.get_capabilities().items()))
    if torch.cuda.is_available():
        facts += [torch.version.cuda, torch.cuda.get_device_name()]
    return cache_folder("compiled") / hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
