"""Whether what repeats is compiled once: decided from what the vendor's compiler says of one call of each
kind, and of one and two in a row with their weights.

Weights as inputs cost what the compiler can no longer do to them ahead of time, and calls of their own what
it would do across blocks, as to fetch the next one's weights. That is a few percent on Intel's NPU for a
decoder, tens of percent for an encoder there, and a factor on Hexagon; so ``auto`` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forgec.ir.program import Constant, Program

from ..base import Constants
from ..prediction import Prediction, Repeat
from .parts import Chain, Division

__all__ = ["PRICE", "Cost", "decide", "in_a_row", "total", "values_of", "with_repeats"]

PRICE = 0.03
"""Share of simulated latency that ``auto`` gives for a shorter compile and smaller code."""


@dataclass(frozen=True)
class Cost:
    """What the vendor's compiler says of one call: simulated microseconds (None if it has no model), bytes of
    code, seconds that it took."""

    us: float | None
    nbytes: int
    seconds: float


def in_a_row(count: int, one: Cost, two: Cost | None) -> Cost:
    """Estimate of ``count`` calls compiled together with their weights, from one such call and, if there are
    any, two in a row: every further one adds what the second does."""
    if two is None:
        two = Cost(None if one.us is None else 2 * one.us, 2 * one.nbytes, 2 * one.seconds)
    more = count - 1
    us = None if one.us is None or two.us is None else one.us + more * max(two.us - one.us, 0.0)
    nbytes = one.nbytes + more * max(two.nbytes - one.nbytes, 0)
    return Cost(us, nbytes, one.seconds + more * max(two.seconds - one.seconds, 0.0))


def decide(
    mode: str, division: Division, folded: Sequence[Cost], unfolded: dict[int, Cost]
) -> tuple[bool, list[Repeat]]:
    """Whether to fold, and why, for every repeated part. ``folded`` is what one call of each part costs,
    ``unfolded`` what all calls of a part do; it may lack parts that were not tried."""
    repeats = []
    for part in division.repeated:
        calls, inside, outside = division.times(part), folded[part], unfolded.get(part)
        repeats.append(
            Repeat(
                what=division.parts[part].title,
                calls=calls,
                folded=True,
                reason="",
                folded_us=None if inside.us is None else calls * inside.us,
                unfolded_us=None if outside is None else outside.us,
                folded_bytes=inside.nbytes,
                unfolded_bytes=None if outside is None else outside.nbytes,
                folded_s=inside.seconds,
                unfolded_s=None if outside is None else outside.seconds,
            )
        )
    chosen, reason = _verdict(mode, repeats)
    return chosen, [replace(r, folded=chosen, reason=reason) for r in repeats]


def _verdict(mode: str, repeats: Sequence[Repeat]) -> tuple[bool, str]:
    if mode == "on":
        return True, "asked for"
    pairs = [(r.folded_us, r.unfolded_us) for r in repeats]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < len(pairs) or not sum(b for _, b in known):
        return False, "the vendor's model does not say what it would cost"
    price = sum(a for a, _ in known) / sum(b for _, b in known) - 1
    if price <= PRICE:
        return True, f"it costs {price:+.1%} of simulated latency, at most {PRICE:.0%} is given for it"
    return False, f"it would cost {price:+.1%} of simulated latency, at most {PRICE:.0%} is given for it"


def values_of(chain: Chain, segments: Sequence[Program], constants: Constants) -> Constants:
    """Values of a chain's constants: what is compiled with these is not folded."""

    def value(constant: Constant) -> np.ndarray:
        ref = chain.weights.get(constant.name)
        return constants(constant if ref is None else segments[chain.segment].constants[ref.name])

    return value


def total(predictions: Sequence[Prediction | None], code_bytes: int) -> Prediction | None:
    """The prediction of a segment from those of its calls, one after the other."""
    known = [p for p in predictions if p is not None]
    if not known or len(known) < len(predictions):
        return None
    layers = []
    start = 0.0
    for p in known:
        layers += [replace(layer, start_us=start + layer.start_us) for layer in p.layers]
        start += p.latency_us
    return Prediction(
        latency_us=start,
        method=known[0].method,
        ddr_bytes=_sum([p.ddr_bytes for p in known]),
        spill_bytes=_sum([p.spill_bytes for p in known]),
        on_chip_bytes=max((p.on_chip_bytes or 0 for p in known), default=0) or None,
        code_bytes=code_bytes,
        dispatches=len(known),
        uncosted=tuple(sorted({name for p in known for name in p.uncosted})),
        layers=tuple(layers),
    )


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def with_repeats(
    predictions: Sequence[Prediction | None], division: Division, repeats: Sequence[Repeat]
) -> list[Prediction | None]:
    """The predictions of segments; each repeat is told where it is called first."""
    first = {
        part: next(i for i, calls in enumerate(division.calls) if any(c.part == part for c in calls))
        for part in division.repeated
    }
    told = dict(zip(division.repeated, repeats, strict=True))
    return [
        None if p is None else replace(p, repeats=tuple(told[part] for part in told if first[part] == i))
        for i, p in enumerate(predictions)
    ]
