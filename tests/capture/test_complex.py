"""Complex numbers inside of a model: every operator that is known, on values other than the example's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgec
from forgec.debug import override
from forgec.errors import CaptureError
from forgec.ir.printer import to_text


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Computing(nn.Module):
    """A function of two complex tensors ``[2,3,4]`` and ``[3,1]``, and of a real one ``[3,4]``."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z, w, x):
        found = self.function(torch.view_as_complex(z), torch.view_as_complex(w), x)
        found = found if isinstance(found, tuple | list) else (found,)
        return [torch.view_as_real(y) if y.is_complex() else y for y in found]


def changed_copies(z: Tensor) -> tuple[Tensor, ...]:
    """A change of a copy is none of what was copied."""
    copies = z.clone(), z.transpose(0, 1).contiguous(), z.to(torch.complex64, copy=True)
    for copy in copies:
        torch.view_as_real(copy).add_(1)
    return z, *copies, z.contiguous().detach()


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "product": lambda z, w, _: z * w,
    "product, the other way": lambda z, w, _: w * z,
    "product of equals": lambda z, _, x: z * torch.polar(x.abs(), x),
    "product with a real": lambda z, _, x: x * z,
    "product with numbers": lambda z, _, x: 2 * z * (1 - 2j) + x * 1j,
    "product of one": lambda z, w, _: z[0, 0, 0] * w,
    "quotient": lambda z, w, x: z / w + z / (x.abs() + 1) + z / 2 + z / (1 + 2j),
    "sum": lambda z, w, x: z + w + x + 1 + 2j,
    "difference": lambda z, w, x: torch.sub(z, w, alpha=2) - x - 1j,
    "real minus complex": lambda z, _, x: x - z,
    "negative": lambda z, *_: -z,
    "polar": lambda _, __, x: torch.polar(x.exp(), x),
    "complex": lambda _, __, x: torch.complex(x, x.cos()),
    "exponential": lambda z, _, x: (torch.exp(z), torch.exp(1j * x)),
    "conjugate": lambda z, w, _: (z * w.conj(), z.conj().resolve_conj()),
    "parts": lambda z, *_: (z.real, z.imag, z.abs(), z.angle()),
    "from real": lambda _, __, x: (x.to(torch.complex64), (3 * x).long().to(torch.complex64)),
    "other precision": lambda z, _, x: (z.to(torch.complex128), x.double().to(torch.complex64)),
    "copies": lambda _, __, x: changed_copies(torch.polar(x.exp(), x)),
    "reshape": lambda z, *_: (z.reshape(6, -1), z.view(2, 12), z.flatten(-2), z.unflatten(-1, (2, 2))),
    "expand": lambda _, w, __: w.expand(2, -1, 5),
    "transpose": lambda z, *_: (z.transpose(-1, 0), z.permute(1, -1, 0)),
    "new axes": lambda z, *_: (z[:, None, ..., None], z.unsqueeze(-1), z.unsqueeze(0).squeeze(0)),
    "parts of axes": lambda z, *_: (z[:, 1:, ::2], z[1], z.select(-1, 2), z.narrow(-1, 1, 2)),
    "indices": lambda z, *_: (z[:, torch.tensor([2, 0])], z.index_select(-1, torch.tensor([3, 3]))),
    "joined": lambda z, *_: (torch.cat([z, z], -1), torch.stack([z, z], -1)),
    "divided": lambda z, *_: (*z.chunk(2, -1), *z.split([1, 2], 1), *z.unbind(-1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_is_what_torch_makes_of_it(name, capsys):
    model = Computing(FUNCTIONS[name]).eval()
    example, given = (
        [values(2, 3, 4, 2, seed=s), values(3, 1, 2, seed=s + 1), values(3, 4, seed=s + 2)] for s in (0, 9)
    )
    with override({"debug": "1"}):
        executable = forgec.compile(model, tuple(example))
    assert "by torch.export" not in capsys.readouterr().err
    for ours, theirs in zip(executable(*given), model(*given), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


class Rotating(nn.Module):
    """Queries turned as in Meta's first code for Llama, by a table that the block is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x, table):
        heads = self.inner(x).view(*x.shape[:2], 2, 8)
        turned = torch.view_as_complex(heads.float().reshape(*heads.shape[:-1], -1, 2)) * table[None, :, None]
        return x + torch.view_as_real(turned).flatten(3).type_as(x).flatten(2)


class Turning(nn.Module):
    """The table is a buffer of complex numbers, one of real ones, or made of the positions' count."""

    def __init__(self, table: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Rotating() for _ in range(3))
        angles = torch.outer(torch.arange(32.0), 1e4 ** (-torch.arange(0, 8, 2) / 8))
        kept = torch.polar(torch.ones_like(angles), angles) if table == "complex" else angles
        self.register_buffer("table", kept)
        self.kind = table

    def forward(self, x):
        table = self.table[: x.shape[1]]
        if self.kind == "real":
            table = torch.polar(torch.ones_like(table), table)
        elif self.kind == "made":
            table = torch.exp(1j * torch.outer(torch.arange(x.shape[1]).float(), self.table[1]))
        for layer in self.layers:
            x = layer(x, table)
        return x


@pytest.mark.parametrize("table", ["complex", "real", "made"])
def test_a_rotation_in_repeated_blocks_is_one_kernel(table):
    torch.manual_seed(0)
    model = Turning(table).eval()
    executable = forgec.compile(model, (values(2, 5, 16),))
    text = to_text(executable.program)
    assert text.count("= rope ") == 1 and "interleaved=true" in text and text.count("call @block0") == 3
    x = values(2, 5, 16, seed=1)
    with torch.no_grad():
        np.testing.assert_allclose(executable(x), model(x).numpy(), rtol=1e-5, atol=1e-5)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


class Identity(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "given", "said", "hint"),
    [
        (Spectrum(), values(2, 4), "complex64", "polar"),
        (Identity(), values(2, 4).to(torch.complex64), "an input of Identity is a tensor", ""),
    ],
    ids=["transform", "input"],
)
def test_other_complex_numbers_are_refused(model, given, said, hint):
    with pytest.raises(CaptureError, match=said) as caught:
        forgec.compile(model.eval(), (given,))
    assert hint in (caught.value.hint or "")
