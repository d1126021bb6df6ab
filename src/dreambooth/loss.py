"""The loss of the paper: reconstruction of the subject plus λ times prior preservation (section 3.2, eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreambooth.transfer import onto


@dataclass(frozen=True)
class Terms:
    """Both terms of the loss as scalars; `total = subject + λ prior` carries the gradient."""

    total: Tensor
    subject: Tensor
    prior: Tensor


def row_errors(prediction: Tensor, target: Tensor, weight: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
    """w_t · mean((prediction - target)²) of each row; with `pixel_weights` m its weighted mean, Σ m (…)² / Σ m.

    Shapes: `prediction`, `target` [B, C, H, W] (any without m), `weight` [B], m [B, 1, H, W]; result [B], at least
    float32. So the size of the subject in its photo does not change how much a row counts, only what counts in it.
    Raises ValueError where the shapes differ: broadcasting would hide a wrong channel count.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    precision = torch.promote_types(prediction.dtype, torch.float32)
    squared = (prediction.to(precision) - target.to(precision)) ** 2
    weight = onto(weight, squared.device, squared.dtype)
    if pixel_weights is None:
        return weight * squared.flatten(1).mean(1)
    shares = pixel_weights.to(squared).expand_as(squared).flatten(1)
    total = shares.sum(1).clamp_min(torch.finfo(precision).tiny)  # nothing counts where a crop misses the subject
    return weight * (shares * squared.flatten(1)).sum(1) / total


def dreambooth_loss(
    errors: Tensor, is_prior: Tensor, prior_loss_weight: float, subject_rows: int, prior_rows: int
) -> Terms:
    """Mean over subject rows + λ · mean over prior rows, rows told apart by a mask.

    `errors` [B] and `is_prior` [B] may be one micro-batch of a larger batch of `subject_rows` and
    `prior_rows`: the terms of all micro-batches then add up to exactly the large batch's loss.
    """
    zero = errors.new_zeros(())
    subject = torch.where(is_prior, zero, errors).sum() / max(subject_rows, 1)
    prior = torch.where(is_prior, errors, zero).sum() / max(prior_rows, 1)
    return Terms(subject + prior_loss_weight * prior, subject, prior)
