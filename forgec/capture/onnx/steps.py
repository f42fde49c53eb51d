"""What an imported graph consists of: calls of converters on values by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...ir.stored import StoredCodes, Unkept
from .registry import Converter

__all__ = ["Constant", "Imported", "Operand", "Static", "Step", "Value", "run_step"]


@dataclass(frozen=True)
class Value:
    """An operand that a step or an input made."""

    name: str


@dataclass(frozen=True)
class Constant:
    """An operand that is a stored tensor; ``name`` is unique for its array."""

    name: str


@dataclass(frozen=True)
class Static:
    """An operand that is handed over as it is: a number, a tuple of integers, an array or None."""

    value: Any


Operand = Value | Constant | Static


@dataclass(frozen=True)
class Step:
    """One call of a converter; ``where`` names the node, and ``last`` what no later step reads."""

    converter: Converter
    operands: tuple[Operand, ...]
    attributes: dict[str, Any]
    results: tuple[str, ...]
    where: str
    last: tuple[str, ...] = ()


@dataclass
class Imported:
    """``outputs`` has an operand per output and ``shapes`` its shape; ``rows`` the smallest table that an
    integer input indexes; ``codes`` what there is of constants' codes; ``precisions`` are those of the file's
    own arithmetic beside f32, in which the steps compute."""

    steps: list[Step]
    outputs: dict[str, Operand]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, torch.Tensor]
    rows: dict[str, int]
    codes: dict[str, StoredCodes | Unkept]
    precisions: frozenset[str]


def run_step(
    step: Step, value: Callable[[str], torch.Tensor], constant: Callable[[str], torch.Tensor]
) -> Any:
    """A step's results; ``value`` and ``constant`` give tensors by name."""
    operands = [
        value(o.name) if isinstance(o, Value) else constant(o.name) if isinstance(o, Constant) else o.value
        for o in step.operands
    ]
    return step.converter.function(*operands, **step.attributes)
