"""Every rule of the verifier rejects what breaks it, with an error that points at the place."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from effort import calls
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import nested_program, planned, random_program, state_program
from verifier_cases import FLATTEN, REJECTED, block, chain, entry

from forgec.errors import VerifyError
from forgec.ir import verifier
from forgec.ir.program import Program
from forgec.ir.verifier import verify


@pytest.mark.parametrize("name", REJECTED)
def test_rule_rejects(name: str) -> None:
    rule, build, message = REJECTED[name]
    with pytest.raises(VerifyError) as caught:
        verify(build())
    assert caught.value.what.startswith(f"{rule}: ")
    assert message in caught.value.what


def test_every_numbered_rule_has_a_rejecting_test() -> None:
    rules = re.findall(r"^(V\d+) ", verifier.__doc__ or "", re.MULTILINE)
    assert rules == [f"V{i}" for i in range(1, len(rules) + 1)] and len(rules) >= 14
    assert {rule for rule, _, _ in REJECTED.values()} == set(rules)


def test_error_points_at_the_operand() -> None:
    p = entry("r1: f32[2,3] = neg r0", "r2: f32[2,3] @cpu = where r1, 1.0, _")
    with pytest.raises(VerifyError) as caught:
        verify(p)
    assert str(caught.value) == (
        "V7: operand b of where is left out but not optional\n"
        "  at: function @main, instruction 1\n"
        "    r2: f32[2,3] @cpu = where r1, 1.0, _\n"
        "                                       ^"
    )


def test_error_about_the_whole_instruction_underlines_it() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(entry("r1: f32[3,2] = neg r0"))
    assert str(caught.value).split("\n")[2:] == ["    r1: f32[3,2] = neg r0", "    ^^^^^^^^^^^^^^^^^^^^^"]


def test_error_in_a_function_names_it() -> None:
    with pytest.raises(VerifyError, match="function @f, instruction 0"):
        verify(entry(functions=block("r1: f32[3,2] = neg r0")))


def test_view_error_says_what_to_try() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(REJECTED["reshape of a transpose"][1]())
    assert caught.value.hint == "put a copy before it"
    assert "r2: f32[6] = reshape r1 {shape=[6]}\n                         ^^" in (caught.value.where or "")


def test_a_copy_makes_the_view_legal() -> None:
    transposed = "r1: f32[3,2] = transpose r0 {perm=[1,0]}"
    verify(entry(transposed, "r2: f32[3,2] = copy r1", "r3: f32[6] = reshape r2 {shape=[6]}"))
    verify(entry(transposed, "r2: f32[3,2] = copy r1", "r3: f32[3,2] = call @f r2", functions=FLATTEN))


def test_strided_arguments_are_legal_where_the_function_allows_them() -> None:
    """A transposed argument whose reshape only adds an axis."""
    text = FLATTEN.replace("[6]", "[3,1,2]")
    transposed = "r1: f32[3,2] = transpose r0 {perm=[1,0]}"
    verify(entry(transposed, "r2: f32[3,2] = call @f r1", functions=text))


ACCEPTED = {
    "dead registers": ["r1: f32[2,3] = neg r0"],
    "integer beside floats": ["r1: f32[2,3] = mul r0, 2"],
    "whole float beside integers": ['r1: i8[2,3] = cast r0 {dtype="i8"}', "r2: i8[2,3] = add r1, -128.0"],
    "0 and 1 beside booleans": [
        "r1: bool[2,3] = lt r0, nan",
        "r2: bool[2,3] = ne r1, 0",
        "r3: bool[2,3] = or r2, true",
    ],
    "where between a literal and a tensor": ["r1: bool[2,3] = lt r0, 0", "r2: f32[2,3] = where r1, -inf, r0"],
    "optional operands left out": ["r1: f32[2,3] = layer_norm r0, _, _"],
    "view of a constant": ['const c0: f32[4,3] = "a"', "r1: f32[1,3] = slice c0 {stop=1}"],
    "unused constant with absent argument": ['const c0: f32[2,3] = layer_norm("a": f32[2,3], _, _)'],
    "offsets without a place": ["r1: f32[2,3], r2: f32[2,3] +_ +0x40 = add_rms_norm r0, r0"],
    "zero-size": [
        "r1: f32[0,3] = slice r0 {stop=0}",
        "r2: f32[3,0] = transpose r1 {perm=[1,0]}",
        "r3: f32[0,7] = reshape r2 {shape=[0,7]}",
    ],
    "rank 0": ["r1: f32[] = mean r0 {axes=[0,1]}", "r2: f32[1,1] = reshape r1 {shape=[1,1]}"],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_legal_lines_are_accepted(name: str) -> None:
    verify(entry(*ACCEPTED[name]))


@pytest.mark.parametrize(
    "build", [nested_program, state_program, lambda: chain(31), lambda: chain(19, calls=2)]
)
def test_legal_programs_are_accepted(build: Callable[[], Program]) -> None:
    verify(build())


@settings(max_examples=80)
@given(st.integers(0, 2**32))
def test_random_programs_are_accepted_before_and_after_planning(seed: int) -> None:
    p = random_program(seed)
    verify(p)
    verify(planned(p, seed))


def test_verifying_is_linear_in_calls_and_functions() -> None:
    def effort(count: int) -> int:
        body = [f"r{i + 1}: f32[2,3] = call @f{i} r{i}" for i in range(count)]
        text = "".join(
            block("r1: f32[2,3] = neg r0", name=f"f{i}", params="r0: f32[2,3]") for i in range(count)
        )
        p = entry(*body, functions=text)
        return calls(lambda: verify(p))

    small, large = effort(60), effort(1200)
    assert large < 21 * small, f"{small} calls, 20 times more functions {large}"
