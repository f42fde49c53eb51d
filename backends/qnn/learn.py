"""``python -m forgec.backends.qnn.learn [IR.txt ...]`` learns what the installed compiler takes.

It asks for the ops' own samples and for the instructions of programs given as IR text, and writes the answers
into ``known.json`` beside those of other compilers; they ship with forgec.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.inline import inline
from forgec.ir.op import OPS, Op, Sample
from forgec.ir.parser import parse
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Register
from forgec.ir.types import TensorType

from ..vendor.support import signature
from .backend import FAMILY, KNOWN, by_rule
from .compiler import compiler_id
from .socs import CHIPS
from .trial import try_out

__all__: list[str] = []

_SEED = 1


def _instructions() -> Iterator[Instr]:
    """Every sample with its operands computed, and with all but the first constant; then the programs'."""
    for op in OPS.values():
        for sample in op.samples(np.random.default_rng(_SEED)) if op.samples else ():
            yield from _variants(op, sample)
    for path in sys.argv[1:]:
        yield from inline(parse(Path(path).read_text())).main.body


def _variants(op: Op, sample: Sample) -> Iterator[Instr]:
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
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    answers = known.setdefault(FAMILY, {}).setdefault(compiler_id(), {})
    distinct = {signature(i): i for i in _instructions() if by_rule(i) is None}
    distinct = {key: instr for key, instr in distinct.items() if key not in answers}
    soc = CHIPS["hexagon-v73"].proxy
    trials = try_out(list(distinct.values()), soc)
    answers.update((key, x.reason) for key, x in zip(distinct, trials, strict=True) if not x.sized)
    KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
