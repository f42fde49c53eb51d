"""Compiling what repeats once for Hexagon: every distinct part with its weights as inputs, called in turn.

That costs a factor in simulated cycles, two for an encoder's block and more for a decoder's, so it is done
only where it is asked for. One block of each kind is compiled with its weights too, so that the price is
known, unless no prediction is wanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from time import perf_counter

from forgec.debug import log
from forgec.errors import BackendError
from forgec.ir.program import Program

from ..base import Constants, Settings
from ..prediction import Prediction, Repeat
from ..vendor.calls import bind, to_bytes
from ..vendor.folding import Cost, decide, in_a_row, total, values_of, with_repeats
from ..vendor.parts import Call, Division, chain, divide
from . import container
from .compiler import compile_segments, weight_recipes
from .prediction import from_dict
from .socs import Chip

__all__ = ["compile_folded", "fold_prices"]

_NOT_ASKED = "it costs a factor on Hexagon, so it is done only with fold=on"


def compile_folded(
    segments: Sequence[Program], constants: Constants, settings: Settings, chip: Chip
) -> list[bytes] | None:
    """Code of all segments with what repeats in them compiled once; None if nothing does, or a part does not
    compile with its weights as inputs."""
    division = divide(segments)
    if not division.repeated:
        return None
    programs = [part.program for part in division.parts]
    bound = [part.bound for part in division.parts]
    try:
        inputs = [weight_recipes(p, names) for p, names in zip(programs, bound, strict=True)]
        start = perf_counter()
        codes = compile_segments(programs, constants, settings, chip, bound=bound)
        seconds = perf_counter() - start
    except BackendError as error:
        log(1, f"not folded: {error}")
        return None
    found = [_prediction(code, chip) for code in codes]
    costs = [_cost(code, p, seconds / len(codes)) for code, p in zip(codes, found, strict=True)]
    outside = {
        part: in_a_row(
            division.times(part), _with_weights(division, part, constants, segments, settings, chip), None
        )
        for part in (division.repeated if settings.predict else ())
    }
    _, repeats = decide("on", division, costs, outside)
    calls = bind(division, inputs)
    predictions = []
    packed = []
    for own, given in zip(calls, division.calls, strict=True):
        used = sorted({call.part for call in own})
        moved = [dataclasses.replace(call, part=used.index(call.part)) for call in own]
        size = sum(len(codes[part]) for part in used)
        predictions.append(total([_at(found[call.part], call) for call in given], size))
        packed.append((to_bytes(moved), tuple(codes[part] for part in used)))
    told = with_repeats(predictions, division, repeats)
    return [
        container.pack_folded(container.Folded(text, parts, None if p is None else dataclasses.asdict(p)))
        for (text, parts), p in zip(packed, told, strict=True)
    ]


def fold_prices(
    segments: Sequence[Program], constants: Constants, settings: Settings, chip: Chip
) -> list[Repeat]:
    """Both prices of everything that repeats, estimated from one block with its weights as inputs and from
    one and two in a row with them in the code; empty if nothing repeats.

    Raises ``BackendError`` if one of these does not compile.
    """
    division = divide(segments)
    costs = [Cost(None, 0, 0.0) for _ in division.parts]
    outside = {}
    for number in division.repeated:
        part = division.parts[number]
        start = perf_counter()
        (code,) = compile_segments([part.program], constants, settings, chip, bound=[part.bound])
        costs[number] = _cost(code, _prediction(code, chip), perf_counter() - start)
        rows = [
            _with_weights(division, number, constants, segments, settings, chip, length)
            for length in (1, 2)
            if chain(division, number, length) is not None
        ]
        outside[number] = in_a_row(division.times(number), rows[0], rows[1] if len(rows) > 1 else None)
    _, repeats = decide("auto", division, costs, outside)
    return [dataclasses.replace(repeat, folded=False, reason=_NOT_ASKED) for repeat in repeats]


def _prediction(code: bytes, chip: Chip) -> Prediction | None:
    stored = container.unpack(code, files=False).prediction
    return None if stored is None else from_dict(stored, chip.proxy_name)


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


def _cost(code: bytes, prediction: Prediction | None, seconds: float) -> Cost:
    return Cost(None if prediction is None else prediction.latency_us, len(code), seconds)


def _with_weights(
    division: Division,
    part: int,
    constants: Constants,
    segments: Sequence[Program],
    settings: Settings,
    chip: Chip,
    length: int = 1,
) -> Cost:
    """What the first ``length`` calls of a repeated part cost together, their weights in the code."""
    row = chain(division, part, length)
    assert row is not None
    start = perf_counter()
    (code,) = compile_segments([row.program], values_of(row, segments, constants), settings, chip)
    return _cost(code, _prediction(code, chip), perf_counter() - start)
