"""How sure a mean is: percentile bootstrap over subjects (Efron 1979), since subjects differ far more than pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
NOTHING = "–"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure over `count` subjects, and between what its resamples lie; one subject alone has no interval."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Interval:
    """The mean of one value a subject.

    Of two subjects half of the resamples hold both, and a quarter each one of them twice:

    >>> mean([0.2, 0.4], level=0.95)
    Interval(value=0.3, low=0.2, high=0.4, count=2)
    >>> mean([0.2, 0.4], level=0.4)
    Interval(value=0.3, low=0.3, high=0.3, count=2)

    Raises ValueError when there is no value.
    """
    return _interval(np.array(values, float)[:, None], lambda means: means[:, 0], level, seed)


def difference(one: Mapping[str, float], other: Mapping[str, float], level: float = LEVEL) -> Interval | None:
    """Mean of `one` minus mean of `other` over the subjects that both have; None without any.

    Every resample takes the same subjects for both, so that what makes a subject hard cancels out.
    """
    return _paired(one, other, lambda means: means[:, 0] - means[:, 1], level)


def ratio(one: Mapping[str, float], other: Mapping[str, float], level: float = LEVEL) -> Interval | None:
    """Mean of `one` as a share of the mean of `other`, resampled as in `difference`."""
    return _paired(one, other, lambda means: means[:, 0] / means[:, 1], level)


def told(interval: Interval | None, signed: bool = False) -> str:
    """
    >>> told(Interval(0.7123, 0.69, 0.73, 30)), told(Interval(0.01, -0.02, 0.04, 30), signed=True)
    ('0.712 [0.690, 0.730]', '+0.010 [−0.020, +0.040]')
    >>> told(Interval(0.7123, None, None, 1)), told(None)
    ('0.712', '–')
    """
    if interval is None:
        return NOTHING
    form = "+.3f" if signed else ".3f"
    bounds = [interval.value, interval.low, interval.high]
    value, low, high = (None if bound is None else format(bound, form).replace("-", "−") for bound in bounds)
    return str(value) if low is None else f"{value} [{low}, {high}]"


def percent(interval: Interval) -> str:
    """
    >>> percent(Interval(0.931, 0.92, 0.945, 30))
    '93.1 % [92.0, 94.5]'
    """
    value = f"{100 * interval.value:.1f} %"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _paired(
    one: Mapping[str, float], other: Mapping[str, float], statistic: Callable[[Values], Values], level: float
) -> Interval | None:
    common = [subject for subject in one if subject in other]
    if not common:
        return None
    return _interval(np.array([(one[name], other[name]) for name in common]), statistic, level)


def _interval(columns: Values, statistic: Callable[[Values], Values], level: float, seed: int = 0) -> Interval:
    """The statistic of the columns' means: `columns` is [subjects, K], `statistic` takes [N, K] to [N]."""
    count = len(columns)
    if count == 0:
        raise ValueError("there is no value to average")
    value = float(statistic(columns.mean(axis=0, keepdims=True))[0])
    if count == 1:
        return Interval(_rounded(value), None, None, 1)
    # How often each subject was drawn says all that a resample's mean needs.
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    found = statistic(drawn @ columns / count)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_rounded(value), _rounded(float(low)), _rounded(float(high)), count)


def _rounded(value: float) -> float:
    """Without the last bits, in which machines differ."""
    return round(value, 12)
