"""Order statistics, ratios within rounds, growth."""

from __future__ import annotations

import pytest

from bench.stats import Summary, growth_exponent, round_ratios, slope_ratio


def test_summary_is_order_statistics() -> None:
    found = Summary.of([5.0, 1.0, 3.0])
    assert (found.count, found.min, found.median, found.max) == (3, 1.0, 3.0, 5.0)
    assert Summary.of(list(range(101))).p99 == 99.0


def test_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        Summary.of([])


def test_ratios_are_taken_within_a_round() -> None:
    # The machine is ten times slower in the second round: a ratio of medians would be off, these are not.
    rounds = {"ours": [1.0, 10.0, 1.0], "theirs": [4.0, 40.0, 4.4]}
    found = round_ratios(rounds, "theirs", "ours")
    assert (found.min, found.median, found.max) == (4.0, 4.0, pytest.approx(4.4))


def test_rounds_must_be_complete() -> None:
    with pytest.raises(ValueError):
        round_ratios({"ours": [1.0], "theirs": [4.0, 4.0]}, "theirs", "ours")


def test_exponent_of_powers() -> None:
    sizes = [24, 48, 96]
    assert growth_exponent(sizes, [x**2 for x in sizes]) == pytest.approx(2)
    assert growth_exponent(sizes, [3 * x for x in sizes]) == pytest.approx(1)


def test_a_fixed_cost_hides_growth_from_the_exponent_but_not_from_the_slopes() -> None:
    sizes = [24, 48, 96]
    values = [100_000 + x**2 for x in sizes]
    assert growth_exponent(sizes, values) < 0.1
    assert slope_ratio(sizes, values) == pytest.approx(2)
    assert slope_ratio(sizes, [100_000 + x for x in sizes]) == pytest.approx(1)
