"""Sizes at the borders: nothing, one, odd, and more elements than 32 bits count."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from native_runs import run_native
from torch import nn

import forgec

OVER_INT32 = 2**31 + 77


class Block(nn.Module):
    """Attention, norm, gated unit and a projection over any batch and length."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.norm(x + y.transpose(1, 2).reshape(batch, length, width))
        return self.down(nn.functional.gelu(self.up(y)))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (5, 1), (1, 131), (7, 33), (0, 4), (2, 0)])
def test_any_batch_and_length(isa: str, batch: int, length: int) -> None:
    torch.manual_seed(4)
    model = Block().eval()
    for threads in (1, 2):
        exe = forgec.compile(model, (torch.randn(batch, length, 8),))
        exe.threads = threads
        x = torch.randn(batch, length, 8)
        with torch.no_grad():
            want = model(x).numpy()
        assert exe(x).shape == want.shape
        np.testing.assert_allclose(exe(x), want, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_more_elements_than_32_bits_count(threads: int) -> None:
    needed = 3 * OVER_INT32
    if psutil.virtual_memory().available < 2 * needed:
        pytest.skip(f"runs where {2 * needed >> 30} GiB of memory are free")
    x = np.zeros(OVER_INT32, np.uint8)
    x[[0, 2**31 - 1, 2**31, -1]] = 5, 6, 7, 8
    (same,) = run_native("eq", (x, 7), {}, threads=threads, runs=1)
    assert np.flatnonzero(same).tolist() == [2**31]
    (picked,) = run_native(
        "gather", (x, np.array([2**31 - 1, OVER_INT32 - 1, 2**31])), {"axis": 0}, threads=threads, runs=1
    )
    assert picked.tolist() == [6, 8, 7]
