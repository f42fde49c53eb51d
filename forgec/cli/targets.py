"""``forgec targets``: the devices that programs can be compiled for, here and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from ..report.terminal import DIM, GOOD, Printer, styled
from . import flags
from .boundary import verb
from .output import Format, Output

__all__ = ["Status", "statuses", "targets"]


@dataclass(frozen=True)
class Status:
    """One target here. ``available`` says whether programs can be compiled for it, ``missing`` what that
    lacks; ``runs`` is "measured" on the device, "emulated", or None with ``run_missing`` saying why."""

    target: str
    title: str
    aliases: list[str]
    precision: str
    limits: dict[str, str]
    available: bool
    missing: str | None
    runs: str | None
    run_missing: str | None


def statuses() -> list[Status]:
    """All targets, in alphabetical order."""
    from .. import backends

    found = []
    for name in backends.targets():
        about, backend = backends.target(name), backends.get(name)
        missing, run_missing = backend.available(), backend.runnable()
        found.append(
            Status(
                target=name,
                title=about.title,
                aliases=list(about.aliases),
                precision=about.precision,
                limits=dict(about.limits),
                available=missing is None,
                missing=missing,
                runs=None if run_missing else backend.kind,
                run_missing=run_missing,
            )
        )
    return found


@verb("forgec targets", "forgec targets --format json")
def targets(fmt: flags.FormatFlag = Format.text, quiet: flags.Quiet = False) -> None:
    """List the targets, what they lack, and how programs run."""
    found = statuses()

    def text(printer: Printer) -> None:
        printer.table(
            ("target", "device", "compiles", "runs", "missing"),
            [
                (
                    s.target,
                    s.title,
                    styled("available", GOOD) if s.available else styled("not available", DIM),
                    s.runs or styled("no", DIM),
                    s.missing or s.run_missing or "",
                )
                for s in found
            ],
        )
        printer.gap()
        printer.table(
            ("target", "also called", "floats", "limits"),
            [
                (
                    s.target,
                    ", ".join(s.aliases),
                    s.precision,
                    "; ".join(f"{of} {what}" for of, what in s.limits.items()),
                )
                for s in found
                if s.aliases or s.limits
            ],
        )

    Output(fmt, quiet).result(found, text)
