"""Parser of IR text: recursive descent over the tokens of one regular expression, in linear time.

The grammar is that of ``printer``. Names are resolved while reading, because a use takes its type from the
definition: a register, constant parameter, constant or state must be defined above its use. Everything else
that a program must keep is the verifier's business, so text from outside goes through ``parse`` and then
``verifier.verify``.

Safe on hostile text: no evaluation, recursion only in recipes and bounded there, sizes and numbers bounded
(``limits``), every failure a :class:`~forgec.errors.ParseError` with line, column and a caret.

Law: ``to_text(parse(t)) == t`` for every text that ``printer.to_text`` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from . import ops  # noqa: F401  (registers the records)
from .limits import MAX_RECIPE_DEPTH, type_excess
from .op import OPS, IRTypeError, Op
from .program import (
    Apply,
    AttrValue,
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Recipe,
    Register,
    Source,
    StateRef,
)
from .tokens import Cursor, unquote
from .types import TensorType

__all__ = ["parse"]

T = TypeVar("T")

_REGISTER = re.compile(r"r(?:0|[1-9][0-9]{0,8})")
_CONST_PARAM = re.compile(r"k(?:0|[1-9][0-9]{0,8})")
_TEXT = r'([A-Za-z0-9_./<>-]+|"[^"\\]*(?:\\.[^"\\]*)*")'
_SOURCE = re.compile(rf"# {_TEXT}(?:, {_TEXT}(?::(-?[0-9]{{1,18}}))?(?:, {_TEXT})?)?[ \t\r]*")


def parse(text: str) -> Program:
    """The program that the text describes, not yet verified; :class:`ParseError` if it follows no grammar."""
    return _Parser(text).program()


class _Parser:
    def __init__(self, text: str) -> None:
        self.cursor = Cursor(text)
        self.constants: dict[str, Constant] = {}
        self.states: dict[str, TensorType] = {}
        self.globals: dict[str, Operand] = {}
        self.locals: dict[str, Operand] = {}

    def program(self) -> Program:
        cursor = self.cursor
        cursor.skip_lines()
        cursor.expect("program", "IR text begins with the entry function: program @main(...) -> (...) {")
        main = self.function(entry=True)
        functions = {main.name: main}
        while cursor.token:
            start = cursor.at
            cursor.expect("function", "after the program come functions: function @name(...) -> (...) {")
            function = self.function(entry=False)
            if function.name in functions:
                cursor.fail(f"function @{function.name} is defined twice", at=start + 2)
            functions[function.name] = function
        return Program(main.name, functions, self.constants, self.states)

    def function(self, entry: bool) -> Function:
        """A function from its name on; the entry also declares constants and states."""
        cursor = self.cursor
        cursor.expect("@")
        name = cursor.word("a function's name")
        self.locals = {}
        params, param_names, const_params = self.parameters()
        cursor.expect("->")
        signature = cursor.at
        declared, result_names = self.result_list()
        cursor.expect("{")
        cursor.end_line()
        while entry and cursor.token in ("const", "state"):
            self.declaration()
        body: list[Instr] = []
        while not cursor.accept("return"):
            if cursor.token in ("}", ""):
                cursor.fail("expected an instruction or return", "end a function with a line: return r1, r2")
            body.append(self.instruction())
            cursor.end_line()
        results = self.comma_list(self.used_register, "\n")
        cursor.end_line()
        cursor.expect("}")
        cursor.end_line()
        for r, (register, t) in zip(results, declared, strict=False):
            if r.type != t or register not in (None, str(r)):
                found = f"{register} of {t}" if register else str(t)
                cursor.fail(f"the signature says {found}, return gives {r} of {r.type}", at=signature)
        if len(results) != len(declared):
            cursor.fail(f"the signature has {len(declared)} results, return has {len(results)}", at=signature)
        return Function(name, params, param_names, body, tuple(results), result_names, const_params)

    # --- signature -----------------------------------------------------------------------------------------

    def parameters(self) -> tuple[tuple[Register, ...], tuple[str, ...], tuple[ConstParam, ...]]:
        registers: list[Register] = []
        names: list[str] = []
        const_params: list[ConstParam] = []

        def parameter() -> None:
            start, token = self.cursor.at, self.cursor.token
            if _CONST_PARAM.fullmatch(token):
                self.cursor.at += 1
                self.cursor.expect(":")
                const_params.append(ConstParam(int(token[1:]), self.cursor.type()))
                new: Register | ConstParam = const_params[-1]
            else:
                if const_params:
                    self.cursor.fail("expected a constant parameter: registers stand before them")
                id_ = self.register_id()
                names.append(self.cursor.string("a name") if self.cursor.token.startswith('"') else "")
                self.cursor.expect(":")
                registers.append(Register(id_, self.cursor.type()))
                new = registers[-1]
            if token in self.locals:
                self.cursor.fail(f"parameter {token} is defined twice", at=start)
            self.locals[token] = new

        self.cursor.expect("(")
        self.comma_list(parameter, ")")
        return tuple(registers), tuple(names), tuple(const_params)

    def result_list(self) -> tuple[list[tuple[str | None, TensorType]], tuple[str, ...]]:
        """Types of the results, each with its register where it has a name; and the names."""
        names: list[str] = []

        def result() -> tuple[str | None, TensorType]:
            register = None
            names.append("")
            if _REGISTER.fullmatch(self.cursor.token):
                register = self.cursor.token
                self.cursor.at += 1
                names[-1] = self.cursor.string("a result's name")
                self.cursor.expect(":")
            return register, self.cursor.type()

        self.cursor.expect("(")
        declared = self.comma_list(result, ")")
        return declared, tuple(names)

    def comma_list(self, item: Callable[[], T], end: str) -> list[T]:
        """Items with commas between them up to ``end``; steps over ``end`` unless it is the line's."""
        cursor = self.cursor
        items: list[T] = []
        if cursor.token != end:
            items.append(item())
            while cursor.accept(","):
                items.append(item())
        if end != "\n":
            cursor.expect(end)
        return items

    # --- constants and states ------------------------------------------------------------------------------

    def declaration(self) -> None:
        cursor = self.cursor
        keyword = cursor.token
        cursor.at += 1
        name = cursor.word(f"a {keyword}'s name")
        if not name.startswith(keyword[0]) or name in self.globals:
            problem = "is defined twice" if name in self.globals else f"must begin with {keyword[0]}"
            cursor.fail(f"{keyword} {name} {problem}", at=cursor.at - 1)
        cursor.expect(":")
        t = cursor.type()
        if keyword == "state":
            self.states[name] = t
            self.globals[name] = StateRef(name, t)
        else:
            cursor.expect("=")
            recipe = self.recipe(t, 0)
            if not isinstance(recipe, Leaf | Apply):
                cursor.fail("a constant is a source tensor or an op of some", at=cursor.at - 1)
            self.constants[name] = Constant(name, t, recipe)
            self.globals[name] = ConstRef(name, t)
        cursor.end_line()

    def recipe(self, declared: TensorType | None, depth: int) -> Recipe | Literal | None:
        """A recipe or an argument of one; ``declared`` is the constant's type at the outermost level."""
        cursor = self.cursor
        start = cursor.at
        if cursor.token.startswith('"'):
            name = cursor.string("a source tensor's name")
            if declared is None or cursor.token == ":":
                cursor.expect(":", "a source tensor inside a recipe needs its type")
                declared = cursor.type()
            return Leaf(name, declared)
        if cursor.tokens[min(cursor.at + 1, len(cursor.tokens) - 1)] != "(":
            return None if cursor.accept("_") else Literal(cursor.number())
        if depth >= MAX_RECIPE_DEPTH:
            cursor.fail(f"recipes nest deeper than {MAX_RECIPE_DEPTH}")
        record = self.op_record()
        if not record.pure:
            cursor.fail(f"{record.name} cannot stand in a recipe", "use ops without effects", at=start)
        cursor.expect("(")
        args = tuple(self.comma_list(lambda: self.recipe(None, depth + 1), ")"))
        attrs = self.attrs()
        t = declared or self.recipe_type(record, args, attrs, start)
        return Apply(record.name, args, tuple(attrs.items()), t)

    def recipe_type(
        self, record: Op, args: tuple[Recipe | Literal | None, ...], attrs: dict[str, AttrValue], start: int
    ) -> TensorType:
        types = [arg.type if isinstance(arg, Leaf | Apply) else None for arg in args]
        try:
            results = record.result_types(types, attrs)
        except IRTypeError as error:
            self.cursor.fail(str(error), at=start)
        if len(results) != 1:
            self.cursor.fail(f"{record.name} has {len(results)} results, a recipe needs one", at=start)
        excess = type_excess(results[0])
        if excess:
            self.cursor.fail(excess, at=start)
        return results[0]

    # --- instructions --------------------------------------------------------------------------------------

    def instruction(self) -> Instr:
        cursor = self.cursor
        results: list[Register] = []
        while _REGISTER.fullmatch(cursor.token):
            id_ = self.register_id()
            cursor.expect(":")
            results.append(Register(id_, cursor.type()))
            if not cursor.accept(","):
                break
        device = cursor.word("a device's name") if cursor.accept("@") else None
        while device is not None and cursor.accept("-"):
            device += "-" + cursor.word("the rest of a device's name")
        offsets: list[int | None] = []
        while cursor.token.startswith("+"):
            offsets.append(cursor.offset())
        if results or device is not None or offsets:
            cursor.expect("=")
        record = self.op_record()
        callee = self.callee() if record.name == "call" else None
        operands: list[Operand] = []
        if cursor.token[:1] not in ("{", "#", "\n"):
            operands.append(self.operand())
            while cursor.accept(","):
                operands.append(self.operand())
        for spec in record.operands[len(operands) :]:
            if not spec.optional:
                break
            operands.append(None)
        attrs = self.attrs()
        if callee is not None:
            attrs["callee"] = callee
        source = self.source() if cursor.token.startswith("#") else None
        for register in results:
            self.locals[f"r{register.id}"] = register
        return Instr(record.name, tuple(operands), tuple(results), attrs, source, device, tuple(offsets))

    def op_record(self) -> Op:
        name = self.cursor.word("an op")
        record = OPS.get(name)
        if record is None:
            near = get_close_matches(name[:40], OPS, 1)
            hint = f"the nearest is {near[0]}" if near else None
            self.cursor.fail(f"unknown op {name[:40]!r}", hint, at=self.cursor.at - 1)
        return record

    def callee(self) -> str:
        self.cursor.expect("@", "a call names its function: call @block r0, c0")
        return self.cursor.word("a function's name")

    def operand(self) -> Operand:
        cursor = self.cursor
        token = cursor.token
        known = self.locals.get(token) or self.globals.get(token)
        if known is not None:
            cursor.at += 1
            return known
        if token == "_":
            cursor.at += 1
            return None
        if token[:1] in ("r", "c", "k", "s"):
            cursor.fail(f"{token[:40]} is not defined above", "a use takes its type from its definition")
        return Literal(cursor.number())

    def used_register(self) -> Register:
        register = self.operand()
        if not isinstance(register, Register):
            self.cursor.fail("a function returns registers", at=self.cursor.at - 1)
        return register

    def register_id(self) -> int:
        token = self.cursor.token
        if not _REGISTER.fullmatch(token):
            self.cursor.fail(f"expected a register such as r0, found {token[:40]!r}")
        self.cursor.at += 1
        return int(token[1:])

    def attrs(self) -> dict[str, AttrValue]:
        """``{key=value, ...}``, or nothing."""
        cursor = self.cursor
        attrs: dict[str, AttrValue] = {}

        def attr() -> None:
            key = cursor.word("an attribute's name")
            if key in attrs:
                cursor.fail(f"attribute {key} is given twice", at=cursor.at - 1)
            cursor.expect("=")
            attrs[key] = self.value()

        if cursor.accept("{"):
            self.comma_list(attr, "}")
        return attrs

    def value(self) -> AttrValue:
        cursor = self.cursor
        if cursor.is_tuple():
            return cursor.int_tuple()
        if cursor.token.startswith('"'):
            return cursor.string("text")
        return None if cursor.accept("none") else cursor.number()

    def source(self) -> Source:
        cursor = self.cursor
        match = _SOURCE.fullmatch(cursor.token)
        if match is None:
            cursor.fail("a comment is an instruction's source", "write # aten.op, file.py:12, module.name")
        aten, file, line, module = match.groups()
        try:
            texts = [unquote(text) if text and text[0] == '"' else text for text in (aten, file, module)]
        except (ValueError, OverflowError) as error:
            cursor.fail(str(error))
        cursor.at += 1
        place = None if file == "_" else texts[1]
        return Source(texts[0], place, None if line is None else int(line), texts[2])
