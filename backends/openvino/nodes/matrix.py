"""Matrix products and convolutions."""

from __future__ import annotations

from .registry import Context, Node, emitter

__all__: list[str] = []


@emitter("linear")
def linear(c: Context) -> Node:
    """Without activation and residual, which legalisation has taken off."""
    y = c.o.matmul(c[0], c[1], False, True)
    return c.o.add(y, c[2]) if c.given(2) else y


@emitter("linear_q")
def linear_q(c: Context) -> Node:
    """One scale per output: codes that the compiler keeps as they are, times scales. Activations stay
    floats."""
    weight = c.o.convert(c[1], c.ov_type(c.result.dtype))
    if c.given(2):
        weight = c.o.multiply(weight, c.o.transpose(c[2], c.ints(1, 0)))
    y = c.o.matmul(c[0], weight, False, True)
    return c.o.add(y, c[3]) if c.given(3) else y


@emitter("matmul")
def matmul(c: Context) -> Node:
    return c.o.matmul(c[0], c[1], False, False)


@emitter("conv")
def conv(c: Context) -> Node:
    stride, padding, dilation = (list(c.attrs[key]) for key in ("stride", "padding", "dilation"))
    groups, weight = c.attrs["groups"], c.type(1).shape
    kernel = c[1]
    if groups > 1:
        shape = (groups, weight[0] // groups, *weight[1:])
        kernel = c.o.reshape(kernel, c.ints(*shape), False)
    make = c.o.group_convolution if groups > 1 else c.o.convolution
    y = make(c[0], kernel, stride, padding, padding, dilation)
    if not c.given(2):
        return y
    spatial = (1,) * (len(weight) - 2)
    return c.o.add(y, c.o.reshape(c[2], c.ints(1, weight[0], *spatial), False))
