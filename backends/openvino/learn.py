"""``python -m forgec.backends.openvino.learn [IR.txt ...]`` learns what the installed compiler takes.

It asks for the ops' own samples and for the instructions of programs given as IR text, and writes the answers
into ``known.json`` beside those of other targets and compilers; they ship with forgec. What is known there is
not asked again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from forgec.ir.inline import inline
from forgec.ir.parser import parse
from forgec.ir.program import Instr
from forgec.ir.samples import sampled_instructions

from ..vendor.support import signature
from . import TARGETS, toolchain
from .backend import KNOWN, by_rule
from .trial import try_out

__all__: list[str] = []

_SEED = 1


def _instructions() -> Iterator[Instr]:
    """The ops' samples, then the programs'."""
    yield from sampled_instructions(_SEED)
    for path in sys.argv[1:]:
        yield from inline(parse(Path(path).read_text())).main.body


def main() -> None:
    tools = toolchain.install(print)
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    distinct = {signature(i): i for i in _instructions() if by_rule(i) is None}
    for target in TARGETS:
        answers = known.setdefault(target.name, {}).setdefault(tools.identity, {})
        asked = {key: instr for key, instr in distinct.items() if key not in answers}
        trials = try_out(list(asked.values()), target.name.removeprefix("intel-npu"), tools)
        answers.update((key, x.reason) for key, x in zip(asked, trials, strict=True) if not x.sized)
        KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
