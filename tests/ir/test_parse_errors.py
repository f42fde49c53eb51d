"""Text that is not a program: every error says what is wrong and where, and none takes long to find."""

from __future__ import annotations

import random
import re

import pytest
from effort import calls
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import planned, random_program

from forgec.errors import ForgecError, ParseError
from forgec.ir.limits import MAX_RECIPE_DEPTH
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.verifier import verify

HEAD = 'program @main(r0 "x": f32[2,3]) -> (r0 "y": f32[2,3]) {\n'
TAIL = "  return r0\n}\n"


def body(line: str) -> str:
    return f"{HEAD}  {line}\n{TAIL}"


ERRORS = {
    "empty text": ("", "expected 'program', found the end of the text", 1, 1),
    "no program first": ("function @f() -> () {\n  return\n}\n", "expected 'program'", 1, 1),
    "text after the program": (HEAD + TAIL + "program", "expected 'function'", 4, 1),
    "no function name": ("program main() -> () {", "expected '@'", 1, 9),
    "bad function name": ("program @1() -> () {", "expected a function's name", 1, 10),
    "no brace": ("program @m() -> ()\n", "expected '{'", 1, 19),
    "parameter is no register": (
        'program @m(x "x": f32[2]) -> () {',
        "expected a register such as r0",
        1,
        12,
    ),
    "register id with zeros": ('program @m(r00 "x": f32[2]) -> () {', "expected a register", 1, 12),
    "parameter twice": ("program @m(r0: f32[2], r0: f32[2]) -> () {", "r0 is defined twice", 1, 24),
    "register after constants": (
        "program @m(k0: f32[2], r0: f32[2]) -> () {",
        "registers stand before",
        1,
        24,
    ),
    "result without name": ("program @m(r0: f32[2]) -> (r0: f32[2]) {", "a result's name", 1, 30),
    "unknown element type": (body("r1: f33[2] = neg r0"), "unknown element type 'f33'", 2, 7),
    "no type": (body("r1: = neg r0"), "expected a tensor type, found '='", 2, 7),
    "type without shape": (body("r1: f32 = neg r0"), "expected a tensor type", 2, 7),
    "negative size": (body("r1: f32[-2] = neg r0"), "expected a tensor type", 2, 7),
    "empty size": (body("r1: f32[2,,3] = neg r0"), "size '' is not an integer", 2, 7),
    "rank over 8": (body("r1: f32[1,1,1,1,1,1,1,1,1] = neg r0"), "9 numbers", 2, 7),
    "size over 2**40": (body(f"r1: f32[{2**40 + 1}] = neg r0"), "is not an integer up to", 2, 7),
    "size of many digits": (body(f"r1: f32[{'9' * 5000}] = neg r0"), "is not an integer up to", 2, 7),
    "over 2**48 bytes": (body(f"r1: f32[{2**30},{2**17},0] = neg r0"), "over 2**48 bytes", 2, 7),
    "unknown op": (body("r1: f32[2,3] = softmux r0"), "unknown op 'softmux'", 2, 18),
    "no op": (body("r1: f32[2,3] = "), "expected an op, found the end of the line", 2, 18),
    "no equals": (body("r1: f32[2,3] neg r0"), "expected '=', found 'neg'", 2, 16),
    "no colon": (body("r1 = neg r0"), "expected ':'", 2, 6),
    "undefined register": (body("r1: f32[2,3] = neg r7"), "r7 is not defined above", 2, 22),
    "use of the own result": (body("r1: f32[2,3] = neg r1"), "r1 is not defined above", 2, 22),
    "undefined constant": (body("r1: f32[2,3] = add r0, c0"), "c0 is not defined above", 2, 26),
    "undefined state": (body("r1: f32[2,3] = read_state s0"), "s0 is not defined above", 2, 29),
    "undefined constant parameter": (body("r1: f32[2,3] = add r0, k0"), "k0 is not defined above", 2, 26),
    "operand missing": (
        body("r1: f32[2,3] = add r0,"),
        "expected a number, found the end of the line",
        2,
        25,
    ),
    "operand is a word": (body("r1: f32[2,3] = add r0, half"), "expected a number, found 'half'", 2, 26),
    "integer over 64 bits": (body(f"r1: f32[2,3] = add r0, {2**63}"), "outside 64 bits", 2, 26),
    "number of many digits": (body(f"r1: f32[2,3] = add r0, {'9' * 5000}"), "expected a number", 2, 26),
    "call without function": (body("r1: f32[2,3] = call r0"), "expected '@'", 2, 23),
    "attribute twice": (body("r1: f32[2,3] = clamp r0 {low=1, low=1}"), "low is given twice", 2, 35),
    "attribute without value": (body("r1: f32[2,3] = clamp r0 {low}"), "expected '='", 2, 31),
    "attributes not closed": (body("r1: f32[2,3] = clamp r0 {low=1"), "expected '}'", 2, 33),
    "tuple of words": (body("r1: f32[2,3] = flip r0 {axes=[a]}"), "expected a list of integers", 2, 32),
    "tuple of dashes": (body("r1: f32[2,3] = flip r0 {axes=[1-]}"), "entry '1-' is not an integer", 2, 32),
    "tuple too long": (body(f"r1: f32[2,3] = flip r0 {{axes=[{','.join('1' * 65)}]}}"), "65 numbers", 2, 32),
    "text not closed": (body('r1: f32[2,3] = linear r0 {act="gelu}'), "does not end on its line", 2, 33),
    "quote alone": (body('r1: f32[2,3] = linear r0 {act="'), "does not end on its line", 2, 33),
    "text ends in a backslash": (
        body('r1: f32[2,3] = linear r0 {act="a\\"'),
        "does not end on its line",
        2,
        33,
    ),
    "unknown escape": (body('r1: f32[2,3] = linear r0 {act="\\x41"}'), "unknown escape \\x", 2, 33),
    "escape beyond unicode": (body('r1: f32[2,3] = linear r0 {act="\\u{110000}"}'), "chr()", 2, 33),
    "device without name": (body("r1: f32[2,3] @ = neg r0"), "expected a device's name", 2, 18),
    "offset without digits": (body("r1: f32[2,3] + = neg r0"), "expected an offset", 2, 16),
    "offset of many digits": (body(f"r1: f32[2,3] +0x{'f' * 17} = neg r0"), "expected an offset", 2, 16),
    "comment that is no source": (body("r1: f32[2,3] = neg r0  # see the paper!"), "a comment is", 2, 26),
    "unknown escape in a source": (body('r1: f32[2,3] = neg r0  # "\\x"'), "unknown escape", 2, 26),
    "text after an instruction": (body("r1: f32[2,3] = neg r0 r0"), "expected the end of the line", 2, 25),
    "unknown character": (body("r1: f32[2,3] = neg r0 €"), "expected the end of the line, found '€'", 2, 25),
    "no return": (HEAD + "}\n", "expected an instruction or return", 2, 1),
    "end in a body": (HEAD, "expected an instruction or return", 2, 1),
    "return of a literal": (HEAD + "  return 1\n}\n", "a function returns registers", 2, 10),
    "no closing brace": (HEAD + "  return r0\n", "expected '}', found the end of the text", 3, 1),
    "too few results": (HEAD + "  return\n}\n", "the signature has 1 results, return has 0", 1, 36),
    "other result type": (
        body("r1: f32[2] = neg r0").replace("return r0", "return r1"),
        "return gives r1",
        1,
        36,
    ),
    "other result": (
        body("r1: f32[2,3] = neg r0").replace("return r0", "return r1"),
        "says r0 of f32[2,3]",
        1,
        36,
    ),
    "function twice": (
        HEAD + TAIL + "function @main() -> () {\n  return\n}\n",
        "@main is defined twice",
        4,
        11,
    ),
    "constant twice": (HEAD + '  const c0: f32[2] = "a"\n' * 2 + TAIL, "const c0 is defined twice", 3, 9),
    "constant named like a state": (body('const s0: f32[2] = "a"'), "const s0 must begin with c", 2, 9),
    "state named like a constant": (body("state c0: f32[2]"), "state c0 must begin with s", 2, 9),
    "constant below instructions": (
        body('r1: f32[2,3] = neg r0\n  const c0: f32[2] = "a"'),
        "unknown op",
        3,
        3,
    ),
    "constant in a function": (
        HEAD + TAIL + 'function @f() -> () {\n  const c0: f32[2] = "a"\n  return\n}\n',
        "unknown op 'const'",
        5,
        3,
    ),
    "recipe is a literal": (body("const c0: f32[] = 1.0"), "a constant is a source tensor or an op", 2, 21),
    "inner tensor without type": (body('const c0: f32[2] = neg("a")'), "expected ':'", 2, 29),
    "recipe with effects": (
        body('const c0: f32[2] = read_state("a": f32[2])'),
        "cannot stand in a recipe",
        2,
        22,
    ),
    "recipe with a call": (
        body('const c0: f32[2] = neg(call("a": f32[2]))'),
        "cannot stand in a recipe",
        2,
        26,
    ),
    "recipe of two results": (body('const c0: f32[2] = neg(top_k("a": f32[2]))'), "has 2 results", 2, 26),
    "recipe of wrong types": (
        body('const c0: f32[2] = neg(add("a": f32[2], "b": f32[3]))'),
        "broadcast",
        2,
        26,
    ),
    "recipe of a wrong attribute": (
        body('const c0: f32[2] = neg(flip("a": f32[2]) {axes="x"})'),
        "axes",
        2,
        26,
    ),
    "recipe that grows": (
        body(f'const c0: f32[2] = neg(expand("a": f32[1]) {{shape=[{2**40},{2**40}]}})'),
        "over 2**48 bytes",
        2,
        26,
    ),
    "recipe too deep": (
        body(f'const c0: f32[2] = {"neg(" * 9999}"a": f32[2]{")" * 9999}'),
        "nest deeper",
        2,
        22 + 4 * MAX_RECIPE_DEPTH,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_what_and_where(name: str) -> None:
    text, what, line, column = ERRORS[name]
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert what in caught.value.what
    where = caught.value.where
    assert where is not None
    place, shown, caret = where.split("\n")
    assert place == f"line {line}, column {column}"
    assert len(shown) <= 104
    source = (text.split("\n")[line - 1] + " ")[column - 1]
    assert (shown + " ")[caret.index("^")] == source
    assert len(str(caught.value)) < 1000


def test_error_message_is_complete() -> None:
    with pytest.raises(ParseError) as caught:
        parse(body("r1: f32[2,3] = softmux r0"))
    assert str(caught.value) == (
        "unknown op 'softmux'\n"
        "  at: line 2, column 18\n"
        "      r1: f32[2,3] = softmux r0\n"
        "                     ^\n"
        "  try: the nearest is softmax"
    )


def test_error_shows_no_control_characters() -> None:
    with pytest.raises(ParseError) as caught:
        parse(body("r1: f32[2,3] = neg \x1b[31m r0"))
    assert "\x1b" not in (caught.value.where or "")


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_damaged_text_gives_a_typed_error_or_a_program(seed: int) -> None:
    rng = random.Random(seed)
    lines = to_text(planned(random_program(rng.randrange(200)), seed)).split("\n")
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(lines))
        pieces = re.findall(r"\w+|\W", lines[i]) or [""]
        j = rng.randrange(len(pieces))
        other = rng.choice(re.findall(r"\w+|\W", rng.choice(lines)) or [""])
        pieces[j] = rng.choice(
            ["", other, pieces[j] * 2, "-1", "0", "99999999999", '"', "\\", "_", "[", "f32[]"]
        )
        lines[i] = "".join(pieces)
    try:
        p = parse("\n".join(lines))
        verify(p)
    except ForgecError as error:
        assert type(error).__name__ in ("ParseError", "VerifyError")
        return
    assert parse(to_text(p)) == p


def test_parsing_is_linear() -> None:
    def effort(text: str) -> int:
        def refused() -> None:
            with pytest.raises(ParseError):
                parse(text)

        return calls(refused)

    for piece in ('"\\', '"', "[", "#", "r1", "-", "(((", "\n", '"\n', "# a, "):
        small, large = effort(HEAD + piece * 1_000), effort(HEAD + piece * 20_000)
        assert large < 21 * small, f"{piece!r}: {small} calls, 20 times longer {large}"


def test_the_effort_for_a_line_is_bounded() -> None:
    def text(count: int) -> str:
        lines = [
            f"  r{i}: f32[2,3] @cpu +0x{64 * i:x} = add r{i - 1}, 0.5  # aten.add, m.py:{i}, l.{i}"
            for i in range(1, count + 1)
        ]
        return HEAD + "\n".join(lines) + "\n" + TAIL

    few, many = (calls(lambda n=n: parse(text(n))) for n in (50, 500))
    assert (many - few) / 450 < 200
