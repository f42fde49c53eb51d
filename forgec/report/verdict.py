"""NPU or CPU: what one run takes as placed, against the same program on the host alone.

The NPU's part is what its vendor's compiler simulates, or the cost model's estimate where that tells nothing.
The host's part and the copies between the two are estimated. What the host needs to start the device is in
neither.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..backends.base import Backend
from ..backends.prediction import Prediction
from ..plan.cost import CostModel
from ..plan.plan import Plan
from ..plan.replay import Copy, Run
from . import units
from .report import Verdict

__all__ = ["verdict"]

_CLOSE = 1.25
"""Up to this ratio the estimates do not say which is faster."""


def verdict(
    plan: Plan, predictions: Mapping[int, Prediction], target: Backend, cost: CostModel
) -> Verdict | None:
    """The comparison for a plan, by the predictions of its segments; None if the host is the target.

    ``cost`` is the host's model.
    """
    if plan.target == plan.host:
        return None
    there = cost.on(target)
    body = plan.program.main.body
    segment_of = [n for n, s in enumerate(plan.segments) for _ in range(s.start, s.stop)]
    simulated = sum(p.latency_us for p in predictions.values())
    estimated = here = copies = alone = 0.0
    for step, instr, segment in zip(plan.steps, body, segment_of, strict=True):
        if isinstance(step, Copy):
            copies += cost.transfer_cost(instr.results[0].type.nbytes)
        elif isinstance(step, Run):
            price = cost.instr_cost(instr)
            alone += price
            if instr.device == plan.host:
                here += price
            elif segment not in predictions:
                estimated += there.instr_cost(instr)
    placed = simulated + estimated + here + copies
    guessed = [
        f"{units.duration_us(us)} {what}"
        for us, what in ((estimated, f"on {plan.target}"), (here, f"on {plan.host}"), (copies, "of copies"))
        if us
    ]
    parts = [f"{units.duration_us(simulated)} simulated on {plan.target}"] if simulated else []
    parts += [f"{' and '.join(guessed)} estimated"] if guessed else []
    ratio = alone / placed if placed else 1.0
    if all(instr.device in (None, plan.host) for instr in body):
        answer, why = plan.host, f"nothing is worth bringing to {plan.target}"
    elif 1 / _CLOSE < ratio < _CLOSE:
        answer, why = "either", "they are too close to call"
    elif ratio > 1:
        answer, why = plan.target, f"{ratio:.1f} x as fast"
    else:
        answer, why = plan.host, f"{1 / ratio:.1f} x as fast"
    sentence = (
        f"{why}: {', '.join(parts)}, against {units.duration_us(alone)} on {plan.host} alone, "
        f"estimated for {cost.machine}"
    )
    return Verdict(answer, sentence, placed, alone, simulated)
