"""Sizes and branches that follow from what a module holds: traced directly, refused where an input decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from forgec.models import streaming
from tiers import slow_after
from torch import Tensor, nn

import forgec
from forgec.capture import known
from forgec.debug import override
from forgec.errors import CaptureError

SEED = 17
ROWS = 6


class Holding(nn.Module):
    """A function of x and of tensors that the module holds, as buffers or as plain attributes."""

    def __init__(self, function: Callable[..., Tensor], *held: Tensor, plain: bool = False) -> None:
        super().__init__()
        self.function = function
        self.names = [f"held{index}" for index in range(len(held))]
        for name, tensor in zip(self.names, held, strict=True):
            if plain:
                setattr(self, name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, x):
        return self.function(x, *(getattr(self, name) for name in self.names))


def parts(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.cat([part - part.mean(0) for part in x.split((lengths * 2).tolist())])


def taken(x: Tensor, mask: Tensor) -> Tensor:
    return x[mask] * 2


def taken_along(x: Tensor, mask: Tensor) -> Tensor:
    return x[:, : mask.sum()].t()[:, mask]


def written(x: Tensor, mask: Tensor) -> Tensor:
    y = x * 2
    y[mask] = x[: int(mask.sum())]
    return y


def filled(x: Tensor, mask: Tensor) -> Tensor:
    return x.index_put((mask,), torch.tensor(0.5))


def repeated(x: Tensor, counts: Tensor) -> Tensor:
    return x.repeat_interleave(counts, 0)


def listed(x: Tensor, mask: Tensor) -> Tensor:
    return x[mask.nonzero().squeeze(1)] + torch.unique(mask.long() * 3).sum()


def branching(x: Tensor, limits: Tensor) -> Tensor:
    return x.relu() if limits.max() > 3 else -x


def padded(x: Tensor, size: Tensor) -> Tensor:
    frames = torch.ceil((x.shape[0] - size) / 4 + 1).to(torch.int64)
    return nn.functional.pad(x, (0, 0, size, frames * 4))


MASK = torch.tensor([True, False, True, True, False, False])
CASES = {
    "parts": (parts, torch.tensor([1, 2])),
    "boolean index": (taken, MASK),
    "of another axis": (taken_along, MASK),
    "boolean assignment": (written, MASK),
    "of a number": (filled, MASK),
    "repeats": (repeated, torch.tensor([1, 0, 2, 1, 3, 1])),
    "places": (listed, MASK),
    "a branch": (branching, torch.tensor([1, 7])),
    "paddings": (padded, torch.tensor(3)),
}


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    print("seed", SEED)
    return [torch.randn(ROWS, 4, generator=generator) for _ in range(2)]


def compiled(model: nn.Module, capsys) -> forgec.Executable:
    """Compared with eager on an input that is not the example, and captured without an export."""
    x, other = inputs()
    with override({"debug": "1"}):
        executable = forgec.compile(model, (x,))
    assert "by torch.export" not in capsys.readouterr().err
    with torch.no_grad():
        np.testing.assert_allclose(executable(other), model(other).numpy(), rtol=1e-5, atol=1e-6)
    assert "aten" not in {instr.op for instr in executable.program.main.body}
    return executable


@pytest.mark.parametrize("plain", [False, True], ids=["buffer", "attribute"])
@pytest.mark.parametrize("name", CASES)
def test_what_a_module_holds_gives_sizes(name, plain, capsys):
    function, *held = CASES[name]
    compiled(Holding(function, *held, plain=plain).eval(), capsys)


class Step(nn.Module):
    """A block that is given the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x, lengths):
        return torch.cat([self.inner(part) for part in x.split(lengths.tolist())])


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Step() for _ in range(3))
        self.register_buffer("lengths", torch.tensor([2, 4]))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, self.lengths + 0)
        return x


def test_blocks_that_are_given_what_decides_are_traced_with_the_model(capsys):
    torch.manual_seed(SEED)
    executable = compiled(Steps().eval(), capsys)
    assert executable.report.capture.mode == "full"
    with pytest.raises(CaptureError):
        forgec.compile(Steps().eval(), (inputs()[0],), capture="blocks")


def chance(x: Tensor, mask: Tensor) -> Tensor:
    return x[torch.rand(ROWS) > 0.5] + mask.sum()


def large(x: Tensor, table: Tensor) -> Tensor:
    return x[table[:ROWS] > 0]


@pytest.mark.parametrize(
    ("function", "held"),
    slow_after(
        1,
        [
            (lambda x, mask: x[(x[:, 0] > 0) & mask], MASK),
            (lambda x, mask: -x if (x[0, 0] > 0) | mask[1] else x, MASK),
            (chance, MASK),
            (large, torch.ones(2**18 + 1)),
        ],
    ),
    ids=["an input's mask", "an input's branch", "chance", "a large weight"],
)
def test_what_an_input_chance_or_a_large_weight_decides_is_refused(function, held):
    """Of a large weight a streamed model has no values."""
    assert known._LIMIT <= streaming.SMALL
    with pytest.raises(CaptureError, match="holds it as a buffer"):
        forgec.compile(Holding(function, held).eval(), (inputs()[0],))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(4, 3, batch_first=True)

    def forward(self, x):
        return self.inner(x[None])[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_a_list_of_their_weights(kind, capsys):
    torch.manual_seed(SEED)
    model = Recurrent(kind).eval()
    before = list(model.inner._flat_weights)
    compiled(model, capsys)
    assert all(a is b for a, b in zip(model.inner._flat_weights, before, strict=True))


def ranged(x: Tensor, start: Tensor, **named: object) -> Tensor:
    first = start + 2
    return x + torch.arange(first, first + 3 + (ROWS - 3), **named)[:, None]


class Ranged(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x, start):
        return self.function(x, start)


@pytest.mark.parametrize(
    "function",
    [
        ranged,
        partial(ranged, dtype=torch.int32),
        lambda x, start: x + torch.arange(start=start, end=ROWS + start)[:, None],
        lambda x, start: x + torch.arange(start, start + ROWS, 1)[:, None],
    ],
    ids=["numbers", "type", "names", "step"],
)
def test_ranges_from_a_number_that_is_not_known(function):
    x, other = inputs()
    model = Ranged(function).eval()
    executable = forgec.compile(model, (x, torch.tensor(5)))
    start = torch.tensor(11)
    np.testing.assert_allclose(executable(other, start), model(other, start).numpy(), rtol=1e-6)


def test_ranges_of_a_length_that_is_not_known_are_refused():
    model = Ranged(lambda x, start: x + torch.arange(start, start * 2)[:, None]).eval()
    with pytest.raises(CaptureError):
        forgec.compile(model, (inputs()[0], torch.tensor(ROWS)))
