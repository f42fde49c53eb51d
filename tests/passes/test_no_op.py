"""Operators that change nothing, and expands that move behind point-wise operators."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, run_pass, settle, stays, survives, values
from pass_modules import Apply
from torch.nn import functional as F

from forgec.errors import UnsupportedOpError
from forgec.ir.lowering import lower

NAME = "no_op"


GONE = {
    "dropout": (lambda x: F.dropout(x, 0.5, training=False) + 1, "dropout"),
    "dropout of nothing": (lambda x: F.dropout(x, 0.0, training=True) + 1, "dropout"),
    "feature dropout": (lambda x: F.dropout2d(x[None], 0.5, training=False) + 1, "feature_dropout"),
    "clone": (lambda x: x.clone() + 1, "clone"),
    "contiguous": (lambda x: x.transpose(0, 1).contiguous() + 1, "contiguous"),
    "cast": (lambda x: x.to(torch.float32) + 1, "to"),
    "float": (lambda x: x.float() + 1, "to"),
    "type_as": (lambda x: x.type_as(x * 2) + 1, "type_as"),
    "view": (lambda x: x.view(2, 3, 4) + 1, "view"),
    "expand": (lambda x: x.expand(2, -1, 4) + 1, "expand"),
    "repeat": (lambda x: x.repeat(1, 1, 1) + 1, "repeat"),
    "slice": (lambda x: torch.ops.aten.slice.Tensor(x, 1, 0, 3) + 1, "slice"),
    "slice beyond": (lambda x: torch.ops.aten.slice.Tensor(x, 1, -3, 100) + 1, "slice"),
    "squeeze": (lambda x: x.squeeze(0) + 1, "squeeze"),
}


@pytest.mark.parametrize("form", GONE)
def test_gone(form):
    function, name = GONE[form]
    fires(NAME, Subject(Apply(function), values(2, 3, 4)), **{name: 0})


def test_result_is_the_input_itself():
    graph = fires(
        NAME,
        Subject(Apply(lambda x: (x.clone(), F.dropout(x, 0.1, False))), values(2, 3)),
        clone=0,
        dropout=0,
    )
    assert not counts(graph)


def test_reshapes_become_one():
    fires(
        NAME,
        Subject(Apply(lambda x: x.view(6, 4).unsqueeze(0).flatten() + 1), values(2, 3, 4)),
        reshape=1,
        view=0,
    )
    fires(
        NAME,
        Subject(Apply(lambda x: x.view(6, 4).reshape(2, 3, 4) + 1), values(2, 3, 4)),
        reshape=0,
        view=0,
        once=False,
    )


def test_inner_reshape_that_others_read_stays():
    graph = Subject(Apply(lambda x: (y := x.view(6, 4), y.flatten())), values(2, 3, 4)).graph
    assert run_pass(graph, NAME) == 1
    assert counts(graph)["view"] == 1 and counts(graph)["reshape"] == 1


EXPANDED = {
    "one operand": (lambda x, y: x.expand(2, 3, 4) + y, 0),
    "both operands": (lambda x, y: x.expand(2, 3, 4) * y[:1].expand(2, 3, 4), 1),
    "number": (lambda x, y: (x.expand(2, 3, 4) * 2.0) @ y.mT, 1),
    "scaled sum": (lambda x, y: torch.add(y, x.expand(2, 3, 4), alpha=3), 0),
    "chain": (lambda x, y: torch.where(-x.expand(2, 3, 4) > 0, 1.0, y), 0),
    "fill": (lambda x, y: y.masked_fill((x > 0).expand(2, 3, 4), -1.0), 0),
    "cast": (lambda x, y: x.expand(2, 3, 4).double() + y, 0),
    "step sizes of a recurrence": (
        lambda x, y: torch.exp(torch.clamp(torch.nn.functional.softplus(x.expand(2, 3, 4)), 0.1, 2.0)) * y,
        0,
    ),
    "leading axes": (lambda x, y: (x[0].expand(2, 3, 4) + 1) @ y.mT, 1),
    "logic": (lambda x, y: (x > 0).expand(2, 3, 4) & (y[..., :1] > 0) | ~(x < 1).expand(2, 3, 4), 0),
}


@pytest.mark.parametrize("form", EXPANDED)
def test_expands_move_behind(form):
    function, left = EXPANDED[form]
    subject = Subject(Apply(function), values(1, 1, 4), values(2, 3, 4))
    graph = subject.graph.copy()
    _, before = graph.extent()
    assert settle(graph, NAME) > 0 and graph.extent()[1] < before
    subject.check(graph)
    survives(subject)
    assert counts(graph)["expand"] == left
    for node in fused(graph, "expand"):
        assert all(user.target is torch.ops.aten.matmul.default or user.op == "output" for user in node.users)


CHOSEN = {
    "first": lambda c, x, y: torch.where(c, torch.where(c, x, y), y + 1),
    "second": lambda c, x, y: torch.where(c, y + 1, torch.where(c, x, y)),
    "both": lambda c, x, y: torch.where(c, torch.where(c, x, y + 1), torch.where(c, x + 1, y)),
}


@pytest.mark.parametrize("form", CHOSEN)
def test_a_choice_of_what_the_same_condition_chose(form):
    condition = torch.tensor([[True], [False]])
    fires(
        NAME, Subject(Apply(CHOSEN[form]), condition, values(2, 3), values(2, 3, seed=1)), where=1, once=False
    )


NOT_CHOSEN = {
    "another condition": lambda c, x, y: torch.where(~c, torch.where(c, x, y), y + 1),
    "what it takes has another shape": lambda c, x, y: torch.where(c, torch.where(c, x[:1], y), y + 1),
}


@pytest.mark.parametrize("form", NOT_CHOSEN)
def test_choices_that_stay(form):
    condition = torch.tensor([[True], [False]])
    stays(NAME, Subject(Apply(NOT_CHOSEN[form]), condition, values(2, 3), values(2, 3, seed=1)), where=2)


def test_expanded_value_that_is_a_result_too():
    graph = fires(NAME, Subject(Apply(lambda x: (y := x.expand(2, 3), y + 1)), values(1, 3)), expand=2)
    assert [n.meta["type"].shape for n in fused(graph, "add")] == [(1, 3)]


def test_expand_of_a_scalar_that_decides_the_type():
    """f64 of rank 1 and f32 make f64, f64 of rank 0 and f32 make f32."""
    scalar = torch.tensor(1.5, dtype=torch.float64)
    stays(NAME, Subject(Apply(lambda s, x: s.expand(3) + x), scalar, values(3)), expand=1)
    stays(NAME, Subject(Apply(lambda s, x: s.expand(3) * x), torch.tensor(1.5), torch.arange(3)), expand=1)


GATHERED = {
    "in order": lambda x: x[torch.arange(3)[:, None], torch.arange(4)],
    "as transformers reads a padding mask": lambda x: x[torch.arange(3)[:, None, None, None], torch.arange(4)[None, None, None]],
    "one axis": lambda x: x[:, 0][torch.arange(3)],
}  # fmt: skip


@pytest.mark.parametrize("form", GATHERED)
def test_index_that_takes_all_in_order(form):
    subject = Subject(Apply(GATHERED[form]), values(3, 4))
    assert counts(subject.optimised())["index"] == 0
    survives(subject)


NOT_GATHERED = {
    "reversed": lambda x: x[torch.arange(2, -1, -1)[:, None], torch.arange(4)],
    "transposed": lambda x: x[torch.arange(3), torch.arange(4)[:, None]],
    "part": lambda x: x[torch.arange(2)[:, None], torch.arange(4)],
    "one axis of two": lambda x: x[torch.arange(3)],
    "repeated": lambda x: x[torch.tensor([0, 0, 2])[:, None], torch.arange(4)],
}


@pytest.mark.parametrize("form", NOT_GATHERED)
def test_index_that_takes_others(form):
    subject = Subject(Apply(NOT_GATHERED[form]), values(3, 4))
    assert counts(survives(subject))["index"] == 1


def test_index_given_at_run_time():
    subject = Subject(Apply(lambda x, i: x[i]), values(3), torch.arange(3))
    stays(NAME, subject, index=1)


NEAR = {
    "cast to another type": (lambda x: x.to(torch.float64) + 1, "to"),
    "view of another shape": (lambda x: x.view(6, 4) + 1, "view"),
    "every other row": (lambda x: x[:, ::2] + 1, "slice"),
    "part": (lambda x: x[:, :2] + 1, "slice"),
    "real repeat": (lambda x: x.repeat(2, 1, 1) + 1, "repeat"),
    "expand before a product": (lambda x: x[:1].expand(2, 3, 4) @ x.mT, "expand"),
    "view of other bytes": (lambda x: x.to(torch.int64).view(2, 12) + 1, "view"),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    function, name = NEAR[form]
    stays(NAME, Subject(Apply(function), values(2, 3, 4)), **{name: 1})


def test_every_other_row_of_one_is_all():
    """The same type, yet not the same slice in general."""
    survives(Subject(Apply(lambda x: x[::2] + 1), values(1, 3)))


def test_active_dropout_is_refused():
    """Not removed in silence: the captured graph would give other results each time."""
    for active in (
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    ):
        subject = Subject(Apply(active), values(2, 3, 4, 5))
        graph = subject.optimised()
        assert counts(graph)["dropout"] + counts(graph)["scaled_dot_product_attention"] == 1
        with pytest.raises(UnsupportedOpError, match=r"0\.5 is active"):
            lower(graph)
