"""Models made to mislead the passes, compiled and run: eager's results, or a typed error that says why not."""

from __future__ import annotations

import math

import pytest
import torch
from pass_checks import close, seeded, values
from pass_modules import Call
from torch import nn
from torch.nn import functional as F

import forgec
from forgec.errors import ForgecError
from forgec.tensors import as_numpy


def leaves(result):
    return torch.utils._pytree.tree_leaves(result)


def right(module: nn.Module, *example: torch.Tensor, other=(), runs: int = 1, **options) -> forgec.Executable:
    """Compile on the example and compare with eager on it and on other inputs."""
    exe = forgec.compile(module.eval(), example, **{"check": False, **options})
    for inputs in (example, *other):
        for _ in range(runs):
            with torch.no_grad():
                wanted = module(*(x.clone() for x in inputs))
            found = exe(*inputs)
            for a, b in zip(leaves(found), leaves(wanted), strict=True):
                assert a.dtype == as_numpy(b).dtype
                close(a, as_numpy(b))
    return exe


# Masks


def test_mask_that_is_causal_on_the_example_only():
    def form(m, x, mask):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    x, causal = values(2, 2, 4, 8), torch.ones(4, 4).tril().bool()
    right(
        Call(form), x, causal, other=[(x, causal.flip(0) | torch.eye(4).bool()), (x, torch.ones(4, 4).bool())]
    )


def test_mask_from_the_lengths_of_the_rows():
    """Causal on the example, whose rows are full; an index of the data otherwise."""

    def form(m, x, lengths):
        keep = torch.arange(4)[None, :] < lengths[:, None]
        causal = torch.ones(4, 4, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(x, x, x, attn_mask=causal & keep[:, None, None, :])

    x = values(2, 2, 4, 8)
    right(Call(form), x, torch.tensor([4, 4]), other=[(x, torch.tensor([1, 3]))])


def test_left_padding_leaves_rows_without_columns():
    """In eager such rows average over everything (smallest float), or are zero (boolean, in the operator)."""

    def added(m, x, keep):
        causal = torch.ones(4, 4, dtype=torch.bool).tril()
        mask = torch.zeros(2, 1, 4, 4).masked_fill(
            ~(causal & keep[:, None, None, :]), torch.finfo(torch.float32).min
        )
        return F.softmax(x @ x.mT * 0.5 + mask, dim=-1) @ x

    def boolean(m, x, keep):
        causal = torch.ones(4, 4, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(x, x, x, attn_mask=causal & keep[:, None, None, :])

    x, all_kept = values(2, 2, 4, 8), torch.ones(2, 4, dtype=torch.bool)
    left = torch.tensor([[False, False, True, True], [True, True, True, True]])
    for form in (added, boolean):
        right(Call(form), x, all_kept, other=[(x, left)])


def test_layers_with_other_windows():
    """Blocks of one kind that get another mask each: local and global layers in turn."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 8)

        def forward(self, x, mask):
            y = self.project(x).view(2, 5, 2, 4).transpose(1, 2)
            return x + F.scaled_dot_product_attention(y, y, y, attn_mask=mask).transpose(1, 2).reshape(
                2, 5, 8
            )

    def form(m, x):
        causal = torch.ones(5, 5, dtype=torch.bool).tril()
        window = causal & causal.T.roll(2, 0)
        for index, layer in enumerate(m.layers):
            x = layer(x, window if index % 2 else causal)
        return x

    module = seeded(Call(form, layers=nn.ModuleList(Layer() for _ in range(4))))
    right(module, values(2, 5, 8), other=[(values(2, 5, 8, seed=1),)])


# Blocks


class Mixed(nn.Module):
    """A block with a plain attribute, a buffer and a flag that decide what it computes."""

    def __init__(self, power: int = 1, factor: float = 1.0, index: int = 0) -> None:
        super().__init__()
        self.index, self.power = index, power
        self.register_buffer("factor", torch.full((4,), factor))
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        y = self.inner(x) * self.factor
        return x + y**self.power


@pytest.mark.parametrize(
    "layers",
    [
        [Mixed(1), Mixed(2), Mixed(1)],
        [Mixed(1, 1.0), Mixed(1, 2.0), Mixed(1, 1.0)],
        [Mixed(1, index=0), Mixed(1, index=1), Mixed(2, index=2)],
        [Mixed(1, index=5), Mixed(1, index=5), Mixed(1, index=7)],
    ],
    ids=["attribute", "buffer", "counter and attribute", "index"],
)
def test_blocks_that_look_alike(layers):
    right(seeded(nn.Sequential(*layers)), values(3, 4), other=[(values(3, 4, seed=1),)])


def test_index_that_is_no_counter():
    """Attributes that number the layers are ignored; this one is an operand as well."""

    class Scaled(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index, self.inner = index, nn.Linear(4, 4)

        def forward(self, x):
            return x + self.inner(x) * self.index

    exe = right(seeded(nn.Sequential(*(Scaled(i) for i in range(3)))), values(3, 4), check=True)
    assert "blocks that look alike differ" in exe.report.capture.note


def test_blocks_with_an_attribute_changed_from_outside():
    """The first half of the layers runs with another flag than the second."""

    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.flag = nn.Linear(4, 4), False

        def forward(self, x):
            return torch.sin(self.inner(x)) if self.flag else self.inner(x)

    module = seeded(nn.Sequential(*(Flagged() for _ in range(4))))
    module[2].flag = module[3].flag = True
    right(module, values(3, 4))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_half_of_the_parameters_are_shared(position):
    module = seeded(nn.Sequential(*(Mixed() for _ in range(3))))
    module[position].inner.weight = module[(position + 1) % 3].inner.weight
    right(module, values(3, 4))


def test_one_block_many_times():
    block = Mixed(2)
    module = Call(
        lambda m, x: m.block(m.block(x).tanh()).tanh() + m.layers[1](m.layers[0](x)),
        block=block,
        layers=nn.ModuleList([block, block]),
    )
    right(seeded(module), values(3, 4))


def test_results_of_all_layers():
    """output_hidden_states: every block's result is a result, the last one twice."""

    def form(m, x):
        hidden = [x]
        for layer in m.layers:
            hidden.append(layer(hidden[-1]))
        return {"last": hidden[-1], "hidden": tuple(hidden)}

    module = seeded(Call(form, layers=nn.ModuleList(Mixed() for _ in range(3))))
    right(module, values(3, 4))


def test_block_with_keyword_default_and_none():
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x, mask=None, *, scale=1.0):
            y = self.inner(x) * scale
            return y if mask is None else y * mask

    def form(m, x, mask):
        x = m.layers[0](x)
        x = m.layers[1](x, None, scale=2.0)
        x = m.layers[2](x, mask=mask)
        return m.layers[3](x, mask, scale=0.5)

    right(seeded(Call(form, layers=nn.ModuleList(Optional() for _ in range(4)))), values(3, 4), values(4))


# State


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen.add_(x.sum(0))
        return self.inner(x) + self.seen


def test_state_of_the_model():
    right(seeded(Counting()), values(3, 4), runs=3)


def test_state_of_blocks():
    right(seeded(nn.Sequential(*(Counting() for _ in range(3)))), values(3, 4), runs=3)


def test_state_read_before_and_after_it_is_written():
    def form(m, x):
        before = m.seen * 1.0
        m.seen.mul_(0.5).add_(x[0])
        return before + x, m.seen * 2

    right(Call(form, seen=torch.ones(4)), values(3, 4), runs=3)


def test_cache_written_at_a_position():
    """A key cache: a slice of a buffer is replaced, and all of it is read."""

    def form(m, x, position):
        m.cache.index_copy_(1, position, x)
        return F.scaled_dot_product_attention(x[:, None], m.cache[:, None], m.cache[:, None])

    module = Call(form, cache=torch.zeros(2, 6, 4))
    right(module, values(2, 1, 4), torch.tensor([0]), other=[(values(2, 1, 4, seed=1), torch.tensor([3]))])


# In-place code


IN_PLACE = {
    "sum": lambda m, x: x.clone().add_(1.0) + x,
    "slice": lambda m, x: _assign(x, lambda y: y[:, 1:3].zero_()) + x,
    "assigned row": lambda m, x: _assign(x, lambda y: y.__setitem__(0, 5.0)) * x,
    "assigned by mask": lambda m, x: _assign(x, lambda y: y.__setitem__(y > 0, -1.0)) * x,
    "view of a view": lambda m, x: _assign(x, lambda y: y.view(-1)[:4].view(2, 2).mul_(3.0)) + x,
    "transposed": lambda m, x: _assign(x, lambda y: y.t().add_(torch.arange(3.0))) + x,
    "activation": lambda m, x: F.relu(x.clone(), inplace=True) + F.silu(x.clone(), inplace=True),
    "masked fill": lambda m, x: x.clone().masked_fill_(x > 0.5, -math.inf).softmax(-1),
    "before and after": lambda m, x: (y := x * 2, z := y + 1, y.mul_(3.0), y + z)[-1],
}


def _assign(x, change):
    y = x.clone()
    change(y)
    return y


@pytest.mark.parametrize("form", IN_PLACE)
def test_in_place(form):
    right(Call(IN_PLACE[form]), values(3, 4), other=[(values(3, 4, seed=1),)])


def test_input_changed_in_place_is_refused():
    with pytest.raises(ForgecError, match="changes its input"):
        forgec.compile(Call(lambda m, x: x.add_(1.0)).eval(), (values(3, 4),))


# Types and shapes


PROMOTED = {
    "int and float": lambda m, x, i: i * x + i,
    "int over int": lambda m, x, i: i / (i + 1) + x,
    "truth times float": lambda m, x, i: (x > 0) * x + (i > 1),
    "scalar f64": lambda m, x, i: x * m.f64 + m.f64,
    "scalar int": lambda m, x, i: i * m.whole + x.long() * m.whole,
    "half and float": lambda m, x, i: x.half() * x + x.bfloat16() * x.half(),
    "rank decides": lambda m, x, i: (i * m.narrow).dtype == torch.float16 and i * m.narrow,
    "where": lambda m, x, i: torch.where(x > 0, i, x) + torch.where(x > 0, 1, 0),
    "comparison": lambda m, x, i: (i > x) & (i == i.float()) | (x == m.f64),
    "power of int": lambda m, x, i: i**2 + i**0.5 + 2**i,
    "mean of int": lambda m, x, i: i.float().mean(-1, keepdim=True) + i.sum(),
    "small int": lambda m, x, i: (i.to(torch.int8) * 100).to(torch.int32) + i,
}


@pytest.mark.parametrize("form", PROMOTED)
def test_promotion(form):
    module = Call(
        PROMOTED[form],
        f64=torch.tensor(1.5, dtype=torch.float64),
        whole=torch.tensor(3),
        narrow=torch.tensor(0.5, dtype=torch.float16),
    )
    right(
        module,
        values(3, 4),
        torch.arange(12).view(3, 4),
        other=[(values(3, 4, seed=1), torch.arange(12).view(3, 4).flip(0))],
    )


def transformer(m, x):
    q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(-3, -2) for f in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + m.out(y.transpose(-3, -2).flatten(-2))
    return m.norm(x + m.down(F.gelu(m.up(x))))


def small_transformer() -> nn.Module:
    names = {name: nn.Linear(8, 8) for name in ("q", "k", "v", "out")}
    return seeded(
        Call(transformer, **names, up=nn.Linear(8, 16), down=nn.Linear(16, 8), norm=nn.LayerNorm(8))
    )


@pytest.mark.parametrize("shape", [(2, 5, 8), (5, 8), (1, 1, 8), (3, 0, 8), (0, 5, 8), (2, 2, 5, 8)], ids=str)
def test_transformer_of_other_shapes(shape):
    right(small_transformer(), values(*shape), other=[(values(*shape, seed=1),)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_transformer_of_other_floats(dtype):
    right(small_transformer().to(dtype), values(2, 5, 8, dtype=dtype))


def test_wide_norm_in_a_narrow_model():
    """LayerNorm kept in f32 between 16-bit projections."""

    def form(m, x):
        return m.up(m.norm((x + m.down(x)).float()).to(x.dtype))

    module = seeded(Call(form, up=nn.Linear(8, 8), down=nn.Linear(8, 8), norm=nn.LayerNorm(8))).bfloat16()
    module.norm.float()
    right(module, values(2, 5, 8, dtype=torch.bfloat16))


def _turned(m, x):
    return torch.view_as_real(torch.view_as_complex(x.view(3, 2, 2)) * 1j)


def test_complex_numbers():
    right(Call(_turned), values(3, 4), other=[(values(3, 4, seed=1),)])


def test_unused_and_constant_results():
    right(
        Call(lambda m, x: (x, x, torch.arange(3), m.table, {"none": None, "two": 2})[:4], table=values(2, 2)),
        values(3),
    )


def test_nothing_depends_on_the_input():
    right(Call(lambda m, x: torch.arange(4.0).sin() @ m.table, table=values(4, 2)), values(3))
