"""What an Intel NPU blob says of itself, read without the compiler.

A blob is an ELF file. Its section ``perf.metrics`` holds the compiler's simulated latency: little-endian,
four uint32 (frequency base and step in MHz, bandwidth base and step in MB/s), then 25 uint64 ticks (5
frequencies by 5 bandwidths). The ticks are of a timer of 38.4 MHz on platforms whose base is 700 MHz, else of
19.2 MHz.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from forgec.errors import ArtifactError

__all__ = ["Metrics", "metrics"]

_SECTION = "<IIQQQQIIQQ"
_NAME, _OFFSET, _SIZE = 0, 4, 5
"""Fields of an ELF section's header."""

_TOP_MHZ = {"3720": 1300.0, "4000": 1850.0, "5010": 2100.0}
"""Clock of the data processing units at which a latency is given, by platform."""


@dataclass(frozen=True)
class Metrics:
    """``cycles`` of the data processing units, and the clock that the table begins with."""

    cycles: float
    base_mhz: float

    def latency_us(self, platform: str) -> float:
        """Microseconds at the platform's highest clock."""
        return self.cycles / _TOP_MHZ.get(platform, self.base_mhz)


def metrics(blob: bytes) -> Metrics | None:
    """The simulated latency in a blob; None if it has none. :class:`ArtifactError` if it is no blob."""
    if blob[:4] != b"\x7fELF":
        raise ArtifactError("the code is no NPU blob: it has no ELF header")
    try:
        (table,) = struct.unpack_from("<Q", blob, 0x28)
        size, count, names = struct.unpack_from("<HHH", blob, 0x3A)
        sections = [struct.unpack_from(_SECTION, blob, table + i * size) for i in range(count)]
        text = sections[names][_OFFSET]
        for section in sections:
            start = text + section[_NAME]
            if blob[start : blob.index(b"\0", start)].endswith(b"perf.metrics"):
                (base,) = struct.unpack_from("<I", blob, section[_OFFSET])
                (ticks,) = struct.unpack_from("<Q", blob, section[_OFFSET] + 16)
                return Metrics(ticks / (38.4 if base == 700 else 19.2) * base, float(base))
    except (struct.error, ValueError, IndexError) as error:
        raise ArtifactError(f"the NPU blob is damaged: {error}") from error
    return None
