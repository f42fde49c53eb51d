"""``python -m forgec.backends.openvino.learn`` learns what the installed compiler takes, from the ops'
samples.

Writes the answers into ``known.json`` beside those of other targets and compilers; they ship with forgec. What
is known there is not asked again.
"""

from __future__ import annotations

import json

from forgec.ir.samples import sampled_instructions

from ..vendor.support import signature
from . import TARGETS, toolchain
from .backend import KNOWN, by_rule
from .trial import try_out

__all__: list[str] = []

_SEED = 1


def main() -> None:
    tools = toolchain.install(print)
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    samples = {signature(i): i for i in sampled_instructions(_SEED) if by_rule(i) is None}
    for target in TARGETS:
        answers = known.setdefault(target.name, {}).setdefault(tools.identity, {})
        asked = {key: instr for key, instr in samples.items() if key not in answers}
        trials = try_out(list(asked.values()), target.name.removeprefix("intel-npu"), tools)
        answers.update((key, x.reason) for key, x in zip(asked, trials, strict=True) if not x.sized)
        KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
