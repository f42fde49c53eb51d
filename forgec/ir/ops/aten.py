"""What has no op of its own: ATen operators that PyTorch computes."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np

from ...errors import TargetError, UnsupportedOpError
from ..op import IRTypeError, Sample, op
from ..types import HALVES, DType, TensorType
from .rules import require

__all__ = ["missing_torch", "types_text"]

_NAME = re.compile(r"aten\.\w+\.\w+")
_TYPE = re.compile(r"(\w+)\[([\d,]*)\]")


def types_text(types: TensorType | tuple[TensorType, ...]) -> str:
    """Result types as the attribute has them: ``f32[2,3] i64[2,3]``."""
    return " ".join(map(str, types if isinstance(types, tuple) else (types,)))


def missing_torch() -> str | None:
    """Why such operators cannot be computed here, or None."""
    return None if importlib.util.find_spec("torch") else "PyTorch is not installed"


def _result_types(text: str) -> tuple[TensorType, ...]:
    found = []
    for word in text.split():
        match = _TYPE.fullmatch(word)
        if match is None or match[1] not in {dtype.value for dtype in DType}:
            raise IRTypeError(f"{word!r} is no type")
        found.append(TensorType(DType(match[1]), tuple(int(n) for n in match[2].split(",") if n)))
    require(bool(found), "an operator has results")
    return tuple(found)


def _rule(*operands: TensorType | None, target: str, arguments: str, types: str) -> tuple[TensorType, ...]:
    require(_NAME.fullmatch(target) is not None, f"{target!r} is no ATen operator with its overload")
    require(bool(operands) and None not in operands, "operands are tensors, and at least one")
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise IRTypeError(f"the arguments of {target} are no JSON: {error}") from None
    require(isinstance(given, dict) and set(given) == {"args", "kwargs"}, "arguments have args and kwargs")
    return _result_types(types)


def _samples(rng: np.random.Generator) -> list[Sample]:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    plain = {"args": [{"tensor": 0}, 1], "kwargs": {}}
    kept = {"args": [{"tensor": 0}, 1], "kwargs": {"keepdim": True}}
    return [
        Sample((x,), {"target": target, "arguments": json.dumps(call), "types": types})
        for target, call, types in (
            ("aten.cumprod.default", plain, "f32[3,4]"),
            ("aten.median.dim", kept, "f32[3,1] i64[3,1]"),
        )
    ]


@op(
    "aten",
    "*operands",
    rule=_rule,
    attrs={"target": "", "arguments": "", "types": ""},
    samples=_samples,
)
def aten(*operands: np.ndarray, target: str, arguments: str, types: str) -> tuple[np.ndarray, ...]:
    """A pure ATen operator without an op here, computed by PyTorch, which has to be installed."""
    missing = missing_torch()
    if missing is not None:
        raise TargetError(f"{target} is computed by PyTorch: {missing}", hint="pip install torch")
    from ...aten import run

    results = run(target, arguments, operands)
    expected = _result_types(types)
    found = tuple(map(TensorType.of, results))
    if len(found) != len(expected) or not all(map(_rounds_to, found, expected)):
        raise UnsupportedOpError(
            f"{target} gives {types_text(found)} and not {types}", hint="run with the PyTorch that compiled"
        )
    with np.errstate(all="ignore"):
        return tuple(r.astype(t.dtype.numpy, copy=False) for r, t in zip(results, expected, strict=True))


def _rounds_to(found: TensorType, expected: TensorType) -> bool:
    """Whether a result is of this type, or would be if operands of 16 bits had not been widened."""
    narrow = found.dtype is DType.F32 and expected.dtype in HALVES
    return found.shape == expected.shape and (narrow or found.dtype is expected.dtype)
