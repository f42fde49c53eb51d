"""The flags of verbs that write text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "LanguageModel",
    "MaxTokens",
    "MinP",
    "Penalty",
    "SamplingSeed",
    "Stop",
    "Temperature",
    "TopK",
    "TopP",
]

LanguageModel = Annotated[
    Path, typer.Option("--model", "-m", metavar="FILE.forge", help="What `forgec compile --context` wrote.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", "-n", metavar="N", help="Tokens at most.  [default: what the context holds]"
    ),
]
Temperature = Annotated[
    float, typer.Option(metavar="T", help="0 takes the most likely token, more draws more freely.")
]
TopK = Annotated[int, typer.Option(metavar="K", help="Draw among the K most likely tokens; 0 for all.")]
TopP = Annotated[
    float, typer.Option(metavar="P", help="Draw among the tokens that have this probability together.")
]
MinP = Annotated[
    float, typer.Option(metavar="P", help="Draw among tokens with this share of the largest probability.")
]
Penalty = Annotated[
    float, typer.Option("--repetition-penalty", metavar="F", help="Over 1 makes repeated tokens less likely.")
]
SamplingSeed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of the draws.  [default: another each time]")
]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Text that ends the generation; repeatable.")
]
