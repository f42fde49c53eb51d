"""A plan's memory as plain text: the buffers of each arena, who takes turns in them, and when.

The chart has the arena's addresses downwards and the instructions to the right; a cell is the share of its
bytes and time that holds a live register, from blank over ``.``, ``-``, ``+`` to ``#``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from . import liveness
from .plan import Plan

__all__ = ["memory_map"]

WIDTH = 100
_CHART_ROWS = 24
_CHART_COLUMNS = 80
_SHADES = " .-+#"


@dataclass(frozen=True)
class _Tenant:
    """A register in its buffer: bytes from ``offset`` on, live in the closed interval [start, end]."""

    register: str
    offset: int
    nbytes: int
    start: int
    end: int


def memory_map(plan: Plan) -> str:
    """The text, at most 100 columns wide, without colour; one section per device."""
    sections = []
    tenants = _tenants(plan)
    for device, arena in plan.arenas.items():
        over = arena.nbytes / arena.lower_bound - 1 if arena.lower_bound else 0.0
        sections += [
            f"arena {device}: {_bytes(arena.nbytes)}, {over:.1%} over the lower bound of "
            f"{_bytes(arena.lower_bound)}; {_bytes(arena.no_reuse)} without reuse",
            f"{arena.registers} registers in {arena.buffers} buffers, rho = {arena.rho:.3f}",
            "",
            *_buffers(tenants[device]),
            "",
            *_chart(tenants[device], arena.nbytes, len(plan.program.main.body)),
            "",
        ]
    return "\n".join(sections)


def _tenants(plan: Plan) -> dict[str, list[_Tenant]]:
    """The registers that have bytes of their own, by device, in order of offset and then of time."""
    tenants: dict[str, list[_Tenant]] = {device: [] for device in plan.arenas}
    for s in liveness.analyse(plan.program, plan.host).storages:
        if s.nbytes:
            place = plan.offsets[s.register]
            tenants[s.device].append(_Tenant(str(s.register), place, s.nbytes, s.start, s.end))
    for found in tenants.values():
        found.sort(key=lambda t: (t.offset, t.start))
    return tenants


def _buffers(tenants: list[_Tenant]) -> list[str]:
    lines = [f"{'offset':>12}  {'size':>10}  {'turns':>5}  registers [first write, last read]"]
    for offset, group in groupby(tenants, key=lambda t: t.offset):
        turns = list(group)
        size = max(t.nbytes for t in turns)
        head = f"{offset:>#12x}  {_bytes(size):>10}  {len(turns):>5}  "
        lines.append(head + _fit([f"{t.register} [{t.start}, {t.end}]" for t in turns], WIDTH - len(head)))
    return lines


def _fit(parts: list[str], width: int) -> str:
    """As many parts as the width holds, and how many are left out."""
    text = ""
    for i, part in enumerate(parts):
        more = f"{text}, {part}" if text else part
        left = len(parts) - i - 1
        if len(more) + (len(f", {left} more") if left else 0) > width:
            return f"{text}, {len(parts) - i} more"
        text = more
    return text


def _chart(tenants: list[_Tenant], nbytes: int, instructions: int) -> list[str]:
    if not tenants:
        return ["(empty)"]
    rows, columns = _CHART_ROWS, min(_CHART_COLUMNS, instructions + 2)
    height, width = nbytes / rows, (instructions + 2) / columns
    cells = [[0.0] * columns for _ in range(rows)]
    for t in tenants:
        top, bottom = t.offset / height, (t.offset + t.nbytes) / height
        left, right = (t.start + 1) / width, (t.end + 2) / width
        for row in range(int(top), min(rows, int(bottom) + 1)):
            tall = min(bottom, row + 1) - max(top, row)
            for column in range(int(left), min(columns, int(right) + 1)):
                cells[row][column] += tall * max(0.0, min(right, column + 1) - max(left, column))
    lines = [f"{'address':>12}  instruction 0 to {instructions - 1}"]
    for row, line in enumerate(cells):
        shades = "".join(_SHADES[_shade(share)] for share in line)
        lines.append(f"{int(row * height):>#12x} |{shades}|")
    return lines


def _shade(share: float) -> int:
    """Index of a shade; only nothing at all is blank, only a full cell is the darkest."""
    if share <= 1e-9:
        return 0
    last = len(_SHADES) - 1
    return last if share >= 1 - 1e-9 else 1 + min(int(share * (last - 1)), last - 2)


def _bytes(count: int) -> str:
    """A count of bytes in binary units."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.2f} {units[0]}"
