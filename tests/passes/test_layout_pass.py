"""Permutations that cancel, and attention that writes rows first. (tests/ir/test_layout.py is about
strides.)"""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, run_pass, stays, survives, values
from pass_modules import Apply
from torch.nn import functional as F

NAME = "layout"


FORMS = {
    "there and back": (lambda x: x.transpose(1, 2).transpose(1, 2) + 1, 0),
    "permute twice": (lambda x: x.permute(2, 0, 1, 3).permute(1, 3, 0, 2), 1),
    "two swaps": (lambda x: x.transpose(1, 2).transpose(-1, -2), 1),
    "identity": (lambda x: x.permute(0, 1, 2, 3) * 2, 0),
    "three": (lambda x: x.transpose(0, 1).transpose(1, 2).transpose(2, 3), 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_cancels(form):
    function, left = FORMS[form]
    graph = fires(NAME, Subject(Apply(function), values(2, 3, 4, 5)), transpose=0, permute=left)
    assert counts(graph)["permute"] == left


def test_both_kinds_of_matrix_transpose():
    fires(NAME, Subject(Apply(lambda x: x.t().mT + 1), values(3, 4)), t=0, mT=0)


def test_inner_permutation_that_others_read_stays():
    graph = Subject(Apply(lambda x: (y := x.transpose(0, 1), y.transpose(1, 2))), values(2, 3, 4)).graph
    assert run_pass(graph, NAME) == 1
    assert counts(graph)["transpose"] == 1 and counts(graph)["permute"] == 1


def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def example():
    return [values(2, 4, 5, 8, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("turn", [lambda y: y.transpose(1, 2), lambda y: y.permute(0, 2, 1, 3)])
def test_attention_writes_rows_first(turn):
    case = Subject(Apply(lambda *qkv: turn(attend(*qkv)).reshape(2, 5, 32)), *example())
    graph = fires(NAME, case, transpose=0, permute=0, attention=1)
    assert fused(graph, "attention")[0].kwargs["seq_major"] is True


def test_turned_back_and_forth():
    """The second turn is of attention that already writes rows first."""
    case = Subject(Apply(lambda *qkv: attend(*qkv).transpose(1, 2).contiguous().transpose(1, 2)), *example())
    survives(case)
    assert counts(case.optimised())["attention"] == 1


NEAR = {
    "attention is a result": lambda *qkv: (y := attend(*qkv), y.transpose(1, 2)),
    "another turn": lambda *qkv: attend(*qkv).transpose(2, 3),
    "a turn of three": lambda *qkv: attend(*qkv).permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    case = Subject(Apply(NEAR[form]), *example())
    stays(NAME, case, attention=1)
    assert not fused(case.optimised(), "attention")[0].kwargs.get("seq_major")


def test_reshape_between_permutations():
    stays(
        NAME,
        Subject(Apply(lambda x: x.transpose(0, 1).reshape(3, 2, 2, 2).transpose(0, 1)), values(2, 3, 4)),
        transpose=2,
    )


def test_scalars_and_vectors():
    survives(Subject(Apply(lambda x: x.transpose(0, -1) + x.t()), torch.tensor(3.0)))
    survives(Subject(Apply(lambda x: x.transpose(0, -1) + x.t()), values(4)))
