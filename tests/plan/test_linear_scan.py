"""Packing of generated intervals, judged by a pairwise look that shares nothing with the packer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgec.plan import linear_scan
from forgec.plan.linear_scan import Interval, lower_bound, pack

STRATEGIES = ["_scan_first_fit", "_scan_best_fit", "_scan_backwards", "_by_size", "_by_area"]


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    count = draw(st.integers(1, 40))
    found = []
    for _ in range(count):
        start = draw(st.integers(-1, 30))
        found.append(Interval(64 * draw(st.integers(0, 9)), start, start + draw(st.integers(0, 12))))
    return found


def clashes(blocks: list[Interval], offsets: list[int]) -> list[tuple[int, int]]:
    """Pairs that share a byte at one time."""
    return [
        (i, j)
        for i, a in enumerate(blocks)
        for j, b in enumerate(blocks[:i])
        if a.nbytes and b.nbytes and a.start <= b.end and b.start <= a.end
        and offsets[i] < offsets[j] + b.nbytes and offsets[j] < offsets[i] + a.nbytes
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(blocks=intervals(), name=st.sampled_from(STRATEGIES))
def test_every_strategy_keeps_live_blocks_apart(blocks: list[Interval], name: str) -> None:
    order = sorted(range(len(blocks)), key=lambda i: blocks[i].start)
    found = getattr(linear_scan, name)(blocks, order)
    assert found is not None
    offsets, nbytes = found
    assert clashes(blocks, offsets) == []
    assert all(offset >= 0 and offset % 64 == 0 for offset in offsets)
    assert max(o + b.nbytes for o, b in zip(offsets, blocks, strict=True)) == nbytes


@settings(max_examples=60, deadline=None)
@given(blocks=intervals())
def test_pack_takes_the_best_and_stays_over_the_bound(blocks: list[Interval]) -> None:
    offsets, nbytes = pack(blocks)
    assert clashes(blocks, offsets) == []
    times = range(-1, 45)
    assert lower_bound(blocks) == max(sum(b.nbytes for b in blocks if b.start <= t <= b.end) for t in times)
    order = sorted(range(len(blocks)), key=lambda i: (blocks[i].start, -blocks[i].nbytes))
    sizes = [getattr(linear_scan, name)(blocks, order)[1] for name in STRATEGIES]
    assert lower_bound(blocks) <= nbytes == min(sizes)


def test_end_and_start_at_one_instruction_do_not_share() -> None:
    offsets, nbytes = pack([Interval(64, 0, 3), Interval(64, 3, 5), Interval(64, 4, 6)])
    assert nbytes == 128
    assert offsets[0] == offsets[2] != offsets[1]


def test_freed_neighbours_become_one_gap() -> None:
    blocks = [Interval(64, 0, 2), Interval(64, 0, 1), Interval(64, 0, 9), Interval(128, 3, 9)]
    for name in ("_scan_first_fit", "_scan_best_fit"):
        offsets, nbytes = getattr(linear_scan, name)(blocks, [0, 1, 2, 3])
        assert (offsets[3], nbytes) == (0, 192)


def test_a_free_top_is_built_over() -> None:
    blocks = [Interval(64, 0, 9), Interval(64, 0, 1), Interval(128, 2, 9)]
    for name in ("_scan_first_fit", "_scan_best_fit"):
        assert getattr(linear_scan, name)(blocks, [0, 1, 2]) == ([0, 64, 64], 192)


def test_best_fit_takes_the_tightest_gap() -> None:
    blocks = [
        Interval(256, 0, 1), Interval(64, 0, 9), Interval(128, 0, 1), Interval(64, 0, 9), Interval(128, 2, 9),
    ]  # fmt: skip
    assert linear_scan._scan_first_fit(blocks, range(5))[0][4] == 0
    assert linear_scan._scan_best_fit(blocks, range(5))[0][4] == 320


def test_by_size_gives_up_on_too_many_pairs() -> None:
    blocks = [Interval(64, 0, 1000)] * 400
    assert linear_scan._by_size(blocks, range(400)) is None
    assert pack(blocks)[1] == 400 * 64


def test_nothing_to_pack() -> None:
    assert pack([]) == ([], 0)
    assert pack([Interval(0, 0, 5)]) == ([0], 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_blocks_stay_near_the_bound(seed: int) -> None:
    rng = random.Random(seed)
    starts = [rng.randrange(1000) for _ in range(1000)]
    blocks = [Interval(64 * rng.randint(1, 30), start, start + int(rng.expovariate(0.2))) for start in starts]
    offsets, nbytes = pack(blocks)
    assert clashes(blocks, offsets) == []
    assert nbytes <= 1.15 * lower_bound(blocks), f"seed {seed}"
