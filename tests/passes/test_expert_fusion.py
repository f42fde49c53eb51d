"""Rows times the weights of their experts: gathered weights in a batched product become one operator."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, fused, seeded, stays, values
from torch import nn

NAME = "expert_fusion"
EXPERTS, OUTS, DEPTH, ROWS = 5, 6, 8, 7


class Experts(nn.Module):
    def __init__(self, form, shape=(EXPERTS, OUTS, DEPTH)) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x, ids):
        return self.form(x, self.weight, ids)


def from_the_right(x, weight, ids):
    return torch.bmm(weight[ids], x.unsqueeze(-1)).squeeze(-1)


def from_the_left(x, weight, ids):
    return torch.bmm(x.unsqueeze(1), weight[ids]).squeeze(1)


FORMS = {
    "out x in": (from_the_right, (EXPERTS, OUTS, DEPTH)),
    "in x out": (from_the_left, (EXPERTS, DEPTH, OUTS)),
    "by matmul": (lambda x, w, i: (w[i] @ x[:, :, None])[:, :, 0], (EXPERTS, OUTS, DEPTH)),
    "reshaped": (lambda x, w, i: torch.bmm(w[i], x.reshape(ROWS, DEPTH, 1)), (EXPERTS, OUTS, DEPTH)),
}


def chosen(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, EXPERTS, (ROWS,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, shape = FORMS[form]
    subject = Subject(seeded(Experts(function, shape)), values(ROWS, DEPTH), chosen())
    graph = fires(NAME, subject, expert_linear=1, index=0, bmm=0, matmul=0)
    (node,) = fused(graph, "expert_linear")
    assert node.args[3] == EXPERTS


def test_ids_from_the_end():
    subject = Subject(
        seeded(Experts(from_the_right)), values(ROWS, DEPTH), chosen() - EXPERTS,
        draw=lambda g: [torch.randn(ROWS, DEPTH, generator=g), torch.randint(-EXPERTS, EXPERTS, (ROWS,), generator=g)],
    )  # fmt: skip
    fires(NAME, subject, expert_linear=1)


def test_both_products_of_a_gated_expert():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.zeros(EXPERTS, 2 * OUTS, DEPTH))
            self.down = nn.Parameter(torch.zeros(EXPERTS, DEPTH, OUTS))

        def forward(self, x, ids):
            gate, up = from_the_right(x, self.up, ids).chunk(2, -1)
            return from_the_right(nn.functional.silu(gate) * up, self.down, ids)

    fires(NAME, Subject(seeded(Gated()), values(ROWS, DEPTH), chosen()), expert_linear=2, index=0)


NEAR = {
    "two axes are indexed": lambda x, w, i: torch.bmm(w[i, i % OUTS][:, None, :], x.unsqueeze(-1)),
    "another user": lambda x, w, i: (lambda g: torch.bmm(g, x.unsqueeze(-1)).squeeze(-1) + g.sum(-1))(w[i]),
    "weights depend on the input": lambda x, w, i: torch.bmm((w + x.sum())[i], x.unsqueeze(-1)),
    "several columns": lambda x, w, i: torch.bmm(
        w[i], x.reshape(ROWS, DEPTH, 1).expand(ROWS, DEPTH, 2) * 1.0
    ),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(seeded(Experts(NEAR[form])), values(ROWS, DEPTH), chosen()), expert_linear=0)
