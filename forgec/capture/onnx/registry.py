"""Converters from ONNX operators to torch, and how their arguments are declared.

A converter is a function over torch tensors whose parameters stand for the operator's inputs, in order, and
whose keyword-only parameters are its attributes by name. An input's annotation says how it is wanted:
``Tensor`` as it comes; ``Operand`` also as a Python number, where a constant of one element can be one;
``Ints``, ``Shape``, ``Number`` and ``Array`` as a constant, known when the model is imported (axes, paddings;
``Shape`` is how large the result becomes).
``*xs: Tensor`` takes any number. The keywords ``opset`` (the version of the operator's domain) and
``outputs`` (how many results the node names) are filled in. A converter that gives a numpy array gives a
constant.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ...ir.stored import StoredCodes, Unkept

__all__ = [
    "CONTRIB",
    "Array",
    "Converter",
    "Ints",
    "Number",
    "Operand",
    "Shape",
    "Unsupported",
    "converts",
    "find",
]

Operand = Tensor | float
Ints = tuple[int, ...]
Shape = tuple[int, ...]
Number = float
Array = np.ndarray

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

Prepare = Callable[[list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]
"""Takes inputs (constants as arrays, None where there is none) and attributes."""

CodesOf = Callable[[list[Any], dict[str, Any]], StoredCodes | Unkept | None]
"""Takes constant inputs as arrays and attributes; what there is of the result's codes."""

_KINDS = ("Tensor", "Operand", "Ints", "Shape", "Number", "Array")
_FILLED = ("opset", "outputs")


class Unsupported(Exception):
    """A form of an operator that its converter does not take; the importer says at which node."""


@dataclass(frozen=True)
class Converter:
    """``inputs`` are the kinds of the inputs, ``rest`` that of all further ones, ``attributes`` the names
    that it takes; with ``fold``, a node whose inputs are all constants is evaluated however large they are,
    with ``view``, which says that it moves no element, if they are integers.
    ``prepare`` gives other inputs and attributes, when the model is imported, and ``codes`` what is known of
    the codes of a result that is evaluated."""

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    rest: str | None
    attributes: frozenset[str]
    filled: tuple[str, ...]
    fold: bool
    view: bool
    prepare: Prepare | None
    codes: CodesOf | None

    def kind(self, position: int) -> str | None:
        """How the input at a position is wanted; None if the operator has no such input."""
        return self.inputs[position] if position < len(self.inputs) else self.rest


@dataclass
class _Versions:
    since: list[int] = field(default_factory=list)
    converters: list[Converter] = field(default_factory=list)


_TABLE: dict[tuple[str, str], _Versions] = {}


def converts(
    *names: str,
    domain: str = "",
    since: int = 1,
    fold: bool = False,
    view: bool = False,
    prepare: Prepare | None = None,
    codes: CodesOf | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a converter for operators of a domain, from a version of it on."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        converter = _described(function, fold, view, prepare, codes)
        for name in names:
            versions = _TABLE.setdefault((domain, name), _Versions())
            at = bisect_right(versions.since, since)
            versions.since.insert(at, since)
            versions.converters.insert(at, converter)
        return function

    return register


def find(domain: str, name: str, version: int) -> Converter | None:
    """The converter of an operator in a version of its domain."""
    versions = _TABLE.get((domain, name))
    at = 0 if versions is None else bisect_right(versions.since, version)
    return versions.converters[at - 1] if versions is not None and at else None


def _described(
    function: Callable[..., Any], fold: bool, view: bool, prepare: Prepare | None, codes: CodesOf | None
) -> Converter:
    inputs: list[str] = []
    rest, attributes = None, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            attributes.append(parameter.name)
            continue
        kind = str(parameter.annotation).removesuffix(" | None")
        if kind not in _KINDS:
            raise TypeError(f"{function.__name__}: {parameter.name} is a {kind}, not one of {_KINDS}")
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = kind
        else:
            inputs.append(kind)
    filled = tuple(name for name in _FILLED if name in attributes)
    return Converter(
        function, tuple(inputs), rest, frozenset(attributes) - set(filled), filled, fold, view, prepare, codes
    )
