"""How true an enlarged picture is to the picture it stands for, on the subject's own pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def masked_psnr(pictures: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture on the pixels of its mask, [N] float64.

    `pictures` and `truth` [N, 3, H, W] in 0..1, `mask` [N, 1, H, W] in 0..1, which weighs the squared errors.

    >>> ones = torch.ones(1, 3, 2, 2)
    >>> masked_psnr(ones * 0.5, ones * 0.6, torch.ones(1, 1, 2, 2)).round().tolist()
    [20.0]
    """
    squared = (pictures.double() - truth.double()) ** 2
    return -10 * torch.log10(_masked_mean(squared, mask).clamp_min(1e-12))


def detail(pictures: Tensor, factor: int) -> Tensor:
    """What a picture holds beyond its version `factor` times smaller, enlarged: all that a super-resolver must add.

    [N, 3, H, W], of which H and W are multiples of `factor`; zero for an even picture.
    """
    small = interpolate(pictures, scale_factor=1 / factor, mode="area")
    return pictures - interpolate(small, pictures.shape[-2:], mode="bilinear", align_corners=True)


def detail_error(pictures: Tensor, truth: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Root mean square error of the detail on the mask, as a share of the truth's own detail there, [N] float64.

    0 is the truth itself and 1 what a picture without any detail has; above 1 the detail is made up.
    """
    wrong = (detail(pictures.double(), factor) - detail(truth.double(), factor)) ** 2
    there = detail(truth.double(), factor) ** 2
    return (_masked_mean(wrong, mask) / _masked_mean(there, mask).clamp_min(1e-12)).sqrt()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(values).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(1e-12)
