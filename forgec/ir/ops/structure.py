"""Ops about the program itself: calls and states. They have no numpy evaluation of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InternalError
from ..op import op
from ..types import TensorType
from .rules import require, tensor


def _needs_program(*_: Any, **__: Any) -> TensorType:
    raise InternalError("the result types of a call come from its callee")


@op("call", "*args", rule=_needs_program, attrs={"callee": ""}, pure=False)
def call(*args: np.ndarray, callee: str) -> np.ndarray:
    """Run a function of the program: registers first, then constants, as its parameters ask."""
    raise InternalError(f"call of {callee} reached an op evaluation; calls are expanded before")


@op("read_state", "state", rule=lambda state: tensor(state, "state"), pure=False)
def read_state(state: np.ndarray) -> np.ndarray:
    """The value that a state has now."""
    return state.copy()


def _write_rule(state: TensorType | None, value: TensorType | None) -> tuple[TensorType, ...]:
    require(tensor(state, "state") == value, f"a state of {state} cannot take {value}")
    return ()


@op("write_state", "state value", rule=_write_rule, pure=False)
def write_state(state: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, ...]:
    """Replace the value of a state; no result."""
    state[...] = value
    return ()
