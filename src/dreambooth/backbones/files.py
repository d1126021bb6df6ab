"""Reads the small files of a model, from a folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dreambooth.backbones.source import Source
from dreambooth.errors import ModelError
from dreambooth.models import pipelines

WAYS = (
    "an embedded name ({}), a folder with a diffusers pipeline, a .safetensors checkpoint, "
    "or a hub id such as owner/model"
)


def ways() -> str:
    """What --model takes, for an error's sentence."""
    return WAYS.format(", ".join(pipelines()) or "none installed")


def read_json(source: Source, name: str) -> dict[str, Any]:
    """One configuration file of a pipeline. Raises ModelError where it cannot be had."""
    path = Path(source.location) / name
    if source.kind == "hub":
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source.location, name))
        except Exception as error:
            raise ModelError(
                f"The hub model {source.name} cannot be fetched ({type(error).__name__}: {first_line(error)}). "
                f"Check the name and the connection, or give {ways()}."
            ) from error
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (ValueError, OSError) as error:
        raise ModelError(f"{name} of {source.name} cannot be read; fetch the model again.") from error
    return found


@dataclass(frozen=True)
class Layout:
    """What the names of a single file's tensors say of it.

    The last three are marks without values, by which ComfyUI too knows what a model predicts: v, noise of which nothing
    is signal at the last step, and the scalings of EDM.
    """

    names: frozenset[str]
    is_xl: bool
    is_refiner: bool
    takes_a_mask: bool
    is_v2: bool
    predicts_v: bool
    ends_in_noise: bool
    is_edm: bool


def layout_of(source: Source) -> Layout:
    """Read from the header of a single .safetensors file. Raises ModelError where it has none."""
    from safetensors import safe_open

    first, told = (
        f"model.diffusion_model.input_blocks.{name}.weight" for name in ("0.0", "1.1.transformer_blocks.0.attn2.to_k")
    )
    with reading(f"The checkpoint {source.name} cannot be read"), safe_open(source.location, framework="pt") as file:
        names = frozenset(file.keys())
        channels, width = (int(file.get_slice(name).get_shape()[1]) if name in names else 0 for name in (first, told))
    # SDXL's embedders are CLIP ViT-L and, as OpenCLIP writes it, bigG; the refiner has the second alone.
    return Layout(
        names,
        is_xl=any(name.startswith("conditioner.embedders.1.") for name in names),
        is_refiner=any(name.startswith("conditioner.embedders.0.model.") for name in names),
        takes_a_mask=channels == 9,
        is_v2=width == 1024,  # what OpenCLIP's ViT-H tells a U-Net of each token; 1.x's ViT-L has 768
        predicts_v="v_pred" in names,
        ends_in_noise="ztsnr" in names,
        is_edm="edm_mean" in names or "edm_vpred.sigma_max" in names,
    )


@contextmanager
def reading(sentence: str, hint: str = "") -> Generator[None]:
    """Turns whatever a library raises of a user's files into a ModelError: the sentence, what was wrong, and the hint.

    What only a mistake in a program raises goes through, or it would pass for a broken file.
    """
    try:
        yield
    except (ModelError, NameError, AssertionError):
        raise
    except Exception as error:
        raise ModelError(f"{sentence}: {first_line(error)}{hint}") from error


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_networks(source: Source, names: Iterable[str]) -> dict[str, Any]:
    """The named networks of a pipeline, in float32. Raises ModelError where one cannot be read or is not whole."""
    import torch

    index = read_json(source, "model_index.json")
    found: dict[str, Any] = {}
    for name in names:
        with reading(f"The {name} of {source.name} cannot be read"):
            if name not in index:
                raise ValueError("model_index.json does not name it")
            library, kind = index[name]
            if library not in ("diffusers", "transformers"):
                raise ValueError(f"it is of {library}, not of diffusers or transformers")
            found[name], report = getattr(import_module(library), kind).from_pretrained(
                source.location, subfolder=name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        check_whole(f"The {name} of {source.name}", report["missing_keys"])
    return found


def read_tokenizer(source: Source, name: str) -> Any:
    """A tokenizer of a pipeline. Raises ModelError where it cannot be read."""
    from transformers import AutoTokenizer

    if source.kind != "hub" and not (Path(source.location) / name).is_dir():
        raise ModelError(f"The model {source.name} has no folder {name}; fetch the model again.")
    with reading(f"The {name} of {source.name} cannot be read"):
        return AutoTokenizer.from_pretrained(source.location, subfolder=name)


def check_whole(name: str, missing: Iterable[str]) -> None:
    """Raises ModelError where weights are missing, which diffusers and transformers would draw at random."""
    if lost := sorted(missing):
        raise ModelError(f"{name} lacks {len(lost)} of its weights, such as {lost[0]}; fetch the model again.")
