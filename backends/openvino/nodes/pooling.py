"""Pooling, its padding as wide as its windows reach, so that no number of windows is rounded."""

from __future__ import annotations

from forgec.ir.ops.pooling import windows

from .registry import Context, Node, emitter

__all__: list[str] = []


@emitter("pool")
def pool(c: Context) -> Node:
    """An average counts all padding or none: where windows reach behind what counts, zeros stand there."""
    kernel, stride, before, dilation = (
        list(c.attrs[key]) for key in ("kernel", "stride", "padding", "dilation")
    )
    after = [found.after for found in windows(c.type(0).shape, c.attrs)]
    if c.attrs["kind"] == "max":
        return c.o.max_pool(c[0], stride, dilation, before, after, kernel).output(0)
    x, counted = c[0], c.attrs["include_padding"]
    if counted and any(a > b for a, b in zip(after, before, strict=True)):
        widths = c.ints(0, 0, *before)
        x, counted = c.o.pad(x, widths, widths, "constant", c.scalar(0.0)), False
        after = [max(a - b, 0) for a, b in zip(after, before, strict=True)]
        before = [0] * len(before)
    return c.o.avg_pool(x, stride, before, after, kernel, not counted)
