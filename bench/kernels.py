"""Matrix products with compressed weights against those in f32, and against what the machine can do.

All formats of a shape are measured in turn, round by round, on the native runtime. Every call of a round
reads another copy of the weight, so many that they do not fit a cache where ``cold`` asks for that: with one
row the weight comes from memory, as in a program, and the limit is the bandwidth of a loop that only reads.
With many rows the limit is arithmetic: multiply-adds in f32, or sums of products of bytes, in registers or
the nearest cache. Figures are measured; shares are of those loops on the same threads, just before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .round_robin import Say
from .tables import Table, ratio

if TYPE_CHECKING:
    import numpy as np
    from forgec.backends.cpu.native import Team

__all__ = ["COLD_BYTES", "FORMATS", "NAME", "SHAPES", "TITLE", "measure", "tables"]

NAME = "kernels"
TITLE = "Products with compressed weights"

FORMATS = ("fp32", "fp16", "bf16", "int8", "int4", "w8a8", "w4a8")

SHAPES = (
    (1, 8192, 2048),
    (1, 2048, 8192),
    (16, 2048, 2048),
    (128, 768, 768),
    (128, 3072, 768),
    (128, 768, 3072),
)
"""Rows, outputs, depth: decode and prefill of a 1-billion-parameter model, an encoder's layers."""

COLD_BYTES = 512 << 20
"""Weights that one round reads, at least, with few rows; a sixteenth of it with many."""

_FEW_ROWS = 8
_MOST_COPIES = 256


@dataclass
class _Kernel:
    """``copies`` products in one call."""

    run: Callable[[], Any]
    copies: int
    nbytes: int
    seconds: list[float]


def measure(
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    *,
    formats: Sequence[str] = FORMATS,
    threads: int,
    rounds: int,
    cold: int = COLD_BYTES,
    say: Say,
) -> Mapping[str, Any]:
    """Median microseconds per product for every shape and format, and the machine's limits."""
    import numpy as np
    from forgec.backends.cpu import native

    rng = np.random.default_rng(0)
    team = native.Team(threads)
    limits = {
        "isa": native.isa(),
        "read_bytes_per_s": native.read_bandwidth(threads, max(cold, 1 << 20)),
        "f32_per_s": native.peak_flops(threads),
        "int8_per_s": native.peak_integer(threads),
    }
    rows = []
    for shape in shapes:
        wanted = cold if shape[0] < _FEW_ROWS else cold // 16
        kernels = {name: _kernel(rng, team, shape, name, wanted) for name in formats}
        for _ in range(rounds):
            for kernel in kernels.values():
                start = perf_counter()
                kernel.run()
                kernel.seconds.append((perf_counter() - start) / kernel.copies)
        for name, kernel in kernels.items():
            us = median(kernel.seconds) * 1e6
            rows.append({"shape": list(shape), "format": name, "us": us, "bytes": kernel.nbytes})
        say(
            f"{'x'.join(map(str, shape))}: "
            + ", ".join(f"{r['format']} {r['us']:.0f}" for r in rows[-len(formats) :])
        )
    return {"limits": limits, "rows": rows}


def _kernel(
    rng: np.random.Generator, team: Team, shape: tuple[int, int, int], name: str, cold: int
) -> _Kernel:
    """A step of enough products, each with a weight of its own, to read ``cold`` bytes."""
    import numpy as np
    from forgec.backends.cpu import native
    from forgec.backends.cpu.native.binding import NativeStep

    from forgec.ir.halves import HALF_FORMATS
    from forgec.ir.op import get
    from forgec.ir.program import ConstRef, Instr, Register
    from forgec.ir.types import TensorType

    m, n, depth = shape
    x = rng.standard_normal((m, depth), np.float32)
    weight = rng.standard_normal((n, depth), np.float32)
    op = "linear_q"
    attrs: dict[str, Any] = {}
    rest: list[np.ndarray | None] = [None, None, None]
    if name == "fp32":
        op, rest = "linear", [None, None]
    elif name in HALF_FORMATS:
        (weight,) = get("cast").evaluate((weight,), {"dtype": HALF_FORMATS[name].value})
    else:
        how = {"bits": 4, "group": 128} if name in ("int4", "w4a8") else {"bits": 8, "group": 0}
        (scales,) = get("scales").evaluate((weight,), how)
        (weight,) = get("quantise").evaluate((weight, scales), how)
        attrs = {"group": how["group"], "dynamic": name in ("w8a8", "w4a8")}
        rest[0] = scales
    inputs = [x, weight, *rest]
    types = [None if v is None else TensorType.of(v) for v in inputs]
    (result,) = get(op).result_types(types, attrs)
    operands = [
        None if t is None else Register(i, t) if i == 0 else ConstRef(f"c{i}", t) for i, t in enumerate(types)
    ]
    instr = Instr(op, tuple(operands), (Register(9, result),), attrs)
    given = {i: x for i, x in enumerate(inputs) if x is not None}
    packed = {i: native.pack(instr, i, given[i]) for i in native.packed_operands(instr)}
    nbytes = sum(x.nbytes for x in packed.values())
    copies = min(_MOST_COPIES, max(1, math.ceil(cold / nbytes)))
    step, out = NativeStep(team), np.empty(result.shape, np.float32)
    for _ in range(copies):
        own = {i: native.allocate(x.nbytes) for i, x in packed.items()}
        for i, x in packed.items():
            own[i][:] = x.reshape(-1).view(np.uint8)
        reason = step.add(instr, inputs, [out], {i: x.view(packed[i].dtype) for i, x in own.items()})
        if reason is not None:
            raise RuntimeError(reason)
    step.finish()
    step()
    return _Kernel(step, copies, nbytes, [])


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One table for few rows, by bandwidth, one for many, by arithmetic."""
    limits = data["limits"]
    few = [row for row in data["rows"] if row["shape"][0] < _FEW_ROWS]
    many = [row for row in data["rows"] if row["shape"][0] >= _FEW_ROWS]
    plain = {tuple(row["shape"]): row["us"] for row in data["rows"] if row["format"] == "fp32"}

    def head(row: Mapping[str, Any]) -> list[str]:
        base = plain.get(tuple(row["shape"]))
        faster = "" if base is None else ratio(base / row["us"])
        return ["x".join(map(str, row["shape"])), row["format"], f"{row['us']:,.0f}", faster]

    by_bytes, by_work = [], []
    for row in few:
        rate = row["bytes"] / row["us"] * 1e6
        by_bytes.append([*head(row), f"{rate / 1e9:.1f}", f"{rate / limits['read_bytes_per_s']:.0%}"])
    for row in many:
        rate = 2 * math.prod(row["shape"]) / row["us"] * 1e6
        peak = limits["int8_per_s" if row["format"] in ("w8a8", "w4a8") else "f32_per_s"]
        by_work.append([*head(row), f"{rate / 1e9:,.0f}", f"{rate / peak:.0%}"])
    columns = ["rows x outputs x depth", "weights", ">us", ">over fp32"]
    note = (
        f"Measured on {limits['isa']}; a loop that reads memory does "
        f"{limits['read_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"multiply-adds in registers {limits['f32_per_s'] / 1e9:,.0f} Gop/s, "
        f"integer tiles in the first-level cache {limits['int8_per_s'] / 1e9:,.0f} Gop/s."
    )
    return [
        Table("One row: weights from memory", [*columns, ">GB/s", ">of read"], by_bytes, [note]),
        Table("Many rows", [*columns, ">Gop/s", ">of peak"], by_work),
    ]
