"""Parts and calls of folded segments, and the decision whether to fold."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.prediction import Layer, Prediction
from forgec.backends.vendor.calls import BoundCall, bind, bound_inputs, from_bytes, to_bytes
from forgec.backends.vendor.folding import Cost, decide, in_a_row, total
from forgec.backends.vendor.legalise import legalise
from forgec.backends.vendor.parts import chain, divide

from forgec.errors import ArtifactError
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Program
from forgec.ir.verifier import verify


def block(n: int, weight: int) -> str:
    return f"""
  r{n + 1}: f32[2,4] = linear r{n}, c{weight}
  r{n + 2}: f32[2,4] = add r{n + 1}, r5
  r{n + 3}: f32[2,4] = sigmoid r{n + 2}
  r{n + 4}: f32[2,4] = mul r{n + 3}, r{n + 1}
  r{n + 5}: f32[2,4] = linear r{n + 4}, c{weight + 1}
  r{n + 6}: f32[2,4] = tanh r{n + 5}"""


def segment(blocks: int, first: int = 0) -> Program:
    """Blocks on a shared r5, which is made of an input where the first block reads it, after its product."""
    body = "".join(block(10 + 6 * i, first + 2 * i) for i in range(blocks))
    body = body.replace("\n  r12:", "\n  r4: f32[2,4] = copy r1\n  r5: f32[2,4] = exp r4\n  r12:", 1)
    constants = "".join(f'  const c{i}: f32[4,4] = "w{i}"\n' for i in range(first, first + 2 * blocks))
    end = 10 + 6 * blocks
    text = f"""program @main(r10 "x": f32[2,4], r1 "m": f32[2,4]) -> (r{end + 1} "y": f32[2,4]) {{
{constants[:-1]}{body}
  r{end + 1}: f32[2,4] = neg r{end}
  return r{end + 1}
}}
"""
    return parse(text)


def test_blocks_of_one_segment_are_one_part() -> None:
    division = divide([segment(4)])
    assert [call.part for call in division.calls[0]] == [0, 1, 1, 1, 1, 2]
    assert division.repeated == [1] and division.times(1) == 4
    assert [[x.name for x in call.constants] for call in division.calls[0]][1:3] == [
        ["c0", "c1"],
        ["c2", "c3"],
    ]
    made, first = division.calls[0][0], division.calls[0][1]
    assert made.inputs == (1,) and set(first.inputs) == {10, 5}  # exp reads the input, its copy is gone


def test_what_every_block_makes_of_the_inputs_is_made_once() -> None:
    """Each block's own exp of the input, which stands at its first product, comes to the front, as one."""
    text = to_text(segment(4)).replace("r4: f32[2,4] = copy r1", "").replace("exp r4", "exp r1")
    for number in range(1, 4):
        first = f"r{12 + 6 * number}: f32[2,4] = add r{11 + 6 * number}, r"
        assert first + "5" in text
        own = f"r{100 + number}: f32[2,4] = exp r1\n  {first}{100 + number}"
        text = text.replace(first + "5", own, 1)
    division = divide([parse(text)])
    assert [call.part for call in division.calls[0]] == [0, 1, 1, 1, 1, 2]
    assert [instr.op for instr in division.parts[0].program.main.body] == ["exp"]
    assert all(5 in call.inputs for call in division.calls[0][1:-1])


def test_equal_blocks_of_several_segments_are_one_part() -> None:
    division = divide([segment(1), segment(1, first=2), segment(1, first=4)])
    assert len(division.parts) == 1 and division.repeated == [0]
    assert [calls[0].constants[0].name for calls in division.calls] == ["c0", "c2", "c4"]


def test_parts_do_not_depend_on_names_and_numbers() -> None:
    first, other = divide([segment(3)]), divide([segment(3, first=6)])
    assert first.parts == other.parts


def test_calls_are_read_as_they_were_written() -> None:
    division = divide([segment(3)])
    legal = [legalise(part.program, ()) for part in division.parts]
    inputs = [bound_inputs(x, part.bound) for x, part in zip(legal, division.parts, strict=True)]
    (calls,) = bind(division, [list(found.values()) for found in inputs])
    assert [len(call.weights) for call in calls] == [0, 2, 2, 2, 0]
    assert list(inputs[1]) == ["bound0", "bound1"]
    assert from_bytes(to_bytes(calls), 3) == calls


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'[[0, [1], [2], ["c9"]]]\nprogram @w() -> () {\n  return\n}\n', b"\xff\n"]
)
def test_damaged_calls_are_an_error(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        from_bytes(data, 1)


def test_calls_of_parts_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ArtifactError, match="parts"):
        from_bytes(to_bytes([BoundCall(1, (0,), (1,), ())]), 1)


def costs(inside: float | None, outside: float | None) -> tuple[bool, str]:
    division = divide([segment(4)])
    folded = [Cost(1.0, 10, 0.1), Cost(inside, 100, 0.5), Cost(1.0, 10, 0.1)]
    chosen, (repeat,) = decide("auto", division, folded, {1: Cost(outside, 5000, 0.75)})
    assert (repeat.calls, repeat.folded, repeat.unfolded_bytes, repeat.unfolded_s) == (4, chosen, 5000, 0.75)
    return chosen, repeat.reason


def test_auto_folds_where_it_costs_next_to_nothing() -> None:
    assert costs(10.2, 40.0)[0] and costs(9.0, 40.0)[0]
    chosen, reason = costs(12.0, 40.0)
    assert not chosen and "+20.0%" in reason
    assert costs(None, 40.0) == costs(10.0, None) == (False, reason_without_model())


def reason_without_model() -> str:
    return "the vendor's model does not say what it would cost"


def test_every_further_call_adds_what_the_second_does() -> None:
    one, two = Cost(10.0, 100, 2.0), Cost(17.0, 150, 3.0)
    assert in_a_row(4, one, two) == Cost(31.0, 250, 5.0)
    assert in_a_row(4, one, None) == Cost(40.0, 400, 8.0)
    assert in_a_row(4, Cost(None, 100, 2.0), two).us is None
    assert in_a_row(3, one, Cost(9.0, 90, 1.0)) == one  # noise, not a gain


def test_a_chain_computes_what_its_calls_do() -> None:
    of = segment(3)
    division = divide([of])
    rng = np.random.default_rng(3)
    tensors = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in of.constants}
    x, m = rng.normal(size=(2, 2, 4)).astype(np.float32)
    for length in (1, 2, 3):
        row = chain(division, 1, length)
        assert row is not None
        verify(row.program)
        weights = {name: tensors[ref.name] for name, ref in row.weights.items()}
        (got,) = Interpreter(row.program, weights.__getitem__).run(
            [{10: x, 5: np.exp(m)}[number] for number in division.calls[0][1].inputs]
        )
        want = x
        for i in range(length):
            first, second = tensors[f"c{2 * i}"], tensors[f"c{2 * i + 1}"]
            product = want @ first.T
            want = np.tanh((product / (1 + np.exp(-(product + np.exp(m))))) @ second.T)
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert chain(division, 1, 4) is None


def test_on_folds_without_asking() -> None:
    division = divide([segment(2)])
    chosen, (repeat,) = decide("on", division, [Cost(None, 1, 0.1)] * 3, {})
    assert chosen and repeat.folded and repeat.unfolded_us is None and repeat.reason == "asked for"


def test_a_segments_prediction_is_that_of_its_calls() -> None:
    layer = Layer("a", "DPU", 1.0, 2.0)
    one = Prediction(5.0, "model", 100, 10, 7, uncosted=("x",), layers=(layer,))
    whole = total([one, one], 123)
    assert whole is not None
    assert (whole.latency_us, whole.ddr_bytes, whole.spill_bytes, whole.on_chip_bytes) == (10, 200, 20, 7)
    assert (whole.code_bytes, whole.dispatches) == (123, 2)
    assert [x.start_us for x in whole.layers] == [1.0, 6.0]
    assert total([one, None], 1) is None
