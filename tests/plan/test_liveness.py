"""Live intervals and in-place merging on small programs written by hand, near-misses included."""

from __future__ import annotations

from plan_programs import Builder

from forgec.ir.program import Program, Register
from forgec.ir.types import DType
from forgec.plan import inplace, liveness
from forgec.plan.replay import Run, replay


def on_host(program: Program) -> Program:
    return replay(program, [Run(i, "cpu") for i in range(len(program.main.body))], "cpu")


def intervals(program: Program) -> dict[str, tuple[int, int]]:
    found = liveness.analyse(on_host(program), "cpu").storages
    return {str(s.register): (s.start, s.end) for s in found}


def merged(program: Program, a: Register, b: Register) -> bool:
    """Whether two registers got one block."""
    planned = on_host(program)
    live = liveness.analyse(planned, "cpu")
    _, block_of = inplace.merge(planned, live)
    return block_of[live.of[a.id]] == block_of[live.of[b.id]]


def test_intervals_reach_from_write_to_last_read() -> None:
    b = Builder()
    x, unused = b.param(4, 8), b.param(4, 8)
    y = b("relu", x)
    dead = b("tanh", x)
    z = b("add", y, x)
    w = b("neg", z)
    found = intervals(b.program(w, y))
    assert found == {
        str(x): (-1, 2), str(unused): (-1, -1), str(y): (0, 4),
        str(dead): (1, 1), str(z): (2, 3), str(w): (3, 4),
    }  # fmt: skip


def test_a_view_extends_its_storage_only_where_it_is_read() -> None:
    b = Builder()
    x = b.param(4, 8)
    y = b("relu", x)
    half = b("slice", y, axis=0, start=0, stop=2, step=1)
    flat = b("reshape", half, shape=(16,))
    b("transpose", y, perm=(1, 0))
    z = b("neg", flat)
    found = intervals(b.program(z))
    assert found[str(y)] == (0, 4)
    assert set(found) == {str(x), str(y), str(z)}


def test_a_result_that_is_a_view_keeps_its_storage_to_the_end() -> None:
    b = Builder()
    y = b("relu", b.param(4, 8))
    row = b("slice", y, axis=0, start=0, stop=1, step=1)
    b("neg", y)
    assert intervals(b.program(row))[str(y)] == (0, 3)


def test_views_of_constants_and_states_have_no_storage() -> None:
    b = Builder()
    x = b.param(8, 4)
    w = b("transpose", b.const(4, 8), perm=(1, 0))
    s = b("transpose", b.state(4, 8), perm=(1, 0))
    y = b("add", b("add", x, w), s)
    assert set(intervals(b.program(y))) == {"r0", "r3", "r4"}


def test_a_segment_off_the_host_keeps_inputs_and_results_whole() -> None:
    b = Builder()
    x = b.param(4, 8)
    y = b("relu", x)
    z = b("linear", y, b.const(8, 8), None, None)
    w = b("exp", z)
    program = on_host(b.program(b("neg", w)))
    for instr, device in zip(program.main.body, ("npu", "npu", "npu", "cpu"), strict=True):
        instr.device = device
    live = {str(s.register): (s.start, s.end) for s in liveness.analyse(program, "cpu").storages}
    assert live[str(x)] == (-1, 2)
    assert live[str(y)] == (0, 1)
    assert live[str(w)] == (0, 3)


def test_point_wise_chain_is_one_block() -> None:
    b = Builder()
    x = b.param(4, 8)
    y = b("relu", x)
    z = b("add", b.const(4, 8), y)
    program = b.program(z)
    assert merged(program, x, y) and merged(program, y, z)


def test_whole_views_are_overwritten_in_place() -> None:
    b = Builder()
    y = b("tanh", b.param(4, 8))
    z = b("relu", b("reshape", b("reshape", y, shape=(32,)), shape=(8, 4)))
    assert merged(b.program(z), y, z)


def test_residual_and_both_results_of_a_fused_norm() -> None:
    b = Builder()
    x, r = b("exp", b.param(4, 8)), b("tanh", b.param(4, 8))
    total, normed = b.all("add_rms_norm", x, r, None)
    y = b("linear", normed, b.const(8, 8), None, total)
    program = b.program(y)
    assert merged(program, x, total) and merged(program, r, normed) and merged(program, total, y)
    assert not merged(program, x, r)


def test_one_operand_twice_gives_its_bytes_to_one_result() -> None:
    b = Builder()
    x = b("exp", b.param(4, 8))
    total, normed = b.all("add_rms_norm", x, x, None)
    program = b.program(b("add", total, normed))
    assert merged(program, x, total) and not merged(program, x, normed)


class TestNotInPlace:
    """One near-miss per guard."""

    def test_read_later(self) -> None:
        b = Builder()
        y = b("exp", b.param(4, 8))
        z = b("relu", y)
        assert not merged(b.program(b("add", z, y)), y, z)

    def test_read_later_through_a_view(self) -> None:
        b = Builder()
        y = b("exp", b.param(4, 8))
        part = b("slice", y, axis=0, start=0, stop=1, step=1)
        z = b("relu", y)
        assert not merged(b.program(b("add", z, part)), y, z)

    def test_a_result_of_the_program(self) -> None:
        b = Builder()
        y = b("exp", b.param(4, 8))
        z = b("relu", y)
        assert not merged(b.program(z, y), y, z)

    def test_op_reads_other_elements(self) -> None:
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("softmax", y)
        assert not merged(b.program(z), y, z)
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("linear", y, b.const(8, 8), None, None)
        assert not merged(b.program(z), y, z)

    def test_permuted_operand(self) -> None:
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("relu", b("transpose", y, perm=(1, 0)))
        assert not merged(b.program(z), y, z)

    def test_part_of_a_storage(self) -> None:
        b = Builder()
        y = b("exp", b.param(4, 8))
        z = b("relu", b("slice", y, axis=0, start=0, stop=2, step=1))
        assert not merged(b.program(z), y, z)

    def test_broadcast_operand(self) -> None:
        b = Builder()
        y = b("exp", b.param(1, 8))
        z = b("add", y, b.const(4, 8))
        assert not merged(b.program(z), y, z)

    def test_equal_bytes_but_other_elements(self) -> None:
        """i64[1] and bool[8] have eight bytes, and every result element reads the one operand element."""
        b = Builder()
        y = b("neg", b.param(1, dtype=DType.I64))
        z = b("eq", y, b.const(8, dtype=DType.I64))
        assert y.type.nbytes == z.type.nbytes
        assert not merged(b.program(z), y, z)

    def test_another_operand_reads_the_storage_otherwise(self) -> None:
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("add", y, b("transpose", y, perm=(1, 0)))
        assert not merged(b.program(z), y, z)

    def test_residual_is_also_multiplied(self) -> None:
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("linear", y, b.const(8, 8), None, y)
        assert not merged(b.program(z), y, z)

    def test_operand_on_another_device(self) -> None:
        b = Builder()
        y = b("exp", b.param(8, 8))
        z = b("relu", y)
        planned = on_host(b.program(z))
        planned.main.body[1].device = "npu"
        live = liveness.analyse(planned, "cpu")
        _, block_of = inplace.merge(planned, live)
        assert block_of[live.of[y.id]] != block_of[live.of[z.id]]

    def test_constants_and_states(self) -> None:
        b = Builder()
        s = b.state(4, 8)
        y = b("relu", b("reshape", s, shape=(32,)))
        z = b("relu", b("reshape", b.const(4, 8), shape=(32,)))
        found = liveness.analyse(on_host(b.program(y, z)), "cpu")
        assert [str(s.register) for s in found.storages] == [str(y), str(z)]
