"""Fit the cost model of an NPU to its vendor's simulator.

An instruction inside a network finds its operands on the chip, and alone it would pay for bringing them
there. So every case is a chain in which the result of one link goes into the next, with weights of its own: a
link's cost is the simulated latency of ``2 n`` links less that of ``n``, divided by ``n``. Chains that the
vendor's model counts as free say nothing and are left out; these ops take the rates of their family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

import numpy as np
from forgec.backends.base import Backend, No, Settings

from forgec.errors import BackendError
from forgec.ir.op import get
from forgec.ir.program import (
    AttrValue,
    Constant,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Operand,
    Program,
    Register,
)
from forgec.ir.types import DType, TensorType

from . import calibrate
from .round_robin import Say
from .tables import Table

__all__ = ["NAME", "TITLE", "Chain", "Link", "chains", "measure", "segment", "tables"]

NAME = "npu-rates"
TITLE = "Cost models of NPUs"
_LINKS = 2
_LOOK_UPS = {"embedding"}
_FREE_US = 0.02
"""Links below this, in microseconds, are what the vendor's model has no price for."""


@dataclass(frozen=True)
class Link:
    """One instruction; its first operand is the result of the link before.

    ``weights`` are constants, new ones in every link; ``inputs`` are given to the program, the same ones to
    all links. A look-up takes constants and inputs alone, and its result is added to that of the link before.
    """

    op: str
    weights: tuple[TensorType | None, ...] = ()
    inputs: tuple[TensorType, ...] = ()
    attrs: Mapping[str, AttrValue] | None = None


@dataclass(frozen=True)
class Chain:
    """Links that lead from a type to the same type again, and are equally dear."""

    type: TensorType
    links: tuple[Link, ...]


def f32(*shape: int) -> TensorType:
    return TensorType(DType.F32, shape)


def chains() -> Iterator[Chain]:
    """All cases: each family of the cost model has some."""
    yield from _matrix()
    yield from _attention()
    yield from _look_ups()
    for rows, width in product((1, 16, 128, 512), (768, 3072)):
        yield from _rows(rows, width)
    for tokens, heads, size in ((16, 12, 64), (128, 12, 64), (128, 32, 128), (512, 16, 64)):
        table = f32(1, 1, tokens, size)
        yield Chain(f32(1, heads, tokens, size), (Link("rope", inputs=(table, table)),))
    for channels, length in ((64, 512), (256, 128), (384, 512), (384, 1500)):
        kernel = (f32(channels, channels, 3), f32(channels))
        yield Chain(f32(1, channels, length), (Link("conv", kernel, attrs={"padding": (1,)}),))


def _look_ups() -> Iterator[Chain]:
    for rows, width, words in product((1, 128), (384, 1024), (512, 8192, 32000)):
        ids = TensorType(DType.I64, (1, rows))
        yield Chain(f32(1, rows, width), (Link("embedding", (f32(words, width),), (ids,)),))


def _matrix() -> Iterator[Chain]:
    for tokens, (inner, outer) in product(
        (1, 16, 128, 512), ((384, 384), (768, 768), (384, 1536), (768, 3072), (2048, 2048), (1024, 4096))
    ):
        up, down = f32(outer, inner), f32(inner, outer)
        x = f32(1, tokens, inner)
        yield Chain(x, (Link("linear", (up, f32(outer), None)), Link("linear", (down, f32(inner), None))))
        if tokens in (1, 128):
            codes = TensorType(DType.I8, up.shape), TensorType(DType.I8, down.shape)
            scales = f32(1, outer), f32(1, inner)
            yield Chain(
                x,
                tuple(Link("linear_q", (c, s, None, None)) for c, s in zip(codes, scales, strict=True)),
            )
    for tokens, (heads, size) in product((16, 128, 512), ((4, 64), (12, 64), (16, 128))):
        keys, values = f32(1, heads, size, tokens), f32(1, heads, tokens, size)
        yield Chain(
            f32(1, heads, tokens, size), (Link("matmul", inputs=(keys,)), Link("matmul", inputs=(values,)))
        )


def _attention() -> Iterator[Chain]:
    for tokens, past in ((128, 128), (512, 512), (16, 256), (1, 256), (1, 1024)):
        for heads, groups, size in ((12, 12, 64), (16, 4, 64), (32, 8, 64)):
            kv = f32(1, groups, past, size)
            link = Link("attention", inputs=(kv, kv), attrs={"scale": size**-0.5})
            yield Chain(
                f32(1, heads, tokens, size),
                (link,),
            )


def _rows(rows: int, width: int) -> Iterator[Chain]:
    x, weight = f32(1, rows, width), f32(width)
    for op, weights in (("layer_norm", 2), ("rms_norm", 1), ("softmax", 0)):
        yield Chain(x, (Link(op, (weight,) * weights),))
    for op in ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh"):
        yield Chain(x, (Link(op),))
    yield Chain(x, (Link("gated", inputs=(x,), attrs={"act": "silu"}),))
    yield Chain(x, (Link("add", inputs=(x,)), Link("mul", inputs=(x,))))
    for op in ("sub", "maximum"):
        yield Chain(x, (Link(op, inputs=(x,)),))


def segment(chain: Chain, times: int) -> Program:
    """The chain ``times`` times over, as a flat program."""
    x = Register(0, chain.type)
    params = [x]
    shared: dict[int, list[Register]] = {}
    for index, link in enumerate(chain.links):
        shared[index] = [Register(len(params) + k, t) for k, t in enumerate(link.inputs)]
        params += shared[index]
    body: list[Instr] = []
    constants: dict[str, Constant] = {}
    number = len(params)
    for _ in range(times):
        for index, link in enumerate(chain.links):
            operands: list[Operand] = [] if link.op in _LOOK_UPS else [x, *shared[index]]
            for t in link.weights:
                name = f"c{len(constants)}"
                if t is not None:
                    constants[name] = Constant(name, t, Leaf(name, t))
                operands.append(None if t is None else ConstRef(name, t))
            operands += shared[index] if link.op in _LOOK_UPS else []
            types = [None if o is None else o.type for o in operands]  # type: ignore[union-attr]
            record = get(link.op)
            operands += [None] * (len(record.operands) - len(operands))
            types += [None] * (len(operands) - len(types))
            attrs = dict(link.attrs or {})
            (result,) = record.result_types(types, {**record.attrs, **attrs})
            made = Register(number, result)
            body.append(Instr(link.op, tuple(operands), (made,), attrs))
            if link.op in _LOOK_UPS:
                number += 1
                made = Register(number, result)
                body.append(Instr("add", (x, body[-1].results[0]), (made,)))
            x = made
            number += 1
    names = tuple(f"x{i}" for i in range(len(params)))
    return Program("main", {"main": Function("main", tuple(params), names, body, (x,), ("y",))}, constants)


def measure(target: str, *, every: int, jobs: int, say: Say) -> dict[str, Any]:
    """Compile every ``every``-th chain for a target and fit; the data is as that of ``calibrate.measure``."""
    from forgec import backends
    from forgec.plan.cost import fit

    backend = backends.get(target)
    samples: list[tuple[Instr, float]] = []
    free: set[str] = set()
    cases = list(chains())[::every]
    for number, chain in enumerate(cases, 1):
        us = _link_us(backend, chain, jobs)
        body = segment(chain, 1).main.body
        what = f"{number}/{len(cases)} {body[0].op} {chain.type}"
        if us is None:
            say(f"{what}: refused")
            continue
        say(f"{what}: {us:.2f} us")
        if us < _FREE_US:
            free.update(link.op for link in chain.links)
        else:
            ops = {link.op for link in chain.links}
            samples += [(instr, us) for instr in body if instr.op in ops]
    machine = f"{backend.name}, {backend.compiler}"
    model = fit(samples, machine=machine, date=date.today().isoformat(), method="simulated", on_chip=True)
    return {
        "calibration": calibrate.rounded(model.to_json()),
        "errors": calibrate.errors(model, samples),
        "free": sorted(free),
    }


def _link_us(backend: Backend, chain: Chain, jobs: int) -> float | None:
    """Simulated microseconds of one link; None if the compiler refuses the chain."""
    programs = [segment(chain, times) for times in (_LINKS, 2 * _LINKS)]
    if any(isinstance(answer, No) for answer in backend.answers(programs[0].main.body)):
        return None
    settings = Settings(timeout_s=300.0, jobs=jobs, fold="off")
    try:
        codes = backend.compile_all(programs, _values, settings)
    except BackendError:
        return None
    short, long = (backend.prediction(code) for code in codes)
    if short is None or long is None:
        return None
    links = _LINKS * len(chain.links)
    return (long.latency_us - short.latency_us) / links


def _values(constant: Constant) -> np.ndarray:
    """Random values; scales of compressed weights are floats like others, and positive."""
    shape, dtype = constant.type.shape, constant.type.dtype
    rng = np.random.default_rng(sum(map(ord, constant.name)))
    if dtype is DType.I8:
        return rng.integers(-127, 128, shape).astype(np.int8)
    return (0.02 + 0.01 * rng.random(shape)).astype(dtype.numpy)


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Error of the fit by family, the families' rates, and the ops that the vendor's model does not price."""
    (table,) = calibrate.tables(data)
    free = f"Free in the vendor's model: {', '.join(data['free'])}." if data["free"] else ""
    return [
        Table(
            "Cost model fitted on chains of instructions: latencies simulated, rates fitted",
            table.columns,
            table.rows,
            [*table.notes, *filter(None, [free])],
        )
    ]
