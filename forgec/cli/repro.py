"""``forgec repro``: a vendor's compiler fails; here is the smallest part that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Options
from ..report.terminal import Printer
from . import flags
from .boundary import verb, wrote
from .output import Format, Output
from .subject import compile_subject, load_subject, require_targets

__all__ = ["repro"]

_EXIT_COMPILER = 4


@verb(
    "forgec repro -m ./my-model -t intel-npu4000 -o my-model.repro",
    "forgec repro -m ./my-model -t hexagon-v73 --option timeout=60 --option memory=8000 -o slow.repro",
)
def repro(
    model: flags.ModelFlag,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder to write.")],
    target: flags.Target = "cpu",
    tokens: flags.Tokens = None,
    batch: flags.Batch = 1,
    shape: flags.Shape = None,
    part: flags.Part = None,
    attn: flags.Attention = "auto",
    layers: flags.Layers = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="As for compile, repeatable."),
    ] = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Write the smallest part that a vendor's compiler fails at.

    The folder has all that shows the failure: that part as IR and as the vendor's own model, its weights, the
    compiler's log, the error, the settings and all versions. Leaves with 4 if something fails, with 0 and no
    folder if nothing does.
    """
    from ..backends.base import Settings
    from ..repro import find_repro, require_new

    require_new(out)
    require_targets([target])
    output = Output(fmt, quiet)
    options = Options.of(Options.parse(option or ()), check=False)
    subject = load_subject(
        model,
        output,
        tokens=tokens,
        batch=batch,
        attn=attn,
        part=part,
        layers=layers,
        shapes=flags.parse_shapes(shape),
    )
    settings = Settings(options.timeout, options.memory << 20 if options.memory else None, options.jobs)
    found = find_repro(lambda: compile_subject(subject, output, target=target, options=options), settings)
    if found is None:
        nothing = f"{subject.name} compiles for {target}: there is no failure to show"
        return output.result({"found": False}, lambda printer: printer.line(nothing))
    files = found.write(out)
    wrote(out)
    document = found.document()

    def text(printer: Printer) -> None:
        printer.line(found.error.text())
        printer.gap()
        printer.line(f"{len(document['instructions'])} of {found.whole} instructions fail too:")
        for instr in document["instructions"]:
            printer.line(f"  {instr['op']}  {instr['source']}")
        printer.gap()
        printer.line(f"{out}: {', '.join(files)}")

    output.result({"found": True, "folder": str(out), "files": files, **document}, text)
    raise typer.Exit(_EXIT_COMPILER)
