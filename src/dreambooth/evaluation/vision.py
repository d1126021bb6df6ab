"""CLIP and DINO at work: pictures and texts in, unit embeddings out, in batches; bf16 on CUDA only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambooth.backbones.source import Source
from dreambooth.evaluation import pretrained

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_SIZE = 32
Item = TypeVar("Item")


class Clip:
    """A `CLIPModel`: images and texts in one space (CLIP-I, CLIP-T)."""

    def __init__(self, source: Source, device: torch.device) -> None:
        """Raises ModelError where the model cannot be had, or is no CLIP."""
        from transformers import CLIPModel

        self.name, self.device = pretrained.label(source), device
        self.model = pretrained.load_model(source, pretrained.CLIP, CLIPModel)
        self.processor = pretrained.load_processor(source, self.model.config.vision_config.image_size)
        self.tokenizer = pretrained.load_tokenizer(source)
        self.logit_scale = float(self.model.logit_scale.exp())
        self.fingerprint = pretrained.fingerprint(self.model, self.processor)
        self.model.to(device)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """[N, D] float32 on the CPU, unit rows."""
        rows = [torch.empty(0, self.model.config.projection_dim)]
        for batch in _batches(images):
            with _autocast(self.device):
                rows.append(_unit(self.model.get_image_features(**_pixels(self.processor, batch, self.device))))
        return torch.cat(rows)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32 on the CPU, unit rows. A text is read as far as the model's window goes (CLIP: 77 tokens)."""
        window = self.model.config.text_config.max_position_embeddings
        rows = [torch.empty(0, self.model.config.projection_dim)]
        for batch in _batches(texts):
            tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=window, return_tensors="pt")
            with _autocast(self.device):
                rows.append(_unit(self.model.get_text_features(**tokens.to(self.device))))
        return torch.cat(rows)


class Dino:
    """A `ViTModel` whose CLS token, after the last layer, is the embedding (DINO, PRES)."""

    def __init__(self, source: Source, device: torch.device) -> None:
        """Raises ModelError where the model cannot be had, or is no ViT."""
        from transformers import ViTModel

        self.name, self.device = pretrained.label(source), device
        self.model = pretrained.load_model(source, pretrained.DINO, ViTModel, add_pooling_layer=False)
        self.processor = pretrained.load_processor(source, self.model.config.image_size)
        self.fingerprint = pretrained.fingerprint(self.model, self.processor)
        self.model.to(device)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """[N, D] float32 on the CPU, unit rows."""
        rows = [torch.empty(0, self.model.config.hidden_size)]
        for batch in _batches(images):
            with _autocast(self.device):
                output = self.model(**_pixels(self.processor, batch, self.device))
            rows.append(normalize(output.last_hidden_state[:, 0].float().cpu(), dim=1))
        return torch.cat(rows)

    @torch.no_grad()
    def patch_features(self, images: Sequence[Image], depths: Sequence[float]) -> list[Tensor]:
        """The patch tokens at several depths of the model: one [N, patches, D] float32 tensor on the CPU for each.

        A depth is a share of the layers; 1 is the last. The tokens of every layer pass the model's last norm, as in
        DINO's own `get_intermediate_layers`; the CLS token is left out. N is at least 1.
        """
        count = self.model.config.num_hidden_layers
        found: list[list[Tensor]] = [[] for _ in depths]
        for batch in _batches(images):
            with _autocast(self.device):
                output = self.model(**_pixels(self.processor, batch, self.device), output_hidden_states=True)
                for tokens, depth in zip(found, depths, strict=True):
                    hidden = output.hidden_states[max(1, round(depth * count))]
                    tokens.append(self.model.layernorm(hidden)[:, 1:].float().cpu())
        return [torch.cat(tokens) for tokens in found]


def _pixels(processor: Any, images: Sequence[Image], device: torch.device) -> Any:
    return processor(images=[image.convert("RGB") for image in images], return_tensors="pt").to(device)


def _unit(output: Any) -> Tensor:
    """Unit rows of CLIP's features, which transformers 4 returns bare and 5 as an output's `pooler_output`."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return normalize(features.float().cpu(), dim=1)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _batches(items: Sequence[Item]) -> list[list[Item]]:
    return [list(items[start : start + BATCH_SIZE]) for start in range(0, len(items), BATCH_SIZE)]
