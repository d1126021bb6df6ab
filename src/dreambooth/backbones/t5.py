"""Prompts to T5's hidden states, each prompt once: a T5 of many gigabytes need not stay in memory for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 77  # tokens: what DeepFloyd IF was trained with, and what diffusers' pipelines pad to
MOST_KNOWN = 256  # prompts whose hidden states are kept; 1.3 MB each for T5-XXL


class T5Text:
    """A frozen T5 encoder that can be put away, and the hidden states of the prompts that it has read."""

    def __init__(self, tokenizer: Any, load: Callable[[], nn.Module]) -> None:
        """`load` reads the encoder, frozen; it is called at the first prompt and, after `release`, at new ones."""
        self.tokenizer = tokenizer
        self.max_tokens = min(LONGEST, int(tokenizer.model_max_length))
        self._load = load
        self._encoder: nn.Module | None = None
        self._known: dict[str, Tensor] = {}
        self._released = False
        self._device = torch.device("cpu")

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The encoder by its name, or nothing once it is released."""
        return {} if self._released else {"text_encoder": self._kept()}

    def to(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if self._encoder is not None:
            self._encoder.to(self._device)

    def release(self) -> None:
        """Frees the encoder for good: from here on it is in memory only while it reads a prompt not read before."""
        self._released, self._encoder = True, None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def encoder(self) -> nn.Module:
        """The encoder itself, read again where it was released."""
        return self._loaded() if self._released else self._kept()

    def count(self, prompt: str) -> int:
        """Tokens of the prompt and its end, even those beyond `max_tokens`."""
        return len(self.tokenizer(cleaned(prompt)).input_ids)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states [B, max_tokens, D], padding included, as the U-Nets of this family see it."""
        texts = [cleaned(prompt) for prompt in prompts]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            encoder = self.encoder()
            # One prompt at a time: its last bits must not depend on what else was asked for.
            self._known |= {text: self._read(encoder, text) for text in new}
        hidden = torch.stack([self._known[text] for text in texts])
        for text in list(self._known)[: max(0, len(self._known) - MOST_KNOWN)]:
            del self._known[text]
        return hidden.to(self._device)

    def _read(self, encoder: Any, text: str) -> Tensor:
        tokens = self.tokenizer(
            [text], padding="max_length", max_length=self.max_tokens, truncation=True, return_tensors="pt"
        ).to(self._device)
        with torch.autocast(self._device.type, enabled=False):  # read once for training and drawing, in full precision
            return encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0][0].float().cpu()

    def _kept(self) -> nn.Module:
        if self._encoder is None:
            self._encoder = self._loaded()
        return self._encoder

    def _loaded(self) -> nn.Module:
        return self._load().requires_grad_(False).eval().to(self._device)


def cleaned(prompt: str) -> str:
    """As the pipelines of DeepFloyd IF do before T5 reads it: small letters, no blanks around.

    >>> cleaned(" A dog ")
    'a dog'
    """
    return prompt.lower().strip()
