"""Inputs that come back as outputs become states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import forgec
from forgec.errors import CaptureError
from forgec.executable.signature import tensor_leaves


class Sums(nn.Module):
    """Running sums, two of them in a list."""

    def forward(self, x, kept):
        new = [kept[0] + x, kept[1] + 2 * x]
        return {"y": new[0] * new[1], "next": new, "first": kept[0]}


EXAMPLE = {"x": torch.ones(3), "kept": [torch.zeros(3), torch.zeros(3)]}


def test_a_bound_input_lives_from_run_to_run():
    executable = forgec.compile(Sums().eval(), (), EXAMPLE, states={"kept": "next"})
    assert [leaf.name for leaf in executable.signature.inputs] == ["x"]
    assert [leaf.name for leaf in tensor_leaves(executable.signature.outputs)] == ["y", "first"]
    assert not executable.shared.initial, "states that begin at zero are not stored"
    x = np.array([1, 2, 3], np.float32)
    for count in (1, 2, 3):
        result = executable(x=x)
        np.testing.assert_array_equal(result["y"], (count * x) * (2 * count * x))
        np.testing.assert_array_equal(result["first"], (count - 1) * x)
    executable.reset()
    np.testing.assert_array_equal(executable(x=x)["first"], 0 * x)


def test_unbound_it_stays_an_input_and_an_output():
    executable = forgec.compile(Sums().eval(), (), EXAMPLE)
    assert len(executable.signature.inputs) == 3 and len(executable.signature.results) == 4
    assert not executable.program.states


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ({"keep": "next"}, "no 'keep'"),
        ({"kept": "then"}, "no 'then'"),
        ({"kept": "y"}, "not of equal types"),
    ],
)
def test_wrong_pairs(states, match):
    with pytest.raises(CaptureError, match=match):
        forgec.compile(Sums().eval(), (), EXAMPLE, states=states)
