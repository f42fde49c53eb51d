"""Transpositions of matrices that were put in one batch."""

from __future__ import annotations

import pytest
from pass_checks import Subject, fires, stays, values
from torch import nn

NAME = "leading_axes"


class Plain(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x * 2)


FORMS = {
    "keys of an exporter": (lambda x: x.reshape(-1, 5, 8).transpose(1, 2).reshape(2, 3, 8, 5), (2, 3, 5, 8)),
    "heads repeated": (
        lambda x: x[:, :, None].expand(2, 3, 2, 5, 8).reshape(12, 5, 8).transpose(1, 2).reshape(2, 6, 8, 5),
        (2, 3, 5, 8),
    ),
    "axes joined": (lambda x: x.reshape(2, 3, 5, 8).permute(0, 1, 3, 2).reshape(6, 8, 5), (6, 40)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, shape = FORMS[form]
    case = Subject(Plain(function), values(*shape))
    graph = fires(NAME, case, once=False, reshape=1)
    turned = [n for n in graph.graph.nodes if "transpose" in str(n.target)]
    assert len(turned) == 1 and next(iter(turned[0].users)).op == "output"


NEAR = {
    "a moved axis is split": lambda x: x.reshape(-1, 5, 8).transpose(1, 2).reshape(2, 3, 4, 10),
    "the first axis moves": lambda x: x.reshape(6, 5, 8).transpose(0, 1).reshape(5, 2, 3, 8),
    "nothing before": lambda x: x.transpose(2, 3).reshape(6, 8, 5),
    "read twice": lambda x: (t := x.reshape(-1, 5, 8).transpose(1, 2), t.reshape(2, 3, 8, 5)),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Plain(NEAR[form]), values(2, 3, 5, 8)))
