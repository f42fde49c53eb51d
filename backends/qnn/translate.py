"""What Qualcomm's compiler says against a model, in words of the user's model.

Our nodes are named after the register that they compute, so an operator that the vendor names leads to the
instruction and its line in the model.
"""

from __future__ import annotations

import re

from forgec.errors import BackendError
from forgec.ir.program import Instr, Program

__all__ = ["explain", "refused_nodes"]

_NODE = re.compile(r"name:\s*([^\s,}]+),\s*[Tt]ype:\s*(\w+)")


def refused_nodes(log: str) -> list[tuple[str, str]]:
    """Name and operator of the nodes that the vendor lists as unsupported, each once."""
    found: dict[tuple[str, str], None] = {}
    for line in log.splitlines():
        if "Unsupported nodes" in line:
            found.update(dict.fromkeys(_NODE.findall(line)))
    return list(found)


def explain(error: str, log: str, program: Program) -> BackendError | None:
    """One error for all operators that the vendor refuses; None if it names none."""
    made = {str(r): instr for instr in program.main.body for r in instr.results}
    lines = []
    for name, operator in refused_nodes(log + "\n" + error):
        instr = made.get(name.split(".")[0])
        lines.append(f"{operator}, which stands for {_place(instr)}" if instr else f"{operator} {name}")
    if not lines:
        return None
    return BackendError(
        f"Qualcomm's compiler refuses {len(lines)} operators:" + "".join(f"\n  {line}" for line in lines),
        hint="place these instructions on the CPU",
    )


def _place(instr: Instr) -> str:
    return f"{instr.op}  # {instr.source}" if instr.source else instr.op
