"""The flags of verbs that write text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

__all__ = ["LanguageModel", "sampled"]

LanguageModel = Annotated[
    Path, typer.Option("--model", "-m", metavar="FILE.forge", help="What `forgec compile --context` wrote.")
]


def _flags(
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", "-n", metavar="N", help="Tokens at most.  [default: what the context holds]"
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="0 takes the most likely token, more draws more freely.")
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option(metavar="K", help="Draw among the K most likely tokens; 0 for all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Draw among the tokens that have this probability together.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(metavar="P", help="Draw among tokens with this share of the largest probability.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(metavar="F", help="Over 1 makes repeated tokens less likely.")
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the draws.  [default: another each time]")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Text that ends the generation; repeatable.")
    ] = None,
) -> None:
    """The fields of :class:`forgec.text.Sampling` that are flags."""


def sampled(function: Callable[..., None]) -> Callable[..., None]:
    """Give ``function`` its first parameter, a ``Sampling``, from flags that stand before its own."""
    shared = inspect.signature(_flags).parameters
    own = list(inspect.signature(function).parameters.values())[1:]

    @wraps(function)
    def taken(**given: Any) -> None:
        from ..text import Sampling

        chosen = {name: given.pop(name) for name in shared}
        function(Sampling(**{**chosen, "stop": tuple(chosen["stop"] or ())}), **given)

    required = [p for p in own if p.default is inspect.Parameter.empty]
    optional = [p for p in own if p.default is not inspect.Parameter.empty]
    hints = get_type_hints(_flags, include_extras=True)
    hints |= get_type_hints(function, localns={"Sampling": Any}, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in (*required, *shared.values(), *optional)]
    taken.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    taken.__annotations__ = {p.name: p.annotation for p in parameters}
    return taken
