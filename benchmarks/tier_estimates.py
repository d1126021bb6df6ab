"""What each memory tier is thought to take for the published sizes, counted without weights: no GPU is needed.

python -m benchmarks.tier_estimates sd15 sdxl
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks import sizes
from dreambooth.lending import multiplied
from dreambooth.memory import TIERS, Estimate

# Text encoders and autoencoder, in numbers: CLIP ViT-L/14's, with OpenCLIP bigG's for SDXL, and 83.7 M.
ENCODERS = {"sd15": 123_060_480 + 83_653_863, "sdxl": 123_060_480 + 694_659_840 + 83_653_863}
# Of the text encoders all but the norms and the embeddings of words and positions.
LENDABLE_ENCODERS = {"sd15": 85_017_600, "sdxl": 85_017_600 + 631_152_640}


class Kept:
    """Bytes that a forward pass keeps for its backward pass, each storage once, all but the weights."""

    def __init__(self, weights: set[StorageWeakRef]) -> None:
        self.weights = weights
        self.storages: dict[StorageWeakRef, int] = {}

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (key := StorageWeakRef(storage)) not in self.weights:
            self.storages[key] = storage.nbytes()
        return tensor

    def counting(self) -> AbstractContextManager[object]:
        return torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


def activations(size: sizes.Size, resolution: int, rows: int, lent: bool = False) -> tuple[int, int, int, int]:
    """Weights, the greatest of them, and bytes of activations: kept, and computed twice (inputs and one block).

    Weights that are lent are not rounded anew, so no rounded ones are among what is kept.
    """
    with FakeTensorMode():
        unet = sizes.denoiser(size.denoiser).train()
        for parameter in multiplied(unet) if lent else []:
            parameter.data = parameter.data.to(torch.bfloat16)
        weights = list(unet.parameters())
        own = {StorageWeakRef(parameter.untyped_storage()) for parameter in weights}
        noisy = torch.empty(rows, *size.latents(resolution))
        hidden = torch.empty(rows, size.tokens, size.denoiser["cross_attention_dim"])
        added = sizes.added_conditioning(size.denoiser, rows)

        def forward(kept: Kept) -> None:
            with kept.counting(), torch.autocast("cpu", torch.bfloat16):
                unet(noisy, torch.zeros(rows), hidden, added_cond_kwargs=added)

        whole, outside, largest = Kept(own), Kept(own), 0
        forward(whole)

        def block(module: Any, *arguments: Any) -> Any:
            nonlocal largest
            inside = Kept(own)
            for argument in arguments:
                if isinstance(argument, Tensor):
                    outside.add(argument)
            with inside.counting():
                result = module(*arguments)
            largest = max(largest, inside.bytes)
            return result

        unet.enable_gradient_checkpointing(gradient_checkpointing_func=block)
        forward(outside)
    return sum(map(torch.numel, weights)), max(map(torch.numel, weights)), whole.bytes, outside.bytes + largest


def lendable(size: sizes.Size) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in multiplied(sizes.denoiser(size.denoiser)))


def adapter_weights(size: sizes.Size, rank: int) -> int:
    """Weights of a LoRA on the attention's projections, as `--method lora` puts them there."""
    with torch.device("meta"):
        unet = sizes.denoiser(size.denoiser)
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    projections = [module for name, module in unet.named_modules() if name.endswith(ends)]
    return sum(rank * (module.in_features + module.out_features) for module in projections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="+", choices=list(ENCODERS))
    parser.add_argument("--lora-rank", type=int, help="adapters of this rank instead of full fine-tuning")
    given = parser.parse_args()
    for name in given.sizes:
        size = sizes.size_of(name)
        adapters = adapter_weights(size, given.lora_rank) if given.lora_rank else 0
        for on_gpu, resolution in ((True, size.resolution_cuda), (False, size.resolution_cpu)):
            trained, largest, kept, recomputed = activations(size, resolution, 2, lent=on_gpu and adapters > 0)
            weights = (trained, ENCODERS[name], adapters) if adapters else (0, ENCODERS[name], trained)
            lent = (lendable(size) if adapters else 0, LENDABLE_ENCODERS[name])
            estimate = Estimate(
                *weights, kept, recomputed, largest=largest, lendable=lent[0], lendable_encoders=lent[1]
            )
            told = ", ".join(f"{tier} {estimate.total(TIERS[tier], True, on_gpu) / 1e9:.1f} GB" for tier in TIERS)
            print(
                f"{name}, {resolution} px, 1 + 1 rows, bf16, {'GPU' if on_gpu else 'CPU'}: {told} "
                f"(activations {kept / 1e9:.2f} GB, computed twice {recomputed / 1e9:.2f} GB; "
                f"the model as it is loaded {estimate.weights(True, on_gpu) / 1e9:.1f} GB)"
            )


if __name__ == "__main__":
    main()
