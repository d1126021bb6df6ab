"""A tier at work on a model: what is rounded, moved and compiled for the training, and put back after it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from dreambooth import transfer
from dreambooth.attention import PlainAttention
from dreambooth.backbones.protocol import Backbone
from dreambooth.compiling import Regions
from dreambooth.heap import freed_memory_kept
from dreambooth.lending import frozen, lend, take_back
from dreambooth.memory import Tier, is_encoder
from dreambooth.meter import give_back
from dreambooth.optimizers import SMALL

# Activations below this stay on the device: a copy of its own would cost more than it saves.
LEAST_MOVED_BYTES = 1 << 18


class Holding:
    """A tier at work on one backbone: changes it for the training, and puts it back as it was."""

    def __init__(
        self,
        backbone: Backbone,
        groups: Mapping[str, list[nn.Parameter]],
        tier: Tier,
        in_bf16: bool,
        trains_text: bool,
        backend: str | None = None,
    ) -> None:
        """`in_bf16` tells whether the run computes in it, and `trains_text` whether prompts are encoded every step.

        `backend` compiles the denoiser's blocks; None does not.
        """
        trained = [parameter for group in groups.values() for parameter in group]
        everything = sum(p.numel() for module in backbone.modules.values() for p in module.parameters())
        self.tier = tier.for_share(sum(parameter.numel() for parameter in trained) / max(1, everything))
        self.backbone, self.trained = backbone, trained
        # Not those that are freed: a reference from here would keep them.
        self.encoders = [
            module
            for name, module in backbone.modules.items()
            if is_encoder(name, trains_text) and name not in backbone.spec.released
        ]
        self.regions = Regions(backbone.modules["denoiser"], backend) if backend else None
        height, width = backbone.spec.native_size[-2:]
        self.attention = PlainAttention(backbone.modules["denoiser"], height * width)
        self.rounded: list[nn.Parameter] = []
        self.lent: list[nn.Parameter] = []
        self.places: set[int] = set()
        backbone.spare_memory(self.tier.spares_drawing)
        if self.tier.checkpointing:
            backbone.enable_gradient_checkpointing()
        if self.tier.lean_optimizer and in_bf16:
            self.rounded = [parameter for parameter in trained if parameter.numel() >= SMALL]
            for parameter in self.rounded:
                parameter.data = parameter.data.to(torch.bfloat16)
        self.lends = in_bf16 and self._apart
        self._lend()

    @property
    def _apart(self) -> bool:
        return transfer.has_own_memory(self.backbone.device)

    @property
    def _moves_encoders(self) -> bool:
        return self.tier.encoders_away and self._apart

    def _lend(self) -> None:
        """Lends the frozen weights that are not on loan from the loading on."""
        if self.lends and (weights := frozen(self.backbone, self.trained)):
            self.lent = weights
            lend(weights, self.backbone.device)
            give_back(self.backbone.device)

    def _take_back(self) -> None:
        take_back(self.lent)
        self.lent = []

    def send_encoders_away(self) -> None:
        """Once all is encoded: off the device. On a CPU there is nowhere to go."""
        if self._moves_encoders:
            for module in self.encoders:
                module.to("cpu")
            give_back(self.backbone.device)

    @contextmanager
    def complete(self) -> Generator[None]:
        """Everything on the device and nothing compiled, for a look at pictures; what was lent at loading stays so."""
        self._bring_encoders_back()
        self._take_back()
        self._quicken(False)
        try:
            yield
        finally:
            self._quicken(True)
            self._lend()
            self.send_encoders_away()
            self._note_places()

    def _note_places(self) -> None:
        """Where the denoiser's weights lie now: pictures move them."""
        self.places.clear()
        self.places |= addresses(self.backbone.modules["denoiser"].parameters())

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Training inside: compiled, and with activations in host memory, where that was asked for. On a CPU what a
        step frees serves the next one."""
        self._quicken(True)
        away = self.tier.activations_away and self._apart
        self._note_places()
        moved = in_host_memory(self.places) if away else nullcontext()
        with moved, freed_memory_kept(self.backbone.device):
            yield

    def release(self) -> None:
        """Weights as they were, all modules on the device and nothing compiled."""
        self._quicken(False)
        for parameter in self.rounded:
            parameter.grad = None
            parameter.data = parameter.data.float()
        self.rounded = []
        self._take_back()
        self._bring_encoders_back()

    def _quicken(self, on: bool) -> None:
        self.attention.switch(on)
        if self.regions is not None:
            self.regions.switch(on)

    def _bring_encoders_back(self) -> None:
        if self._moves_encoders:
            for module in self.encoders:
                module.to(self.backbone.device)


def addresses(tensors: Iterable[Tensor]) -> set[int]:
    """The addresses of the tensors' storages; views of one share it."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def in_host_memory(places: Set[int], least_bytes: int = LEAST_MOVED_BYTES) -> AbstractContextManager[object]:
    """What the forward pass inside keeps for the backward pass lies in host memory, all but the small and what lies at
    one of `places`, addresses of weights, as they are then.

    Copies go by pinned memory in the order of the device's other work, so the host waits for none.
    """

    def pack(tensor: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        if tensor.nbytes < least_bytes or tensor.untyped_storage().data_ptr() in places:
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return tensor.device, host.copy_(tensor, non_blocking=True)

    def unpack(packed: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        device, host = packed
        return host.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
