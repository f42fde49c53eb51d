"""Numbers as people read them; shared by the terminal and the HTML form."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = [
    "by_type",
    "change",
    "count",
    "duration_us",
    "metric",
    "milliseconds",
    "nbytes",
    "quantity",
    "share",
]


def by_type(sizes: Mapping[str, int]) -> str:
    """Bytes by element type, for behind their sum: `` (i8 5.00 MiB, f32 1.00 MiB)``; nothing for no types."""
    parts = [f"{nbytes(size)} {name}" for name, size in sizes.items()]
    return f" ({', '.join(parts)})" if len(parts) > 1 else "".join(f" {name}" for name in sizes)


def nbytes(value: float) -> str:
    """Bytes in binary units with three digits: ``1.21 MiB``."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def quantity(value: float) -> str:
    """A number in decimal steps with three digits: ``5.6 G``; the unit is to follow."""
    return _scaled(value, 1000.0, ("", "k", "M", "G", "T", "P")).rstrip()


def count(value: int) -> str:
    """A whole number with thousands apart: ``12 480``."""
    return f"{value:,}".replace(",", " ")


def milliseconds(value: float) -> str:
    """Milliseconds without the unit, one decimal, so that a column lines up: ``1 204.3``, ``0.4``."""
    return f"{value:,.1f}".replace(",", " ")


def duration_us(value: float) -> str:
    """Microseconds as the unit that suits: ``740 us``, ``8.1 ms``, ``2.3 s``."""
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{_digits(value)} us"


def share(part: float, whole: float) -> str:
    """Percentage without decimals; ``-`` of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def change(before: float, after: float) -> str:
    """Signed relative change in per cent, one decimal: ``-17.4 %``."""
    return f"{100 * (after - before) / before:+.1f} %" if before else "0.0 %"


def metric(value: float) -> str:
    """A fidelity number: two digits in exponent form, or ``0``, ``inf``, ``nan``."""
    return f"{value:.1e}" if math.isfinite(value) and value else f"{value:g}"


def _scaled(value: float, step: float, names: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= step and power < len(names) - 1:
        value /= step
        power += 1
    return f"{_digits(value) if power else f'{value:g}'} {names[power]}"


def _digits(value: float) -> str:
    """Three significant digits, never in exponent form."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
