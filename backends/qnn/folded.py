"""Compiling what repeats once for Hexagon: every distinct part with its weights as inputs, called in turn.

That costs a factor in simulated cycles, two for an encoder's block and more for a decoder's, so it is done
only where it is asked for. One block of each kind is timed with its weights in the code too, so that the
price is known, unless no prediction is wanted.

Compressed weights are inputs as bytes with one scale for a row. Codes of 4 bits or with scales for groups
have no such form: where they repeat nothing is folded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from forgec.errors import BackendError
from forgec.ir.program import Constant, ConstRef, Instr, Program

from ..base import Constants, Settings
from ..prediction import Prediction, Repeat
from ..vendor.calls import bind, to_bytes
from ..vendor.folding import Cost, decide, in_a_row, total, values_of, with_repeats
from ..vendor.parts import Call, Division, Part, chain, divide
from . import container
from .compiler import Built, Wanted, compile_parts
from .emit.blocks import by_row
from .legalise import FITS
from .prediction import from_dict
from .socs import Chip

__all__ = ["COMPRESSED", "compile_folded", "fold_prices"]

_F16 = 2
_NOT_ASKED = "it costs a factor on Hexagon, so it is done only with fold=on"
COMPRESSED = "Qualcomm's compiler takes no codes of 4 bits or with scales for groups as inputs"


def compile_folded(
    segments: Sequence[Program], constants: Constants, settings: Settings, chip: Chip
) -> tuple[list[bytes] | None, list[Repeat]]:
    """Code of all segments with what repeats in them compiled once. None if nothing does, or it cannot be
    folded; then what repeats says why."""
    division = divide(segments)
    if not all(_foldable(division.parts[part]) for part in division.repeated):
        return None, _not_folded(division, COMPRESSED)
    if not division.repeated:
        return None, []
    wanted = [_wanted(division, part, segments, constants) for part in range(len(division.parts))]
    timed = division.repeated if settings.predict else []
    rows = [_row(division, part, 1, segments, constants) for part in timed]
    try:
        built = compile_parts([*wanted, *(row for row in rows if row is not None)], settings, chip)
    except BackendError as error:
        return None, _not_folded(division, f"asked for, but {error.what}")
    parts, alone = built[: len(wanted)], built[len(wanted) :]
    outside = {
        part: in_a_row(division.times(part), _cost(row, chip), None)
        for part, row in zip(timed, alone, strict=True)
    }
    _, repeats = decide("on", division, [_cost(part, chip) for part in parts], outside)
    lost = [row.unpredicted for row in alone] or [""] * len(repeats)
    repeats = [
        dataclasses.replace(repeat, reason="; ".join(filter(None, (repeat.reason, why))))
        for repeat, why in zip(repeats, lost, strict=True)
    ]
    predictions = []
    packed = []
    found = [_prediction(part, chip) for part in parts]
    for own, given in zip(bind(division, [part.weights for part in parts]), division.calls, strict=True):
        used = sorted({call.part for call in own})
        moved = [dataclasses.replace(call, part=used.index(call.part)) for call in own]
        codes = tuple(parts[part].code for part in used)
        predictions.append(total([_at(found[call.part], call) for call in given], sum(map(len, codes))))
        whys = dict.fromkeys(why for part in used if (why := parts[part].unpredicted))
        packed.append((to_bytes(moved), codes, "; ".join(whys)))
    told = with_repeats(predictions, division, repeats)
    return [
        container.pack_folded(
            container.Folded(text, codes, None if p is None else dataclasses.asdict(p), why)
        )
        for (text, codes, why), p in zip(packed, told, strict=True)
    ], repeats


def fold_prices(
    segments: Sequence[Program], constants: Constants, settings: Settings, chip: Chip
) -> list[Repeat]:
    """Both prices of everything that repeats, estimated from one block with its weights as inputs and from
    one and two in a row with them in the code; empty if nothing repeats. What cannot be folded has none, and
    nothing has if one of these does not compile."""
    division = divide(segments)
    tried = [part for part in division.repeated if _foldable(division.parts[part])]
    wanted: dict[tuple[int, int], Wanted] = {}
    for part in tried:
        wanted[part, 0] = dataclasses.replace(_wanted(division, part, segments, constants), code=False)
        rows = {length: _row(division, part, length, segments, constants) for length in (1, 2)}
        wanted |= {(part, length): row for length, row in rows.items() if row is not None}
    try:
        built = compile_parts(list(wanted.values()), settings, chip)
    except BackendError as error:
        return _not_folded(division, error.what)
    lost = next((each.unpredicted for each in built if each.unpredicted), "")
    if lost:
        return _not_folded(division, lost)
    costs = {key: _cost(each, chip) for key, each in zip(wanted, built, strict=True)}
    nothing = Cost(None, 0, 0.0)
    folded = [costs.get((part, 0), nothing) for part in range(len(division.parts))]
    outside = {part: in_a_row(division.times(part), costs[part, 1], costs.get((part, 2))) for part in tried}
    _, repeats = decide("auto", division, folded, outside)
    return [
        dataclasses.replace(repeat, folded=False, reason=_NOT_ASKED)
        if part in tried
        else _untried(repeat, COMPRESSED)
        for part, repeat in zip(division.repeated, repeats, strict=True)
    ]


def _coded(part: Part) -> list[Instr]:
    """The matrix products of a part whose weights are given as codes."""
    bound = set(part.bound)
    return [
        instr
        for instr in part.program.main.body
        if instr.op == "linear_q" and isinstance(x := instr.operands[1], ConstRef) and x.name in bound
    ]


def _foldable(part: Part) -> bool:
    return all(map(by_row, _coded(part)))


def _not_folded(division: Division, reason: str) -> list[Repeat]:
    return [
        Repeat(division.parts[part].title, division.times(part), folded=False, reason=reason)
        for part in division.repeated
    ]


def _untried(repeat: Repeat, reason: str) -> Repeat:
    return Repeat(repeat.what, repeat.calls, folded=False, reason=reason)


def _wanted(division: Division, part: int, segments: Sequence[Program], constants: Constants) -> Wanted:
    """A part with its weights as inputs. Where it is called once, large ones stay in the code: HTP fetches
    those at half the time, and a head's wide result can leave in slices; and so do
    those that cannot be inputs."""
    of = division.parts[part]
    if division.times(part) > 1 or (_foldable(of) and not _large(of)):
        return Wanted(of.program, constants, of.bound)
    segment, call = next(
        (segment, call)
        for segment, calls in zip(segments, division.calls, strict=True)
        for call in calls
        if call.part == part
    )
    refs = dict(zip(of.bound, call.constants, strict=True))

    def value(constant: Constant) -> np.ndarray:
        ref = refs.get(constant.name)
        return constants(constant if ref is None else segment.constants[ref.name])

    return Wanted(of.program, value)


def _large(part: Part) -> bool:
    return any(
        instr.op in ("linear", "linear_q")
        and isinstance(x := instr.operands[1], ConstRef)
        and x.type.numel * _F16 > FITS
        for instr in part.program.main.body
    )


def _row(
    division: Division, part: int, length: int, segments: Sequence[Program], constants: Constants
) -> Wanted | None:
    """The first ``length`` calls of a part in a row, their weights in the code, for their price; None if no
    such row exists."""
    row = chain(division, part, length)
    return None if row is None else Wanted(row.program, values_of(row, segments, constants), code=False)


def _prediction(built: Built, chip: Chip) -> Prediction | None:
    return None if built.prediction is None else from_dict(built.prediction, chip.proxy_name)


def _at(prediction: Prediction | None, call: Call) -> Prediction | None:
    """A part's prediction with the places in the user's model of one call, for which it has numbers."""
    if prediction is None:
        return None
    layers = tuple(
        dataclasses.replace(x, source=call.sources[int(x.source)] if x.source.isdigit() else x.source)
        for x in prediction.layers
    )
    uncosted = tuple(name.partition(" (")[0] for name in prediction.uncosted)
    return dataclasses.replace(prediction, layers=layers, uncosted=uncosted)


def _cost(built: Built, chip: Chip) -> Cost:
    found = _prediction(built, chip)
    return Cost(None if found is None else found.latency_us, built.nbytes, built.seconds)
