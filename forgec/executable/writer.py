"""Writing a ``.forge`` file: small members from memory, tensors one at a time.

A tensor is computed, digested, written and released before the next one is computed; so the peak memory is
that of the largest tensor and a large page, whatever the size of the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InternalError
from ..ir.types import TensorType
from .archive import MANIFEST, Manifest, Member, digest
from .atomic import atomic_file
from .tensorfile import lay_out
from .zipformat import ZipWriter

__all__ = ["LazyTensor", "write_archive"]

_CHUNK = 16 * 2**20
_ENTRY_BYTES = 512
"""Bytes allowed per member and tensor, for headers and digests, when the size of a file is estimated."""


@dataclass(frozen=True)
class LazyTensor:
    """A named tensor of known type that is computed when it is written."""

    name: str
    type: TensorType
    compute: Callable[[], np.ndarray]


def write_archive(
    path: str | os.PathLike[str],
    manifest: Manifest,
    members: Mapping[str, bytes | Sequence[LazyTensor]],
) -> None:
    """Write the members, in order, and behind them the manifest with what it lacks: their list.

    Atomic: :class:`ArtifactError` if the file cannot be written, and then nothing has changed.
    """
    layouts = {
        name: lay_out([(t.name, t.type) for t in m])
        for name, m in members.items()
        if not isinstance(m, bytes)
    }
    sizes = {name: layouts[name].size if name in layouts else len(m) for name, m in members.items()}
    names = sum(len(layout.slots) for layout in layouts.values())
    fixed = len(manifest.to_bytes())
    with atomic_file(path, sum(sizes.values()) + fixed + _ENTRY_BYTES * (len(sizes) + names)) as file:
        archive = ZipWriter(file)
        listed: dict[str, Member] = {}
        for name, content in members.items():
            if isinstance(content, bytes):
                archive.add(name, len(content), [content])
                listed[name] = Member(len(content), digest(content))
            else:
                header = layouts[name].header
                digests: dict[str, str] = {}
                archive.add(name, sizes[name], _tensor_chunks(header, content, digests))
                listed[name] = Member(sizes[name], digest(header), digests)
        last = replace(manifest, members=listed).to_bytes()
        archive.add(MANIFEST, len(last), [last])
        archive.finish()


def _tensor_chunks(
    header: bytes, tensors: Sequence[LazyTensor], digests: dict[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a tensor member; fills in the digest of each tensor as it goes by."""
    yield header
    at = len(header)
    slots = lay_out([(t.name, t.type) for t in tensors]).slots
    for tensor in tensors:
        yield bytes(slots[tensor.name].start - at)
        data = _bytes_of(tensor)
        digests[tensor.name] = digest(data)
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]
        at = slots[tensor.name].start + len(data)
        del data


def _bytes_of(tensor: LazyTensor) -> memoryview:
    array = tensor.compute()
    if TensorType.of(array) != tensor.type:
        raise InternalError(
            f"tensor {tensor.name} is {TensorType.of(array)}, and was announced as {tensor.type}"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
