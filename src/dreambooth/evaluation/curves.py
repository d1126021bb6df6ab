"""Logged values as curves to draw: however long the log, a few hundred points, raw and smoothed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]

PLOT_WIDTH, PLOT_HEIGHT = 400, 180  # the box of a chart, in the units of its SVG
CURVE_POINTS = 400
LOWEST, HIGHEST = 1e-300, 1e300  # beyond them floats have no room for the arithmetic of an axis


@dataclass(frozen=True)
class Curve:
    """SVG polyline points of one logged value, as it was and smoothed, and where the smoothed one ends."""

    name: str
    raw: str
    smooth: str
    last: float


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes; a tick, and the marked step, is its place in the plot and the value there."""

    title: str
    curves: list[Curve]
    x_ticks: list[Point]
    y_ticks: list[Point]
    mark: Point | None = None


def make_chart(
    title: str,
    log: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    window: float = 1 / 15,
    mark: float | None = None,
) -> Chart | None:
    """The values of the log under `names` (key -> what to call it) over the steps.

    A value that was never logged, or never above zero, has no curve; None without any curve, and where an axis has no
    extent. The smoothed curve is a moving average over `window`, a share of the steps; spikes far above it leave the
    plot, and what is below zero does too. `mark` is a step to be pointed at.
    """
    found = {name: logged(log, key) for key, name in names.items()}
    drawn = [name for name, points in found.items() if len(points) > 1 and any(y > 0 for _, y in points)]
    if not drawn:
        return None
    raw = {name: thin(found[name]) for name in drawn}
    smooth = {name: moving_average(means(found[name]), window) for name in drawn}
    start = min(points[0][0] for points in found.values() if points)
    end = max(points[-1][0] for points in found.values() if points)
    top = 1.15 * max(max(y for _, y in smooth[name] + usual(raw[name])) for name in drawn)
    if start == end or not LOWEST < top < HIGHEST:
        return None

    def place(x: float, y: float) -> Point:
        return PLOT_WIDTH * (x - start) / (end - start), PLOT_HEIGHT * (1 - y / top)

    def polyline(points: list[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))

    return Chart(
        title=title,
        curves=[Curve(n, polyline(raw[n]), polyline(smooth[n]), smooth[n][-1][1]) for n in drawn],
        x_ticks=[(place(x, 0)[0], x) for x in ticks(start, end)],
        y_ticks=[(place(start, y)[1], y) for y in ticks(0, top)],
        mark=None if mark is None else (place(mark, 0)[0], mark),
    )


def logged(log: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    """(step, value) of every entry that has the key and a finite value."""
    pairs = ((entry.get("step"), entry.get(key)) for entry in log)
    return [(x, y) for x, y in pairs if isinstance(x, int) and isinstance(y, int | float) and math.isfinite(y)]


def bins(points: list[Point]) -> list[list[Point]]:
    """Neighbours together, in at most CURVE_POINTS bins."""
    size = math.ceil(len(points) / CURVE_POINTS)
    return [points[start : start + size] for start in range(0, len(points), size)]


def thin(points: list[Point]) -> list[Point]:
    """One point of each bin as it is, and the last."""
    return list(dict.fromkeys([group[0] for group in bins(points)] + points[-1:]))


def means(points: list[Point]) -> list[Point]:
    """The mean of each bin."""
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in bins(points)]


def moving_average(points: list[Point], window: float) -> list[Point]:
    """The mean of the neighbours within `window`, a share of all points; fewer of them at either end."""
    half = round(len(points) * window / 2)
    near = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in group) / len(group)) for (x, _), group in zip(points, near, strict=True)]


def usual(points: list[Point]) -> list[Point]:
    """The points without the highest twentieth."""
    return sorted(points, key=lambda point: point[1])[: math.ceil(len(points) * 0.95)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them: 1, 2 or 5 times a power of ten apart.

    >>> ticks(1, 300)
    [100.0, 200.0, 300.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * count >= high - low)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: float, digits: int = 3) -> str:
    """A number as people write it beside a curve, short enough for its margin.

    >>> [number(value) for value in (0, 0.05, 0.12345, 2e-4, 1.5e-4, 300)]
    ['0', '0.05', '0.123', '2e-4', '1.5e-4', '300']
    """
    text = f"{value:.{digits}g}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text
