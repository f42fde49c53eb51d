"""``forgec show``: what is in a .forge file, or in what a model compiles to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArtifactError, OptionError
from ..report import units
from ..report.compose import weight_types
from ..report.terminal import Printer, print_report
from . import flags
from .boundary import verb
from .output import Format, Output
from .programs import load_program, names_in
from .subject import compile_subject, load_subject, require_targets

if TYPE_CHECKING:
    from ..executable import Executable

__all__ = ["show"]


@verb(
    "forgec show tiny.forge                   # the summary",
    "forgec show tiny.forge --ir | less       # the program, with a source line per instruction",
    "forgec show -m bert-base-tiny --memory   # compile in memory and show the arena",
)
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.forge]", help="A compiled program.")] = None,
    model: flags.OptionalModel = None,
    ir: Annotated[bool, typer.Option("--ir", help="The program as IR text.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="The planned program: devices and addresses.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="The map of the arena.")] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Members of the file and their sizes.")
    ] = False,
    weights: Annotated[bool, typer.Option("--weights", help="The constants and how each is made.")] = False,
    report: Annotated[bool, typer.Option("--report", help="The report of the compile.")] = False,
    target: flags.ProgramOrTarget = None,
    program: flags.ProgramName = None,
    tokens: flags.Tokens = None,
    shape: flags.Shape = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Show a compiled program, whole or in part."""
    if (file is None) == (model is None):
        raise OptionError("show needs a FILE.forge or -m MODEL", hint="give one of the two")
    if manifest and file is None:
        raise OptionError("--manifest shows a file, and there is none with -m", hint="give FILE.forge")
    if program is not None and file is None:
        raise OptionError("--program is of a file, and there is none with -m", hint="give FILE.forge")
    output = Output(fmt, quiet)
    if file is not None:
        executable = load_program(file, target=target, program=program)
    else:
        target = target or "cpu"
        require_targets([target])
        subject = load_subject(str(model), output, tokens=tokens, shapes=flags.parse_shapes(shape))
        executable = compile_subject(subject, output, target=target)
    asked = {
        "ir": ir,
        "plan": plan,
        "memory": memory,
        "manifest": manifest,
        "weights": weights,
        "report": report,
    }
    parts = [name for name, wanted in asked.items() if wanted] or ["summary"]
    shown = {name: _PARTS[name](executable, file) for name in parts}

    def text(printer: Printer) -> None:
        for number, (_, show_part) in enumerate(shown.values()):
            if number:
                printer.gap()
            show_part(printer)

    output.result({name: document for name, (document, _) in shown.items()}, text)


Part = tuple[Any, Callable[[Printer], None]]


def _text_part(text: str) -> Part:
    return text, lambda printer: printer.block(text)


def _ir(executable: Executable, file: Path | None) -> Part:
    from ..ir.printer import to_text

    return _text_part(to_text(executable.program))


def _plan(executable: Executable, file: Path | None) -> Part:
    from ..ir.printer import to_text

    return _text_part(to_text(executable.plan.program))


def _memory(executable: Executable, file: Path | None) -> Part:
    from ..plan.memory_map import memory_map

    return _text_part(memory_map(executable.plan).rstrip() + "\n")


def _manifest(executable: Executable, file: Path | None) -> Part:
    from ..executable.reader import Archive

    found = Archive(file or "").manifest
    document = {
        "forgec": found.info.forgec,
        "name": found.info.name,
        "target": found.info.target,
        "weights": found.info.weights,
        "options": dict(found.info.options),
        "members": {name: {"size": m.size, "digest": m.digest} for name, m in found.members.items()},
    }

    def text(printer: Printer) -> None:
        printer.pairs((key, str(value) or "-") for key, value in document.items() if isinstance(value, str))
        printer.pairs([("options", ", ".join(f"{k}={v}" for k, v in found.info.options.items()) or "-")])
        printer.gap()
        printer.table(
            ("member", ">size", ">tensors", "digest"),
            [
                (name, units.nbytes(m.size), str(len(m.tensors)) if m.tensors else "-", m.digest)
                for name, m in found.members.items()
            ],
        )

    return document, text


def _weights(executable: Executable, file: Path | None) -> Part:
    from ..ir.printer import format_recipe

    constants = executable.plan.program.constants.values()
    rows = [(c.name, str(c.type), c.type.nbytes, format_recipe(c.recipe, c.type)) for c in constants]
    document = [{"name": n, "type": t, "bytes": b, "recipe": r} for n, t, b, r in rows]

    def text(printer: Printer) -> None:
        printer.table(
            ("constant", "type", ">size", "recipe"), [(n, t, units.nbytes(b), r) for n, t, b, r in rows]
        )

    return document, text


def _report(executable: Executable, file: Path | None) -> Part:
    found = executable.report
    if found is None:
        raise ArtifactError("the file keeps no report", where=str(file), hint="compile the model again")
    return found, lambda printer: print_report(found, printer.file)


def _summary(executable: Executable, file: Path | None) -> Part:
    plan, info = executable.plan, executable.info
    body = plan.program.main.body
    ops: dict[str, int] = {}
    for instr in body:
        ops[instr.op] = ops.get(instr.op, 0) + 1
    ops = dict(sorted(ops.items(), key=lambda item: -item[1]))
    calls = {name: n for name, n in executable.program.calls().items() if name != executable.program.entry}
    inputs = {leaf.name: str(leaf.type) for leaf in executable.signature.inputs}
    outputs = {leaf.name: str(leaf.type) for leaf in executable.signature.results}
    arenas = {device: arena.nbytes for device, arena in plan.arenas.items()}
    types = weight_types(plan.program)
    weight_bytes = sum(types.values())
    programs = [] if file is None else names_in(file)
    document = {
        "name": info.name,
        "target": info.target,
        "weights": info.weights,
        "programs": programs,
        "inputs": inputs,
        "outputs": outputs,
        "instructions": len(body),
        "blocks": calls,
        "arena_bytes": arenas,
        "weight_bytes": weight_bytes,
        "weight_types": types,
        "ops": ops,
    }

    def text(printer: Printer) -> None:
        origin = f" ({info.weights})" if info.weights else ""
        printer.pairs(
            [
                ("name", info.name or "-"),
                ("target", info.target),
                *([("programs", f"{', '.join(programs)} (--program)")] if programs else []),
                *(("input", f"{name}: {t}") for name, t in inputs.items()),
                *(("output", f"{name}: {t}") for name, t in outputs.items()),
                ("program", f"{units.count(len(body))} instructions"),
                *(("block", f"{count} x {name}") for name, count in calls.items()),
                ("arena", ", ".join(f"{units.nbytes(n)} on {device}" for device, n in arenas.items()) or "-"),
                ("weights", units.nbytes(weight_bytes) + units.by_type(types) + origin),
                ("ops", ", ".join(f"{count} {op}" for op, count in ops.items())),
            ]
        )

    return document, text


_PARTS: dict[str, Callable[[Executable, Path | None], Part]] = {
    "summary": _summary,
    "ir": _ir,
    "plan": _plan,
    "memory": _memory,
    "manifest": _manifest,
    "weights": _weights,
    "report": _report,
}
