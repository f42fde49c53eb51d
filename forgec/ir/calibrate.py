"""What the inputs of products look like in a sample of runs, for choosing codes of weights.

The program with its weights as they are runs in the reference interpreter, calls expanded, so that every
product reads one constant; the inputs of each are summed up as their Gram matrix (see ``ops.calibrated``).
Time and memory are the interpreter's: all weights in f32, and the multiply-adds of a run for each run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .inline import inline
from .interpreter import Interpreter
from .ops.calibrated import gram_type
from .program import ConstRef, Instr, Leaf, Program, Register

__all__ = ["Calibration", "gram_leaf"]

_PREFIX = "calibration."
"""Of the names under which recipes read Gram matrices, before the key of the weight's constant."""


def gram_leaf(key: str, depth: int) -> Leaf:
    """How a recipe reads the Gram matrix of the inputs, of a length, of the constant with a key."""
    return Leaf(_PREFIX + key, gram_type(depth))


@dataclass
class Calibration:
    """``runs`` are inputs by keyword, or in a tuple by position; a program with states sees them in order.

    ``tensors`` are Gram matrices by the name of their leaf, once :meth:`observe` was called. Programs that
    share weights share them.
    """

    runs: Sequence[Mapping[str, Any] | tuple[Any, ...]]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def observe(
        self,
        program: Program,
        sources: Callable[[str], np.ndarray],
        flatten: Callable[[Sequence[Any], Mapping[str, Any]], Sequence[np.ndarray]],
    ) -> None:
        """Run a program whose weights nothing has compressed; ``flatten`` gives the arrays of a call."""
        flat = inline(program)
        interpreter = Interpreter(flat, sources)
        products = [instr for instr in flat.main.body if _weight(instr) is not None]
        wanted = {x.id for instr in products if isinstance(x := instr.operands[0], Register)}
        values: dict[int, np.ndarray] = {}

        def look(path: str, instr: Instr, results: tuple[np.ndarray, ...]) -> None:
            weight, x = _weight(instr), instr.operands[0] if instr.operands else None
            if weight is not None and isinstance(x, Register):
                self._add(flat.constants[weight.name].key, values[x.id])
            values.update((r.id, y) for r, y in zip(instr.results, results, strict=True) if r.id in wanted)

        for run in self.runs:
            args, kwargs = ((), run) if isinstance(run, Mapping) else (run, {})
            inputs = flatten(args, kwargs)
            values.clear()
            values.update((r.id, x) for r, x in zip(flat.main.params, inputs, strict=True))
            interpreter.run(inputs, observe=look)

    def knows(self, key: str, depth: int) -> bool:
        """Whether the inputs of a weight were seen."""
        return gram_leaf(key, depth).name in self.tensors

    def _add(self, key: str, x: np.ndarray) -> None:
        rows = x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
        rows = rows[np.isfinite(rows).all(axis=1)]
        leaf = gram_leaf(key, rows.shape[1])
        gram = self.tensors.setdefault(leaf.name, np.zeros(leaf.type.shape, np.float32))
        for block, sums in enumerate(gram):
            part = rows[:, block * len(sums) : (block + 1) * len(sums)]
            size = part.shape[1]
            sums[:size, :size] += part.T @ part


def _weight(instr: Instr) -> ConstRef | None:
    """The constant that an instruction multiplies by."""
    x = instr.operands[1] if instr.op == "linear" else None
    return x if isinstance(x, ConstRef) else None
