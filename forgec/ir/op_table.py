"""The table of all IR ops as Markdown, from the op records: ``python -m forgec.ir.op_table >
docs/ops.md``."""

from __future__ import annotations

from . import ops  # noqa: F401  (registers the records)
from .op import OPS, Op

__all__ = ["markdown"]

_HEAD = """# The IR's ops

Generated from the op records (`python -m forgec.ir.op_table > docs/ops.md`); a test keeps it in step. `?`
marks an operand that may be left out, `*` any number of them. A view shares its operand's bytes; a result may
take the bytes of an operand marked in place when that operand dies there.
"""


def markdown() -> str:
    """The whole page."""
    rows = ["| op | operands | attributes | kind | meaning |", "|---|---|---|---|---|"]
    rows += [_row(record) for record in sorted(OPS.values(), key=lambda record: record.name)]
    return _HEAD + "\n" + "\n".join(rows) + "\n"


def _row(record: Op) -> str:
    operands = " ".join(
        f"{'*' if spec.variadic else ''}{spec.name}{'?' if spec.optional else ''}" for spec in record.operands
    )
    attrs = ", ".join(f"{name}={value!r}" for name, value in record.attrs.items())
    kinds = ["view"] if record.view else []
    if record.inplace:
        kinds.append("in place: " + ", ".join(record.operands[i].name for i in record.inplace))
    if not record.pure:
        kinds.append("effect")
    meaning = record.doc.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return f"| `{record.name}` | {operands} | {attrs} | {'; '.join(kinds)} | {' '.join(meaning.split())} |"


if __name__ == "__main__":
    print(markdown(), end="")
