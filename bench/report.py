"""Render the kept results: each benchmark's tables, on their own or inside docs/benchmarks.md.

The text around the tables is ``benchmarks.md.in``, a jinja template that calls ``results(NAME)`` where the
tables of that benchmark go.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import (
    calibrate,
    compile_time,
    convolutions,
    fidelity,
    fusion,
    generate,
    generate_onnx,
    generate_weights,
    kernels,
    latency,
    load_time,
    memory,
    npu,
    npu_compile,
    npu_hexagon,
    npu_rates,
    npu_weights,
    perplexity,
    program_time,
    scaling,
    streaming,
)
from .results import Result
from .tables import Table

__all__ = ["BENCHMARKS", "document", "markdown", "tables"]

BENCHMARKS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        compile_time,
        scaling,
        load_time,
        memory,
        fidelity,
        perplexity,
        generate,
        generate_onnx,
        generate_weights,
        program_time,
        streaming,
        latency,
        fusion,
        kernels,
        convolutions,
        npu,
        npu_compile,
        npu_weights,
        npu_hexagon,
        npu_rates,
        calibrate,
    )
}
"""By name, in the order of the document."""

_TEMPLATE = Path(__file__).parent / "benchmarks.md.in"


def tables(result: Result) -> list[Table]:
    """The tables of a result; ``KeyError`` if there is no such benchmark."""
    found: list[Table] = BENCHMARKS[result.benchmark].tables(result.data)
    return found


def markdown(results: Sequence[Result], name: str) -> str:
    """Conditions and tables of all results of one benchmark."""
    mine = [result for result in results if result.benchmark == name]
    if not mine:
        return f"No result is kept; `python -m bench {name} --save` makes one.\n"
    return "\n".join(
        "\n".join([_conditions(result), *(table.markdown() for table in tables(result) if table.rows)])
        for result in mine
    )


def document(results: Sequence[Result]) -> str:
    """The whole document."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(results=lambda name: markdown(results, name).rstrip("\n"))


def _conditions(result: Result) -> str:
    """Where, when and how, in two sentences."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    given = {name: value for name, value in result.settings.items() if value is not None}
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in given.items())
    before, after = result.load
    note = f" {result.note.rstrip('.')}." if result.note else ""
    sets = " ".join(machine["instruction_sets"])
    return (
        f"{result.date}, {machine['cpu']}, {machine['cores']} cores, "
        f"{sets}, {machine['memory_gib']} GiB; load average {before} before, {after} after.{note} "
        f"Settings: {settings}. Versions: {versions}.\n"
    )


def _shown(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
