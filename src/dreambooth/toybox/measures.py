"""Numbers over embeddings: how well individuals are told apart, and how far two sets of pictures lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def auc(positive: Tensor, negative: Tensor) -> float:
    """The chance that a positive value is greater than a negative one, ties counted half (Mann and Whitney 1947).

    >>> auc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]))  # wins: 3 > 2, 3 > 1; 1 = 1 is half of one
    0.625
    """
    ordered = negative.double().sort().values
    values = positive.double()
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return float((below + upto).double().mean() / (2 * len(negative)))


def identity_auc(embeddings: Tensor, individuals: Sequence[int], classes: Sequence[str]) -> dict[str, float]:
    """For each class, the AUC of the cosine of two photos: one individual's against two individuals' of the class.

    embeddings [N, D], unit rows, with the individual and the class of each.
    """
    who = torch.tensor(individuals)
    result: dict[str, float] = {}
    for name in sorted(set(classes)):
        rows = torch.tensor([index for index, other in enumerate(classes) if other == name])
        first, second = torch.triu_indices(len(rows), len(rows), offset=1)
        cosines = (embeddings[rows] @ embeddings[rows].T)[first, second]
        same = who[rows][first] == who[rows][second]
        result[name] = auc(cosines[same], cosines[~same])
    return result


def frechet(one: Tensor, other: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of the rows of [N, D] and [M, D]
    (Heusel et al. 2017, eq. 6): |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.

    Raises ValueError for sets of fewer than two rows.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a covariance needs two pictures at least")
    means, covariances = zip(*((rows.double().mean(0), rows.double().T.cov()) for rows in (one, other)), strict=True)
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    shift = (means[0] - means[1]).square().sum()
    return float((shift + covariances[0].trace() + covariances[1].trace() - 2 * cross).clamp_min(0))
