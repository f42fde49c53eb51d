"""The rules that every program keeps, and the check that it does.

V1   Names. The entry exists; every function, constant and state stands under its own name. Names of
     functions and devices are words (letters, digits, ``_`` and ``.``), those of constants begin with c, of
     states with s.
V2   Signature. There is one name per parameter and per result; those of the entry are not empty, and
     different among parameters and among results. Constant parameters are k0, k1, ... in order; the entry
     has none.
V3   Types have rank, sizes and bytes within ``limits``; registers and states are not i4.
V4   A register is defined once.
V5   A register is defined before it is used or returned.
V6   A use has the type of the definition; a constant, constant parameter or state that is used exists.
V7   The op exists, and each operand is of a kind that its place takes: a state where the record names the
     operand ``state`` and only there, nothing only where the operand is optional, a literal never there.
V8   A literal is an int, float or bool, within 64 bits, and a value of the element type beside it, which
     floating point may round.
V9   Attributes and operand types are legal for the op, and the result types are what its record derives.
V10  A call names an existing function, gives a register for every parameter and a constant for every constant
     parameter, of their types, and takes its results with their types.
V11  Calls do not recurse, nest within ``limits``, and expand to a program within ``limits``.
V12  Every view can be had without moving elements, also when its function is called with strided arguments.
V13  A recipe nests within ``limits``, uses pure ops with one result, and its types are what the records
     derive; the outermost is the constant's type.
V14  Offsets are absent, or one per result, and not negative.

Dead registers are legal. The work is linear in the program, except that V12 looks at a function once for each
combination of argument strides it is called with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..errors import VerifyError
from . import ops  # noqa: F401  (registers the records)
from .layout import Layout, function_layouts
from .limits import MAX_CALL_DEPTH, MAX_FLAT_INSTRS, MAX_INT, MAX_RECIPE_DEPTH, type_excess
from .op import OPS, IRTypeError, Op
from .ops.rules import is_exact
from .printer import InstrText, format_operand, format_recipe
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
    StateRef,
)
from .types import DType, TensorType, contiguous_strides

__all__ = ["verify"]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
Strides = tuple[tuple[int, ...], ...]


def verify(program: Program) -> None:
    """Raise :class:`VerifyError` for the first rule that the program breaks; return if it keeps them all."""
    _check_tables(program)
    right: dict[tuple[int, int], Recipe] = {}
    for constant in program.constants.values():
        _check_recipe(constant.recipe, constant, right)
    for function in program.functions.values():
        _FunctionCheck(program, function).run()
    _check_call_graph(program)
    _Views(program).run()


def _fail(rule: int, what: str, where: str | None = None, hint: str | None = None) -> NoReturn:
    raise VerifyError(f"V{rule}: {what}", where, hint)


def _check_tables(program: Program) -> None:
    if program.entry not in program.functions:
        _fail(1, f"there is no function named {program.entry!r}, the entry")
    tables: list[tuple[str, str, Sequence[tuple[str, str]]]] = [
        ("function", "", [(key, f.name) for key, f in program.functions.items()]),
        ("constant", "c", [(key, c.name) for key, c in program.constants.items()]),
        ("state", "s", [(key, key) for key in program.states]),
    ]
    for kind, letter, names in tables:
        for key, name in names:
            if key != name:
                _fail(1, f"{kind} {name!r} stands under the name {key!r}")
            if not _WORD.fullmatch(name) or not name.startswith(letter):
                begins = f" that begins with {letter}" if letter else ""
                _fail(1, f"{kind} name {name!r} is not a word{begins}")
    typed = [(c.name, c.type) for c in program.constants.values()] + list(program.states.items())
    for name, t in typed:
        excess = type_excess(t)
        if excess:
            _fail(3, f"{name}: {excess}")
    for name, t in program.states.items():
        if t.dtype is DType.I4:
            _fail(3, f"state {name} is i4, which only constants are")


def _check_recipe(
    recipe: Recipe, constant: Constant, right: dict[tuple[int, int], Recipe], depth: int = 0
) -> None:
    """Checks a constant's recipe or a part of it; ``right`` are those found right, by identity and depth."""
    if depth == 0 and recipe.type != constant.type:
        _fail_recipe(13, f"the recipe gives {recipe.type}, the constant is {constant.type}", constant)
    if isinstance(recipe, Leaf) or (id(recipe), depth) in right:
        return
    if depth == MAX_RECIPE_DEPTH:
        _fail_recipe(13, f"the recipe nests deeper than {MAX_RECIPE_DEPTH}", constant)
    record = OPS.get(recipe.op)
    if record is None or not record.pure:
        _fail_recipe(13, f"{recipe.op!r} is not a pure op", constant)
    types: list[TensorType | None] = []
    for arg in recipe.args:
        types.append(arg.type if isinstance(arg, Leaf | Apply) else None)
        if isinstance(arg, Leaf | Apply):
            excess = type_excess(arg.type)
            if excess:
                _fail_recipe(3, excess, constant)
            _check_recipe(arg, constant, right, depth + 1)
    for index, arg in enumerate(recipe.args):
        problem = _operand_problem(record, index, arg, types)
        if problem:
            _fail_recipe(problem[0], problem[1], constant)
    try:
        results = record.result_types(types, dict(recipe.attrs))
    except IRTypeError as error:
        _fail_recipe(13, str(error), constant)
    if results != (recipe.type,):
        _fail_recipe(13, f"{recipe.op} gives {_listed(results)}, its recipe says {recipe.type}", constant)
    right[id(recipe), depth] = recipe


def _fail_recipe(rule: int, what: str, constant: Constant) -> NoReturn:
    where = f"const {constant.name}: {constant.type} = {format_recipe(constant.recipe, constant.type)}"
    _fail(rule, what, where[:200])


def _operand_problem(
    record: Op, index: int, operand: Operand | Recipe, types: Sequence[TensorType | None]
) -> tuple[int, str] | None:
    """Rule and message if an operand is of a kind that its place does not take."""
    spec = record.operands[min(index, len(record.operands) - 1)] if record.operands else None
    name = spec.name if spec else str(index)
    if isinstance(operand, StateRef) != (name == "state"):
        return 7, f"operand {name} of {record.name} {'must be' if name == 'state' else 'cannot be'} a state"
    if operand is None and not (spec and spec.optional):
        return 7, f"operand {name} of {record.name} is left out but not optional"
    if isinstance(operand, Literal):
        if spec and spec.optional:
            return 7, f"operand {name} of {record.name} is a tensor or left out, not a literal"
        return _literal_problem(operand, types)
    return None


def _literal_problem(literal: Literal, types: Sequence[TensorType | None]) -> tuple[int, str] | None:
    value = literal.value
    if type(value) not in (int, float, bool) or (type(value) is int and abs(value) > MAX_INT):
        return 8, f"literal {value!r} is not an int, float or bool within 64 bits"
    beside = next((t for t in reversed(types) if t is not None), None)
    if beside is not None and not is_exact(value, beside.dtype):
        return 8, f"literal {value!r} is not a value of {beside.dtype.value}, the element type beside it"
    return None


def _listed(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"


class _FunctionCheck:
    """Rules V2 to V10 and V14 on one function."""

    def __init__(self, program: Program, function: Function) -> None:
        self.program = program
        self.function = function
        self.types: dict[int, TensorType] = {}
        self.seen_types: set[TensorType] = set()
        self.index = 0
        self.instr: Instr | None = None

    def run(self) -> None:
        function = self.function
        self.signature()
        for register in function.params:
            self.define(register)
        for index, instr in enumerate(function.body):
            self.index, self.instr = index, instr
            self.instruction(instr)
        self.instr = None
        for register in function.results:
            self.use(register, None)

    def fail(self, rule: int, what: str, operand: int | None = None, hint: str | None = None) -> NoReturn:
        f, instr = self.function, self.instr
        _fail(
            rule,
            what,
            f"function @{f.name}" if instr is None else _place(f, self.index, instr, operand),
            hint,
        )

    def signature(self) -> None:
        f = self.function
        entry = f.name == self.program.entry
        sides = (("parameter", f.params, f.param_names), ("result", f.results, f.result_names))
        for what, values, names in sides:
            if len(values) != len(names):
                self.fail(2, f"{len(values)} {what}s have {len(names)} names")
            if entry and ("" in names or len(set(names)) != len(names)):
                self.fail(2, f"{what} names {list(names)} of the entry are not different and not empty")
        if [k.index for k in f.const_params] != list(range(len(f.const_params))):
            self.fail(2, "constant parameters are not k0, k1, ... in order")
        if entry and f.const_params:
            self.fail(2, "the entry has constant parameters", hint="bind constants with a call")
        for k in f.const_params:
            self.bounded(k.type)

    def bounded(self, t: TensorType) -> None:
        if t not in self.seen_types:
            excess = type_excess(t)
            if excess:
                self.fail(3, excess)
            self.seen_types.add(t)

    def define(self, register: Register) -> None:
        if register.id in self.types:
            self.fail(4, f"{register} is defined twice")
        self.bounded(register.type)
        if register.type.dtype is DType.I4:
            self.fail(3, f"{register} is i4, which only constants are")
        self.types[register.id] = register.type

    def use(self, x: Operand, index: int | None) -> TensorType | None:
        """The type of an operand, after checking that what it refers to exists with that type."""
        if isinstance(x, Register):
            defined = self.types.get(x.id)
            if defined is None:
                self.fail(5, f"{x} is not defined before its use", index)
        elif isinstance(x, ConstRef):
            constant = self.program.constants.get(x.name)
            defined = constant.type if constant else None
        elif isinstance(x, ConstParam):
            known = 0 <= x.index < len(self.function.const_params)
            defined = self.function.const_params[x.index].type if known else None
        elif isinstance(x, StateRef):
            defined = self.program.states.get(x.name)
        else:
            return None
        if defined is None:
            self.fail(6, f"{x} does not exist", index)
        if defined is not x.type and defined != x.type:
            self.fail(6, f"{x} is {defined}, used as {x.type}", index)
        return defined

    def instruction(self, instr: Instr) -> None:
        record = OPS.get(instr.op)
        if record is None:
            self.fail(7, f"unknown op {instr.op!r}")
        types = [self.use(x, index) for index, x in enumerate(instr.operands)]
        if instr.device is not None and not _WORD.fullmatch(instr.device):
            self.fail(1, f"device name {instr.device!r} is not a word")
        fits = len(instr.offsets) in (0, len(instr.results)) and all((o or 0) >= 0 for o in instr.offsets)
        if not fits:
            self.fail(14, f"offsets {list(instr.offsets)} are not one per result, and 0 or more")
        if instr.op == "call":
            self.call(instr)
        else:
            for index, x in enumerate(instr.operands):
                if x is None or isinstance(x, Literal | StateRef) or not record.pure:
                    problem = _operand_problem(record, index, x, types)
                    if problem:
                        self.fail(*problem, index)
            self.derive(record, instr, types)
        for register in instr.results:
            self.define(register)

    def derive(self, record: Op, instr: Instr, types: Sequence[TensorType | None]) -> None:
        try:
            derived = record.result_types(types, instr.attrs)
        except IRTypeError as error:
            self.fail(9, str(error))
        if len(derived) != len(instr.results) or any(
            t != r.type for t, r in zip(derived, instr.results, strict=True)
        ):
            found = _listed([r.type for r in instr.results])
            self.fail(9, f"{instr.op} gives {_listed(derived)}, the instruction says {found}")
        for value in instr.attrs.values():
            if not _fits(value):
                self.fail(9, f"attribute value {value!r} does not fit into 64 bits")

    def call(self, instr: Instr) -> None:
        name = instr.attrs.get("callee")
        callee = self.program.functions.get(name) if isinstance(name, str) else None
        if callee is None or len(instr.attrs) != 1:
            self.fail(10, f"a call has one attribute, callee, an existing function; found {instr.attrs}")
        if len(instr.operands) != len(callee.params) + len(callee.const_params):
            self.fail(
                10,
                f"@{name} takes {len(callee.params)} registers and {len(callee.const_params)} constants, "
                f"not {len(instr.operands)} operands",
            )
        for index, (x, param) in enumerate(zip(instr.operands, callee.params, strict=False)):
            if not isinstance(x, Register):
                self.fail(10, f"parameter {param} of @{name} takes a register", index)
            if x.type != param.type:
                self.fail(10, f"parameter {param} of @{name} is {param.type}, {x} is {x.type}", index)
        first = len(callee.params)
        for index, (c, k) in enumerate(zip(instr.operands[first:], callee.const_params, strict=True), first):
            if not isinstance(c, ConstRef | ConstParam):
                self.fail(10, f"parameter {k} of @{name} takes a constant", index)
            if c.type != k.type:
                self.fail(10, f"parameter {k} of @{name} is {k.type}, {c} is {c.type}", index)
        given = [r.type for r in callee.results]
        if given != [r.type for r in instr.results]:
            found = _listed([r.type for r in instr.results])
            self.fail(10, f"@{name} gives {_listed(given)}, the call says {found}")


def _fits(value: AttrValue) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(not isinstance(n, int) or abs(n) <= MAX_INT for n in numbers)


def _check_call_graph(program: Program) -> None:
    """Rule V11, callees before callers, with a stack of its own: call chains from outside can be long."""
    callees = {
        name: [str(i.attrs["callee"]) for i in function.body if i.op == "call"]
        for name, function in program.functions.items()
    }
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}
    for root in program.functions:
        stack = [] if root in sizes else [(root, iter(callees[root]))]
        entered = {root}
        while stack:
            name, waiting = stack[-1]
            callee = next((c for c in waiting if c not in sizes), None)
            if callee is None:
                stack.pop()
                sizes[name] = len(program.functions[name].body) + sum(sizes[c] - 1 for c in callees[name])
                depths[name] = max((1 + depths[c] for c in callees[name]), default=0)
                if depths[name] > MAX_CALL_DEPTH:
                    _fail(11, f"calls nest deeper than {MAX_CALL_DEPTH}", f"function @{name}")
                if sizes[name] > MAX_FLAT_INSTRS:
                    what = f"expands to {sizes[name]} instructions, over {MAX_FLAT_INSTRS}"
                    _fail(11, what, f"function @{name}")
            elif callee in entered:
                _fail(11, f"@{callee} calls itself", f"function @{name}")
            else:
                entered.add(callee)
                stack.append((callee, iter(callees[callee])))


class _Views:
    """Rule V12: follows layouts from the entry through the calls, each combination of strides once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.results: dict[tuple[str, Strides], Strides] = {}

    def run(self) -> None:
        self.check(self.program.entry, ())
        reached = {name for name, _ in self.results}
        for name in self.program.functions:
            if name not in reached:
                self.check(name, ())

    def check(self, name: str, arguments: Strides) -> Strides:
        """Strides of the results of a function called with arguments of these strides, or contiguous ones."""
        known = self.results.get((name, arguments))
        if known is None:
            function = self.program.functions[name]
            given = [Layout(r, 0, s, r.type.shape) for r, s in zip(function.params, arguments, strict=False)]
            layouts = function_layouts(function, given, self.call)
            self.reject(function, layouts)
            known = tuple(_strides(r, layouts[r]) for r in function.results)
            self.results[name, arguments] = known
        return known

    def call(self, instr: Instr, arguments: Sequence[Layout | None]) -> Sequence[Layout]:
        given = tuple(map(_strides, instr.registers(), arguments))
        strides = self.check(str(instr.attrs["callee"]), given)
        return [Layout(r, 0, s, r.type.shape) for r, s in zip(instr.results, strides, strict=True)]

    def reject(self, function: Function, layouts: Mapping[Register, Layout | None]) -> None:
        for index, instr in enumerate(function.body):
            if OPS[instr.op].view and layouts[instr.results[0]] is None:
                what = f"{format_operand(instr.operands[0])} lies in strides that this view cannot keep"
                _fail(12, what, _place(function, index, instr, 0), "put a copy before it")


def _strides(register: Register, layout: Layout | None) -> tuple[int, ...]:
    """Strides of a layout; those of an impossible view do not matter, for it is rejected after."""
    return contiguous_strides(register.type.shape) if layout is None else layout.strides


def _place(function: Function, index: int, instr: Instr, operand: int | None) -> str:
    """Where an error is: the function, the instruction's line, a caret under one operand or under all."""
    text = InstrText(instr)
    return f"function @{function.name}, instruction {index}\n    {text}\n    {text.caret(operand)}"
