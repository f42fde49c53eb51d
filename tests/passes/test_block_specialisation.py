"""What all calls of a repeated block have in common."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, run_pass, seeded, stays, survives, values
from torch import nn

NAME = "block_specialisation"


class Block(nn.Module):
    """A linear between functions; ``more`` are what the stack passes beside x."""

    def __init__(self, form, buffer: torch.Tensor | None = None) -> None:
        super().__init__()
        self.form = form
        self.inner = nn.Linear(4, 4)
        if buffer is not None:
            self.register_buffer("own", buffer)

    def forward(self, x, *more):
        return self.form(self, x, *more)


class Stack(nn.Module):
    """Blocks in a row, called with what ``outer`` makes of the inputs."""

    def __init__(self, form, outer=lambda x: (x,), depth: int = 3, buffers=None) -> None:
        super().__init__()
        buffers = buffers or [None] * depth
        self.blocks = nn.ModuleList(Block(form, buffer) for buffer in buffers)
        self.outer = outer

    def forward(self, *inputs):
        x, *more = self.outer(*inputs)
        for block in self.blocks:
            x = block(x, *more)
        return x


def stack(form, outer, *inputs, buffers=None) -> Subject:
    module = seeded(Stack(form, outer, buffers=buffers))
    subject = Subject(module, *inputs, mode="blocks")
    assert len(subject.graph.blocks) == 1
    return subject


def parameters(graph) -> list[str]:
    (block,) = graph.blocks.values()
    return [str(node.meta["type"]) for node in block.graph.nodes if node.op == "placeholder"]


def residual(block, x, mask):
    return x + block.inner(x) * mask


def test_constant_argument():
    subject = stack(residual, lambda x: (x, (torch.arange(4) < 3).float()), values(2, 4))
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 2
    assert parameters(graph) == ["f32[2,4]"]
    subject.check(graph)
    assert run_pass(graph, NAME) == 0
    survives(subject)


def test_expression_of_a_constant_argument():
    """The whole expression moves, where it was not folded."""
    subject = stack(residual, lambda x: (x, (torch.arange(4) < 3).float()), values(2, 4))
    graph = subject.graph.copy()
    run_pass(graph, NAME)
    assert parameters(graph) == ["f32[2,4]"]
    subject.check(graph)


def test_expanded_argument():
    subject = stack(
        lambda b, x, m: x + torch.matmul(b.inner(x), m),
        lambda x, m: (x, m.expand(4, 4)),
        values(2, 4),
        values(1, 4),
    )
    graph = fires(NAME, subject, expand=3)
    assert parameters(graph) == ["f32[2,4]", "f32[1,4]"]


def test_argument_passed_through():
    """A block that gives back what it was given, as T5's give their position bias."""

    class Through(Stack):
        def forward(self, x):
            bias = torch.arange(4.0)
            for block in self.blocks:
                x, bias = block(x, bias)
            return x + bias

    def form(block, x, bias):
        return block.inner(x) + bias, bias

    subject = Subject(seeded(Through(form)), values(2, 4), mode="blocks")
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) > 0
    assert parameters(graph) == ["f32[2,4]"], "the bias is constant in every call, once the chain is broken"
    subject.check(graph)
    survives(subject)


def test_arguments_and_results_that_nobody_uses():
    class Unused(Stack):
        def forward(self, x, y):
            for block in self.blocks:
                x, _ = block(x, y)
            return x

    subject = Subject(
        seeded(Unused(lambda b, x, y: (b.inner(x), torch.sin(x)))), values(2, 4), values(3), mode="blocks"
    )
    graph = fires(NAME, subject, sin=0)
    assert parameters(graph) == ["f32[2,4]"]


def test_result_that_one_call_uses():
    class Last(Stack):
        def forward(self, x):
            for block in self.blocks:
                x, extra = block(x)
            return x + extra

    subject = Subject(seeded(Last(lambda b, x: (b.inner(x), torch.sin(x)))), values(2, 4), mode="blocks")
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 0
    survives(subject)
    assert counts(graph)["sin"] == 3


@pytest.mark.parametrize("outer", ["dict", "tuple", "nothing more"])
def test_structured_blocks(outer):
    """Blocks that return a dict, or a tuple with None in it."""
    forms = {
        "dict": lambda b, x: {"x": b.inner(x), "twice": x * 2},
        "tuple": lambda b, x: (b.inner(x), None, (x * 2,)),
        "nothing more": lambda b, x: (b.inner(x),),
    }

    class Structured(Stack):
        def forward(self, x):
            total = 0.0
            for block in self.blocks:
                out = block(x)
                x = out["x"] if outer == "dict" else out[0]
                if outer != "nothing more":
                    total = total + (out["twice"] if outer == "dict" else out[2][0])
            return x + total

    survives(Subject(seeded(Structured(forms[outer])), values(2, 4), mode="blocks"))


def test_block_that_returns_its_input():
    class Skip(Stack):
        def forward(self, x):
            y = x
            for block in self.blocks:
                y, x = block(y)
            return y + x

    survives(Subject(seeded(Skip(lambda b, x: (b.inner(x), x))), values(2, 4), mode="blocks"))


def test_blocks_called_twice():
    class Twice(Stack):
        def forward(self, x, m):
            for block in [*self.blocks, *self.blocks]:
                x = block(x, m)
            return x

    subject = Subject(seeded(Twice(residual)), values(2, 4), values(4), mode="blocks")
    (block,) = subject.graph.blocks.values()
    assert len(block.instances) == 6
    survives(subject)


def test_blocks_that_share_their_weights():
    """One parameter in all instances is read under one name, and folds."""

    class Shared(Stack):
        def __init__(self, form) -> None:
            super().__init__(form)
            for block in self.blocks[1:]:
                block.inner = self.blocks[0].inner

    subject = Subject(seeded(Shared(lambda b, x: torch.tanh(b.inner(x)))), values(2, 4), mode="blocks")
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 2
    (block,) = graph.blocks.values()
    assert all(not binding for binding in block.instances.values())
    subject.check(graph)
    survives(subject)


def test_equal_buffers_are_one():
    """Every layer's own causal mask, as GPT-Neo and nanoGPT register it."""
    masks = [torch.ones(4, 4).tril().bool() for _ in range(3)]
    subject = stack(
        lambda b, x: b.inner(x).masked_fill(~b.own, 0.0), lambda x: (x,), values(4, 4), buffers=masks
    )
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 1
    subject.check(graph)
    assert counts(survives(subject))["bitwise_not"] == 0


def test_copies_keep_their_own_bindings():
    masks = [torch.ones(4, 4).tril().bool() for _ in range(3)]
    subject = stack(
        lambda b, x: b.inner(x).masked_fill(~b.own, 0.0), lambda x: (x,), values(4, 4), buffers=masks
    )
    subject.optimised()
    subject.check(subject.graph)


def test_buffers_that_differ_in_one_instance():
    masks = [torch.ones(4, 4).tril().bool() for _ in range(3)]
    masks[2][0, 3] = True
    subject = stack(
        lambda b, x: b.inner(x).masked_fill(b.own, 0.0), lambda x: (x,), values(4, 4), buffers=masks
    )
    stays(NAME, subject, masked_fill=3)


class Alternating(Stack):
    """Two masks in turn, as models with local and global layers have them."""

    def forward(self, x):
        masks = [torch.arange(4.0), torch.arange(4.0) * 2]
        for index, block in enumerate(self.blocks):
            x = block(x, masks[index % 2])
        return x


def test_constants_that_differ_between_calls():
    stays(NAME, Subject(seeded(Alternating(residual)), values(2, 4), mode="blocks"))


def test_argument_that_depends_on_an_input():
    """It is the same in every call, and all ones on the example."""
    stays(NAME, stack(residual, lambda x, m: (x, m * 1.5), values(2, 4), torch.ones(4)), mul=4)


def test_expands_of_other_sizes():
    class Sizes(Stack):
        def forward(self, x, m):
            for block, narrow in zip(self.blocks, (m[:1], m, m[:1]), strict=True):
                x = block(x, narrow.expand(4, 4))
            return x

    module = seeded(Sizes(lambda b, x, m: x + torch.matmul(b.inner(x), m)))
    subject = Subject(module, values(2, 4), values(4, 4), mode="blocks")
    graph = subject.prepared(NAME)
    run_pass(graph, NAME)
    assert parameters(graph) == ["f32[2,4]", "f32[4,4]"]
    survives(subject)


def test_state_changed_outside_of_the_blocks():
    """The mask is a buffer that the model changes: no constant."""

    class Stateful(Stack):
        def __init__(self, form) -> None:
            super().__init__(form)
            self.register_buffer("mask", torch.ones(4))

        def forward(self, x):
            for block in self.blocks:
                x = block(x, self.mask)
            self.mask.mul_(0.5)
            return x

    subject = Subject(seeded(Stateful(residual)), values(2, 4), mode="blocks")
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 0
    assert len(fused(graph, "mul")) == 2
