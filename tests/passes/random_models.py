"""Transformers drawn at random: every choice that real models make differently, each made by a seeded
generator.

A model is a list of blocks (the same choices, other weights, called in a row) with units of attention,
feed-forward and idle operators in between. ``str(model)`` lists its choices.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN = torch.finfo(torch.float32).min


class Choices:
    """Draws by name and remembers what it drew."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.made: dict[str, Any] = {}

    def pick(self, name: str, *options: Any) -> Any:
        self.made[name] = self.rng.choice(options)
        return self.made[name]


class Norm(nn.Module):
    def __init__(self, choices: Choices, size: int) -> None:
        super().__init__()
        self.kind = choices.pick(
            "norm", "layer", "layer, no bias", "llama", "gemma", "no weight", "root", "operator", "none"
        )
        self.layer = nn.LayerNorm(size, bias=self.kind == "layer") if self.kind.startswith("layer") else None
        self.operator = nn.RMSNorm(size) if self.kind == "operator" else None
        self.weight = nn.Parameter(torch.ones(size)) if self.kind in ("llama", "gemma", "root") else None
        self.wide = choices.pick("wide norm", True, False)

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is not None or self.operator is not None:
            return (self.layer or self.operator)(x)
        if self.kind == "none":
            return x
        y = x.to(torch.float32) if self.wide else x
        mean = y.pow(2).mean(-1, keepdim=True)
        y = y / torch.sqrt(mean + 1e-5) if self.kind == "root" else y * torch.rsqrt(mean + 1e-5)
        y = y.to(x.dtype)
        if self.weight is None:
            return y
        return y * (1.0 + self.weight) if self.kind == "gemma" else self.weight * y


ACTS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "spelled gelu": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "spelled erf": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "spelled silu": lambda x: x * torch.sigmoid(x),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "square relu": lambda x: F.relu(x) ** 2,
}


class FeedForward(nn.Module):
    def __init__(self, choices: Choices, size: int) -> None:
        super().__init__()
        inner, bias = choices.pick("inner", 8, 12, 20), choices.pick("mlp bias", True, False)
        self.act = ACTS[choices.pick("act", *ACTS)]
        self.up, self.down = nn.Linear(size, inner, bias=bias), nn.Linear(inner, size, bias=bias)
        self.gate = nn.Linear(size, inner, bias=bias) if choices.pick("gated", True, False) else None
        self.order = choices.pick("gate first", True, False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.dropout(self.act(self.up(x)), 0.1, self.training))
        a, b = self.act(self.gate(x)), self.up(x)
        return self.down(a * b if self.order else b * a)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotate_pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def repeat_kv(x: Tensor, n: int) -> Tensor:
    batch, heads, length, size = x.shape
    if n == 1:
        return x
    return x[:, :, None].expand(batch, heads, n, length, size).reshape(batch, heads * n, length, size)


class Attention(nn.Module):
    def __init__(self, choices: Choices, size: int, tokens: int) -> None:
        super().__init__()
        self.kv_heads = choices.pick("kv heads", 1, 2, 3)
        self.groups = choices.pick("groups", 1, 1, 2, 3)
        self.heads, self.size = self.kv_heads * self.groups, choices.pick("head size", 2, 4, 6)
        q, kv, bias = self.heads * self.size, self.kv_heads * self.size, choices.pick("qkv bias", True, False)
        self.joined = choices.pick("joined qkv", True, False)
        if self.joined:
            self.qkv = nn.Linear(size, q + 2 * kv, bias=bias)
        else:
            self.q, self.v = nn.Linear(size, q, bias=bias), nn.Linear(size, kv, bias=bias)
            self.k = nn.Linear(size, kv, bias=bias and choices.pick("k bias", True, False))
        self.out = nn.Linear(q, size, bias=choices.pick("out bias", True, False))
        self.rope = choices.pick("rope", None, rotate_half, rotate_pairs)
        self.form = choices.pick("attention", "operator", "operator", "written", "written")
        self.mask = choices.pick("mask", "none", "causal", "window", "padding", "both", "bias", "own")
        self.low = choices.pick("low", MIN, -math.inf, -1e9)
        self.filled = choices.pick("filled", True, False)
        self.repeat = choices.pick("repeat", repeat_kv, lambda x, n: x.repeat_interleave(n, 1), None)
        self.scale = choices.pick("scale", None, 1.0, 0.3)
        self.scaled_queries = choices.pick("scaled queries", 1.0, 1.0, 0.5)
        self.softcap = choices.pick("softcap", 0.0, 0.0, 2.0)
        self.turn = choices.pick("turn", "transpose", "mT", "permute")
        self.register_buffer("own_mask", torch.ones(tokens, tokens).tril().bool())
        self.bias = nn.Parameter(torch.zeros(1, self.heads, tokens, tokens)) if self.mask == "bias" else None

    def forward(self, x: Tensor, keep: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens = x.shape[:2]
        if self.joined:
            sizes = [self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.size]
            q, k, v = self.qkv(x).split(sizes, dim=-1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        if self.scaled_queries != 1.0:
            q = q * self.scaled_queries
        q, k, v = (t.view(batch, tokens, -1, self.size).transpose(1, 2) for t in (q, k, v))
        if self.rope is not None:
            cos, sin = cos[..., : self.size].to(x.dtype), sin[..., : self.size].to(x.dtype)
            q, k = q * cos + self.rope(q) * sin, k * cos + self.rope(k) * sin
        allowed = self._allowed(tokens, keep)
        low = max(self.low, torch.finfo(x.dtype).min) if self.low != -math.inf else self.low
        y = (self._operator if self.form == "operator" else self._written)(q, k, v, allowed, low)
        return self.out(y.transpose(1, 2).contiguous().reshape(batch, tokens, -1))

    def _allowed(self, tokens: int, keep: Tensor) -> Tensor | None:
        rows, columns = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
        causal, padding = columns <= rows, keep[:, None, None, :]
        return {
            "none": None, "causal": causal[None, None], "window": causal & (rows - columns < 2),
            "padding": padding, "both": causal & padding, "bias": None, "own": self.own_mask[:tokens, :tokens],
        }[self.mask]  # fmt: skip

    def _operator(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, low: float) -> Tensor:
        mask = self.bias if allowed is None else allowed
        if mask is not None and not self.filled and mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, low).to(q.dtype)
        gqa = self.groups > 1 and self.repeat is None
        if self.groups > 1 and self.repeat is not None:
            k, v = self.repeat(k, self.groups), self.repeat(v, self.groups)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale, enable_gqa=gqa)

    def _written(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, low: float) -> Tensor:
        repeat = self.repeat or repeat_kv
        k, v = repeat(k, self.groups), repeat(v, self.groups)
        turned = {
            "transpose": k.transpose(2, 3),
            "mT": k.mT,
            "permute": k.transpose(1, 2).permute(0, 2, 3, 1),
        }[self.turn]
        scores = torch.matmul(q, turned)
        scores = scores / math.sqrt(self.size) if self.scale is None else scores * self.scale
        if self.softcap:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if self.bias is not None:
            scores = self.bias + scores
        if allowed is not None and self.filled:
            scores = scores.masked_fill(~allowed, low)
        elif allowed is not None:
            scores = scores + torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, low)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(F.dropout(weights, 0.1, self.training), v)


IDLE = {
    "nothing": lambda x: x,
    "clone": lambda x: x.clone(),
    "round trip": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "view": lambda x: x.view(-1, x.shape[-1]).view(x.shape),
    "times one": lambda x: x * 1.0 + 0.0,
    "cast": lambda x: x.to(torch.float32).type_as(x),
    "expand": lambda x: x + torch.ones(1, 1, 1, dtype=x.dtype).expand(x.shape) * 0.5,
    "cut and join": lambda x: torch.cat((x[..., :2], x[..., 2:]), -1),
    "in place": lambda x: x.clone().mul_(0.5).add_(x),
    "scaled sum": lambda x: torch.add(x, x.flip(-1), alpha=0.5),
}


class Block(nn.Module):
    def __init__(self, choices: Choices, size: int, tokens: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(choices, size, tokens), FeedForward(choices, size)
        self.norms = nn.ModuleList([Norm(choices, size), Norm(choices, size)])
        self.order = choices.pick("order", "pre", "post", "parallel")
        self.idle = IDLE[choices.pick("idle", *IDLE)]
        self.stream = choices.pick("residual", 1.0, 1.0, 0.5)
        self.reverse = choices.pick("reverse sum", True, False)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        if self.stream != 1.0:
            y = y * self.stream
        return y + x if self.reverse else x + y

    def forward(self, x: Tensor, keep: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = self.norms
        if self.order == "parallel":
            return self.add(x, self.attention(first(x), keep, cos, sin)) + self.mlp(second(x))
        if self.order == "post":
            x = first(self.add(x, self.attention(x, keep, cos, sin)))
            return self.idle(second(self.add(x, self.mlp(x))))
        x = self.add(x, self.attention(first(x), keep, cos, sin))
        return self.add(self.idle(x), self.mlp(second(x)))


class RandomModel(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choices = choices = Choices(random.Random(seed))
        self.batch, self.tokens = choices.pick("batch", 1, 2, 3), choices.pick("tokens", 1, 3, 5, 8)
        size = choices.pick("size", 6, 8, 10)
        self.embed = nn.Embedding(11, size)
        depth, state = choices.pick("depth", 1, 2, 3), choices.rng.getstate()
        blocks = []
        for _ in range(depth):
            choices.rng.setstate(state)
            blocks.append(Block(choices, size, self.tokens))
        self.blocks, self.last = nn.ModuleList(blocks), Norm(choices, size)
        self.head = nn.Linear(size, 11, bias=False)
        if choices.pick("tied", True, False):
            self.head.weight = self.embed.weight
        self.also = choices.pick("also returns", "nothing", "hidden", "embedded")

    def forward(self, ids: Tensor, keep: Tensor) -> Any:
        angles = torch.outer(torch.arange(ids.shape[1]).float(), 1 / 10 ** (torch.arange(3) / 3))
        cos, sin = (torch.cat((angles, angles), -1) for angles in (angles.cos(), angles.sin()))
        embedded = x = self.embed(ids)
        for block in self.blocks:
            x = block(x, keep, cos, sin)
        hidden = self.last(x)
        more = {"nothing": {}, "hidden": {"hidden": x}, "embedded": {"embedded": embedded}}[self.also]
        return {"logits": self.head(hidden), **more}

    def inputs(self, generator: torch.Generator) -> list[Tensor]:
        ids = torch.randint(11, (self.batch, self.tokens), generator=generator)
        keep = torch.rand(self.batch, self.tokens, generator=generator) < 0.7
        keep[:, 0] = True
        return [ids, keep]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.choices.made.items())
