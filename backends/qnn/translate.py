"""What Qualcomm's compiler says against a model, in words of the user's model.

Our nodes are named after the register that they compute, so an operator that the vendor names leads to the
instruction and its line in the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from forgec.ir.op import get
from forgec.ir.program import Instr, Program

__all__ = ["originals", "readers_of_views", "refused_instructions", "refused_nodes", "vendor_reasons"]

_REASON = re.compile(r"REASON\s*:\s*(.*?)\.?(?:\w+ node `[^`]*` will not be assigned.*)?$", re.MULTILINE)
_NODE = re.compile(r"name:\s*([^\s,}]+),\s*[Tt]ype:\s*(\w+)")


def refused_nodes(log: str) -> list[tuple[str, str]]:
    """Name and operator of the nodes that the vendor lists as unsupported, each once."""
    found: dict[tuple[str, str], None] = {}
    for line in log.splitlines():
        if "Unsupported nodes" in line:
            found.update(dict.fromkeys(_NODE.findall(line)))
    return list(found)


def vendor_reasons(log: str) -> list[str]:
    """The compiler's sentences about what it refuses, each once, without its node names."""
    found = (match.strip() for match in _REASON.findall(log))
    return list(dict.fromkeys(text for text in found if text))


def refused_instructions(error: str, log: str, program: Program) -> dict[str, Instr | None]:
    """A line for people, and the instruction, of every operator that the vendor refuses."""
    made = {str(r): instr for instr in program.main.body for r in instr.results}
    found: dict[str, Instr | None] = {}
    for name, operator in refused_nodes(log + "\n" + error):
        instr = made.get(name.split(".")[0])
        found[f"{operator}, part of {_place(instr)}" if instr else f"{operator} {name}"] = instr
    return found


def originals(segment: Program, instrs: Iterable[Instr | None]) -> list[Instr]:
    """The instructions of a segment that legalised ones come from, by result or by place in the model."""
    wanted = [instr for instr in instrs if instr is not None]
    ids = {r.id for instr in wanted for r in instr.results}
    sources = {instr.source for instr in wanted if instr.source is not None}
    by_id = [instr for instr in segment.main.body if any(r.id in ids for r in instr.results)]
    return by_id or [instr for instr in segment.main.body if instr.source in sources]


def readers_of_views(segments: Iterable[Program], instrs: Iterable[Instr]) -> list[Instr]:
    """What reads the views among ``instrs``, be it through other views: a view is where its readers are."""
    shown = {r.id for instr in instrs if get(instr.op).view for r in instr.results}
    found = []
    for segment in segments:
        for instr in segment.main.body:
            if any(r.id in shown for r in instr.registers()):
                if get(instr.op).view:
                    shown.update(r.id for r in instr.results)
                else:
                    found.append(instr)
    return found


def _place(instr: Instr) -> str:
    return f"{instr.op}  # {instr.source}" if instr.source else instr.op
