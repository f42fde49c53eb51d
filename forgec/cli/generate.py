"""``forgec generate`` and ``forgec chat``: text from a compiled language model, without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..report import units
from ..report.terminal import Printer
from . import flags, text_flags
from .boundary import verb
from .files import require_file
from .output import Format, Output
from .programs import kind_of

if TYPE_CHECKING:
    from ..text import LLM, Piece, Sampling

__all__ = ["chat", "generate"]


@verb(
    'forgec generate -m model.forge -p "Once upon a time" -n 64',
    'forgec generate -m model.forge -p "def main(" --temperature 0.8 --top-p 0.95 --seed 1',
    "forgec generate -m model.forge -p - < prompt.txt",
)
@text_flags.sampled
def generate(
    sampling: Sampling,
    model: text_flags.LanguageModel,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue, or - for stdin.")
    ],
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", help="With --format json: the N likeliest tokens of each.")
    ] = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Continue a text, as it is written; needs no PyTorch.

    The times are measured: until the first token, and tokens a second of prefill and decode. Where an NPU is
    emulated they are the emulation's, and the line says so.
    """
    from ..text import LLM

    output = Output(fmt, quiet)
    sampling = replace(sampling, logprobs=logprobs)
    require_file(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    with LLM(model) as llm:
        if fmt is Format.text:
            _write(llm.generate(text, sampling))
            output.note(_summary(llm))
            return
        pieces = list(llm.generate(text, sampling))
        output.result(_document(llm, pieces), _nothing)


@verb(
    "forgec chat -m model.forge",
    'forgec chat -m model.forge --system "Answer in one sentence." --temperature 0.7',
)
@text_flags.sampled
def chat(
    sampling: Sampling,
    model: text_flags.LanguageModel,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before the conversation.")
    ] = None,
    quiet: flags.Quiet = False,
) -> None:
    """Talk to a compiled language model.

    One line is one turn, an empty one ends. The whole conversation, in the model's own chat template, is the
    prompt of every turn.
    """
    from ..text import LLM

    output = Output(Format.text, quiet)
    require_file(model)
    messages = [] if system is None else [{"role": "system", "content": system}]
    with LLM(model) as llm:
        while turn := _read_turn(output):
            messages.append({"role": "user", "content": turn})
            answer = _write(llm.chat(messages, sampling))
            messages.append({"role": "assistant", "content": answer})
            output.note(_summary(llm))


def _read_turn(output: Output) -> str:
    if sys.stdin.isatty():
        output.prompt("> ")
    return sys.stdin.readline().strip()


def _write(pieces: Iterable[Piece]) -> str:
    """Print pieces as they come; gives the whole text."""
    text = ""
    try:
        for piece in pieces:
            text += piece.text
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    finally:
        if text and not text.endswith("\n"):
            sys.stdout.write("\n")
    return text


def _summary(llm: LLM) -> str:
    """Counts and measured times in one line."""
    from ..text.stats import peak_rss

    s = llm.stats
    parts = [
        f"{s.prompt_tokens} prompt tokens"
        + (f" ({s.kept_tokens} kept)" if s.kept_tokens else "")
        + f", {s.tokens} new ({s.finish})",
        f"first token {s.first_token_s * 1e3:.1f} ms",
        f"prefill {s.prefill_rate:.1f} tokens/s",
        f"decode {s.decode_rate:.1f} tokens/s" if s.tokens > 1 else "",
        f"peak memory {units.nbytes(peak_rss())}",
    ]
    return "; ".join(filter(None, parts)) + f" ({kind_of(llm.programs.values())})"


def _document(llm: LLM, pieces: list[Piece]) -> dict[str, Any]:
    from ..text.stats import peak_rss

    s = llm.stats
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [
            {"token": p.token, "text": p.text, "logprob": p.logprob, "top": [list(pair) for pair in p.top]}
            for p in pieces
        ],
        "finish": s.finish,
        "kind": kind_of(llm.programs.values()),
        "measured": {
            "prompt_tokens": s.prompt_tokens,
            "kept_tokens": s.kept_tokens,
            "new_tokens": s.tokens,
            "first_token_ms": s.first_token_s * 1e3,
            "prefill_tokens_per_s": s.prefill_rate,
            "decode_tokens_per_s": s.decode_rate,
            "peak_rss_bytes": peak_rss(),
        },
    }


def _nothing(printer: Printer) -> None:
    raise InputError("text is printed as it is generated")
