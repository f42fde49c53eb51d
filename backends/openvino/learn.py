"""``python -m forgec.backends.openvino.learn`` learns what the installed compiler takes, from the ops'
samples.

Writes the answers into ``known.json`` beside those of other targets and compilers; they ship with forgec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import OPS
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Register
from forgec.ir.types import TensorType

from ..vendor.support import signature
from . import TARGETS, toolchain
from .backend import KNOWN, by_rule
from .trial import try_out

__all__: list[str] = []

_SEED = 1


def _instructions() -> Iterator[Instr]:
    """Every sample with its operands computed, and with all but the first constant."""
    for op in OPS.values():
        for sample in op.samples(np.random.default_rng(_SEED)) if op.samples else ():
            for constant in (False, True):
                operands: list[Operand] = []
                for i, x in enumerate(sample.operands):
                    if not isinstance(x, np.ndarray):
                        operands.append(None if x is None else Literal(x))
                        continue
                    kind = TensorType.of(x)
                    operands.append(ConstRef(f"c{i}", kind) if constant and i else Register(i, kind))
                types = [x.type if isinstance(x, Register | ConstRef) else None for x in operands]
                kinds = op.result_types(types, sample.attrs)
                results = tuple(Register(100 + i, kind) for i, kind in enumerate(kinds))
                yield Instr(op.name, tuple(operands), results, dict(sample.attrs))


def main() -> None:
    tools = toolchain.install(print)
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    distinct = {signature(i): i for i in _instructions() if by_rule(i) is None}
    for target in TARGETS:
        trials = try_out(list(distinct.values()), target.name.removeprefix("intel-npu"), tools)
        answers = {key: x.reason for key, x in zip(distinct, trials, strict=True) if not x.sized}
        known.setdefault(target.name, {})[tools.identity] = answers
        KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
