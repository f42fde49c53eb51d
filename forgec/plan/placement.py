"""Which device runs which instruction: a minimum cut between the requested device and the host.

Cutting an instruction from a device costs its latency there; putting the ends of a def-use edge on different
sides costs a transfer of the value. A value is copied once however many readers it has on the other side, so
each gets one auxiliary node per direction: producer -> copy with the transfer's cost, copy -> every reader
without bound (and mirrored). Views are merged into the value they look at, inputs and results of the program
into the host. States are on the host, with what takes them directly; what looks at one may be anywhere,
because a device reads it where it lies. What follows from the position in a text alone is the host's too. The
minimum cut is the cheapest assignment under this additive model (Stone, 1977), exactly; of equal ones the one
with most on the requested device. A device may ask that its part begins with a matrix product: then the host
does what little stands before.

The flow is scipy's (Dinic), on costs as integers of 2^-29 of their sum: for a thousand instructions it takes
milliseconds where one in pure Python takes tenths of a second. One device needs none of this and imports
none of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..backends.base import Answer, Backend, No
from ..errors import BackendError, PlanError
from ..ir.op import get
from ..ir.program import Instr, Program, Register, StateRef
from .cost import CostModel, cost_key, family
from .plan import BY_COST, Reason
from .states import holds_state, positional

__all__ = ["Placement", "place"]

_SCALE = 2.0**29
_UNBOUNDED = 2**30
_PRODUCTS = ("matrix", "convolution", "attention")
_START_US = 100.0
"""What the host may spend before the first product: about what it would to start the device once more, which
no estimate has. It is not measured."""

_LED = Reason(
    BY_COST,
    "it stands before the first product, where the device would be started once more for it",
    "nothing: the host has it done in less time",
)


@dataclass(frozen=True)
class Placement:
    """A device per instruction of the flat program (those of views mean nothing) and its cost.

    ``naive_us`` is the cost with everything on the target that it accepts.
    """

    devices: list[str]
    reasons: dict[int, Reason]
    cost_us: float
    naive_us: float


def place(program: Program, target: Backend, host: Backend, cost: CostModel) -> Placement:
    """The cheapest assignment of a flat program's instructions to the two backends, which may be the same.

    :class:`PlanError` lists the instructions that neither can run.
    """
    body = program.main.body
    prices = {host.name: _prices(body, host, cost)}
    if target.name == host.name:
        refused = {i: price for i, price in enumerate(prices[host.name]) if isinstance(price, No)}
        if refused:
            raise _not_runnable(program, f"{host.name} cannot run", refused)
        total = sum(price for price in prices[host.name] if not isinstance(price, No))
        return Placement([host.name] * len(body), _through_torch(body), total, total)
    prices[target.name] = _prices(body, target, cost.on(target))
    problem = _Problem(program, prices, cost, host.name)
    problem.check_runnable(target.name)
    naive = problem.greedy(target.name)
    candidates = [problem.cut(target.name), naive]
    totals = [problem.total(devices) for devices in candidates]
    total, devices = min(zip(totals, candidates, strict=True), key=lambda pair: pair[0])
    reasons: dict[int, Reason] = {}
    if target.begins_with_products:
        led = problem.before_products(devices, target.name)
        reasons = dict.fromkeys(led, _LED)
        devices = [host.name if i in led else device for i, device in enumerate(devices)]
        total = problem.total(devices)
    reasons = problem.reasons(devices, target.name) | reasons | _through_torch(body)
    return Placement(devices, reasons, total, totals[1])


def _through_torch(body: Sequence[Instr]) -> dict[int, Reason]:
    """What PyTorch computes is on no device of ours, whatever the target."""
    fix = "write that line with other operators, and the program runs without PyTorch"
    return {
        i: Reason("aten", f"PyTorch computes {instr.attrs['target']}, which has no kernel here", fix)
        for i, instr in enumerate(body)
        if instr.op == "aten"
    }


Prices = list[float | No]
"""Per instruction, microseconds or why not; 0 for views."""


def _prices(body: Sequence[Instr], backend: Backend, cost: CostModel) -> Prices:
    distinct: dict[object, Instr] = {}
    keys: list[object | None] = []
    for instr in body:
        key = None if get(instr.op).view else cost_key(instr)
        keys.append(key)
        if key is not None:
            distinct.setdefault(key, instr)
    answers = backend.answers(list(distinct.values()))
    asked = {
        key: _price(backend, answer, instr, cost)
        for (key, instr), answer in zip(distinct.items(), answers, strict=True)
    }
    return [0.0 if key is None else asked[key] for key in keys]


def _price(backend: Backend, answer: Answer, instr: Instr, cost: CostModel) -> float | No:
    if isinstance(answer, No):
        return answer
    price = cost.instr_cost(instr) if answer.cost_us is None else answer.cost_us
    if not 0 <= price < math.inf:
        where = str(instr.source) if instr.source else None
        raise BackendError(f"backend {backend.name} gives {instr.op} a cost of {price} us", where)
    return price


def _not_runnable(program: Program, lead: str, refused: Mapping[int, No]) -> PlanError:
    """One error for all; each distinct cause is listed once, with the first source line that has it."""
    causes: dict[str, str] = {}
    for i, no in refused.items():
        instr = program.main.body[i]
        causes.setdefault(f"{instr.op}: {no.reason}; {no.fix}", str(instr.source or f"instruction {i}"))
    lines = "".join(f"\n  {cause}  # {source}" for cause, source in causes.items())
    return PlanError(f"{lead} {len(refused)} of {len(program.main.body)} instructions:{lines}")


@dataclass
class _Problem:
    """Prices, and the value graph: who produces and who reads each value that may have to be copied.

    A node is an instruction index or ``None`` for the outside of the program. ``pinned`` says why
    instructions must be on the host: they take a state, or compute from a position. ``reads`` are the values
    that a node reads.
    """

    program: Program
    prices: Mapping[str, Prices]
    cost: CostModel
    host: str
    producer: dict[Register, int | None] = field(default_factory=dict)
    readers: dict[Register, set[int | None]] = field(default_factory=dict)
    pinned: dict[int, Reason] = field(default_factory=dict)
    reads: dict[int, list[Register]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        main = self.program.main
        value: dict[int, Register | None] = {r.id: r for r in main.params}
        self.producer.update((r, None) for r in main.params)
        self.nodes: list[int] = []
        for index, instr in enumerate(main.body):
            if get(instr.op).view:
                source = instr.operands[0]
                value[instr.results[0].id] = value[source.id] if isinstance(source, Register) else None
                continue
            self.nodes.append(index)
            read = [value[x.id] for x in instr.registers()]
            self.reads[index] = [r for r in read if r is not None]
            for r in self.reads[index]:
                self._read(r, index)
            for r in instr.results:
                value[r.id] = r
                self.producer[r] = index
        for result in main.results:
            shown = value[result.id]
            if shown is not None:
                self._read(shown, None)
        self._pin()

    def _read(self, value: Register, reader: int | None) -> None:
        self.readers.setdefault(value, set()).add(reader)

    def _pin(self) -> None:
        sentence = "it follows from the position in the text, which 16 bits do not hold; once for all layers"
        fix = f"nothing: {self.host} has it ready before the rest runs"
        self.pinned = {i: Reason("position", sentence, fix) for i in positional(self.program)}
        for index, instr in enumerate(self.program.main.body):
            if holds_state(instr):
                names = ", ".join(sorted({x.name for x in instr.operands if isinstance(x, StateRef)}))
                sentence = f"it takes state {names}, and states are on {self.host}"
                self.pinned[index] = Reason("state", sentence, "nothing: other devices only look at states")

    def allowed(self, device: str) -> dict[int, bool]:
        """By node: whether it can run on the device."""
        away = device != self.host
        return {
            i: not isinstance(self.prices[device][i], No) and not (away and i in self.pinned)
            for i in self.nodes
        }

    def check_runnable(self, target: str) -> None:
        here, there = self.allowed(self.host), self.allowed(target)
        lost = [i for i in self.nodes if not here[i] and not there[i]]
        if lost:
            why = {i: self._refusal(i, target) for i in lost}
            raise _not_runnable(self.program, f"neither {target} nor {self.host} can run", why)

    def _refusal(self, index: int, target: str) -> No:
        """The host's refusal where there is one: it is what has to be mended."""
        for device in (self.host, target):
            answer = self.prices[device][index]
            if isinstance(answer, No):
                return answer
        reason = self.pinned[index]
        return No(reason.code, reason.sentence, reason.fix)

    def greedy(self, target: str) -> list[str]:
        allowed = self.allowed(target)
        return [target if allowed.get(i, True) else self.host for i in range(len(self.program.main.body))]

    def total(self, devices: Sequence[str]) -> float:
        """Microseconds of an assignment, transfers included."""
        total = 0.0
        for i in self.nodes:
            price = self.prices[devices[i]][i]
            assert not isinstance(price, No)
            total += price
        for value, readers in self.readers.items():
            producer = self.producer[value]
            home = self.host if producer is None else devices[producer]
            away = {self.host if i is None else devices[i] for i in readers} - {home}
            total += len(away) * self.cost.transfer_cost(value.type.nbytes)
        return total

    def before_products(self, devices: Sequence[str], target: str) -> set[int]:
        """What an assignment gives to the target before the first product there, and the host has what that
        reads; nothing if the host would be long at it."""
        found: set[int] = set()
        spent = 0.0
        for i in self.nodes:
            if devices[i] != target:
                continue
            if family(self.program.main.body[i].op) in _PRODUCTS:
                break
            price = self.prices[self.host][i]
            producers = {self.producer[r] for r in self.reads[i]} - found
            ready = all(p is None or devices[p] == self.host for p in producers)
            if ready and not isinstance(price, No):
                found.add(i)
                spent += price
        return found if spent <= _START_US else set()

    def cut(self, target: str) -> list[str]:
        """Devices by the minimum cut; node 0 is the target's side, node 1 the host's."""
        import numpy as np
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        number: dict[int | None, int] = {None: 1}
        for i in self.nodes:
            number[i] = len(number) + 1
        count = max(number.values()) + 1
        edges: list[tuple[int, int, float]] = []
        for i in self.nodes:
            here, there = self.prices[self.host][i], self.prices[target][i]
            edges.append((0, number[i], math.inf if isinstance(here, No) else here))
            edges.append((number[i], 1, math.inf if isinstance(there, No) else there))
        edges += [(number[i], 1, math.inf) for i in self.pinned]
        for value, readers in self.readers.items():
            producer = number[self.producer[value]]
            others = {number[i] for i in readers} - {producer}
            price = self.cost.transfer_cost(value.type.nbytes)
            if others:
                edges += [(producer, count, price), (count + 1, producer, price)]
                edges += [(count, reader, math.inf) for reader in others]
                edges += [(reader, count + 1, math.inf) for reader in others]
                count += 2
        finite = sum(weight for *_, weight in edges if weight < math.inf)
        scale = _SCALE / finite if finite else 0.0
        weights = [_UNBOUNDED if weight == math.inf else round(weight * scale) for *_, weight in edges]
        rows, columns = np.array([e[0] for e in edges]), np.array([e[1] for e in edges])
        graph = csr_array((np.array(weights), (rows, columns)), shape=(count, count))
        graph.sum_duplicates()
        graph.data = np.minimum(graph.data, _UNBOUNDED)
        graph = csr_array(graph, dtype=np.int32)
        residual = csr_array(graph - maximum_flow(graph, 0, 1).flow)
        residual.eliminate_zeros()
        to_host = set(breadth_first_order(residual.T.tocsr(), 1, return_predecessors=False).tolist())
        side = {i: self.host if number[i] in to_host else target for i in self.nodes}
        return [side.get(i, target) for i in range(len(self.program.main.body))]

    def reasons(self, devices: Sequence[str], target: str) -> dict[int, Reason]:
        """Why instructions are not on the target, by index."""
        host = self.host
        reasons: dict[int, Reason] = {}
        for i in self.nodes:
            if devices[i] == target:
                continue
            there, here = self.prices[target][i], self.prices[host][i]
            if i in self.pinned:
                reasons[i] = self.pinned[i]
            elif isinstance(there, No):
                reasons[i] = Reason(there.code, there.reason, there.fix)
            else:
                assert not isinstance(here, No)
                sentence = (
                    f"{host} is faster here: {here:.1f} us, against {there:.1f} us on {target} and transfers"
                )
                fix = f"nothing: {target} takes it, and gets it where shapes or what reads it are worth it"
                reasons[i] = Reason(BY_COST, sentence, fix)
        return reasons
