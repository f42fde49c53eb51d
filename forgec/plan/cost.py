"""Latency estimates: the roofline model with an overhead, one set of rates per op or family of ops.

    cost(instr) = max(flops / rate, bytes / bandwidth) + overhead + elements / activation rate

Times are microseconds. Families are matrix products, convolution, attention, normalisation and reduction,
transcendental point-wise, other point-wise and data movement; an op that was measured often enough has rates
of its own. The last term is for an activation that a matrix product applies on its way out: it saves the
kernel and the traffic, not the arithmetic.

Bytes are what a kernel must touch: its results and operands, of a look-up table only the rows it gathers.
On an NPU what flows between instructions stays on the chip, so that bytes are those of constants alone,
floats in 16 bits, tables as a whole. Views and literals are free.

A calibration is a JSON file, fitted by :func:`fit`: of a class of machines, whose kernels were ``measured``,
or of an NPU, whose vendor's compiler ``simulated`` them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import Backend
from ..errors import OptionError
from ..ir import ops as _records  # noqa: F401  (registers them)
from ..ir.op import OPS, get
from ..ir.program import ConstRef, Instr, Literal, Program
from ..ir.types import TensorType

__all__ = ["FAMILIES", "CostModel", "Rates", "Transfer", "Work", "cost_key", "family", "fit", "work"]

SCHEMA = "forgec.calibration/1"
DEFAULT = "server"
"""The calibration that is used unless another is asked for."""

_FOLDER = Path(__file__).parent / "calibration"
OP_SAMPLES = 8
_UNBOUND = 1e9
"""Operations or bytes per microsecond of what no sample was limited by."""

_MEMBERS = {
    "matrix": "linear linear_q expert_linear expert_linear_q matmul",
    "convolution": "conv",
    "attention": "attention",
    "normalisation": "softmax log_softmax layer_norm rms_norm add_layer_norm add_rms_norm "
    "sum mean max min prod any all cumsum argmax top_k pool",
    "transcendental": "exp log sin cos tanh erf sigmoid silu gelu gelu_tanh softplus pow gated",
    "movement": "copy concat pad flip embedding embedding_q take_along gather scatter "
    "quantise narrow scales fitted_codes fitted_scales read_state write_state update_rows write_rows",
}
FAMILIES = (*_MEMBERS, "pointwise")
"""Kernels that share rates; every op that is in no list is point-wise."""

_FAMILY = {op: name for name, ops in _MEMBERS.items() for op in (name, *ops.split())}
_TABLES = {"embedding": 0, "embedding_q": 0, "gather": 0, "take_along": 0}
"""Operands of which only as many bytes are read as the result has."""


def family(op: str) -> str:
    """The family of an op, by name."""
    return _FAMILY.get(op, "pointwise")


@dataclass(frozen=True)
class Rates:
    """Speed of one family: floating-point operations and bytes per microsecond, microseconds per call."""

    flops_per_us: float
    bytes_per_us: float
    overhead_us: float

    def time(self, flops: float, nbytes: float) -> float:
        """Microseconds of one call."""
        return max(flops / self.flops_per_us, nbytes / self.bytes_per_us) + self.overhead_us


@dataclass(frozen=True)
class Transfer:
    """Speed of a copy between devices: bytes per microsecond, microseconds per copy."""

    bytes_per_us: float
    overhead_us: float


@dataclass(frozen=True)
class Work:
    """What an instruction has to do; ``act`` names an activation of ``activated`` elements on the way out."""

    op: str
    flops: float
    nbytes: int
    act: str
    activated: int


def work(instr: Instr, *, on_chip: bool = False) -> Work | None:
    """The work of an instruction, or None for a view; ``on_chip`` if intermediate results never leave it."""
    record = get(instr.op)
    if record.view:
        return None
    types = [None if x is None or isinstance(x, Literal) else x.type for x in instr.operands]
    results = [r.type for r in instr.results]
    if on_chip:
        moved = sum(_half_bytes(x.type) for x in instr.operands if isinstance(x, ConstRef))
    else:
        moved = sum(t.nbytes for t in results)
        table = _TABLES.get(instr.op, -1)
        for k, t in enumerate(types):
            if t is not None:
                moved += min(t.nbytes, results[0].nbytes) if k == table else t.nbytes
        moved -= _unread(instr, types)
    flops = float(record.flops(types, results, {**record.attrs, **instr.attrs}))
    act = str(instr.attrs.get("act") or "") if family(instr.op) in ("matrix", "convolution") else ""
    return Work(instr.op, flops, moved, act, results[0].numel if act else 0)


def _unread(instr: Instr, types: Sequence[TensorType | None]) -> int:
    """Bytes of the weights of experts that have no rows, however rows choose."""
    if instr.op not in ("expert_linear", "expert_linear_q"):
        return 0
    rows, weight, experts = types[0], types[1], int(str(instr.attrs["experts"]))
    assert rows is not None and weight is not None
    return weight.nbytes * max(0, experts - rows.shape[0]) // experts


def _half_bytes(t: TensorType) -> int:
    """Bytes of a constant where floats have 16 bits."""
    return t.numel * 2 if t.dtype.is_float else t.nbytes


@dataclass(frozen=True)
class CostModel:
    """Rates by family and by op, those of a transfer between devices, and where they come from.

    ``error`` is the median of abs(estimate - sample) / sample over the ``samples`` fitted. ``on_chip`` says
    which bytes count, see :func:`work`.
    """

    rates: dict[str, Rates]
    transfer: Transfer
    machine: str
    date: str
    method: str
    error: float | None = None
    samples: int = 0
    on_chip: bool = False
    _cache: dict[Any, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, source: str | Path = DEFAULT) -> CostModel:
        """A calibration by name (``server``, ``laptop``) or by path of a JSON file.

        :class:`OptionError` if there is none of that name or the file is not a calibration.
        """
        path = Path(source)
        if path.suffix != ".json":
            path = _FOLDER / f"{source}.json"
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.json")))
            raise OptionError(f"there is no calibration {str(source)!r}", hint=f"one of: {known}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{path} is no calibration: {error}", hint="write one with forgec bench --calibrate FILE.json"
            ) from error

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> CostModel:
        """The model of a parsed calibration; ``ValueError``, ``KeyError`` or ``TypeError`` if it is none."""
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema is {record['schema']!r}, not {SCHEMA!r}")
        rates = record["rates"]
        unknown = sorted(set(rates) - set(FAMILIES) - set(OPS))
        if unknown or not set(FAMILIES) <= set(rates):
            raise ValueError(f"rates must name each of {', '.join(FAMILIES)} and ops, but name {unknown}")
        return cls(
            {name: _rates(value) for name, value in rates.items()},
            _transfer(record["transfer"]),
            str(record["machine"]),
            str(record["date"]),
            str(record["method"]),
            None if record["error"] is None else float(record["error"]),
            int(record["samples"]),
            bool(record.get("on_chip", False)),
        )

    def to_json(self) -> dict[str, Any]:
        """The calibration as JSON data."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "date": self.date,
            "method": self.method,
            "error": self.error,
            "samples": self.samples,
            **({"on_chip": True} if self.on_chip else {}),
            "rates": {name: asdict(rates) for name, rates in self.rates.items()},
            "transfer": asdict(self.transfer),
        }

    def instr_cost(self, instr: Instr) -> float:
        """Microseconds of one instruction; 0 for a view."""
        key = cost_key(instr)
        known = self._cache.get(key)
        if known is None:
            needed = work(instr, on_chip=self.on_chip)
            known = 0.0 if needed is None else self.work_cost(needed)
            self._cache[key] = known
        return known

    def work_cost(self, needed: Work) -> float:
        """Microseconds of a piece of work."""
        return self.of(needed.op).time(needed.flops, needed.nbytes) + self._activation(needed)

    def of(self, op: str) -> Rates:
        """The rates of an op: its own, else those of its family."""
        return self.rates.get(op) or self.rates[family(op)]

    def _activation(self, needed: Work) -> float:
        if not needed.act:
            return 0.0
        return needed.activated / self.of(needed.act).flops_per_us

    def on(self, backend: Backend) -> CostModel:
        """The model of a device's instructions: its own, if it has a calibration, else this one."""
        if backend.calibration is None:
            return self
        return CostModel.load(_FOLDER / "npu" / f"{backend.calibration}.json")

    def program_cost(self, program: Program) -> float:
        """Microseconds of one run, one instruction after the other; functions count once per call."""
        calls = program.calls()
        return sum(
            calls[name] * sum(self.instr_cost(instr) for instr in function.body if instr.op != "call")
            for name, function in program.functions.items()
        )

    def transfer_cost(self, nbytes: int) -> float:
        """Microseconds to bring bytes from one device to another."""
        return nbytes / self.transfer.bytes_per_us + self.transfer.overhead_us


def cost_key(instr: Instr) -> tuple[Any, ...]:
    """Equal for instructions that differ in names and numbers only."""
    operands = tuple(
        x if x is None or isinstance(x, Literal) else (type(x).__name__, x.type) for x in instr.operands
    )
    return instr.op, operands, tuple(instr.attrs.items())


def _rates(record: dict[str, Any]) -> Rates:
    rates = Rates(**{name: float(value) for name, value in record.items()})
    _require_positive(rates.flops_per_us, rates.bytes_per_us, rates.overhead_us)
    return rates


def _transfer(record: dict[str, Any]) -> Transfer:
    transfer = Transfer(**{name: float(value) for name, value in record.items()})
    _require_positive(transfer.bytes_per_us, transfer.overhead_us)
    return transfer


def _require_positive(*values: float) -> None:
    *rates, overhead = values
    if not (all(0 < x < math.inf for x in rates) and 0 <= overhead < math.inf):
        raise ValueError(f"rates must be positive and finite, overhead not negative: {values}")


def fit(
    samples: Sequence[tuple[Instr, float]],
    *,
    machine: str,
    date: str,
    base: CostModel | None = None,
    method: str = "measured",
    on_chip: bool = False,
) -> CostModel:
    """A calibration from instructions and their latencies in microseconds.

    Per family, and per op with ``OP_SAMPLES`` or more, it minimises the squared relative error. Which samples
    are bound by arithmetic is a threshold on flops per byte; each threshold gives a linear problem in
    (1 / rate, 1 / bandwidth, overhead), solved by non-negative least squares, and the best under the full
    model wins.
    Transfers keep the rates of ``base`` (the default calibration if None), and so do families without
    samples; but on a chip these take the rates of point-wise ops.
    """
    base = base or CostModel.load()
    groups: dict[str, list[tuple[Work, float]]] = {}
    for instr, measured in samples:
        needed = work(instr, on_chip=on_chip)
        if needed is None or not 0 < measured < math.inf:
            raise OptionError(f"{instr.op} in {measured} us is no sample: needs a kernel and a positive time")
        for name in {instr.op, family(instr.op)}:
            groups.setdefault(name, []).append((needed, measured))
    model = replace(base, rates={name: base.rates[name] for name in FAMILIES}, on_chip=on_chip, _cache={})
    for name in sorted(groups, key=lambda name: family(name) in ("matrix", "convolution")):
        # Matrix products come last: the activations that some of them include are known by then.
        rows = [(w.flops, w.nbytes, model._activation(w), t) for w, t in groups[name]]
        if name in FAMILIES or len(rows) >= OP_SAMPLES:
            model.rates[name] = _fit_rates(np.array(rows))
    if on_chip:
        model.rates.update({name: model.rates["pointwise"] for name in FAMILIES if name not in groups})
    errors = [abs(model.instr_cost(instr) - measured) / measured for instr, measured in samples]
    return replace(
        model,
        machine=machine,
        date=date,
        method=method,
        error=float(np.median(errors)) if errors else None,
        samples=len(samples),
    )


def _fit_rates(rows: np.ndarray) -> Rates:
    """Rates for rows of (flops, bytes, microseconds known already, microseconds measured)."""
    from scipy.optimize import nnls  # here, as compiling needs no fit and the import is slow

    rows = rows[np.argsort(rows[:, 0] / np.maximum(rows[:, 1], 1))]
    flops, nbytes, known, measured = rows.T
    best = (math.inf, np.zeros(3))
    for split in np.unique(np.linspace(0, len(rows), 65).astype(int)):
        compute = np.arange(len(rows)) >= split
        columns = np.stack([flops * compute, nbytes * ~compute, np.ones(len(rows))], axis=1)
        solution, _ = nnls(columns / measured[:, None], 1 - known / measured)
        estimate = np.maximum(flops * solution[0], nbytes * solution[1]) + solution[2] + known
        error = float(np.sum((estimate / measured - 1) ** 2))
        if error < best[0]:
            best = (error, solution)
    per_flop, per_byte, overhead = (float(x) for x in best[1])
    return Rates(1 / max(per_flop, 1 / _UNBOUND), 1 / max(per_byte, 1 / _UNBOUND), overhead)
