"""Masks by a segmentation model of transformers that is on this machine; nothing is ever fetched for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from dreambooth.backbones import hush
from dreambooth.errors import ModelError, PhotoError

T = TypeVar("T")


class Segmenter:
    """Finds the class noun in pictures: a CLIPSeg looks for the word itself, any other model for a label with it.

    Other models are those of transformers' "image-segmentation" pipeline: semantic, instance or panoptic.
    """

    def __init__(self, name: str, class_noun: str, device: str = "cpu") -> None:
        self.name, self.class_noun, self.device = name, class_noun, device

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """A grey mask of each picture, as large as it is, white where the subject is.

        Raises ModelError where the model is not installed or cannot be read, PhotoError where it does not see the noun.
        """
        from transformers import AutoConfig

        hush()
        folder, auto = _folder(self.name), cast(Any, AutoConfig)
        config = self._read(lambda: auto.from_pretrained(folder))
        if config.model_type == "clipseg":
            return self._by_word(folder, pictures)
        if not _segments(config):
            raise self._unreadable(f"it is a {config.model_type} model that does not segment")
        return self._by_label(folder, pictures)

    @torch.no_grad()
    def _by_word(self, folder: Path, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPSegForImageSegmentation

        def load() -> tuple[Any, Any, Any]:
            model: Any = CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True)
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
            return model.to(self.device).eval(), processor, AutoTokenizer.from_pretrained(folder)

        model, processor, tokenizer = self._read(load)
        words = tokenizer(self.class_noun, return_tensors="pt").to(self.device)
        masks: list[Image.Image] = []
        for picture in pictures:
            pixels = processor(images=[picture], return_tensors="pt")["pixel_values"].to(self.device)
            seen = model(pixel_values=pixels, **words).logits.sigmoid().squeeze().float().cpu().numpy()
            masks.append(Image.fromarray(np.rint(seen * 255).astype(np.uint8)).resize(picture.size))
        return masks

    def _by_label(self, folder: Path, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        from transformers import AutoImageProcessor, pipeline

        def load() -> Any:
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
            return pipeline(
                "image-segmentation",
                model=str(folder),
                image_processor=processor,
                device=self.device,
                model_kwargs={"use_safetensors": True},
            )

        segment = self._read(load)
        masks: list[Image.Image] = []
        for number, picture in enumerate(pictures, 1):
            found: list[dict[str, Any]] = segment(picture)
            ours = [np.asarray(part["mask"]) for part in found if _names(part["label"], self.class_noun)]
            if not ours:
                seen = ", ".join(sorted({str(part["label"]) for part in found})) or "nothing"
                raise PhotoError(
                    f"The segmentation model {self.name} sees no {self.class_noun} in photo {number} of those without "
                    f"a mask, but {seen}. Give this photo a mask, or another --segmenter."
                )
            masks.append(Image.fromarray(np.maximum.reduce(ours)))
        return masks

    def _read(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except Exception as error:
            raise self._unreadable(str(error).strip().partition("\n")[0].rstrip(".")) from error

    def _unreadable(self, why: str) -> ModelError:
        return ModelError(
            f"The segmentation model {self.name} cannot be used ({why}); give a folder or hub id of a CLIPSeg, or of a "
            "model of transformers' image-segmentation pipeline."
        )


def _segments(config: Any) -> bool:
    """Whether transformers' image-segmentation pipeline takes models of this configuration."""
    from transformers.models.auto import modeling_auto

    tables = (
        modeling_auto.MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    )
    return bool({name for table in tables for name in table.values()} & set(config.architectures or ()))


def _folder(name: str) -> Path:
    """Where a model is on this machine. Raises ModelError when it is not; it is not fetched."""
    if (path := Path(name).expanduser()).is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:
        raise ModelError(
            f"The segmentation model {name} is not on this machine, and is not fetched without being asked for: run "
            f"`hf download {name}` first, give the folder of a model, or give masks as files."
        ) from error


def _names(label: str, class_noun: str) -> bool:
    """Whether a label of a model means the noun: all of it, or its last word, which names the thing.

    >>> [_names(label, "stuffed dog") for label in ("dog", "dog, domestic dog", "dog house", "hot dog", "cat")]
    [True, True, False, False, False]
    """
    meanings = {part.strip().lower() for part in label.replace("-other", "").split(",")}
    return bool(meanings & {class_noun.lower(), class_noun.lower().split()[-1]})
