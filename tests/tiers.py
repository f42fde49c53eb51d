"""What the quick tests leave out: ``pytest -m "not slow"``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_after(count: int, values: Iterable[Any]) -> list[Any]:
    """Values of a test's parameter, or tuples of values of several, of which the quick tests take the first
    ``count``."""
    return [
        value if i < count else pytest.param(*_arguments(value), marks=pytest.mark.slow)
        for i, value in enumerate(values)
    ]


def _arguments(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
