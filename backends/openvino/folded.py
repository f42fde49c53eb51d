"""Compiling what repeats once: every distinct part with its weights as inputs, called in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from forgec.ir.op import get
from forgec.ir.program import Apply, ConstRef, Program, Recipe
from forgec.ir.types import DType, TensorType

from ..base import Constants
from ..prediction import Prediction, Repeat
from ..vendor.attributes import integer
from ..vendor.calls import bind, bound_inputs, to_bytes
from ..vendor.folding import Cost, decide, in_a_row, total, values_of, with_repeats
from ..vendor.legalise import Legal
from ..vendor.parts import Call, Chain, Division, Part, chain, divide, takes_a_row
from .compiler import Built, Model, Rejected
from .container import Code, Compiled
from .emit import emit
from .nodes.matrix import forms
from .prediction import located, predict
from .rules import legalise_segment

__all__ = ["Folded", "Folding", "fold_all"]

Compile = Callable[[Sequence[Model], Mapping[str, str]], Sequence[Built | Rejected]]
"""Compiles models with further properties of the compiler."""

_COMPRESSED = {"NPU_COMPILER_DYNAMIC_QUANTIZATION": "YES"}
"""Without it codes that are inputs are converted outside of the matrix product, at several times the cost."""


_GROUPED = "scales for groups of a weight that is no input take the compiler minutes"


@dataclass(frozen=True)
class Folded:
    """``codes`` is the code of every segment, None if it was decided not to fold; ``predictions`` are those
    of folded segments, else None. :meth:`told` adds what was found to other predictions."""

    codes: list[Code] | None
    division: Division
    repeats: list[Repeat]

    def told(self, predictions: Sequence[Prediction | None]) -> list[Prediction | None]:
        return with_repeats(predictions, self.division, self.repeats)


@dataclass(frozen=True)
class Folding:
    """Segments taken apart, before the compiler is asked.

    ``models`` are those of the parts, and with their weights those of the ``rows`` that are tried unfolded,
    by part and length. Parts numbered in ``copies`` only copy a row or have another view of an input, which
    the host does between two calls:
    Intel's compiler is not asked, and their blob is empty. ``properties`` are further ones of the compiler.
    """

    segments: Sequence[Program]
    constants: Constants
    mode: str
    platform: str
    division: Division
    legal: list[Legal]
    models: list[Model]
    rows: list[tuple[int, int]]
    copies: frozenset[int]
    properties: Mapping[str, str]
    grouped: bool

    @classmethod
    def of(
        cls, segments: Sequence[Program], constants: Constants, mode: str, platform: str
    ) -> Folding | None:
        """What is to be compiled if what repeats in segments, or among them, is compiled once; None if
        nothing does.

        Weights with scales for groups become inputs also where nothing repeats, in ``auto`` too."""
        division = divide(segments, row_apart=True)
        grouped = any(_in_groups(part.program) for part in division.parts)
        if not division.repeated and not grouped:
            return None
        legal = [legalise_segment(part.program, platform) for part in division.parts]
        models = [
            _model(lawful, part, constants, f"part {number} of {len(legal)}: {part.described}")
            for number, (lawful, part) in enumerate(zip(legal, division.parts, strict=True), 1)
        ]
        tried = division.repeated if mode == "auto" and not grouped else []
        rows = {(part, length): chain(division, part, length) for part in tried for length in (1, 2)}
        whole = {row: _unfolded(c, segments, constants, platform) for row, c in rows.items() if c is not None}
        compressed = any(
            c.type.dtype in (DType.I8, DType.I4)
            for part in division.parts
            for c in part.program.constants.values()
        )
        return cls(
            segments,
            constants,
            mode,
            platform,
            division,
            legal,
            [*models, *whole.values()],
            list(whole),
            frozenset(n for n, part in enumerate(division.parts) if _copies(part)),
            _COMPRESSED if compressed else {},
            grouped,
        )

    @property
    def asked(self) -> list[Model]:
        """The models that Intel's compiler is asked for."""
        return [model for number, model in enumerate(self.models) if number not in self.copies]

    def finished(self, built: Sequence[Built | Rejected]) -> Folded | None:
        """The segments folded, or why not; None if the compiler refuses a part, which then is to be found in
        the whole. ``built`` is what became of the models asked for."""
        division, platform, mode = self.division, self.platform, self.mode
        results = [result for result in built if isinstance(result, Built)]
        if len(results) < len(built):
            return None
        for number in sorted(self.copies):
            results.insert(number, Built(b"", "", b""))
        told = [predict(result, platform, {}) if result.blob else None for result in results]
        costs = [_cost(*pair) for pair in zip(results, told, strict=True)]
        count = len(division.parts)
        of_rows = dict(zip(self.rows, costs[count:], strict=True))
        unfolded = {
            part: in_a_row(division.times(part), of_rows[part, 1], of_rows.get((part, 2)))
            for part in dict.fromkeys(part for part, _ in self.rows)
        }
        chosen, repeats = decide("on" if self.grouped else mode, division, costs[:count], unfolded)
        if self.grouped and mode == "auto":
            repeats = [replace(r, reason=_GROUPED) for r in repeats]
        if not chosen:
            return Folded(None, division, repeats)
        codes = []
        predictions = []
        inputs = [_inputs(lawful, part) for lawful, part in zip(self.legal, division.parts, strict=True)]
        for calls, bound in zip(division.calls, bind(division, inputs), strict=True):
            used = sorted({call.part for call in calls})
            parts = tuple(Compiled(self.models[i].xml, self.models[i].weights, results[i].blob) for i in used)
            moved = [replace(call, part=used.index(call.part)) for call in bound]
            each = [
                _located(told[c.part], _sources(self.legal[c.part], c))
                for c in calls
                if c.part not in self.copies
            ]
            predictions.append(total(each, sum(len(part.blob) for part in parts)))
            codes.append(Code(parts, None, to_bytes(moved)))
        whole = with_repeats(predictions, division, repeats)
        return Folded(
            [replace(code, prediction=p) for code, p in zip(codes, whole, strict=True)], division, repeats
        )


def fold_all(
    segments: Sequence[Program], constants: Constants, mode: str, platform: str, compile_: Compile
) -> Folded | None:
    """What :class:`Folding` makes of segments, with what it needs compiled by ``compile_``."""
    folding = Folding.of(segments, constants, mode, platform)
    return None if folding is None else folding.finished(compile_(folding.asked, folding.properties))


def _model(legal: Legal, part: Part, constants: Constants, what: str) -> Model:
    inputs = bound_inputs(legal, part.bound)
    return Model.of(emit(legal.program, legal.values(constants), as_inputs=list(inputs)), what)


def _copies(part: Part) -> bool:
    return all(get(instr.op).view or takes_a_row(instr) for instr in part.program.main.body)


def _in_groups(program: Program) -> bool:
    return any(instr.op == "linear_q" and integer(instr, "group") for instr in program.main.body)


def _inputs(legal: Legal, part: Part) -> list[Recipe]:
    """A part's further inputs over its bound constants, their axes in the order in which a model holds
    them."""
    held = forms(legal.program.main.body)
    found = []
    for name, recipe in bound_inputs(legal, part.bound).items():
        form = held.get(ConstRef(name, recipe.type))
        if form is not None and form.perm != (0, 1):
            kind = TensorType(recipe.type.dtype, tuple(recipe.type.shape[axis] for axis in form.perm))
            recipe = Apply("transpose", (recipe,), (("perm", form.perm),), kind)
        found.append(recipe)
    return found


def _unfolded(row: Chain, segments: Sequence[Program], constants: Constants, platform: str) -> Model:
    legal = legalise_segment(row.program, platform)
    values = legal.values(values_of(row, segments, constants))
    return Model.of(emit(legal.program, values), f"{len(row.program.main.body)} instructions with weights")


def _cost(built: Built, told: Prediction | None) -> Cost:
    return Cost(None if told is None else told.latency_us, len(built.blob), built.seconds)


def _located(told: Prediction | None, sources: Mapping[str, str]) -> Prediction | None:
    return None if told is None else located(told, sources)


def _sources(legal: Legal, call: Call) -> dict[str, str]:
    """Places in the user's model by the register that names of nodes begin with."""
    return {
        f"r{r.id}": call.sources[int(instr.source.aten)]
        for instr in legal.program.main.body
        if instr.source is not None
        for r in instr.results
    }
