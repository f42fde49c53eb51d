"""Small modules that the capture tests trace."""

from __future__ import annotations

import torch
from torch import nn


class Layer(nn.Module):
    """A residual block; ``scale`` is a plain attribute that makes two blocks differ."""

    def __init__(self, width: int, index: int, scale: float = 1.0) -> None:
        super().__init__()
        self.index = index
        self.scale = scale
        self.inner = nn.Linear(width, width)

    def forward(self, x, mask=None):
        y = self.inner(x) * self.scale
        if mask is not None:
            y = y * mask
        return x + torch.tanh(y)


class Stack(nn.Module):
    """A list of equal blocks between two linears."""

    def __init__(self, width: int = 8, depth: int = 4, scales: list[float] | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.layers = nn.ModuleList(Layer(width, i, (scales or [1.0] * depth)[i]) for i in range(depth))
        self.last = nn.Linear(width, 3)

    def forward(self, x, mask=None):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.last(x)


class Nested(nn.Module):
    """Positional, keyword and nested inputs; nested outputs; a constant argument."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, pair, *, extra=None, double=False):
        a, b = pair
        y = self.linear(x) + a * b["inner"]
        if extra is not None:
            y = y - extra
        return {"sum": y * 2 if double else y, "parts": (y, [a, b["inner"]])}


class Counter(nn.Module):
    """Changes a buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x):
        self.count.add_(x.sum(0))
        return x + self.count


class InPlace(nn.Module):
    """Writes into its own intermediate values."""

    def forward(self, x):
        y = x * 2
        y[:, 1] = 5.0
        y.relu_()
        y[:, 2:].add_(1)
        return y


class Tied(nn.Module):
    """Embedding and head are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def seeded(module_class: type[nn.Module], *args, **kwargs) -> nn.Module:
    """An instance with fixed random weights, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return module_class(*args, **kwargs).eval()
