"""Memory in large pages: arenas, files where the system maps them so, and weights that are held elsewhere.

The processor remembers where few pages are. Two cores of a Zen 4 server that read in order got 48 GB/s from a
file mapped in small pages and 59 from the same bytes in large ones, and this bounds a language model that
writes.
"""

from __future__ import annotations

import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import PlanError
from ..plan.plan import ALIGNMENT
from ..processors import useful_threads

__all__ = [
    "LARGE_PAGE",
    "allocate",
    "allocate_array",
    "has_large_pages",
    "in_large_pages",
    "read",
    "worth_holding",
]

LARGE_PAGE = 2 << 20

_PART = 16 << 20
"""Bytes that one thread reads at once."""

_ENOUGH = 0.9
"""The share of large pages with which a map is as good as memory that is all large pages."""

_SMAPS = Path("/proc/self/smaps")


def allocate(nbytes: int) -> np.ndarray:
    """Aligned bytes, in large pages where there are many; :class:`PlanError` if memory is short."""
    large = nbytes >= LARGE_PAGE // 2 and hasattr(mmap, "MADV_HUGEPAGE")
    unit = LARGE_PAGE if large else ALIGNMENT
    try:
        if large:
            pages = mmap.mmap(-1, nbytes + 2 * unit, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            in_large_pages(pages)
            raw = np.frombuffer(pages, np.uint8)
        else:
            raw = np.empty(nbytes + unit, np.uint8)
    except (MemoryError, ValueError, OverflowError, OSError) as error:
        raise PlanError(f"{nbytes:,} bytes cannot be allocated: {error}") from error
    skip = -raw.ctypes.data % unit
    return raw[skip : skip + nbytes]


def allocate_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A contiguous array in memory of its own; :class:`PlanError` if memory is short."""
    return allocate(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def in_large_pages(memory: mmap.mmap) -> None:
    """Ask the system for large pages, of a file for what it reads from the disk from now on."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # advice: without it everything works, slower
            memory.madvise(mmap.MADV_HUGEPAGE)


def has_large_pages(memory: mmap.mmap, start: int, end: int) -> bool:
    """Whether bytes of a mapped file, which this reads if they are on the disk, lie in large pages."""
    if end - start < LARGE_PAGE:
        return False
    data = np.frombuffer(memory, np.uint8)
    data[start:end:LARGE_PAGE].max(initial=0)  # every large page is touched, and so mapped
    found, here = 0, False
    with suppress(OSError), open(_SMAPS) as lines:
        for line in lines:
            key, _, value = line.partition(" ")
            if not key.endswith(":"):
                first, last = (int(address, 16) for address in key.split("-"))
                here = first <= data.ctypes.data < last
            elif here and key == "FilePmdMapped:":
                found = int(value.split()[0]) << 10
    return found >= _ENOUGH * (end - start)


def worth_holding(nbytes: int) -> bool:
    """Whether so many bytes take at most half of the memory that is available now."""
    import psutil

    return 2 * nbytes <= psutil.virtual_memory().available


def read(path: str, start: int, nbytes: int) -> np.ndarray:
    """Bytes of a file in memory of their own, read by all processors; ``OSError`` if it ends before."""
    buffer = allocate(nbytes)

    def part(offset: int) -> None:
        end = min(offset + _PART, nbytes)
        while offset < end:
            got = os.preadv(file, [buffer.data[offset:end]], start + offset)
            if got == 0:
                raise OSError("the file has become shorter")
            offset += got

    file = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(useful_threads()) as pool:
            list(pool.map(part, range(0, nbytes, _PART)))
    finally:
        os.close(file)
    return buffer
