"""The model cards of the judges, and the place in every card where measured numbers stand."""

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.toybox.fit import Fitted, Optimisation

NUMBERS = ("<!-- numbers -->", "<!-- /numbers -->")
"""What `dreambooth toybox assess` writes stands between these lines of a model card."""
UNMEASURED = "*Not measured yet: run `dreambooth toybox assess --judge-cards`.*"

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

CASCADE = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# toybox-if

A cascade in the manner of Imagen and DeepFloyd IF, small enough to live inside the package: an `IFPipeline` that
paints pixels at 64 px, with a T5 encoder and a unigram tokenizer, and (in `super_resolution/`) an
`IFSuperResolutionPipeline` that takes them to 256 px. Trained from nothing on *toybox*, a procedural world of
ray-traced toys that the package renders. It knows toys and nothing else. No photo and no foreign weights went into it.

| | |
|---|---|
| data | {images:,} pictures of 128 px for the base, {large_images:,} of 256 px for the super-resolver |
| base | U-Net of {base_size:.2f} M parameters, predicts v at 64 px; a T5 encoder of {text_size:.2f} M |
| its training | {base_steps:,} steps of {base_batch}, {base_minutes:.0f} min, final loss {base_loss:.4f} |
| vocabulary | {vocabulary} pieces, the last 512 rare words |
| super-resolver | U-Net of {large_size:.2f} M parameters; the small picture's noise level is its class label |
| its training | {large_steps:,} steps of {large_batch} 64 px cut-outs, {large_minutes:.0f} min, loss {large_loss:.4f} |
| device | {device} |

Losses. Base: squared error of v, the subject's pixels weigh 1 + 4 x mask, at times whose log SNR is normal
({base_log_snr}); a tenth of the captions empty, a tenth with a rare word before the class noun (every other rare word
is kept back and never seen). Super-resolver: squared error of v at a log SNR of {large_log_snr}; the small picture is
the large one made smaller by areas, enlarged bilinearly and noised at a level of its own over the model's whole range,
low levels more often. Muon (AdamW for first and last layers, embeddings, norms and biases). The weights are moving
averages. The channels of a learned variance are there, as in IF, and are zero.

{numbers}

Made by `dreambooth toybox cascade`.
"""
UNMEASURED_CASCADE = "*Not measured yet: run `dreambooth toybox assess --model toybox-if --write-cards`.*"


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
