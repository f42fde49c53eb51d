"""Offsets for live intervals in one arena, as small as a few orderings can make it.

*Linear scan* (Poletto and Sarkar, 1999, with offsets in place of registers) takes blocks in order of start,
frees those that ended before, and puts each into a gap between live blocks, the first or the tightest that
fits, else on top. *By size* (greedy by size, Pisarchyk and Lee, 2020) takes the largest blocks first and puts
each at the lowest offset that is free for its whole life; it packs better and costs a look at every pair of
blocks that live together, so it runs only while those pairs are few per block.

Strategies run in order of cost until one meets the lower bound; the smallest arena wins. With N blocks of
which L live at once: linear scan O(N log N + N G) for G <= L gaps, by size O(N log N + P log L) for P <= 64 N
pairs. Blocks of no bytes are at offset 0 and conflict with nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

__all__ = ["Interval", "lower_bound", "pack"]

PAIRS_PER_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """Bytes that are live in the closed interval [start, end] of instruction numbers."""

    nbytes: int
    start: int
    end: int


def lower_bound(intervals: Iterable[Interval]) -> int:
    """The largest sum of bytes live at one instruction."""
    change: dict[int, int] = {}
    for x in intervals:
        change[x.start] = change.get(x.start, 0) + x.nbytes
        change[x.end + 1] = change.get(x.end + 1, 0) - x.nbytes
    live = peak = 0
    for time in sorted(change):
        live += change[time]
        peak = max(peak, live)
    return peak


def pack(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, and the arena's size.

    Offsets are sums of sizes: with sizes that are multiples of an alignment, so are offsets.
    """
    goal = lower_bound(intervals)
    by_start = sorted(range(len(intervals)), key=lambda i: (intervals[i].start, -intervals[i].nbytes))
    best: tuple[list[int], int] | None = None
    for strategy in (_scan_first_fit, _scan_best_fit, _scan_backwards, _by_size, _by_area):
        found = strategy(intervals, by_start)
        if found and (best is None or found[1] < best[1]):
            best = found
        if best and best[1] <= goal:
            break
    assert best is not None
    return best


def _scan_first_fit(intervals: Sequence[Interval], by_start: Sequence[int]) -> tuple[list[int], int]:
    return _scan(intervals, by_start, best_fit=False)


def _scan_best_fit(intervals: Sequence[Interval], by_start: Sequence[int]) -> tuple[list[int], int]:
    return _scan(intervals, by_start, best_fit=True)


def _scan_backwards(intervals: Sequence[Interval], by_start: Sequence[int]) -> tuple[list[int], int]:
    """Best fit with time reversed: blocks that live to the end come first and lie together."""
    mirrored = [Interval(x.nbytes, -x.end, -x.start) for x in intervals]
    order = sorted(range(len(mirrored)), key=lambda i: (mirrored[i].start, -mirrored[i].nbytes))
    return _scan(mirrored, order, best_fit=True)


def _scan(intervals: Sequence[Interval], order: Sequence[int], best_fit: bool) -> tuple[list[int], int]:
    offsets = [0] * len(intervals)
    live: list[tuple[int, int, int]] = []  # (end, offset, bytes), soonest end first
    gaps: list[int] = []  # offsets, ascending; no two gaps touch and none touches the top
    size: dict[int, int] = {}
    top = peak = 0
    for i in order:
        x = intervals[i]
        while live and live[0][0] < x.start:
            _, start, nbytes = heappop(live)
            at = bisect_left(gaps, start)
            if at < len(gaps) and gaps[at] == start + nbytes:
                nbytes += size.pop(gaps.pop(at))
            if at and gaps[at - 1] + size[gaps[at - 1]] == start:
                at -= 1
                start = gaps.pop(at)
                nbytes += size.pop(start)
            if start + nbytes == top:
                top = start
            else:
                gaps.insert(at, start)
                size[start] = nbytes
        if not x.nbytes:
            continue
        fitting = (gap for gap in gaps if size[gap] >= x.nbytes)
        gap = min(fitting, key=size.__getitem__, default=None) if best_fit else next(fitting, None)
        if gap is None:
            offset, top = top, top + x.nbytes
            peak = max(peak, top)
        else:
            offset = gap
            at = bisect_left(gaps, gap)
            left = size.pop(gap) - x.nbytes
            if left:
                gaps[at] = gap + x.nbytes
                size[gap + x.nbytes] = left
            else:
                del gaps[at]
        offsets[i] = offset
        heappush(live, (x.end, offset, x.nbytes))
    return offsets, peak


def _by_size(intervals: Sequence[Interval], by_start: Sequence[int]) -> tuple[list[int], int] | None:
    return _greedy(intervals, by_start, lambda x: (-x.nbytes, x.start - x.end))


def _by_area(intervals: Sequence[Interval], by_start: Sequence[int]) -> tuple[list[int], int] | None:
    return _greedy(intervals, by_start, lambda x: (x.nbytes * (x.start - x.end - 1), -x.nbytes))


def _greedy(
    intervals: Sequence[Interval], by_start: Sequence[int], key: Callable[[Interval], tuple[int, int]]
) -> tuple[list[int], int] | None:
    """Blocks in order of ``key``, each at the lowest offset free for its life; None if too many pairs."""
    together = _pairs(intervals, by_start)
    if together is None:
        return None
    offsets = [0] * len(intervals)
    taken: list[list[tuple[int, int]]] = [[] for _ in intervals]  # of each block's placed neighbours
    peak = 0
    for i in sorted(range(len(intervals)), key=lambda i: key(intervals[i])):
        nbytes = intervals[i].nbytes
        if not nbytes:
            continue
        offset = 0
        for start, stop in sorted(taken[i]):
            if start - offset >= nbytes:
                break
            offset = max(offset, stop)
        offsets[i] = offset
        peak = max(peak, offset + nbytes)
        for j in together[i]:
            taken[j].append((offset, offset + nbytes))
    return offsets, peak


def _pairs(intervals: Sequence[Interval], by_start: Sequence[int]) -> list[list[int]] | None:
    """For each block the blocks that live with it; None if pairs are over ``PAIRS_PER_BLOCK`` a block."""
    together: list[list[int]] = [[] for _ in intervals]
    live: list[tuple[int, int]] = []
    budget = PAIRS_PER_BLOCK * len(intervals)
    for i in by_start:
        while live and live[0][0] < intervals[i].start:
            heappop(live)
        budget -= len(live)
        if budget < 0:
            return None
        for _, j in live:
            together[i].append(j)
            together[j].append(i)
        heappush(live, (intervals[i].end, i))
    return together
