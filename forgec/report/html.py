"""The HTML form of a report: one self-contained file without scripts, readable in light and dark.

Everything from the report goes through the template's escaping.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from . import units
from .report import Report
from .terminal import pass_rows, repeat_text

__all__ = ["render"]


def render(report: Report) -> str:
    """The whole page."""
    return _template().render(r=report, pass_rows=pass_rows(report.passes))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(units, name) for name in units.__all__})
    environment.filters["repeat_text"] = repeat_text
    return environment.get_template("report.html")
