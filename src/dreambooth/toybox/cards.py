"""The model cards of the judges, and the place in every card where measured numbers stand."""

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.toybox.fit import Fitted, Optimisation

NUMBERS = ("<!-- numbers -->", "<!-- /numbers -->")
"""What `dreambooth toybox assess --write-cards` writes stands between these lines of a model card."""
UNMEASURED = "*Not measured yet: run `dreambooth toybox assess --write-cards`.*"

CLIP = """---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---
# toybox-clip

A CLIP small enough to live inside the package, trained from nothing on *toybox*, the procedural world of ray-traced
toys that the package renders. It judges pictures of that world (CLIP-I, CLIP-T, what a picture shows) and knows nothing
else. `toybox-sd` never trained with it. No photo and no foreign weights went into it.

| | |
|---|---|
| data | {images:,} pictures of 128 px, rendered and captioned by `dreambooth.toybox` |
| size | {millions:.2f} M parameters |
| training | {steps:,} steps of {batch} pictures and four captions of each, {minutes:.0f} min, final loss {loss:.3f} |
| device | {device} |

Loss. Every true pair of picture and caption against all false ones of the batch (CLIP's, but true is what is true: a
caption that fits another picture too is no negative). Of each picture: all that can be said, a part of it, and both
with one thing made wrong. Half of a batch are two pictures of one individual, in other places and from other sides, or
with one detail changed. Half of the patches are dropped in the first {share:.0%} of the training. The weights are
moving averages.

{numbers}

Made by `dreambooth toybox judges`.
"""

DINO = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-feature-extraction
---
# toybox-dino

A ViT small enough to live inside the package that tells individuals of one class apart, trained from nothing on
*toybox*, the procedural world of ray-traced toys that the package renders. Its CLS token is the embedding (`ViTModel`
without a pooling layer). No photo, no foreign weights, no class and no caption went into it.

| | |
|---|---|
| data | {individuals:,} individuals, two pictures of 128 px of each, rendered by `dreambooth.toybox` |
| size | {millions:.2f} M parameters |
| training | {steps:,} steps of {batch} pairs, {minutes:.0f} min, final loss {loss:.3f} |
| device | {device} |

Self-distillation in the DINO manner: multi-crop, a teacher that follows the student, Sinkhorn-Knopp balancing, KoLeo;
and, since prototypes alone learn slowly, the question which of the teacher's embeddings is the other photo's (MoCo v3).
One thing is different, and matters: the two sides of a pair are **two photos of one individual** in other places, from
other sides and in other light, as two moments of a video would be, not two cut-outs of one picture. Cut-outs of one
picture share their background, and a network trained on them tells backgrounds apart. So the network is told which
photos belong together, though never what they show. Colours are left alone: here they are identity.

{numbers}

Made by `dreambooth toybox judges`.
"""


def write(
    folder: Path, template: str, fitted: Fitted[Any], model: nn.Module, rates: Optimisation, device: str, **more: float
) -> None:
    """The model card of what was trained; its numbers are measured later."""
    card = template.format(
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        steps=fitted.steps,
        batch=rates.batch,
        minutes=fitted.seconds / 60,
        loss=fitted.loss,
        device=f"{device}, {platform.machine()}, {torch.get_num_threads()} threads",
        numbers="\n".join((NUMBERS[0], UNMEASURED, NUMBERS[1])),
        **more,
    )
    (folder / "README.md").write_text(card, "utf-8")


def with_numbers(card: str, numbers: str) -> str:
    """The card with `numbers` in the place for them, or at its end where there is none yet."""
    before, opening, rest = card.partition(NUMBERS[0])
    _, closing, after = rest.partition(NUMBERS[1])
    block = "\n".join((NUMBERS[0], numbers, NUMBERS[1]))
    return before + block + after if opening and closing else f"{card.rstrip()}\n\n{block}\n"
