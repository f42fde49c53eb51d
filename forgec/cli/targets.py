"""``forgec targets``: the devices that programs can be compiled for, here and elsewhere."""

from __future__ import annotations

from ..report.terminal import DIM, GOOD, Printer, styled
from . import flags
from .boundary import verb
from .output import Format, Output

__all__ = ["targets"]


@verb("forgec targets", "forgec targets --format json")
def targets(fmt: flags.FormatFlag = Format.text, quiet: flags.Quiet = False) -> None:
    """List the targets, and what is missing for them."""
    from .. import backends

    found = [(name, backends.get(name).available()) for name in backends.targets()]

    def text(printer: Printer) -> None:
        printer.table(
            ("target", "status", "missing"),
            [
                (name, styled("not available", DIM) if missing else styled("available", GOOD), missing or "")
                for name, missing in found
            ],
        )

    document = [{"target": name, "available": missing is None, "missing": missing} for name, missing in found]
    Output(fmt, quiet).result(document, text)
