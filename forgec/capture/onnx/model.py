"""An ONNX file with sizes for its open dimensions and example inputs: what is compiled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import OptionError
from .file import Input, OnnxFile, load_onnx, shapes_of
from .module import OnnxModule

__all__ = ["OnnxModel"]

_DEFAULT_TOKENS = 128
_SHOWN = 4
"""Open dimensions that an error names."""
_BATCH = re.compile(r"batch|^b$|^bs$|^n$", re.IGNORECASE)
_TOKENS = re.compile(r"seq|tok|^s$|^t$|length", re.IGNORECASE)
_CACHE = re.compile(r"past|total|cache|present|kv", re.IGNORECASE)
_TOKEN_INPUT = re.compile(r"input_ids|attention_mask|token_type|position_ids|segment_ids|input_mask")


class OnnxModel:
    """``module`` and ``example_inputs`` as of what ``forgec.models`` loads.

    ``shapes`` gives whole shapes by input name. Dimensions that it leaves open are ``tokens`` or ``batch`` if
    their names in the file say so ("batch_size", "sequence_length"), or, where those say nothing, by the
    place in inputs like ``input_ids``. Raises ``OptionError`` naming every dimension that stays open, and
    ``CaptureError`` for what is wrong with the file.
    """

    weights = "checkpoint"

    def __init__(
        self,
        path: str | Path | OnnxFile,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        tokens: int | None = None,
        batch: int | None = None,
    ) -> None:
        self.file = path if isinstance(path, OnnxFile) else load_onnx(path)
        self.name = self.file.name
        self.shapes = _resolve(self.file, shapes or {}, tokens, batch)
        self.module = OnnxModule(self.file, self.shapes)

    @classmethod
    def of_inputs(cls, path: str | Path, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> OnnxModel:
        """For the shapes of example inputs, if there are any."""
        file = load_onnx(path)
        return cls(file, shapes=shapes_of(file, args, kwargs) if args or kwargs else None)

    def example_inputs(self, seed: int = 0) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Random valid inputs ``((), kwargs)``: floats normal; masks of ones, with another seed than 0 ending
        in zeros; positions counted up; other integers below the size of the table that they index."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {i.key: self._draw(i, generator, seed != 0) for i in self.file.inputs}
        return (), drawn

    def _draw(self, given: Input, generator: torch.Generator, padded: bool) -> Tensor:
        shape, name = self.shapes[given.name], given.name.lower()
        if given.dtype.is_floating_point and "mask" not in name:
            return torch.randn(shape, generator=generator).to(given.dtype)
        if "mask" in name:
            ones = torch.ones(shape)
            if padded and len(shape) == 2:
                kept = 1 + torch.randint(shape[1], (shape[0], 1), generator=generator)
                ones = (torch.arange(shape[1]) < kept).float()
            return ones.to(given.dtype)
        if "position" in name and shape:
            return torch.arange(shape[-1]).expand(shape).to(given.dtype).contiguous()
        high = 2 if given.dtype is torch.bool else self.module.rows.get(given.name, 2)
        return torch.randint(high, shape, generator=generator).to(given.dtype)


def _resolve(
    file: OnnxFile, shapes: Mapping[str, Sequence[int]], tokens: int | None, batch: int | None
) -> dict[str, tuple[int, ...]]:
    """Sizes of all dimensions of all inputs."""
    by_key = {i.key: i for i in file.inputs} | {i.name: i for i in file.inputs}
    given: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in by_key:
            raise OptionError(
                f"{file.path} has no input {name!r}", hint=f"one of: {', '.join(i.name for i in file.inputs)}"
            )
        found = by_key[name]
        fits = len(shape) == len(found.dims)
        for wanted, size in zip(found.dims, shape, strict=False):
            if isinstance(wanted, str):
                fits &= sizes.setdefault(wanted, int(size)) == size
            elif wanted is not None:
                fits &= wanted == size
        if not fits or any(size < 0 for size in shape):
            raise OptionError(
                f"input {name!r} of {file.path} is {_text(found.dims)}, and {list(shape)} is given",
                hint="one name is one size in all inputs",
            )
        given[found.name] = tuple(int(n) for n in shape)
    used: set[str] = set()
    unknown: list[str] = []
    for found in file.inputs:
        if found.name in given:
            continue
        whole: list[int] = []
        for axis, dim in enumerate(found.dims):
            known = dim if isinstance(dim, int) else sizes.get(dim or "")
            if known is None:
                role = _role(found, axis)
                used.add(role)
                known = {"batch": batch or 1, "tokens": tokens or _DEFAULT_TOKENS}.get(role)
            if known is None:
                unknown.append(f"{dim or f'axis {axis}'} of {found.name!r} {_text(found.dims)}")
            whole.append(known or 0)
        given[found.name] = tuple(whole)
    if unknown:
        name = file.inputs[0].name
        shown = [*unknown[:_SHOWN], *([f"{len(unknown) - _SHOWN} more"] if len(unknown) > _SHOWN else [])]
        text = any(i.name.startswith("past") for i in file.inputs)
        raise OptionError(
            f"{file.path} leaves open: {'; '.join(shown)}",
            hint=(
                "to write text with it, compile it with --context N, which keeps the cache; or "
                if text
                else ""
            )
            + f"give shapes (--shape {name}=1,128, repeatable) or example inputs",
        )
    for flag, value, role in (
        ("tokens", tokens, "tokens"),
        ("batch", batch if batch != 1 else None, "batch"),
    ):
        if value is not None and role not in used and not shapes:
            raise OptionError(f"{file.path} has no open dimension for {flag}", hint=f"leave out --{flag}")
    return given


def _role(found: Input, axis: int) -> str:
    """``batch`` or ``tokens`` for a dimension that is open under such a name, or nameless in such a place."""
    dim = found.dims[axis]
    text = dim if isinstance(dim, str) and not re.fullmatch(r"[su]\d+|dim_?\d+|unk__\d+", dim) else None
    if text is not None:
        if _CACHE.search(text):
            return ""
        return "batch" if _BATCH.search(text) else "tokens" if _TOKENS.search(text) else ""
    if _TOKEN_INPUT.search(found.name.lower()) and len(found.dims) == 2:
        return ("batch", "tokens")[axis]
    return "batch" if axis == 0 and found.dtype.is_floating_point and len(found.dims) > 1 else ""


def _text(dims: Sequence[Any]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"
