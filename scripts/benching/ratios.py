"""Ratios between systems that were measured side by side: a ratio for each round, their median, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np

SEED: Final = 20_240_229
RESAMPLES: Final = 2000


@attrs.frozen
class Ratio:
    """The median of the rounds' ratios, and the interval that holds it with 95 %.

    Attributes:
        median: of the rounds. low, high: the interval, by a bootstrap over the rounds.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{told(self.median)} [{told(self.low)}, {told(self.high)}]"


def told(value: float) -> str:
    """Return a ratio as tables show it: with two decimals, and more of a small one."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def per_round(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return a ratio for each round that both took part in."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]]


def summary(ratios: Sequence[float]) -> Ratio:
    """Return the median of ratios and its bootstrap interval; the same ratios always give the same one.

    Raises:
        ValueError: there is no ratio.
    """
    if not ratios:
        raise ValueError("no round has measured both")
    values = np.asarray(ratios, np.float64)
    picked = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[picked], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(values)), float(low), float(high), len(values))


def pooled_summary(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]], percentile: float
) -> Ratio:
    """Return the ratio of two percentiles, each over the samples of all rounds; the interval draws whole rounds.

    Raises:
        ValueError: no round has measured both.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no round has measured both")

    def ratio(rounds: Sequence[int]) -> float:
        mine, others = (np.concatenate([side[number] for number in rounds]) for side in (ours, theirs))
        return float(np.percentile(mine, percentile) / np.percentile(others, percentile))

    draws: list[list[int]] = (
        np.random.default_rng(SEED).integers(0, len(shared), (RESAMPLES // 4, len(shared))).tolist()
    )
    low, high = np.percentile([ratio([shared[place] for place in draw]) for draw in draws], [2.5, 97.5])
    return Ratio(ratio(shared), float(low), float(high), len(shared))


def holds_below(ratio: Ratio, limit: float) -> bool:
    """Whether a ratio keeps below a limit: its interval reaches that far down, and its median is not far above."""
    return ratio.low <= limit and ratio.median <= limit * TOLERANCE


def holds_above(ratio: Ratio, limit: float) -> bool:
    """Whether a ratio reaches a limit: its interval reaches that far up, and its median is not far below."""
    return ratio.high >= limit and ratio.median >= limit / TOLERANCE


TOLERANCE: Final = 1.05
"""How far beyond a limit a median may lie when the interval reaches it."""
