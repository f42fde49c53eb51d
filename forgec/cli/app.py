"""The application object that verbs register with, and the flags that stand before the verb."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from .. import debug
from ..version import __version__
from .boundary import boundary

__all__ = ["app"]

_KNOB = {knob.field: knob for knob in debug.TABLE}

app = typer.Typer(
    name="forgec",
    help="Compile PyTorch transformers ahead of time into one file that runs without PyTorch.",
    epilog="\b\nStart here:\n"
    "  forgec demo                                 see it work on a real model\n"
    "  forgec compile -m gpt2-tiny -o tiny.forge   compile a preset\n"
    "  forgec run tiny.forge                       run it, without PyTorch\n"
    "  forgec analyze -m DIR                       what of a model runs where, and why not\n"
    "\n"
    "\b\nExit codes: 0 ok, 1 a check failed, 2 usage, 3 unsupported under --strict,\n"
    "4 a vendor's compiler failed, 5 target not available.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(value: bool) -> None:
    if value:
        print(f"forgec {__version__}")
        raise typer.Exit


def _knob(field: str) -> typer.models.OptionInfo:
    knob = _KNOB[field]
    option: typer.models.OptionInfo = typer.Option(
        knob.flag, metavar=knob.metavar, help=f"{knob.meaning} ({knob.name})"
    )
    return option


@app.callback()
def forgec(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug_level: Annotated[str | None, _knob("debug")] = None,
    dump: Annotated[str | None, _knob("dump")] = None,
    verify: Annotated[str | None, _knob("verify")] = None,
    passes: Annotated[str | None, _knob("passes")] = None,
    rewrite_limit: Annotated[str | None, _knob("rewrite_limit")] = None,
) -> None:
    """Apply the debug flags for as long as the verb runs."""
    given = {
        "debug": debug_level,
        "dump": dump,
        "verify": verify,
        "passes": passes,
        "rewrite_limit": rewrite_limit,
    }
    stack = ExitStack()
    with boundary():
        stack.enter_context(debug.override(given))
    context.call_on_close(stack.close)
