"""Values at the edge: types of the device, ids inside their table, integers inside i32."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.qnn.edge import F16_LIMIT, to_float
from forgec.backends.qnn.session import take

from forgec.errors import InputError


def test_floats_beyond_f16_come_to_its_edge() -> None:
    source = np.array([1.5, -3.4e38, np.inf, 2e5, np.nan], np.float32)
    target = np.empty(5, np.float16)
    take(source, target, None)
    np.testing.assert_array_equal(
        target, np.array([1.5, -F16_LIMIT, F16_LIMIT, F16_LIMIT, np.nan], np.float16)
    )
    np.testing.assert_array_equal(to_float(source, np.dtype(np.float16)), target)


def test_shapes_may_differ_and_views_are_taken() -> None:
    source = np.arange(12, dtype=np.int64).reshape(3, 4).T
    target = np.empty(12, np.int32)
    take(source, target, None)
    np.testing.assert_array_equal(target, source.reshape(-1))


@pytest.mark.parametrize("wrong", [-1, 10, 2**40])
def test_an_id_outside_its_table_is_an_error(wrong: int) -> None:
    with pytest.raises(InputError, match=rf"id {wrong} is outside a table of 10 rows"):
        take(np.array([0, wrong, 9]), np.empty(3, np.int32), 10)


def test_an_integer_outside_i32_is_an_error() -> None:
    with pytest.raises(InputError, match="outside i32"):
        take(np.array([2**31]), np.empty(1, np.int32), None)
