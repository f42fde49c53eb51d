"""``forgec run``: a .forge file on given inputs, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..report.terminal import DIM, Printer, styled
from . import flags, latency
from .boundary import verb, wrote
from .files import output_file, require_writable
from .output import Format, Output
from .programs import kind_of, load_program

if TYPE_CHECKING:
    import numpy as np

__all__ = ["run"]

_VALUES_SHOWN = 6


@verb(
    "forgec run tiny.forge                                    # on the example stored in the file",
    "forgec run tiny.forge --input input_ids=ids.npy -o out.npz",
    "forgec run tiny.forge --input input_ids=random:7 --repeat 50",
)
def run(
    file: flags.Artifact,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="INPUT",
            help="name=file.npy, name=zeros, name=random[:SEED], name=1,2,3 or file.npz; repeatable.  "
            "[default: the example stored in the file]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT.npz", help="Write the outputs.")
    ] = None,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Runs to time.")] = 1,
    target: flags.Program = None,
    threads: flags.Threads = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Run a compiled program; needs no PyTorch.

    Prints type and first values of every output, and the latency.
    """
    from .inputs import files_of, parse_inputs

    output = Output(fmt, quiet)
    require_writable({"--out": out}, [file, *files_of(inputs or [])])
    with load_program(file, target=target, threads=threads) as executable:
        arrays, origins = parse_inputs(inputs or [], executable)
        names = [leaf.name or f"output{leaf.index}" for leaf in executable.signature.results]
        results = executable.run_flat(arrays)
        timing = latency.measure(lambda: executable.run_flat(arrays), repeat, kind_of([executable]))
        leaves, made_for = executable.signature.inputs, executable.info.target
    if out is not None:
        _save(out, dict(zip(names, results, strict=True)))
        wrote(out)
    document = {
        "file": str(file),
        "target": made_for,
        "inputs": [
            {"name": leaf.name, "type": str(leaf.type), "from": origin}
            for leaf, origin in zip(leaves, origins, strict=True)
        ],
        "outputs": [_summary(name, array) for name, array in zip(names, results, strict=True)],
        "latency": timing,
    }

    def text(printer: Printer) -> None:
        printer.table(
            ("input", "type", "from"),
            [(leaf.name, str(leaf.type), origin) for leaf, origin in zip(leaves, origins, strict=True)],
        )
        printer.gap()
        printer.table(
            ("output", "type", ">min", ">max", "first values"),
            [_row(name, array) for name, array in zip(names, results, strict=True)],
        )
        printer.gap()
        printer.line(styled("target   ", DIM), made_for)
        printer.line(styled("latency  ", DIM), str(timing))

    output.result(document, text)
    if out is not None:
        output.note(f"wrote {out}")


def _summary(name: str, array: np.ndarray) -> dict[str, Any]:
    from ..ir.types import TensorType

    values = array.astype("float64") if array.dtype.kind not in "biu" else array
    return {
        "name": name,
        "type": str(TensorType.of(array)),
        "min": values.min().item() if array.size else None,
        "max": values.max().item() if array.size else None,
        "first": values.ravel()[:_VALUES_SHOWN].tolist(),
    }


def _row(name: str, array: np.ndarray) -> tuple[str, ...]:
    summary = _summary(name, array)
    numbers = ["-" if x is None else f"{x:.6g}" for x in (summary["min"], summary["max"])]
    shown = " ".join(f"{value:.6g}" for value in summary["first"])
    return name, summary["type"], *numbers, shown + (" ..." if array.size > _VALUES_SHOWN else "")


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import numpy as np

    # Given a name, savez appends .npz to it; given a file, it does not.
    with output_file(path, sum(array.nbytes for array in arrays.values())) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
