"""Kernels that move elements: copies, concatenation, padding, look-ups, states."""

from __future__ import annotations

from functools import partial

import numpy as np

from forgec.errors import InputError

from .registry import Array, Call, Step, kernel

__all__: list[str] = []


@kernel("copy", "read_state")
def _copy(call: Call) -> Step | None:
    return partial(np.copyto, call.out, call.array(0))


@kernel("write_state")
def _write_state(call: Call) -> Step | None:
    return partial(np.copyto, call.array(0), call.array(1))


@kernel("update_rows")
def _update_rows(call: Call) -> Step | None:
    cache, new, position, out = call.array(0), call.array(1), call.array(2), call.out
    here = cache.ctypes.data == out.ctypes.data

    def step() -> None:
        at = _first_row(call, out, new, position)
        if not here:
            np.copyto(out, cache)
        out[..., at : at + new.shape[-2], :] = new

    return step


@kernel("write_rows")
def _write_rows(call: Call) -> Step | None:
    state, new, position = call.array(0), call.array(1), call.array(2)

    def step() -> None:
        at = _first_row(call, state, new, position)
        state[..., at : at + new.shape[-2], :] = new

    return step


def _first_row(call: Call, cache: Array, new: Array, position: Array) -> int:
    first, last = int(position), cache.shape[-2] - new.shape[-2]
    if not 0 <= first <= last:
        raise InputError(f"{call.op}: index {first} is outside an axis of {last + 1}", call.place)
    return first


@kernel("flip")
def _flip(call: Call) -> Step | None:
    return partial(np.copyto, call.out, np.flip(call.array(0), call.attrs["axes"]))


@kernel("concat")
def _concat(call: Call) -> Step | None:
    axis = call.attrs["axis"] % call.out.ndim
    moves: list[tuple[Array, Array]] = []
    start = 0
    for i in range(len(call.inputs)):
        part = call.array(i)
        stop = start + part.shape[axis]
        moves.append((call.out[(slice(None),) * axis + (slice(start, stop),)], part))
        start = stop

    def step() -> None:
        for place, part in moves:
            place[...] = part

    return step


@kernel("pad")
def _pad(call: Call) -> Step | None:
    x, out, before = call.array(0), call.out, call.attrs["before"]
    inner = out[tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))]
    value = out.dtype.type(call.attrs["value"])

    def step() -> None:
        out[...] = value
        inner[...] = x

    return step


@kernel("embedding")
def _embedding(call: Call) -> Step | None:
    table, ids, out = call.array(0), call.array(1), call.out
    rows, place = table.shape[0], call.place
    direct = bool(table.flags.c_contiguous)

    def step() -> None:
        if ids.size == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            raise InputError(
                f"id {low if low < 0 else high} is outside an embedding table of {rows} rows",
                place,
                "check that the inputs were made with this model's own tokenizer",
            )
        if direct:
            np.take(table, ids, 0, out, "clip")
        else:
            out[...] = table[ids]

    return step
