"""Numbers that say how good a compiled program is: fidelity against a reference, FGR and CEI.

Everything is computed in float64 whatever the inputs are. Elements that are NaN, or the same infinity, on
both sides count as equal: a fully masked attention row is NaN in PyTorch too. A NaN on one side only makes
the difference infinite, so that it can never pass a bound. Linear in the number of elements, a few rows at a
time, so it needs little memory beside the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FidelityError
from .report import Fidelity

__all__ = [
    "BOUND_KL",
    "BOUND_MAX_ABS",
    "Difference",
    "cei",
    "cosine",
    "difference",
    "differences",
    "fgr",
    "fidelity",
    "kl_divergence",
    "max_abs",
    "sqnr_db",
    "worst",
]

BOUND_MAX_ABS = 2.1e-5
"""Largest absolute logit difference that Forge-UGC reports over its six models; fp32 against eager."""

BOUND_KL = 8.4e-9
"""Largest KL divergence in nats that Forge-UGC reports; fp32 against eager."""

_ROW_ELEMENTS = 1 << 20
_CACHED_ELEMENTS = 1 << 16
_DIVERGENCE_ELEMENTS = 1 << 20
"""Elements of an output whose divergence is computed at most."""


@dataclass(frozen=True)
class Difference:
    """How one output differs from its reference; the units are those of :class:`Fidelity`."""

    max_abs: float
    kl: float
    cosine: float
    sqnr_db: float

    def within(self, bound_max_abs: float, bound_kl: float) -> bool:
        """Whether both bounds hold; never with NaN."""
        return self.max_abs <= bound_max_abs and self.kl <= bound_kl


def difference(reference: npt.ArrayLike, result: npt.ArrayLike, name: str = "output") -> Difference:
    """All metrics of one output.

    For outputs that are not floating point the divergence is 0: they are no logits. Raises
    :class:`FidelityError`, with ``name``, if the shapes differ.
    """
    a, b = np.asarray(reference), np.asarray(result)
    if a.shape != b.shape:
        raise FidelityError(f"{name} has shape {list(b.shape)}, its reference {list(a.shape)}")
    logits = _is_float(a) and _is_float(b)
    found = _finite_difference(a, b, logits)
    if found is not None:
        return found
    return Difference(max_abs(a, b), kl_divergence(a, b) if logits else 0.0, cosine(a, b), sqnr_db(a, b))


def fidelity(
    references: Mapping[str, npt.ArrayLike],
    results: Mapping[str, npt.ArrayLike],
    *,
    reference: str,
    inputs: str,
    bound_max_abs: float = BOUND_MAX_ABS,
    bound_kl: float = BOUND_KL,
) -> Fidelity:
    """The worst of every metric over all outputs, by name, and whether the bounds hold.

    Raises :class:`FidelityError` if the two sides do not have the same outputs with the same shapes.
    """
    found = differences(references, results).values()
    return worst(found, reference=reference, inputs=inputs, bound_max_abs=bound_max_abs, bound_kl=bound_kl)


def differences(
    references: Mapping[str, npt.ArrayLike], results: Mapping[str, npt.ArrayLike]
) -> dict[str, Difference]:
    """All metrics of every output, by name.

    Raises :class:`FidelityError` if the two sides do not have the same outputs with the same shapes.
    """
    if set(references) != set(results):
        raise FidelityError(f"the outputs are {sorted(results)}, those of the reference {sorted(references)}")
    return {name: difference(references[name], results[name], name) for name in references}


def worst(
    found: Collection[Difference],
    *,
    reference: str,
    inputs: str,
    bound_max_abs: float = BOUND_MAX_ABS,
    bound_kl: float = BOUND_KL,
) -> Fidelity:
    """The worst of every metric over all outputs, and whether the bounds hold."""
    overall = Difference(
        max_abs=float(np.max([d.max_abs for d in found], initial=0.0)),
        kl=float(np.max([d.kl for d in found], initial=0.0)),
        cosine=float(
            np.min([d.cosine for d in found], initial=1.0)
        ),  # numpy's min keeps NaN, Python's may not
        sqnr_db=float(np.min([d.sqnr_db for d in found], initial=math.inf)),
    )
    return Fidelity(
        max_abs=overall.max_abs,
        kl=overall.kl,
        cosine=overall.cosine,
        sqnr_db=overall.sqnr_db,
        reference=reference,
        inputs=inputs,
        bound_max_abs=bound_max_abs,
        bound_kl=bound_kl,
        passed=overall.within(bound_max_abs, bound_kl),
    )


def _finite_difference(a: np.ndarray, b: np.ndarray, logits: bool) -> Difference | None:
    """All metrics in one pass over pieces that fit the cache; None if a value or a sum is not finite.

    The divergence, whose exponentials cost the most, is taken over evenly spaced rows of a large output.
    """
    if a.size == 0 or a.ndim == 0:
        return None
    width = a.shape[-1]
    rows_a, rows_b = a.reshape(-1, width), b.reshape(-1, width)
    step = max(1, _CACHED_ELEMENTS // width)
    every = math.ceil(a.size / _DIVERGENCE_ELEMENTS)
    largest = divergence = aa = bb = ab = noise = 0.0
    compared = 0
    with np.errstate(all="ignore"):
        for start in range(0, len(rows_a), step):
            x = rows_a[start : start + step].astype(np.float64)
            y = rows_b[start : start + step].astype(np.float64)
            delta = x - y
            largest = max(largest, float(delta.max()), -float(delta.min()))
            aa += float(np.vdot(x, x))
            bb += float(np.vdot(y, y))
            ab += float(np.vdot(x, y))
            noise += float(np.vdot(delta, delta))
            if not math.isfinite(aa + bb + noise):
                return None
            if logits and start // step % every == 0:
                divergence += float(_finite_divergences(x, y, delta).sum())
                compared += len(delta)
    if aa == 0.0 or bb == 0.0:
        return None
    sqnr = math.inf if noise == 0.0 else 10.0 * (math.log10(aa) - math.log10(noise))
    return Difference(
        largest, max(0.0, divergence / max(compared, 1)), ab / math.sqrt(aa) / math.sqrt(bb), sqnr
    )


def _finite_divergences(x: np.ndarray, y: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Divergence of every row: sum p (x - y) + lse(y) - lse(x), with p = softmax(x); overwrites x and y."""
    tops = x.max(axis=-1), y.max(axis=-1)
    for rows, top in ((x, tops[0]), (y, tops[1])):
        np.subtract(rows, top[:, None], out=rows)
        np.exp(rows, out=rows)
    total_x, total_y = x.sum(axis=-1), y.sum(axis=-1)
    mean = np.einsum("ij,ij->i", x, delta) / total_x
    return mean + (tops[1] + np.log(total_y)) - (tops[0] + np.log(total_x))


def max_abs(reference: npt.ArrayLike, result: npt.ArrayLike) -> float:
    """Largest absolute difference of any element; 0 for empty tensors, infinite if only one side is NaN."""
    a, b = _pair(reference, result)
    with np.errstate(invalid="ignore"):
        delta = np.abs(a - b)
    return float(np.where(np.isnan(delta), math.inf, delta).max(initial=0.0))


def kl_divergence(reference: npt.ArrayLike, result: npt.ArrayLike) -> float:
    """Kullback-Leibler divergence of softmax(result) from softmax(reference), in nats.

    The softmax goes over the last axis, and the value is the mean over all rows: sum p * (ln p - ln q). Minus
    infinity is a masked element. Rounding below 0 is cut off.
    """
    a, b = np.asarray(reference), np.asarray(result)
    if a.size == 0:
        return 0.0
    width = a.shape[-1] if a.ndim else 1
    a, b = a.reshape(-1, width), b.reshape(-1, width)
    step = max(1, _ROW_ELEMENTS // width)
    total = sum(
        float(_row_divergences(a[i : i + step], b[i : i + step]).sum()) for i in range(0, len(a), step)
    )
    return max(0.0, total / len(a))


def cosine(reference: npt.ArrayLike, result: npt.ArrayLike) -> float:
    """Cosine of the two tensors as vectors: 1 if both are zero or empty, 0 if one is, NaN if not finite."""
    a, b = _pair(reference, result)
    a, b = _scaled(a), _scaled(b)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return 1.0 if norms == (0.0, 0.0) else 0.0
    with np.errstate(invalid="ignore"):
        return float(np.dot(a, b) / (norms[0] * norms[1]))


def sqnr_db(reference: npt.ArrayLike, result: npt.ArrayLike) -> float:
    """Signal to quantisation noise ratio: 10 log10(sum reference^2 / sum (reference - result)^2), in dB.

    Infinite if the tensors are equal, minus infinity if only the reference is zero or one side is not finite.
    """
    a, b = _pair(reference, result)
    with np.errstate(invalid="ignore", over="ignore"):
        noise, signal = float(np.square(a - b).sum()), float(np.square(a).sum())
    if noise == 0.0:
        return math.inf
    if signal == 0.0 or not math.isfinite(noise) or not math.isfinite(signal):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))


def fgr(unfused_us: float, fused_us: float) -> float:
    """Fusion Gain Ratio.

    Forge-UGC (arXiv 2604.16498) defines FGR = cost(alpha=0) / cost(alpha=1) in the cost model, with alpha the
    fusion aggressiveness; with a calibrated model it reads as a latency ratio. 1 if there is nothing to run.
    """
    return unfused_us / fused_us if fused_us else 1.0


def cei(latency_ratio: float, compile_s: float) -> float:
    """Compilation Efficiency Index over a baseline B, per second.

    Forge-UGC (arXiv 2604.16498) defines CEI_B = (L_B / L_forge) / T_compile: latency speed-up over baseline B
    per second of compilation.
    """
    return latency_ratio / compile_s


def _is_float(array: np.ndarray) -> bool:
    # ml_dtypes' bfloat16 has kind "V" in numpy, so the test goes by what it is not.
    return array.dtype.kind not in "biu"


def _pair(reference: npt.ArrayLike, result: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat float64, with 0 in the places where they agree on NaN or an infinity."""
    a = np.asarray(reference).astype(np.float64).ravel()
    b = np.asarray(result).astype(np.float64).ravel()
    both = ~np.isfinite(a) & ((a == b) | (np.isnan(a) & np.isnan(b)))
    if both.any():
        a, b = np.where(both, 0.0, a), np.where(both, 0.0, b)
    return a, b


def _scaled(vector: np.ndarray) -> np.ndarray:
    """The vector over its largest magnitude, so that squares neither overflow nor vanish."""
    largest = float(np.abs(vector).max(initial=0.0))
    return vector / largest if 0.0 < largest < math.inf else vector


def _row_divergences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divergence of every row of two matrices; infinite where only one side has a NaN or is all masked."""
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    with np.errstate(invalid="ignore"):
        terms = np.where(log_p == -math.inf, 0.0, np.exp(log_p) * (log_p - log_q))
    rows = terms.sum(axis=-1)
    undefined_a, undefined_b = np.isnan(log_p).any(axis=-1), np.isnan(log_q).any(axis=-1)
    rows[undefined_a & undefined_b] = 0.0
    rows[undefined_a ^ undefined_b] = math.inf
    return rows


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shifted = rows - rows.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
