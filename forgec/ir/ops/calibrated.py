"""Codes of weights chosen for the inputs that a weight meets: ops of constant recipes.

What is known of the inputs x of a product is the sum of x xᵀ over a sample, its Gram matrix, kept for blocks
of at most :data:`BLOCK` successive inputs: f32 [blocks, b, b] with b = min(inputs, BLOCK), zeros after the
last input. An error e of a row of the weight then costs about eᵀ G e. Scales minimise that with the diagonal
of G, by a search over how far to clip each group; codes with all of G, by rounding one input after the other
and letting the inputs of the block that are still to come make up for the error (GPTQ: Frantar et al. 2022,
arXiv 2210.17323). Linear in the weight for scales, times the block's size for codes.
"""

from __future__ import annotations

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType, pack_i4
from .compressed import by_group, quantise_rule, scales, scales_rule
from .rules import require, require_float

__all__ = ["BLOCK", "gram_type"]

Array = np.ndarray

BLOCK = 2048
"""Successive inputs whose products with each other are known."""

_RATIOS = tuple(np.float32(1.15 - 0.025 * step) for step in range(26))
"""Scales that are tried, as shares of the one that clips nothing; over 1 for the other end of the range."""

_DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: a sample knows little of inputs that were small in it."""

_STEP = 64
"""Inputs whose errors are carried to the later ones of a block at once."""

_CODES = {4: (-8, 7), 8: (-127, 127)}
_ELEMENTS = 1 << 18
"""Of a weight that the search works on at a time: its temporaries fit the cache."""


def gram_type(depth: int) -> TensorType:
    """Type of the Gram matrix of inputs of a length."""
    size = min(depth, BLOCK)
    return TensorType(DType.F32, (-(-depth // size) if size else 0, size, size))


def _check_gram(weight: TensorType | None, gram: TensorType | None) -> None:
    w, g = require_float(weight, "weight"), require_float(gram, "gram")
    wanted = gram_type(w.shape[1])
    require(g.shape == wanted.shape, f"the Gram matrix of the inputs of {w} must be {wanted}, not {g}")


def _fitted_scales_rule(
    weight: TensorType | None, gram: TensorType | None, *, bits: int, group: int
) -> TensorType:
    result = scales_rule(weight, bits=bits, group=group)
    _check_gram(weight, gram)
    return result


def _sample(rng: np.random.Generator, n: int, depth: int) -> tuple[Array, Array]:
    x = rng.standard_normal((3 * depth, depth)).astype(np.float32)
    return rng.standard_normal((n, depth)).astype(np.float32), (x.T @ x)[None]


@op(
    "fitted_scales",
    "weight gram",
    rule=_fitted_scales_rule,
    attrs={"bits": 8, "group": 0},
    samples=lambda rng: [
        Sample(_sample(rng, 5, 8), {}),
        Sample(_sample(rng, 5, 12), {"bits": 4, "group": 8}),
    ],
)
def fitted_scales(weight: Array, gram: Array, *, bits: int, group: int) -> Array:
    """Scales like those of scales, each times the ratio in 0.525 to 1.15 with the least error on the inputs.

    The error of a group is the sum over its inputs of diagonal(gram) * (weight - code * scale)².
    """
    n, depth = weight.shape
    plain = scales(weight, bits=bits, group=group)
    importance = np.diagonal(gram, axis1=1, axis2=2).reshape(-1)[:depth]
    if not importance.any():
        return plain
    low, high = _CODES[bits]
    step = group or depth
    best = plain.copy()
    rows = max(1, _ELEMENTS // max(1, step))
    for g in range(len(plain)):
        columns = slice(g * step, (g + 1) * step)
        for first in range(0, n, rows):
            part = weight[first : first + rows, columns]
            base = plain[g, first : first + rows]
            least = np.full(len(part), np.inf, np.float32)
            for ratio in _RATIOS:
                trial = base * ratio
                codes = np.clip(np.rint(part * np.reciprocal(trial)[:, None]), low, high)
                codes *= trial[:, None]
                codes -= part
                error = np.square(codes, out=codes) @ importance[columns]
                better = error < least
                best[g, first : first + rows][better] = trial[better]
                least[better] = error[better]
    return best


def _fitted_codes_rule(
    weight: TensorType | None, scales: TensorType | None, gram: TensorType | None, *, bits: int, group: int
) -> TensorType:
    result = quantise_rule(weight, scales, bits=bits, group=group)
    _check_gram(weight, gram)
    return result


def _codes_sample(rng: np.random.Generator, n: int, depth: int, groups: int) -> tuple[Array, Array, Array]:
    weight, gram = _sample(rng, n, depth)
    return weight, np.abs(rng.standard_normal((groups, n))).astype(np.float32) / 9, gram


@op(
    "fitted_codes",
    "weight scales gram",
    rule=_fitted_codes_rule,
    attrs={"bits": 8, "group": 0},
    takes_i4=True,
    samples=lambda rng: [
        Sample(_codes_sample(rng, 5, 8, 1), {}),
        Sample(_codes_sample(rng, 5, 12, 2), {"group": 8}),
    ],
)
def fitted_codes(weight: Array, scales: Array, gram: Array, *, bits: int, group: int) -> Array:
    """Codes like those of quantise, each input's rounding error made up for by the block's later inputs."""
    n, depth = weight.shape
    codes = np.empty((depth, n), np.int8)
    spread = np.broadcast_to(by_group(scales, depth, group).T, codes.shape)
    for block, products in enumerate(gram):
        columns = slice(block * len(products), min(depth, (block + 1) * len(products)))
        size = columns.stop - columns.start
        _round_block(
            np.ascontiguousarray(weight[:, columns].T),
            spread[columns],
            _feedback(products[:size, :size]),
            _CODES[bits],
            codes[columns],
        )
    rows = np.ascontiguousarray(codes.T)
    return rows if bits == 8 else pack_i4(rows)


def _feedback(products: Array) -> Array:
    """Upper triangular U with inverse(products) = Uᵀ U: row i says how later inputs make up for input i."""
    damped = products.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal[diagonal <= 0] = 1  # an input that was always 0 has no say
    diagonal += _DAMPING * diagonal.mean()
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _round_block(left: Array, scales: Array, feedback: Array, ends: tuple[int, int], codes: Array) -> None:
    """Codes [inputs, n] of a block of the transposed weight, which is used up."""
    low, high = ends
    inverse = np.reciprocal(scales)
    for first in range(0, len(left), _STEP):
        last = min(first + _STEP, len(left))
        errors = np.empty((last - first, left.shape[1]), np.float32)
        for i in range(first, last):
            rounded = np.nan_to_num(np.clip(np.rint(left[i] * inverse[i]), low, high), copy=False)
            codes[i] = rounded
            error = errors[i - first]
            np.divide(left[i] - rounded * scales[i], feedback[i, i], out=error)
            left[i + 1 : last] -= feedback[i, i + 1 : last, None] * error
        left[last:] -= feedback[first:last, last:].T @ errors
