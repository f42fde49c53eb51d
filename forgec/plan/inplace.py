"""Results written over an operand that dies: which storages become one block of the arena.

A result takes the bytes of an operand that its op record lists as ``inplace`` when, at this instruction,

1. the operand's storage lives to here and no longer, the result's from here on;
2. storage and result have as many elements of the same size, on the same device;
3. the operand covers its storage in row-major order, so that equal indices are equal bytes;
4. every other operand in the same storage is listed too and covers it in the same way;
5. no other result of the instruction took it.

Merging never raises the largest sum of live bytes, so it is always done. Linear.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.op import Op, get
from ..ir.program import Instr, Program, Register
from .liveness import Liveness

__all__ = ["Block", "merge"]


@dataclass(slots=True)
class Block:
    """Bytes that one or more storages hold in turn, live in the closed interval [start, end]."""

    device: str
    nbytes: int
    start: int
    end: int


def merge(program: Program, live: Liveness) -> tuple[list[Block], list[int]]:
    """The blocks, and the block of each storage."""
    blocks: list[Block] = []
    block_of: list[int] = [-1] * len(live.storages)

    def own(storage: int) -> None:
        s = live.storages[storage]
        block_of[storage] = len(blocks)
        blocks.append(Block(s.device, s.nbytes, s.start, s.end))

    for r in program.main.params:
        own(live.of[r.id])
    for index, instr in enumerate(program.main.body):
        record = get(instr.op)
        if record.view:
            continue
        taken: list[int] = []
        for r in instr.results:
            storage = live.of[r.id]
            block = _dying_operand(record, instr, index, r, live, block_of, taken) if record.inplace else None
            if block is None:
                own(storage)
            else:
                taken.append(block)
                block_of[storage] = block
                blocks[block].end = live.storages[storage].end
    return blocks, block_of


def _dying_operand(
    record: Op,
    instr: Instr,
    index: int,
    result: Register,
    live: Liveness,
    block_of: list[int],
    taken: list[int],
) -> int | None:
    """The block that the result may take, or None."""
    if live.storages[live.of[result.id]].start != index:
        return None
    for k in record.inplace:
        x = instr.operands[k]
        if not isinstance(x, Register) or x.id not in live.whole or not _same_elements(x, result):
            continue
        storage = live.of[x.id]
        dying = live.storages[storage]
        if dying.end != index or dying.device != instr.device or block_of[storage] in taken:
            continue
        if all(
            j in record.inplace and y.id in live.whole
            for j, y in enumerate(instr.operands)
            if isinstance(y, Register) and live.of.get(y.id) == storage
        ):
            return block_of[storage]
    return None


def _same_elements(a: Register, b: Register) -> bool:
    return a.type.numel == b.type.numel and a.type.dtype.itemsize == b.type.dtype.itemsize
