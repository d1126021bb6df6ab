"""The paper's metrics (section 4.2) as pure functions over embeddings and distances.

Every function returns one value for each image, whose mean is the figure of the paper's tables. Embeddings are
[N, D], of any length: a row counts by its direction alone. By hand:

    >>> real = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> pairwise_fidelity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), real).tolist()
    [0.5, -0.5]
    >>> diversity(torch.tensor([[0.0, 0.25, 0.5], [0.25, 0.0, 0.75], [0.5, 0.75, 0.0]]))
    0.5
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairwise_fidelity(generated: Tensor, real: Tensor) -> Tensor:
    """Mean cosine of each generated image to all real ones: DINO, CLIP-I and PRES (section 4.2).

    DINO and CLIP-I compare pictures of the subject to its photos: higher is better. PRES compares pictures of the
    bare class, by the tuned model, to the subject's photos: lower is better, for a dog should not be this dog.

    Args:
        generated: embeddings [G, D].
        real: embeddings [R, D] of the subject's photos, R at least 1.

    Returns:
        [G] float64 in -1..1.

    Raises:
        ValueError: the shapes do not fit.
    """
    _require_rows(generated, 0, "generated")
    _require_rows(real, 1, "real")
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"no cosine between embeddings of {generated.shape[1]} and {real.shape[1]} dimensions")
    return (_unit(generated) @ _unit(real).T).mean(dim=1)


def real_ceiling(real: Tensor) -> Tensor:
    """Mean cosine of each real photo to the *other* ones: the row "Real Images" of Table 1.

    A photo is not compared to itself, or the ceiling would rise the fewer photos there are.

    Args:
        real: embeddings [R, D], R at least 2.

    Returns:
        [R] float64 in -1..1.

    Raises:
        ValueError: there are fewer than two photos, or the shape does not fit.
    """
    _require_rows(real, 2, "real")
    cosines = _unit(real) @ _unit(real).T
    return (cosines.sum(dim=1) - cosines.diagonal()) / (len(real) - 1)


def prompt_fidelity(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each image to its own prompt, row by row: CLIP-T (section 4.2).

    Args:
        images: embeddings [G, D].
        texts: embeddings [G, D] of the prompts without the identifier, in the same space.

    Returns:
        [G] float64 in -1..1.

    Raises:
        ValueError: the shapes differ.
    """
    _require_rows(images, 0, "images")
    if texts.shape != images.shape:
        raise ValueError(f"texts is {list(texts.shape)}, images is {list(images.shape)}: every image needs its text")
    return (_unit(images) * _unit(texts)).sum(dim=1)


def distance_to_others(distances: Tensor) -> Tensor:
    """Mean distance of each image to the other ones of its prompt; the mean of these values is DIV.

    Args:
        distances: [N, N] symmetric, N at least 2; the diagonal is not read.

    Returns:
        [N] float64.

    Raises:
        ValueError: the matrix is not square and symmetric, or holds a single image.
    """
    if distances.ndim != 2 or len(distances) != distances.shape[1] or len(distances) < 2:
        raise ValueError(f"distances is {list(distances.shape)}; it must be [N, N] with N at least 2")
    if not torch.allclose(distances, distances.T, rtol=0, atol=1e-5):
        raise ValueError("distances is not symmetric")
    exact = distances.double()
    return (exact.sum(dim=1) - exact.diagonal()) / (len(distances) - 1)


def diversity(distances: Tensor) -> float:
    """DIV of one prompt: mean perceptual distance over the pairs i < j of its images (section 4.2).

    Args and errors as in `distance_to_others`.
    """
    return float(distance_to_others(distances).mean())


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows.double(), dim=1)


def _require_rows(rows: Tensor, least: int, name: str) -> None:
    if rows.ndim != 2 or len(rows) < least:
        raise ValueError(f"{name} is {list(rows.shape)}; it must be [N, D] with N at least {least}")
