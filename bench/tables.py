"""A table that prints on a terminal and as Markdown, so that both forms show the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

__all__ = ["Table", "mib", "ms", "ratio", "spread"]


@dataclass(frozen=True)
class Table:
    """Columns whose names start with ``>`` are aligned to the right; ``notes`` follow the table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"{self.title!r} has {len(self.columns)} columns, and a row {wrong[0]}")

    def markdown(self) -> str:
        """Title in bold, a GitHub table, the notes."""
        lines = [
            f"**{self.title}**",
            "",
            _line([name.lstrip(">") for name in self.columns]),
            _line(["---:" if name.startswith(">") else "---" for name in self.columns]),
            *(_line([cell.replace("|", "\\|") for cell in row]) for row in self.rows),
        ]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def print(self, console: Console) -> None:
        """Print it."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for name in self.columns:
            table.add_column(Text(name.lstrip(">")), justify="right" if name.startswith(">") else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        for note in self.notes:
            console.print(Text(note, style="dim"))
        console.print()


def ms(value: float) -> str:
    """Milliseconds with three significant digits: ``1 240``, ``86.3``, ``0.412``."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", " ")


def mib(nbytes: float) -> str:
    """Bytes in MiB: ``1 240 MiB``."""
    return f"{nbytes / 2**20:,.0f} MiB".replace(",", " ")


def ratio(value: float) -> str:
    """A quotient: ``12.3 x``, ``0.87 x``."""
    return f"{value:.1f} x" if value >= 10 else f"{value:.2f} x"


def spread(low: float, high: float) -> str:
    """A range of milliseconds: ``812 - 1 240``."""
    return f"{ms(low)} - {ms(high)}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
