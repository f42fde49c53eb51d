"""Models in floats of 16 bits compute in f32 and keep the types of what they are given and give back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import forgec
from forgec.capture.halves import HALVES
from forgec.tensors import as_numpy

DTYPES = sorted(HALVES, key=str)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Repeated blocks, which are traced once, casts to the model's own type, and a result of 32 bits."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        wide = torch.softmax(x, -1, dtype=torch.float32)
        return {"x": x, "wide": wide, "back": wide.to(x.dtype) * x, "ids": x.argmax(-1)}


class Total(nn.Module):
    """Changes a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.total: torch.Tensor
        self.register_buffer("total", torch.zeros(4))
        self.scale = nn.Parameter(torch.full((4,), 1.0))

    def forward(self, x):
        self.total.add_(x * self.scale)
        return self.total * 2


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def body(executable) -> list[str]:
    """Operators of a program, and the types of their results, but for casts."""
    program = executable.plan.program
    return [f"{i.op} {r.type.dtype.value}" for i in program.main.body if i.op != "cast" for r in i.results]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["blocks", "full", "exported"])
def test_a_program_computes_in_f32(dtype, mode):
    torch.manual_seed(5)
    model = Stack().eval().to(dtype)
    x = drawn(3, 16, dtype=dtype)
    if mode == "exported":
        executable = forgec.compile(torch.export.export(model, (x,)))
    else:
        executable = forgec.compile(model, (x,), capture=mode)
    assert not [op for op in body(executable) if op.endswith("f16")], "f16 and bf16 are only cast"
    other = drawn(3, 16, dtype=dtype) * 3
    found = executable(as_numpy(other))
    with torch.no_grad():
        wide = copy.deepcopy(model).float()(other.float())
    for name, value in wide.items():
        got = torch.as_tensor(np.asarray(found[name], np.float64 if name != "ids" else None))
        kind = value.dtype if name in ("wide", "ids") else dtype
        wanted = value.to(kind).double() if name != "ids" else value
        assert found[name].dtype == as_numpy(value.to(kind)).dtype, "results have the model's types"
        # Rounded to 16 bits, what is near the middle of two may become either.
        step = 1e-6 if name in ("wide", "ids") else torch.finfo(dtype).eps
        torch.testing.assert_close(got, wanted, rtol=step, atol=step)
    fidelity = executable.report.fidelity
    assert fidelity.passed and fidelity.bound_max_abs > 2.1e-5, "eager PyTorch rounds after every operator"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_of_16_bits_stays_one(dtype):
    executable = forgec.compile(Total().eval().to(dtype), (torch.ones(4, dtype=dtype),))
    x = as_numpy(drawn(4, dtype=dtype))
    first = np.asarray(executable(x), np.float32)
    np.testing.assert_array_equal(first, np.float32(2) * x.astype(np.float32))
    executable(x)
    np.testing.assert_allclose(np.asarray(executable(x), np.float32), 3 * first, rtol=2e-2)


def test_casts_of_a_model_in_f32_are_meant():
    """A cache of 16 bits, say: what is rounded stays rounded."""

    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return (x * self.w).half().float()

    x = drawn(8)
    got = forgec.compile(Rounds().eval(), (torch.zeros(8),))(x.numpy())
    np.testing.assert_array_equal(got, x.half().float().numpy())
