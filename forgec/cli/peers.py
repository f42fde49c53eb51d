"""forgec beside other tools, as ``python -m bench`` measures it: ``--against`` and ``--calibrate`` of
``forgec bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ForgecError, OptionError
from ..report.terminal import Printer
from .files import require_writable, write_text
from .output import Output

if TYPE_CHECKING:
    from ..bench.tables import Table

__all__ = ["against", "calibrate"]

_ROUNDS = 5


def against(
    model: str,
    peers: Sequence[str],
    output: Output,
    *,
    tokens: int | None,
    shapes: Mapping[str, Sequence[int]] | None,
    threads: int | None,
    repeat: int,
) -> None:
    """Print latencies of a model beside peers', interleaved in one process tree with equal threads.

    The first is forgec, in int8 if all peers are. Raises :class:`OptionError` for an unknown peer,
    :class:`ForgecError` if the model fails with forgec itself.
    """
    from ..bench import latency, tools
    from .subject import is_exported, is_onnx

    if is_exported(model):
        raise OptionError(
            "--against needs a model that every tool can take", hint="a preset, a directory or an ONNX file"
        )
    if is_onnx(model):
        from ..capture.onnx import OnnxModel

        OnnxModel(model, shapes=shapes, tokens=tokens)  # what is wrong with it is said before any tool starts
        model = str(Path(model).resolve())  # workers have folders of their own
    elif shapes:
        raise OptionError(f"--shape is for ONNX files, and {model} is none", hint="use --tokens")
    known = [name for name in tools.names() if not name.startswith("forgec")]
    chosen = list(tools.BASELINES) if "all" in peers else list(dict.fromkeys(peers))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise OptionError(f"there is no peer {unknown[0]!r}", hint=f"all, or some of: {', '.join(known)}")
    ours = "forgec-int8" if chosen and all(name.endswith("-int8") for name in chosen) else "forgec"
    data, _ = latency.measure(
        [model],
        tokens=tokens,
        threads=_threads(threads),
        rounds=_ROUNDS,
        burst=max(1, repeat // _ROUNDS),
        names=(ours, *chosen),
        shapes=shapes,
        say=output.note,
    )
    (found,) = data["models"].values()
    if ours in found["failures"]:
        raise ForgecError(found["failures"][ours])
    _show(data, latency.tables(data), output)


def calibrate(path: Path, output: Output, threads: int | None) -> None:
    """Fit the cost model to this machine's kernels and write the calibration; takes some minutes."""
    from ..bench import calibrate as calibration

    require_writable({"--calibrate": path})
    data = calibration.measure(threads=_threads(threads), say=output.note)
    write_text(path, calibration.text(data))
    _show(data, calibration.tables(data), output)
    output.note(f"wrote {path}; use it with --option costs={path}")


def _threads(threads: int | None) -> int:
    from ..backends.cpu import native

    return native.threads_default() if threads is None else threads


def _show(data: Any, tables: Sequence[Table], output: Output) -> None:
    def text(printer: Printer) -> None:
        for table in tables:
            if table.rows:
                printer.line(table.title)
                printer.table(table.columns, table.rows)
                for note in table.notes:
                    printer.line(note)
                printer.gap()

    output.result(data, text)
