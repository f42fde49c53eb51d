"""``python -m bench``: run one benchmark, or render the results that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import commands_compile, commands_npu, commands_run, commands_text, latency  # noqa: F401  (register commands)
from . import report as kept
from .command import app
from .plot import latency_plot
from .results import load_all

app.info.help = __doc__


@app.command("report")
def run_report(
    only: Annotated[str | None, typer.Option(help="One benchmark's tables, without the text around.")] = None,
    write: Annotated[Path | None, typer.Option(help="A file, in place of the standard output.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the latencies too, as this .svg or .png.")] = None,
) -> None:
    """Render the results that are kept, as Markdown."""
    if only is not None and only not in kept.BENCHMARKS:
        raise typer.BadParameter(f"there is no benchmark {only!r}: {', '.join(kept.BENCHMARKS)}")
    results = load_all()
    text = kept.document(results) if only is None else kept.markdown(results, only)
    if plot is not None:
        latency_plot([result for result in results if result.benchmark == latency.NAME], plot)
    if write is None:
        typer.echo(text, nl=False)
    else:
        write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    app()
