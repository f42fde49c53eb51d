"""The few statistics that the tables need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Summary", "growth_exponent", "round_ratios", "slope_ratio"]


@dataclass(frozen=True)
class Summary:
    """Order statistics of repeated measurements, in their unit."""

    count: int
    min: float
    median: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Percentiles are interpolated; ``ValueError`` without values."""
        if not values:
            raise ValueError("no values to summarise")
        median, p90, p99 = (float(x) for x in np.percentile(values, (50, 90, 99)))
        return cls(len(values), float(min(values)), median, p90, p99, float(max(values)))

    def to_dict(self) -> dict[str, float]:
        """Rounded to six significant digits."""
        return {name: x if name == "count" else float(f"{x:.6g}") for name, x in asdict(self).items()}


def round_ratios(rounds: Mapping[str, Sequence[float]], of: str, over: str) -> Summary:
    """Ratios of two tools within each round.

    Values of one round were measured within seconds of each other, so a machine that slows down half-way
    through disturbs these ratios less than the ratio of two medians.
    """
    return Summary.of([a / b for a, b in zip(rounds[of], rounds[over], strict=True)])


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The k of ``value ~ size^k``: slope of the least-squares line through the logarithms.

    1 is linear growth; a fixed cost beside the growing one brings it below 1. Needs two different sizes and
    positive values.
    """
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope)


def slope_ratio(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope between the last two sizes over the slope between the first two.

    1 is linear growth whatever the fixed cost; with sizes that double, 2 is quadratic. Needs three sizes, and
    growth between the first two.
    """
    slopes = np.diff(values) / np.diff(sizes)
    return float(slopes[-1] / slopes[0])
