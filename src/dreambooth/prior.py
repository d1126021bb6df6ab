"""The prior set: samples of "a [class noun]" from the frozen model, kept as latents (section 3.2 of the paper)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth import caches
from dreambooth.backbones.protocol import Backbone, Enlarging, Sampler, Sampling
from dreambooth.errors import PriorError
from dreambooth.heap import freed_memory_kept
from dreambooth.lending import original
from dreambooth.precision import MixedPrecision
from dreambooth.seeding import derive

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int], None]


@dataclass(frozen=True)
class PriorManifest:
    """All that a prior sample depends on; sample i adds only its own seed, derived from `seed` and i."""

    model: str
    prompt: str
    sampler: Sampler
    steps: int
    guidance: float
    seed: int
    native_size: tuple[int, ...]
    mixed_precision: MixedPrecision = "no"
    enlarging: Enlarging | None = None  # how a super-resolver, still untrained, drew its part

    def key(self) -> str:
        """Name of this set's folder in the cache."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(facts, indent=2, sort_keys=True)


def fingerprint(backbone: Backbone) -> str:
    """Hash of every weight that a sample depends on, and of how the model noises and scales.

    Two models with one fingerprint draw the same samples.
    """
    vae: Any = getattr(backbone.modules.get("autoencoder"), "config", {})
    scaling = [vae.get(name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")]
    digest = hashlib.sha256(f"{weights_fingerprint(backbone.modules)}{scaling}".encode())
    for process in (backbone.stage(name).process for name in backbone.spec.stages):
        digest.update(type(process).__name__.encode())
        for name, value in sorted(vars(process).items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()[:32]


def weights_fingerprint(modules: Mapping[str, torch.nn.Module]) -> str:
    """Hash of the modules' names, shapes, types and values, whatever device they are on, and on loan or not."""
    digest = hashlib.sha256()
    for name, module in sorted(modules.items()):
        whole = {key: original(parameter) for key, parameter in module.named_parameters(remove_duplicate=False)}
        for key, held in module.state_dict().items():
            value: Any = whole.get(key, held)
            digest.update(f"{name}.{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def cache_folder() -> Path:
    """Where prior sets are shared between runs: $DREAMBOOTH_CACHE, else the user's cache folder."""
    return caches.cache_folder("prior")


class PriorSet:
    """A folder with a manifest and one small safetensors file a sample, each written whole or not at all.

    So the set can be extended, resumed after an interruption, and filled by several processes.
    """

    def __init__(self, folder: Path, manifest: PriorManifest) -> None:
        """Opens or begins a set. Raises PriorError when the folder holds samples made in another way."""
        self.folder = folder
        self.manifest = manifest
        path = folder / "manifest.json"
        if path.is_file():
            _refuse_mismatch(path, manifest)
            return
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.safetensors")):
            raise PriorError(
                f"{folder} holds samples but no manifest.json, so nobody knows how they were made. "
                "Choose another --prior-dir or empty this one."
            )
        _write_whole(path, manifest.to_json().encode())

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def seed(self, index: int) -> int:
        return derive(self.manifest.seed, "prior", index)

    def missing(self, count: int) -> list[int]:
        """Indices below `count` that are not on disk yet."""
        present = {entry.name for entry in os.scandir(self.folder)}
        return [index for index in range(count) if self.path(index).name not in present]

    def fill(
        self, backbone: Backbone, count: int, batch_size: int, progress: Progress, part: int = 0, parts: int = 1
    ) -> int:
        """Draws the missing samples below `count` with the frozen model; returns how many were missing.

        Process `part` of `parts` draws its share. `progress` is called with the number of samples each batch added.
        Raises PriorError for a sample that is not finite.
        """
        missing = set(self.missing(count))
        m = self.manifest
        enlarging = m.enlarging or Enlarging()
        sampling = Sampling(m.steps, m.guidance, m.sampler, enlarging=enlarging, mixed_precision=m.mixed_precision)
        added = 0
        # A batch with a gap is drawn whole: in another batch the last bits of a sample would come out otherwise,
        # and a resumed run would not be bit-identical.
        batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        with freed_memory_kept(backbone.device):
            for indices in batches[part::parts]:
                wanted = missing.intersection(indices)
                if not wanted:
                    continue
                seeds = [self.seed(index) for index in indices]
                latents = backbone.sample_latents([self.manifest.prompt] * len(indices), seeds, sampling)
                for index, seed, latent in zip(indices, seeds, latents.float().cpu(), strict=True):
                    if not latent.isfinite().all():
                        raise PriorError(
                            f"Prior sample {index} came out with values that are not finite. "
                            "Try another --prior-sampler, or another --model if that does not help."
                        )
                    if index in wanted:
                        save_whole({"latent": latent}, self.path(index), {"seed": str(seed)})
                progress(len(wanted))
                added += len(wanted)
        return added

    def load(self, count: int) -> Tensor:
        """Samples 0..count-1, [count, *native_size] float32. Raises PriorError for one that cannot be read."""
        samples: list[Tensor] = []
        for index in range(count):
            try:
                samples.append(load_file(self.path(index))["latent"])
            except Exception as error:
                raise PriorError(
                    f"The prior sample {self.path(index)} cannot be read; delete it and it will be drawn again."
                ) from error
        return torch.stack(samples)

    def pictures(self, backbone: Backbone, count: int) -> list[Image]:
        """The first `count` samples, decoded for the eye."""
        latents = self.load(count)
        return [picture for row in latents.split(8) for picture in backbone.decode_latents(row)]


def save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors to a safetensors file, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
    os.replace(temporary, path)


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _refuse_mismatch(path: Path, manifest: PriorManifest) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PriorError(f"The prior manifest {path} cannot be read; choose another --prior-dir.") from error
    wanted = json.loads(manifest.to_json())
    differing = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
    if differing:
        told = "; ".join(f"{key} was {found.get(key)!r}, now {wanted[key]!r}" for key in differing)
        raise PriorError(
            f"The prior samples in {path.parent} were made in another way ({told}). "
            "Choose another --prior-dir, or the settings they were made with."
        )
