"""Repeated blocks: traced once where they are alike, in full where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from capture_models import Layer, Stack, seeded
from torch import nn

import forgec
from forgec.capture import capture
from forgec.capture.blocks import candidates, record
from forgec.capture.evaluate import evaluate


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def right(model: nn.Module, exe, *args: torch.Tensor) -> None:
    want = model(*args).detach().numpy()
    np.testing.assert_allclose(exe(*args), want, rtol=1e-5, atol=1e-5)


def test_equal_blocks_are_traced_once():
    model = seeded(Stack, depth=5)
    captured = capture(model, (values(2, 8),)).graph
    assert captured.mode == "blocks"
    assert [len(block.instances) for block in captured.blocks.values()] == [5]
    full = capture(model, (values(2, 8),), mode="full").graph
    assert captured.node_count() == full.node_count()
    x = values(2, 8, seed=1)
    for graph in (captured, full):
        torch.testing.assert_close(evaluate(graph, [x])[0], model(x))


def test_a_run_without_values_runs_blocks_that_are_alike_once():
    model = seeded(Stack, depth=4, scales=[1.0, 0.5, 1.0, 0.5])
    runs = []
    for block in candidates(model).values():
        next(block.children()).register_forward_hook(lambda *_: runs.append(1))
    recorded = record(model, (values(2, 8),), {}, fake=True)
    assert len(runs) == 2
    real = record(model, (values(2, 8),), {})
    assert len(runs) == 6
    assert recorded.returned == real.returned
    assert recorded.result.shape == real.result.shape


@pytest.mark.parametrize("scales", [[1.0] * 4, [1.0, 0.5, 1.0, 0.5]])
def test_each_kind_of_block_runs_once(scales):
    """Their trace tells what they return; the model is not run for it."""
    model = seeded(Stack, depth=4, scales=scales)
    runs = []
    for block in candidates(model).values():
        next(block.children()).register_forward_hook(lambda *_: runs.append(1))
    captured = capture(model, (values(3, 8),), fake=True).graph
    assert len(runs) == len(set(scales))
    assert sorted(len(b.instances) for b in captured.blocks.values()) == sorted(
        map(scales.count, set(scales))
    )
    x = values(3, 8, seed=1)
    torch.testing.assert_close(evaluate(captured, [x])[0], model(x))
    assert not captured.notes


@pytest.mark.parametrize("mode", ["auto", "full", "blocks"])
def test_every_mode_computes_the_same(mode):
    model = seeded(Stack)
    exe = forgec.compile(model, (values(2, 8), values(8)), capture=mode)
    right(model, exe, values(2, 8, seed=2), values(8, seed=3))


def test_blocks_that_differ_in_an_attribute_are_two_kinds():
    model = seeded(Stack, depth=4, scales=[1.0, 0.5, 1.0, 0.5])
    captured = capture(model, (values(2, 8),)).graph
    assert sorted(len(b.instances) for b in captured.blocks.values()) == [2, 2]
    right(model, forgec.compile(model, (values(2, 8),)), values(2, 8, seed=4))


def test_a_single_odd_block_is_part_of_the_main_graph():
    model = seeded(Stack, depth=3, scales=[1.0, 0.25, 1.0])
    captured = capture(model, (values(2, 8),)).graph
    assert [len(b.instances) for b in captured.blocks.values()] == [2]
    right(model, forgec.compile(model, (values(2, 8),)), values(2, 8, seed=4))


class Sneaky(nn.Module):
    """Blocks whose difference no attribute shows: the index decides, and it counts the blocks."""

    class Block(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x) * (10.0 if self.index == 2 else 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block(i) for i in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_blocks_that_only_look_alike_are_found_by_the_check():
    model = seeded(Sneaky)
    exe = forgec.compile(model, (values(2, 4),))
    assert exe.report.capture.mode == "full"
    assert "differ" in (exe.report.capture.note or "")
    right(model, exe, values(2, 4, seed=5))


def test_modes_other_than_auto_do_not_fall_back():
    with pytest.raises(forgec.FidelityError):
        forgec.compile(seeded(Sneaky), (values(2, 4),), capture="blocks")


class Shared(nn.Module):
    """One block called three times, and one that shares a parameter with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(6, i) for i in range(2))
        self.layers[1].inner.weight = self.layers[0].inner.weight

    def forward(self, x):
        for _ in range(3):
            x = self.layers[0](x)
        return self.layers[1](x)


def test_one_block_called_often_and_shared_parameters():
    model = seeded(Shared)
    exe = forgec.compile(model, (values(2, 6),))
    right(model, exe, values(2, 6, seed=6))
    assert len(exe.program.constants) == 3  # one weight, two biases


class Structured(nn.Module):
    """Blocks that take a dict and keyword arguments and return a tuple with a None and an input in it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x, options, *, bias=None):
            y = self.inner(x) * options["scale"]
            return (y if bias is None else y + bias), None, options["scale"]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x, scale):
        for layer in self.layers:
            x, _, scale = layer(x, {"scale": scale}, bias=scale)
        return x + scale


def test_structured_block_arguments_and_results():
    model = seeded(Structured)
    exe = forgec.compile(model, (values(2, 4), values(4)))
    assert exe.report.capture.mode == "blocks"
    right(model, exe, values(2, 4, seed=7), values(4, seed=8))


class Stateful(nn.Module):
    """Blocks that count their calls in a buffer."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.seen.add_(x.sum(0))
            return self.inner(x) + self.seen

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block() for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_blocks_with_state_are_traced_in_full():
    model = seeded(Stateful)
    exe = forgec.compile(model, (values(2, 4),))
    assert exe.report.capture.mode == "full" and len(exe.program.states) == 2
    for seed in range(3):
        right(model, exe, values(2, 4, seed=seed))


def test_the_model_is_left_as_it_was():
    model = seeded(Stack)
    before = {name: value for name, value in vars(model.layers[0]).items()}
    capture(model, (values(2, 8),))
    assert vars(model.layers[0]) == before


class Peeking(Stack):
    """Reads a weight of a block outside of the block."""

    def forward(self, x):
        return super().forward(x) * self.layers[1].inner.weight.sum()


class Box:
    """An argument that cannot be compared."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class Boxed(nn.Module):
    """Some calls of its blocks take a box."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, box=None):
            return self.linear(x) if box is None else self.linear(x) + box.value

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block() for _ in range(4))

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x, Box(x * 2)) if number == 2 else layer(x)
        return x


@pytest.mark.parametrize(("form", "width", "repeated"), [(Peeking, 8, 4), (Boxed, 4, 3)])
def test_weights_of_blocks_that_the_rest_needs(form, width, repeated):
    model = seeded(form)
    names = list(dict(model.named_parameters()))
    captured = capture(model, (values(2, width),)).graph
    assert [len(b.instances) for b in captured.blocks.values()] == [repeated]
    assert list(dict(model.named_parameters())) == names
    right(model, forgec.compile(model, (values(2, width),)), values(2, width, seed=4))
    again = capture(model, (values(3, width),), fake=True).graph
    assert [len(b.instances) for b in again.blocks.values()] == [repeated] and not again.notes
    x = values(3, width, seed=5)
    torch.testing.assert_close(evaluate(again, [x])[0], model(x))


class Looks(nn.Module):
    """Branches on a value where it is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        if not torch.compiler.is_compiling() and bool(x.sum() > 1e9):
            return x
        return self.linear(x)


def test_without_the_check_a_model_that_looks_at_values_is_run_with_them():
    model = seeded(Looks)
    right(model, forgec.compile(model, (values(2, 4),), check=False), values(2, 4, seed=4))
