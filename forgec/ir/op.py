"""The op record: one object says everything about one IR op.

FX lowering, parser, printer, verifier, interpreter, cost model, op table of the docs and the parametrised op
tests all derive from these records. To add an op, write its reference evaluation in a file of ``ir/ops`` and
decorate it with :func:`op`.

An operand list is a string of names, each with optional marks: ``bias?`` may be left out, ``*parts`` takes
any number (last only).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InternalError
from .types import HALVES, DType, TensorType

__all__ = ["OPS", "IRTypeError", "Op", "OperandSpec", "Sample", "TypeRule", "get", "literal_array", "op"]


class IRTypeError(Exception):
    """Operands or attributes do not fit an op; the verifier and the parser add the place."""


@dataclass(frozen=True)
class OperandSpec:
    name: str
    optional: bool
    variadic: bool


@dataclass(frozen=True)
class Sample:
    """Operands (arrays, Python scalars for literals, None) and attributes to test an op with."""

    operands: tuple[Any, ...]
    attrs: Mapping[str, Any]


TypeRule = Callable[..., "TensorType | tuple[TensorType, ...]"]
"""``rule(*operand_types, **attrs)``; a literal's or absent operand's type is None."""


@dataclass(frozen=True)
class Op:
    """An IR op.

    ``view`` ops share the bytes of operand 0. ``inplace`` lists the operands whose bytes a result of equal
    size may take when they die at this instruction: legal because each result element reads only its own
    element of those operands, or, in the norm of a sum, its own row, which kernels sum before they write it.
    ``flops(types, result_types, attrs)`` counts arithmetic operations. Only ops that say ``takes_i4`` have
    operands or results of that type.
    """

    name: str
    operands: tuple[OperandSpec, ...]
    attrs: Mapping[str, Any]
    rule: TypeRule
    reference: Callable[..., Any]
    view: bool
    pure: bool
    inplace: tuple[int, ...]
    flops: Callable[[Sequence[TensorType | None], Sequence[TensorType], Mapping[str, Any]], float]
    aten: tuple[str, ...]
    samples: Callable[[np.random.Generator], list[Sample]] | None
    doc: str
    takes_i4: bool

    def result_types(
        self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]
    ) -> tuple[TensorType, ...]:
        """Types of the results; :class:`IRTypeError` if operands or attributes are not legal."""
        types = self.complete(types)
        self._check_arity(types)
        unknown = set(attrs) - set(self.attrs)
        if unknown:
            raise IRTypeError(f"{self.name} has no attribute {sorted(unknown)[0]!r}")
        for key, value in attrs.items():
            if not _has_kind(value, self.attrs[key]):
                raise IRTypeError(f"attribute {key} of {self.name} cannot be {value!r}")
        result = self.rule(*types, **{**self.attrs, **attrs})
        results = result if isinstance(result, tuple) else (result,)
        if not self.takes_i4 and any(t is not None and t.dtype is DType.I4 for t in (*types, *results)):
            raise IRTypeError(f"{self.name} does not compute with i4")
        return results

    def evaluate(self, operands: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """The reference evaluation on numpy arrays (literals as Python scalars).

        Like PyTorch on a CPU, 16-bit floats are computed in f32 and rounded once, and overflow or division by
        zero warn of nothing. Views stay views.
        """
        operands = self.complete(operands)
        arrays = [x for x in operands if isinstance(x, np.ndarray)]
        if self.view or not self.pure or not any(x.dtype in _NARROW for x in arrays):
            return self._evaluate(operands, attrs)
        types = [TensorType.of(x) if isinstance(x, np.ndarray) else None for x in operands]
        results = self._evaluate([_widened(x) for x in operands], attrs)
        expected = self.result_types(types, attrs)
        with np.errstate(all="ignore"):
            return tuple(r.astype(t.dtype.numpy) for r, t in zip(results, expected, strict=True))

    def _evaluate(self, operands: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            result = self.reference(*operands, **{**self.attrs, **attrs})
        # numpy gives scalars, not arrays, for results of rank 0
        return tuple(map(np.asarray, result if isinstance(result, tuple) else (result,)))

    def complete(self, operands: Sequence[Any]) -> Sequence[Any]:
        """The operands, with None for optional ones at the end that were not written."""
        left_out = self.operands[len(operands) :]
        if left_out and all(spec.optional for spec in left_out):
            return [*operands, *(None for _ in left_out)]
        return operands

    def _check_arity(self, types: Sequence[TensorType | None]) -> None:
        variadic = bool(self.operands) and self.operands[-1].variadic
        if len(types) != len(self.operands) and not (variadic and len(types) >= len(self.operands)):
            names = " ".join(spec.name for spec in self.operands)
            raise IRTypeError(f"{self.name} takes {len(self.operands)} operands ({names}), not {len(types)}")


_NARROW = tuple(dtype.numpy for dtype in HALVES)


def _widened(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype in _NARROW else x


def _has_kind(value: Any, default: Any) -> bool:
    """True if an attribute's value is of its default's kind; None as default stands for a number or None."""
    if isinstance(default, bool | str):
        return type(value) is type(default)
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(type(entry) is int for entry in value)
    if isinstance(default, int):
        return type(value) is int
    return type(value) in (int, float, bool) or (value is None and default is None)


OPS: dict[str, Op] = {}


def get(name: str) -> Op:
    """The record of an op; ``KeyError`` if there is none."""
    return OPS[name]


def op(
    name: str,
    operands: str,
    *,
    rule: TypeRule,
    attrs: Mapping[str, Any] | None = None,
    view: bool = False,
    pure: bool = True,
    inplace: tuple[int, ...] = (),
    flops: Callable[..., float] | None = None,
    aten: tuple[str, ...] = (),
    samples: Callable[[np.random.Generator], list[Sample]] | None = None,
    takes_i4: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the reference evaluation of a new op."""

    def register(reference: Callable[..., Any]) -> Callable[..., Any]:
        if name in OPS:
            raise InternalError(f"op {name!r} is defined twice")
        specs = tuple(
            OperandSpec(text.strip("*?"), text.endswith("?"), text.startswith("*"))
            for text in operands.split()
        )
        OPS[name] = Op(
            name=name,
            operands=specs,
            attrs=dict(attrs or {}),
            rule=rule,
            reference=reference,
            view=view,
            pure=pure,
            inplace=inplace,
            flops=flops or _one_per_element,
            aten=aten,
            samples=samples,
            doc=(reference.__doc__ or "").strip(),
            takes_i4=takes_i4,
        )
        return reference

    return register


def literal_array(value: int | float | bool, beside: DType) -> np.ndarray:
    """A literal as a rank-0 array of the element type beside it."""
    return np.asarray(value, dtype=beside.numpy)


def _one_per_element(
    types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]
) -> float:
    return float(sum(t.numel for t in results))
