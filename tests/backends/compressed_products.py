"""Products with compressed weights as programs, for tests of NPUs."""

from __future__ import annotations

import numpy as np

from forgec.ir.op import Sample, get
from forgec.ir.samples import Case, case_of

__all__ = ["compressed_product"]


def compressed_product(
    seed: int, bits: int, group: int, depth: int, *, outs: int = 24, rows: int = 3, act: str = ""
) -> Case:
    """``x`` [1, rows, depth] through one product with a bias, its weight quantised as an artifact's is, but for
    the least code of 8 bits, which a model may bring."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outs, depth)).astype(np.float32) / 8
    (scales,) = get("scales").evaluate((weight,), {"bits": bits, "group": group})
    (codes,) = get("quantise").evaluate((weight, scales), {"bits": bits, "group": group})
    if bits == 8:
        codes[0, ::3] = -128
    x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, rows, depth), (outs,)))
    attrs = {"act": act, "group": group}
    return case_of(get("linear_q"), Sample((x, codes, scales, bias, None), attrs), (1, 2, 3))
