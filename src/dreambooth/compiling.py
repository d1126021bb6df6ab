"""The denoiser's repeated blocks, compiled: minutes less than the whole of it, for most of the gain."""

from __future__ import annotations

from typing import Any

from torch import nn

# What nn.Module.compile sets, and what is called instead of the module's own code where it is set.
COMPILED_CALL = "_compiled_call_impl"


class Regions:
    """Blocks of a denoiser that are compiled while they are switched on; parameters and names stay as they are.

    Blocks of one kind and one size share their code, so few are compiled in truth. Shapes are static: pictures are
    drawn in other batches than those that are trained on, and are better drawn with the regions switched off.
    """

    def __init__(self, denoiser: nn.Module, backend: str = "inductor") -> None:
        """Takes the kinds of block that diffusers names as repeated; a denoiser that names none is left as it is."""
        names: Any = getattr(denoiser, "_repeated_blocks", None) or ()
        self._calls: list[tuple[nn.Module, Any]] = []
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
