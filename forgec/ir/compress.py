"""Compressed weights: products and look-ups on parameters become those of codes, ``linear`` ``linear_q``.

*Before* ``r2 = linear r1, c0`` with ``c0 = "head"``.
*After* ``r2 = linear_q r1, c1, c2`` with ``c1 = quantise("head", scales("head"))``, ``c2 = scales("head")``.
*Does not fire* on weights that are no f32 matrices or that lowering computed, in the format fp32, and in the
format auto on weights whose codes the model does not bring and whose numbers need 32 bits.

So do ``embedding``, and ``expert_linear`` where the outputs of an expert are whole panels; its activations
stay floats in all formats.

A weight that several parameters make up, such as a fused projection, takes the most exact of their formats.
A table that an embedding reads is never i4: it takes 8 bits for all its uses, so that a tied head shares its
bytes; so does a weight whose rows have an odd length. Instead of int4 that is int8, and instead of w4a8 it is
w8a8, whose products round activations to 8 bits too. A function whose calls bind weights of different formats
becomes several functions. Linear in the instructions of all calls.

Attention may round the factors of its products to bf16 where the format without a pattern rounds activations
to 8 bits, which costs more.

With a calibration, codes and scales of 4 bits are the ``fitted_`` ones if the inputs of the weight were seen.

Codes that the model brings (``stored``) are kept by rounding to the model's own scales. Those of 4 bits take
8 where i4 has no form for them, which changes no value. Where they have zero points, what is missing is added
in the program (:mod:`.offsets`), which every backend can. Numbers that floats of 16 bits hold are kept in
these (:mod:`.halves`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..weights import EIGHT_BIT_ACTIVATIONS, FOUR_BITS, Format, WeightSpec
from .calibrate import Calibration, gram_leaf
from .halves import HALF_FORMATS, narrowed
from .offsets import Offsets
from .ops.compressed import MAX_DYNAMIC_DEPTH
from .program import (
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Operand,
    Program,
    Recipe,
    leaves,
)
from .recipes import applied
from .stored import ONE, Stored, StoredCodes, moved, one_each, transposed
from .types import DType

__all__ = ["Kept", "codes_to_keep", "compress", "halves_to_keep"]

_WEIGHT = {"linear": 1, "expert_linear": 1, "embedding": 0}
"""Which operand of an op is a weight that can be compressed."""

_COMPUTED = "literal."
"""Prefix of source tensors that are no parameters."""


_EXPERT_OUTPUTS = 32
"""Outputs of an expert whose weight is compressed are a multiple of it, as kernels have panels of so many."""

_LEAST_GROUP = 8
"""Groups are multiples of it."""


@dataclass(frozen=True)
class Kept:
    """How a weight keeps the codes that the model brings: ``scales`` as of the op ``scales``, and ``offsets``
    [out, groups] that its groups have beside codes times scales, if any."""

    format: Format
    scales: Recipe
    offsets: Recipe | None


def codes_to_keep(
    program: Program, spec: WeightSpec, stored: Stored, *, off_host: bool = False
) -> tuple[dict[str, Kept], list[str]]:
    """What :func:`compress` is to keep, by constant, and why other constants with codes are not among
    them. ``off_host`` if a device may take the products, where activations stay floats."""
    kept: dict[str, Kept] = {}
    reasons = []
    brought = {name for name, codes in stored.codes.items() if isinstance(codes, StoredCodes)}
    for name, ops in _uses(program).items() if brought else ():
        constant = program.constants[name]
        names = [leaf.name for leaf in leaves(constant.recipe)]
        if brought.isdisjoint(names):
            continue
        chosen = spec.of(names).name
        found = (
            _kept(constant, "embedding" in ops, stored, off_host)
            if chosen == "auto"
            else f"weights={chosen}, where auto would keep the codes"
        )
        if isinstance(found, str):
            reasons.append(found)
        else:
            kept[name] = found
    return kept, reasons


def halves_to_keep(
    program: Program, spec: WeightSpec, half: Callable[[str], DType | None], *, off_host: bool = False
) -> dict[str, Recipe]:
    """What :func:`compress` is to keep in 16 bits, by constant; ``half`` as of :func:`narrowed`.

    With ``off_host`` that is tables of which only rows are read, which the host does: a device has a type of
    its own for weights.
    """
    kept: dict[str, Recipe] = {}
    for name, ops in _uses(program).items():
        recipe = program.constants[name].recipe
        chosen = spec.of(leaf.name for leaf in leaves(recipe)).name
        if (chosen != "auto" and chosen not in HALF_FORMATS) or (off_host and ops != {"embedding"}):
            continue
        found = narrowed(recipe, half)
        if found is not None and HALF_FORMATS.get(chosen, found.type.dtype) is found.type.dtype:
            kept[name] = found
    return kept


def _kept(constant: Constant, is_table: bool, stored: Stored, off_host: bool) -> Kept | str:
    found = moved(constant.recipe, stored.codes)
    if isinstance(found, str):
        return found
    outs, depth = constant.type.shape
    group = 0 if found.blocks[1] >= depth else found.blocks[1]
    if group % _LEAST_GROUP or (found.blocks[0] != 1 and found.blocks[0] < outs):
        return f"scales for {found.blocks[0]} outputs and {found.blocks[1]} inputs each"
    four = found.bits == 4 and not is_table and depth % 2 == 0
    rounds = found.rounds and (four or group == 0) and (group or depth) <= MAX_DYNAMIC_DEPTH
    if off_host and not four and found.offsets is not None:
        rounds = False  # the sums that rounded activations need are products that devices refuse
    name = ("w4a8" if rounds else "int4") if four else ("w8a8" if rounds else "int8")
    each = one_each(found, 0, outs)
    return Kept(Format(name, group), transposed(each.scales), each.offsets)


def compress(
    program: Program,
    spec: WeightSpec,
    calibration: Calibration | None = None,
    kept: Mapping[str, Kept] | None = None,
    halves: Mapping[str, Recipe] | None = None,
    *,
    off_host: bool = False,
    fused: bool = True,
) -> Program:
    """The program with weights in the formats of ``spec``; itself if they have them. ``kept`` are the codes
    that stay, by constant, from :func:`codes_to_keep`, and ``halves`` floats, from :func:`halves_to_keep`.
    ``off_host`` if a device may take the products: none has a form for codes of experts, which stay floats.

    Raises :class:`OptionError` for a pattern that matches no weight, if the program is ``fused``: before,
    those of experts are not seen.
    """
    kept, halves = kept or {}, halves or {}
    if not spec.compresses and not kept and not halves:
        return program
    uses = _uses(program)
    if fused:
        spec.check(leaf.name for name in uses for leaf in leaves(program.constants[name].recipe))
    formats = {
        name: _format(spec, program.constants[name], "embedding" in ops)
        for name, ops in uses.items()
        if not (off_host and "expert_linear" in ops)
    }
    names = {dtype: name for name, dtype in HALF_FORMATS.items()}
    formats |= {name: Format(names[recipe.type.dtype]) for name, recipe in halves.items()}
    formats |= {name: codes.format for name, codes in kept.items()}
    formats = {name: f for name, f in formats.items() if f.compresses}
    if not formats:
        return program
    rounds = spec.default.name in EIGHT_BIT_ACTIVATIONS
    if spec.default.name == "auto":
        products = [kept.get(name) for name, ops in uses.items() if "linear" in ops]
        rounds = bool(products) and all(k and k.format.name in EIGHT_BIT_ACTIVATIONS for k in products)
    return _Rewrite(program, formats, calibration, kept, halves, rounds).run()


def _uses(program: Program) -> dict[str, set[str]]:
    """For each constant that can be compressed, the ops that read it as a weight."""
    uses: dict[str, set[str]] = {}

    def visit(function: Function, bound: Sequence[ConstRef]) -> None:
        for instr in function.body:
            if instr.op == "call":
                callee = program.functions[str(instr.attrs["callee"])]
                given = instr.operands[len(callee.params) :]
                visit(callee, [c for c in (_bound(x, bound) for x in given) if c is not None])
            elif instr.op in _WEIGHT and instr.results[0].type.dtype is DType.F32:
                weight = _bound(instr.operands[_WEIGHT[instr.op]], bound)
                whole = instr.op != "expert_linear" or instr.results[0].type.shape[1] % _EXPERT_OUTPUTS == 0
                if weight is not None and whole and _is_parameter(program.constants[weight.name]):
                    uses.setdefault(weight.name, set()).add(instr.op)

    visit(program.main, ())
    return uses


def _bound(x: Operand, bound: Sequence[ConstRef]) -> ConstRef | None:
    """The program's constant that an operand is, under the constants that a call binds."""
    if isinstance(x, ConstParam):
        return bound[x.index]
    return x if isinstance(x, ConstRef) else None


def _is_parameter(constant: Constant) -> bool:
    t = constant.type
    named = all(not leaf.name.startswith(_COMPUTED) for leaf in leaves(constant.recipe))
    return named and t.rank == 2 and t.dtype is DType.F32 and t.numel > 0


def _format(spec: WeightSpec, constant: Constant, is_table: bool) -> Format:
    chosen = spec.of(leaf.name for leaf in leaves(constant.recipe))
    depth = constant.type.shape[1]
    if chosen.name in FOUR_BITS and (is_table or depth % 2):
        chosen = Format("w8a8" if chosen.name == "w4a8" else "int8")
    if chosen.name == "w8a8" and depth > MAX_DYNAMIC_DEPTH:
        return Format("int8")
    return replace(chosen, group=0) if chosen.group >= depth else chosen


@dataclass
class _Made:
    """A rewritten function, and which constants it takes: parameter of the old function, and which part."""

    function: Function
    wanted: list[tuple[int, str]]


@dataclass
class _Rewrite:
    """One way through a program; ``formats``, ``kept`` and ``halves`` by constant.

    ``rounds`` says whether attention may round.
    """

    program: Program
    formats: dict[str, Format]
    calibration: Calibration | None
    kept: Mapping[str, Kept]
    halves: Mapping[str, Recipe]
    rounds: bool
    made: dict[tuple[str, tuple[tuple[Format | None, bool], ...]], _Made] = field(default_factory=dict)
    constants: dict[Recipe, ConstRef] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)

    def run(self) -> Program:
        main = self.function(self.program.entry, ()).function
        functions = {main.name: main, **{name: f for name, f in self.functions.items() if name != main.name}}
        table = {ref.name: Constant(ref.name, ref.type, recipe) for recipe, ref in self.constants.items()}
        return replace(self.program, functions=functions, constants=table)

    def function(self, name: str, bound: tuple[ConstRef, ...]) -> _Made:
        key = name, tuple((self.formats.get(c.name), self.has_offsets(c)) for c in bound)
        if key not in self.made:
            old = self.program.functions[name]
            body = _Body(self, bound, Offsets(old, self.ones))
            instrs = [made for instr in old.body for made in body.instrs(instr)]
            variants = sum(made_name == name for made_name, _ in self.made)
            new_name = name if variants == 0 else f"{name}.{variants}"
            new = replace(old, name=new_name, body=instrs, const_params=tuple(body.params.values()))
            self.functions[new_name] = new
            self.made[key] = _Made(new, list(body.params))
        return self.made[key]

    def has_offsets(self, constant: ConstRef) -> bool:
        kept = self.kept.get(constant.name)
        return kept is not None and kept.offsets is not None

    def part(self, constant: ConstRef, part: str) -> ConstRef:
        """A constant as it is, its codes, its scales or its offsets."""
        source = self.program.constants[constant.name]
        recipe = source.recipe
        if part:
            recipe = self._compressed(source, self.formats[constant.name], part)
        return self.constant(recipe)

    def constant(self, recipe: Recipe) -> ConstRef:
        found = self.constants.get(recipe)
        if found is None:
            found = self.constants[recipe] = ConstRef(f"c{len(self.constants)}", recipe.type)
        return found

    def ones(self, depth: int) -> tuple[ConstRef, ConstRef]:
        """Codes [1, depth] of ones, and their scale."""
        codes = applied("cast", [applied("expand", [ONE], shape=(1, depth))], dtype="i8")
        return self.constant(codes), self.constant(ONE)

    def _compressed(self, source: Constant, format_: Format, part: str) -> Recipe:
        weight, depth = source.recipe, source.type.shape[1]
        if format_.name in HALF_FORMATS:
            rounded = HALF_FORMATS[format_.name].value
            return self.halves.get(source.name) or applied("cast", [weight], dtype=rounded)
        bits = 4 if format_.name in FOUR_BITS else 8
        kept = self.kept.get(source.name)
        seen = self.calibration is not None and self.calibration.knows(source.key, depth)
        names, known = ("scales", "quantise"), list[Recipe]()
        if kept is None and bits == 4 and seen:
            names, known = ("fitted_scales", "fitted_codes"), [gram_leaf(source.key, depth)]
        scales: Recipe
        if kept is None:
            scales = applied(names[0], [weight, *known], bits=bits, group=format_.group)
        else:
            scales = kept.scales
            if kept.offsets is not None:
                if part == "offsets":
                    return kept.offsets
                known = [transposed(kept.offsets)]
        if part == "scales":
            return scales
        return applied(names[1], [weight, scales, *known], bits=bits, group=format_.group)


class _Body:
    """The instructions of one function, under the constants of its first call of that kind."""

    def __init__(self, rewrite: _Rewrite, bound: tuple[ConstRef, ...], offsets: Offsets) -> None:
        self.rewrite = rewrite
        self.bound = bound
        self.offsets = offsets
        self.params: dict[tuple[int, str], ConstParam] = {}

    def instrs(self, instr: Instr) -> list[Instr]:
        """What becomes of an instruction."""
        made = self.call(instr) if instr.op == "call" else self.instr(instr)
        if self.format(instr) is not None:
            weight = instr.operands[_WEIGHT[instr.op]]
            bound = _bound(weight, self.bound)
            if bound is not None and self.rewrite.has_offsets(bound):
                return self.offsets.added(made, self.operand(weight, "offsets"))
        return [made]

    def instr(self, instr: Instr) -> Instr:
        weight = self.format(instr)
        if weight is None:
            attrs = dict(instr.attrs)
            if self.rewrite.rounds and instr.op == "attention":
                attrs["bf16"] = True
            return replace(instr, operands=tuple(self.operand(x) for x in instr.operands), attrs=attrs)
        place = _WEIGHT[instr.op]
        codes = self.operand(instr.operands[place], "codes")
        scales = None if weight.name in HALF_FORMATS else self.operand(instr.operands[place], "scales")
        rest = [self.operand(x) for i, x in enumerate(instr.operands) if i != place]
        attrs = dict(instr.attrs)
        if weight.group:
            attrs["group"] = weight.group
        if instr.op == "expert_linear":
            operands = (rest[0], codes, rest[1], scales)
            return replace(instr, op="expert_linear_q", operands=operands, attrs=attrs)
        if instr.op == "embedding":
            return replace(instr, op="embedding_q", operands=(codes, rest[0], scales), attrs=attrs)
        if weight.name in EIGHT_BIT_ACTIVATIONS:
            attrs["dynamic"] = True
        return replace(instr, op="linear_q", operands=(rest[0], codes, scales, *rest[1:]), attrs=attrs)

    def format(self, instr: Instr) -> Format | None:
        """The format of an instruction's weight, or None if it is read as it is."""
        if instr.op not in _WEIGHT or instr.results[0].type.dtype is not DType.F32:
            return None
        weight = _bound(instr.operands[_WEIGHT[instr.op]], self.bound)
        return None if weight is None else self.rewrite.formats.get(weight.name)

    def operand(self, x: Operand, part: str = "") -> Operand:
        if isinstance(x, ConstRef):
            return self.rewrite.part(x, part)
        if not isinstance(x, ConstParam):
            return x
        found = self.params.get((x.index, part))
        if found is None:
            t = self.rewrite.part(self.bound[x.index], part).type
            found = self.params[x.index, part] = ConstParam(len(self.params), t)
        return found

    def call(self, instr: Instr) -> Instr:
        callee = self.rewrite.program.functions[str(instr.attrs["callee"])]
        first = len(callee.params)
        bound = tuple(self.constants(instr.operands[first:]))
        made = self.rewrite.function(callee.name, bound)
        constants = [self.operand(instr.operands[first + index], part) for index, part in made.wanted]
        return replace(
            instr,
            operands=(*instr.operands[:first], *constants),
            attrs={**instr.attrs, "callee": made.function.name},
        )

    def constants(self, operands: Sequence[Operand]) -> Iterator[ConstRef]:
        for x in operands:
            constant = _bound(x, self.bound)
            assert constant is not None, "a call binds constants"
            yield constant
