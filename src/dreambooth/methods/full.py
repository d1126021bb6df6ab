"""Full fine-tuning, the paper's way: all layers of the denoiser, and on request of the text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dreambooth.backbones.protocol import Backbone, is_text_encoder
from dreambooth.methods.protocol import rate_group
from dreambooth.methods.stored import put_back


class FullFineTuning:
    """Trains every parameter of the denoiser (section 3.1: "all layers") and optionally of the text encoders."""

    def __init__(self, train_text_encoder: bool = False) -> None:
        self.trains_text = train_text_encoder
        self._modules: dict[str, nn.Module] = {}
        self._backbone: Backbone | None = None

    def prepare(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        names = [name for name in backbone.spec.trainable if self.trains_text or not is_text_encoder(name)]
        self._backbone = backbone
        self._modules = {name: backbone.modules[name].requires_grad_(True).train() for name in names}
        groups: dict[str, list[nn.Parameter]] = {}
        for name, module in self._modules.items():
            groups.setdefault(rate_group(name), []).extend(module.parameters())
        return groups

    def state_dict(self) -> dict[str, Tensor]:
        return _named(self._modules)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        misfit = "The saved weights do not fit this model; resume with the model the run was started with."
        put_back(self.state_dict(), state, misfit)

    @torch.no_grad()
    def merge(self, ratio: float) -> None:
        """W0 + ratio · (W − W0), with W0 the untouched weights (Wortsman et al. 2022, arXiv 2109.01903, section 3).

        Raises ModelError when the base model is not there any more.
        """
        untouched = self._untouched()
        for key, value in self.state_dict().items():
            if value.is_floating_point():
                start = untouched[key].to(value.device, torch.float32)
                value.copy_(start.lerp(value.float(), ratio))

    def facts(self) -> dict[str, float]:
        return {}

    def warnings(self) -> list[str]:
        return []

    def save(self, folder: Path) -> None:
        """Nothing: the result is the pipeline itself."""

    def detach(self) -> None:
        for module in self._modules.values():
            module.requires_grad_(False).eval()

    def eject(self) -> None:
        if self._backbone is not None:
            self.load_state_dict(self._untouched())
            self.detach()

    def _untouched(self) -> dict[str, Tensor]:
        """What `state_dict` was before training, read again: it costs no memory while training goes on."""
        from dreambooth.backbones import load_again

        assert self._backbone is not None
        modules = load_again(self._backbone).modules
        return _named({name: modules[name] for name in self._modules})


def _named(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
