"""Quantised weights, which become floating-point ones when they are imported, with their codes beside them,
and pairs of quantise and dequantise around activations, which run as rounding of floats."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

from ..codes import Codes, Dequantised, bytes_in_file, codes_of
from ..registry import CONTRIB, Prepare, Unsupported, converts
from ..tensors import computed_type, type_name
from .indexing import from_table, gather

_CODES: dict[int, tuple[int, int, torch.dtype]] = {
    TensorProto.UINT8: (0, 255, torch.uint8), TensorProto.INT8: (-128, 127, torch.int8),
    TensorProto.UINT16: (0, 65535, torch.int32), TensorProto.INT16: (-32768, 32767, torch.int16),
    TensorProto.UINT4: (0, 15, torch.uint8), TensorProto.INT4: (-8, 7, torch.int8),
}  # fmt: skip
"""Range of the codes of an element type, and the type that holds them here."""


_EIGHT_BIT_PRODUCTS = 4
"""The ``accuracy_level`` of products that round their activations to 8 bits."""

_LARGEST, _EXACT = 255, 2**24
"""Size of a code of 8 bits less its zero point, and up to which a float holds every integer."""


def _spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Scales or zero points in a shape that goes with x: one for all, per index of an axis, or per block."""
    if parameter.numel() == 1:
        return parameter.reshape([1] * x.ndim)
    axis %= x.ndim
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    view = [1] * x.ndim
    view[axis] = x.shape[axis]
    return parameter.reshape(view)


@converts("DequantizeLinear", fold=True, codes=codes_of)
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    rank_one = x.ndim == 0
    x = x.reshape(1) if rank_one else x
    y = x.to(scale.dtype)
    if zero is not None:
        y = y - _spread(zero.to(scale.dtype), x, axis, block_size)
    y = y * _spread(scale, x, axis, block_size)
    y = y.to(computed_type(output_dtype)) if output_dtype else y
    return y.reshape(()) if rank_one else y


converts("DequantizeLinear", domain=CONTRIB, fold=True, codes=codes_of)(dequantize_linear)


def _with_type(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The type of the codes as an attribute: as a tensor, the zero point may be of a wider one."""
    zero = inputs[2] if len(inputs) > 2 else None
    if isinstance(zero, np.ndarray):
        attributes["output_dtype"] = helper.np_dtype_to_tensor_dtype(zero.dtype)
    elif zero is not None:
        raise Unsupported("a zero point that is no constant")
    return inputs, attributes


@converts("QuantizeLinear", prepare=_with_type)
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    kind = output_dtype or TensorProto.UINT8
    if kind not in _CODES:
        raise Unsupported(f"quantising to {type_name(kind)}")
    low, high, dtype = _CODES[kind]
    y = torch.round(x / _spread(scale, x, axis, block_size))
    if zero is not None:
        y = y + _spread(zero.to(y.dtype), x, axis, block_size)
    return torch.clamp(y, low, high).to(dtype)


converts("QuantizeLinear", domain=CONTRIB, prepare=_with_type)(quantize_linear)


@converts("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.clamp_max(x.amin(), 0), torch.clamp_min(x.amax(), 0)
    span = high - low
    scale = torch.where(span == 0, torch.ones_like(span), span / 255)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    y = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


def _parts(codes: np.ndarray, zero: np.ndarray | None) -> int:
    """Into how many parts sums of products of a weight [.., K, N] with codes are split to be exact."""
    sizes = np.abs(codes.astype(np.int32) - (0 if zero is None else zero.astype(np.int32)))
    sizes = np.moveaxis(sizes, -2, 0).reshape(codes.shape[-2], -1)
    for parts in range(1, max(len(sizes), 1)):
        step = -(-len(sizes) // parts)
        sums = (sizes[at : at + step].sum(0, np.int64) for at in range(0, len(sizes), step))
        if max(int(x.max(initial=0)) for x in sums) * _LARGEST <= _EXACT:
            return parts
    return max(len(sizes), 1)


def _with_parts(at: int) -> Prepare:
    """Says how many parts a weight that is known needs; ``at`` is the input of its zero points."""

    def prepare(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        codes, zero = inputs[1], inputs[at] if len(inputs) > at else None
        if isinstance(codes, np.ndarray) and (zero is None or isinstance(zero, np.ndarray)):
            attributes["parts"] = _parts(codes if codes.ndim > 1 else codes[:, None], zero)
        return inputs, attributes

    return prepare


def _integer_product(
    a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None, parts: int
) -> Tensor:
    """The product in float, or in int32 where a float does not hold every sum of it."""
    x, y = a.float(), b.float()
    x = x if a_zero is None else x - (a_zero.float() if a_zero.ndim == 0 else a_zero.float()[..., None])
    y = y if b_zero is None else y - b_zero.float()
    length = x.shape[-1]
    parts = parts or max(-(-length * _LARGEST**2 // _EXACT), 1)
    if parts == 1:
        return torch.matmul(x, y)
    along, step = max(y.ndim - 2, 0), -(-length // parts)
    pairs = zip(x.split(step, -1), y.split(step, along), strict=True)
    return functools.reduce(torch.add, (torch.matmul(p, q).to(torch.int32) for p, q in pairs))


@converts("MatMulInteger", prepare=_with_parts(3))
def matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None, *, parts: int = 0
) -> Tensor:
    """Products of integers in float, which are exact up to 2^24; longer sums are split."""
    return _integer_product(a, b, a_zero, b_zero, parts).to(torch.int32)


@converts("MatMulIntegerToFloat", domain=CONTRIB, prepare=_with_parts(5))
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    parts: int = 0,
) -> Tensor:
    if a_scale.numel() > 1 or (a_zero is not None and a_zero.numel() > 1):
        raise Unsupported("several scales of the first input")
    a_zero = None if a_zero is None else a_zero.reshape(())
    y = _integer_product(a, b, a_zero, b_zero, parts).to(a_scale.dtype) * (a_scale.reshape(()) * b_scale)
    return y if bias is None else y + bias


@converts("DynamicQuantizeMatMul", domain=CONTRIB, prepare=_with_parts(3))
def dynamic_quantize_matmul(
    x: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    parts: int = 0,
) -> Tensor:
    a, scale, zero = dynamic_quantize_linear(x)
    return matmul_integer_to_float(a, b, scale, b_scale, zero, b_zero, bias, parts=parts)


def _unpack_weight(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The packed weight, scales and zero points as one constant."""
    x, packed, scales, zeros, groups, bias = [*inputs, None, None, None][:6]
    if groups is not None or attributes.get("weight_prepacked"):
        raise Unsupported("g_idx or prepacked weights")
    if not all(part is None or isinstance(part, np.ndarray) for part in (packed, scales, zeros)):
        raise Unsupported("weights that are no constants")
    codes = _n_bits_codes(packed, scales, zeros, attributes)
    rounds = int(attributes.get("accuracy_level", 0)) == _EIGHT_BIT_PRODUCTS
    return [x, codes.dequantised(rounds), bias], {}


@converts("MatMulNBits", domain=CONTRIB, prepare=_unpack_weight)
def matmul_n_bits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _unpack_table(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The packed table, scales and zero points as one constant."""
    data, indices, scales, zeros = [*inputs, None][:4]
    if not all(part is None or isinstance(part, np.ndarray) for part in (data, scales, zeros)):
        raise Unsupported("a table that is no constant")
    bits, stored = int(attributes.get("bits", 4)), bytes_in_file(data)
    middle = 0 if data.dtype.name == "int4" else 2 ** (bits - 1)
    zero = 0
    if data.dtype == np.uint8:
        zero = middle
        if bits < 8:
            data = _unpacked(data, bits)
            zeros = None if zeros is None else _unpacked(zeros, bits)[..., : scales.shape[-1]]
    axis = int(attributes.get("quantize_axis", 1)) % data.ndim
    rows = np.moveaxis(data, axis, -1)

    def of_rows(parameter: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(parameter, axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    codes = Codes(
        of_rows(data),
        of_rows(scales),
        np.full(of_rows(scales).shape, zero) if zeros is None else of_rows(zeros).astype(np.int32),
        (1, min(int(attributes.get("block_size", 128)), rows.shape[-1])),
        bits if bits == 8 else 4,
        middle,
        stored,
    )
    floats = np.moveaxis(codes.floats().reshape(rows.shape), -1, axis)
    inputs, attributes = from_table([floats, indices], {"axis": int(attributes.get("gather_axis", 0))})
    if data.ndim != 2:
        return inputs, attributes
    return [Dequantised(floats, (codes if axis else codes.turned()).stored(False)), *inputs[1:]], attributes


@converts("GatherBlockQuantized", domain=CONTRIB, prepare=_unpack_table)
def gather_block_quantized(x: Tensor, indices: Tensor, *, axis: int = 0, table: int = 0) -> Tensor:
    return gather(x, indices, axis=axis, table=table)


def _n_bits_codes(
    packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, attributes: dict[str, Any]
) -> Codes:
    """The weight [N, K], codes of 2, 4 or 8 bits per block of inputs."""
    rows, inputs, block = (int(attributes[name]) for name in ("N", "K", "block_size"))
    bits = int(attributes.get("bits", 4))
    if bits not in (2, 4, 8):
        raise Unsupported(f"{bits} bits")
    blocks = -(-inputs // block)
    codes = _unpacked(packed.reshape(rows, blocks, -1), bits)[..., :block].reshape(rows, -1)[:, :inputs]
    middle = 2 ** (bits - 1)
    if zeros is None:
        offset = np.full((rows, blocks), middle, np.int32)
    elif zeros.dtype == np.uint8:
        offset = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks].astype(np.int32)
    else:
        offset = zeros.reshape(rows, blocks)
    size = 8 if bits == 8 else 4
    whole = scales.reshape(rows, blocks)
    return Codes(codes, whole, offset, (1, min(block, inputs)), size, middle, packed.nbytes)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes of bytes, the lowest bits first, along the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)
