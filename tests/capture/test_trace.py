"""Direct traces: what the code does at every size, and an export where only that can tell."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tiers import slow_after
from torch import nn
from torch.utils import _pytree as pytree

import forgec
from forgec import Dim
from forgec.capture import capture
from forgec.capture.trace import TraceError, trace
from forgec.debug import override
from forgec.errors import CaptureError, UnsupportedOpError

SIZES = (4, 1)


class Branching(nn.Module):
    """Another function for one row than for several."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        y = self.inner(x)
        return torch.relu(y) if x.shape[0] > 1 else torch.tanh(y) - x.shape[0]


class Table(nn.Module):
    """A table made from the size, which no parameter holds."""

    def forward(self, x):
        return x * torch.tensor([float(x.shape[0]), 2.0, 3.0])


class InPlace(nn.Module):
    """Tensors of its own are changed, of which the first is read before, between and after."""

    def forward(self, x):
        y = x * 2
        held = [y]
        before = y.view(-1).sum()
        y += 1
        between = y.exp()
        y.masked_fill_(x > 0, 0.5)
        places = torch.zeros(x.shape[0], 1, dtype=torch.long)
        return held[0] + before, between, torch.zeros_like(x).scatter_(1, places, 1.0)


class MarkedInPlace(nn.Module):
    """Operators whose pure form has another name than theirs without the end."""

    def forward(self, x):
        marked = x > 0
        marked |= x < -1
        marked[0] &= x[0] < 2
        marked ^= x > 0.5
        return x * marked


class PartInPlace(nn.Module):
    """Parts of a tensor are changed, of which one is kept."""

    def forward(self, x):
        y = x * 2
        y[0] = 1
        y[:, 1:2] = y[:, :1]
        y[:, 1:][..., -1] += x[:, 0]
        rest = y[:, 1:]
        rest.zero_()
        rest += 3
        return y, rest + y[:, :2]


class ApartInPlace(nn.Module):
    """What is changed lies beside what is left, in the same memory."""

    def forward(self, x):
        y = x * 2
        first, second = y[:, :1], y[:, 1:2]
        first += second
        return y, first - second


class TurnedInPlace(nn.Module):
    """What is changed is seen in another order."""

    def forward(self, x):
        y = x * 2
        y.t()[0] = 1
        return y


class SeenInPlace(nn.Module):
    """A view that was made before a change has it too."""

    def forward(self, x):
        y = x * 2
        flat = y.view(-1)
        y += 1
        return flat


class RoundedInPlace(nn.Module):
    """A change keeps the type that a new tensor would not have."""

    def forward(self, x):
        y = x.to(torch.bfloat16)
        y += x
        return y.float()


class SameInPlace(nn.Module):
    """What is contiguous already is its own contiguous tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.contiguous().add_(x.shape[0])
        return x + self.seen


class Summing(nn.Module):
    """An operator that torch knows to compute by others."""

    def forward(self, x):
        return torch.einsum("ij,kj->ik", x, x + 1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.add_(x.shape[0])
        return x + self.seen


class Exchanging(nn.Module):
    """A state that is set rather than changed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + x.shape[0]
        return x + self.seen


class Keeping(nn.Module):
    """It makes a table in its first call, in a dictionary or in an attribute of its own."""

    def __init__(self, within: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.tables: dict[str, torch.Tensor] = {}
        self.within = within

    def forward(self, x):
        held = self.tables if self.within else vars(self)
        if "table" not in held:
            held["table"] = torch.arange(3.0)
        return self.inner(x) + held["table"]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x, y):
        return self.inner(x) - 2 * y


@pytest.mark.parametrize("twice", ["itself", "a weight", "a view"])
def test_one_tensor_given_as_several_inputs(twice):
    """Each is an input of its own."""
    torch.manual_seed(0)
    model = Pair().eval()
    x = torch.randn(4, 3)[1:]
    example = {"itself": (x, x), "a weight": (model.inner.weight, x), "a view": (x, x.t())}[twice]
    executable = forgec.compile(model, example, check=False)
    a, b = torch.randn(3, 3), torch.randn(3, 3)
    np.testing.assert_allclose(executable(a, b), model(a, b).detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_inputs_that_do_not_fit_are_one_error(check, capfd):
    with pytest.raises(CaptureError, match="fails on the example inputs"):
        forgec.compile(Pair().eval(), (torch.ones(3, 3), torch.ones(3, 2)), check=check)
    assert capfd.readouterr().err == ""


class Deciding(nn.Module):
    """A value decides for one row only."""

    def forward(self, x):
        if x.shape[0] == 1 and bool((x > 0).all()):
            return x
        return -x


class Several(nn.Module):
    """An operator with several results, one of them unused."""

    def forward(self, x):
        values, places = x.topk(2, dim=-1)
        return values + places, x.chunk(3, dim=-1)[1]


def _compiled(model, rows):
    generator = torch.Generator().manual_seed(rows)
    example, other = (torch.randn(rows, 3, generator=generator) for _ in range(2))
    return forgec.compile(model, (example,)), other


@pytest.mark.parametrize(
    ("made", "refused"),
    slow_after(
        6,
        [
            (Branching, ""),
            (Several, ""),
            (PartInPlace, ""),
            (SeenInPlace, "add_"),
            (Counting, "add_"),
            (Exchanging, "seen"),
            (Table, ""),
            (InPlace, ""),
            (Summing, ""),
            (MarkedInPlace, ""),
            (ApartInPlace, ""),
            (TurnedInPlace, "fill_"),
            (RoundedInPlace, "add_"),
            (SameInPlace, "add_"),
        ],
    ),
    ids=lambda x: getattr(x, "__name__", x),
)
def test_every_size_is_what_the_code_does_there(made, refused, capsys):
    torch.manual_seed(0)
    model = made().eval()
    for rows in SIZES:
        with override({"debug": "1"}):
            executable, x = _compiled(model, rows)
        with torch.no_grad():
            wanted = pytree.tree_leaves(copy.deepcopy(model)(x))  # a copy, as one counts its calls
        found = pytree.tree_leaves(executable(x))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)
        assert executable.report.warnings == []
        said = [line for line in capsys.readouterr().err.splitlines() if "by torch.export" in line]
        assert bool(said) is bool(refused)
        assert all(refused in text for text in said)


def test_values_that_decide_are_the_error_of_an_export():
    model = Deciding().eval()
    assert not capture(model, (torch.ones(4, 3),)).graph.notes
    with pytest.raises(CaptureError, match="cannot capture"):
        capture(model, (torch.ones(1, 3),))


class Stacked(nn.Module):
    def __init__(self, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block() for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


@pytest.mark.parametrize("made", [Casting, partial(Stacked, Casting)], ids=["model", "block"])
def test_autocast_is_not_lost(made):
    """It casts behind the place where operators are written down."""
    with pytest.raises(UnsupportedOpError, match="wrap_with_autocast"):
        forgec.compile(made().eval(), (torch.ones(4, 3),), check=False)


def test_no_export_is_made(monkeypatch):
    """What costs the time is not called."""
    model = Branching().eval()
    module = importlib.import_module("forgec.capture.tracers")

    def export(*_):
        raise AssertionError("exported")

    monkeypatch.setattr(module, "export_module", export)
    monkeypatch.setattr(torch.export, "export", export)
    captured = capture(model, (torch.ones(1, 3),)).graph
    targets = [str(node.target) for node in captured.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.linear.default", "aten.tanh.default", "aten.sub.Tensor"]
    assert [x.data_ptr() for x in captured.constants.values()] == [p.data_ptr() for p in model.parameters()]
    assert not captured.notes


def test_the_model_is_left_as_it_was():
    model = Branching().eval()
    before = dict(model.inner.named_parameters())
    for rows in SIZES:
        capture(model, (torch.ones(rows, 3),))
    assert all(model.inner.get_parameter(name) is p for name, p in before.items())
    refused = Counting().eval()
    for rows in SIZES:
        capture(refused, (torch.ones(rows, 3),))
    assert refused.seen == 0


def test_tables_of_several_sizes_are_kept_apart(tmp_path):
    """Programs of one file share constants by name."""
    model = Table().eval()
    rows = Dim("rows", 2, 4)
    buckets = forgec.compile_buckets(model, (torch.ones(4, 3),), dynamic_shapes={"x": {0: rows}}, check=False)
    buckets.save(tmp_path / "m.forge")
    for opened in (buckets, forgec.Buckets(tmp_path / "m.forge")):
        for size in (2, 4):
            x = torch.randn(size, 3, generator=torch.Generator().manual_seed(size))
            np.testing.assert_allclose(opened(x), model(x).numpy(), rtol=1e-6)


class Around(nn.Module):
    """What stands around the blocks has to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = Stacked(Branching), TurnedInPlace()

    def forward(self, x):
        return self.outer(self.inner(x))


def test_blocks_are_traced_without_an_export(monkeypatch):
    export, exported = torch.export.export, []

    def counted(module, *args, **more):
        exported.append(type(module))
        return export(module, *args, **more)

    monkeypatch.setattr(torch.export, "export", counted)
    torch.manual_seed(0)
    model = Around().eval()
    executable, x = _compiled(model, 4)
    assert exported == [Around] and executable.report.capture.mode == "blocks"
    np.testing.assert_allclose(executable(x), model(x).detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("within", [False, True])
def test_a_run_without_values_leaves_no_tensor_of_its_own(within):
    """The model is run with them then."""
    model = Stacked(partial(Keeping, within)).eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    executable = forgec.compile(model, (x,), check=False)
    with torch.no_grad():
        wanted = model(x)
    np.testing.assert_allclose(executable(x), wanted.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("within", [False, True])
def test_a_trace_that_keeps_a_tensor_is_refused(within):
    model = Keeping(within).eval()
    before = {**vars(model)}
    with pytest.raises(TraceError, match=r"kept in table"):
        trace(model, (torch.ones(4, 3),), {})
    assert vars(model) == before and not model.tables
