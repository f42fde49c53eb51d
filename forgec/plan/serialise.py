"""A plan as JSON data, and back from data that nobody vouches for.

The data refers to the flat program's numbering: its steps (see ``plan.replay``) say which instruction or
transfer runs when and where, and each gives the offsets of its results. Registers, segments and counts that
follow from them are derived again on reading, never taken from the file.

Reading guards memory: offsets are aligned and inside their arena, arenas are no larger than their registers
laid end to end, and every step is legal. It does not guard meaning: that registers do not overwrite each
other is for ``plan.check``. Linear in the number of steps; nothing is allocated by a number from the file.
"""

from __future__ import annotations

from typing import Any

from ..errors import ArtifactError, PlanError
from ..ir.op import get
from ..ir.program import Program, Register
from .plan import ALIGNMENT, ArenaPlan, Plan, Reason
from .replay import Copy, Run, Step, replay
from .schedule import segments, transitions

__all__ = ["SCHEMA", "from_json", "to_json"]

SCHEMA = "forgec.plan/1"
_DEVICES = 16
_TEXT = 4096
_LARGEST = 2**62
_COMPILE_AGAIN = "compile the model again with this version of forgec"


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data.

    A step is ``{"run": instruction}`` or ``{"copy": register}`` with ``on``, an index into ``devices``, and
    ``at``, the offsets of its results in bytes (null for views).
    """
    devices = sorted({plan.host, *plan.arenas})
    number = {name: i for i, name in enumerate(devices)}
    steps = []
    for step, instr in zip(plan.steps, plan.program.main.body, strict=True):
        what = {"run": step.index} if isinstance(step, Run) else {"copy": step.register}
        steps.append({**what, "on": number[step.device], "at": list(instr.offsets)})
    return {
        "schema": SCHEMA,
        "target": plan.target,
        "host": plan.host,
        "devices": devices,
        "inputs": [plan.offsets[r] for r in plan.program.main.params],
        "steps": steps,
        "arenas": {
            name: {"nbytes": arena.nbytes, "lower_bound": arena.lower_bound}
            for name, arena in plan.arenas.items()
        },
        "transitions_naive": plan.transitions_naive,
        "cost_us": plan.cost_us,
        "cost_naive_us": plan.cost_naive_us,
        "reasons": [
            {"step": i, "code": reason.code, "sentence": reason.sentence, "fix": reason.fix}
            for i, reason in sorted(plan.reasons.items())
        ],
    }


def from_json(data: Any, program: Program) -> Plan:
    """The plan of a flat program; :class:`ArtifactError` names the field that is wrong."""
    top = _object(
        data,
        "plan",
        "schema target host devices inputs steps arenas transitions_naive cost_us cost_naive_us reasons",
    )
    if top["schema"] != SCHEMA:
        raise ArtifactError(
            f"plan.schema is {_show(top['schema'])}, this version reads {SCHEMA!r}",
            hint=_COMPILE_AGAIN,
        )
    names = [_text(name, f"plan.devices[{i}]") for i, name in _list(top["devices"], "plan.devices", _DEVICES)]
    host, target = _text(top["host"], "plan.host"), _text(top["target"], "plan.target")
    if len(set(names)) != len(names) or host not in names:
        raise ArtifactError(f"plan.devices must be distinct and include the host {host!r}")
    steps, places = _steps(top["steps"], names, program)
    try:
        planned = replay(program, steps, host)
    except PlanError as error:
        raise ArtifactError(
            f"plan.steps do not run the program: {error.what}", error.where, _COMPILE_AGAIN
        ) from error
    inputs = [_place(x, f"plan.inputs[{i}]") for i, x in _list(top["inputs"], "plan.inputs")]
    offsets = _offsets(planned, inputs, places)
    arenas = _arenas(top["arenas"], planned, offsets, host)
    copies = [instr for step, instr in zip(steps, planned.main.body, strict=True) if isinstance(step, Copy)]
    return Plan(
        program=planned,
        segments=segments(planned.main.body),
        offsets=offsets,
        arenas=arenas,
        transitions=transitions(planned.main.body),
        transitions_naive=_integer(top["transitions_naive"], "plan.transitions_naive", len(steps)),
        reasons=_reasons(top["reasons"], len(steps)),
        target=target,
        host=host,
        steps=steps,
        cost_us=_number(top["cost_us"], "plan.cost_us"),
        cost_naive_us=_number(top["cost_naive_us"], "plan.cost_naive_us"),
        transfers=len(copies),
        transfer_bytes=sum(instr.results[0].type.nbytes for instr in copies),
    )


def _steps(data: Any, names: list[str], program: Program) -> tuple[list[Step], list[list[int | None]]]:
    last = len(program.main.body) - 1
    steps: list[Step] = []
    places: list[list[int | None]] = []
    for i, item in _list(data, "plan.steps"):
        where = f"plan.steps[{i}]"
        kind = "copy" if isinstance(item, dict) and "copy" in item else "run"
        step = _object(item, where, f"{kind} on at")
        device = names[_integer(step["on"], f"{where}.on", len(names) - 1)]
        if kind == "run":
            steps.append(Run(_integer(step["run"], f"{where}.run", last), device))
        else:
            steps.append(Copy(_integer(step["copy"], f"{where}.copy", _LARGEST), device))
        at = _list(step["at"], f"{where}.at")
        places.append([None if x is None else _place(x, f"{where}.at[{k}]") for k, x in at])
    return steps, places


def _offsets(planned: Program, inputs: list[int], places: list[list[int | None]]) -> dict[Register, int]:
    main = planned.main
    if len(inputs) != len(main.params):
        raise ArtifactError(f"plan.inputs has {len(inputs)} offsets for {len(main.params)} inputs")
    offsets = dict(zip(main.params, inputs, strict=True))
    for i, (instr, at) in enumerate(zip(main.body, places, strict=True)):
        wants = not get(instr.op).view
        if len(at) != len(instr.results) or any((x is not None) != wants for x in at):
            raise ArtifactError(
                f"plan.steps[{i}].at does not fit the results of {instr.op}", hint=_COMPILE_AGAIN
            )
        instr.offsets = tuple(at)
        offsets.update((r, x) for r, x in zip(instr.results, at, strict=True) if x is not None)
    return offsets


def _arenas(data: Any, planned: Program, offsets: dict[Register, int], host: str) -> dict[str, ArenaPlan]:
    """Arenas from the file with counts of our own; every register inside, none larger than it has to be."""
    counts = {host: len(planned.main.params)}
    own: dict[str, list[Register]] = {host: list(planned.main.params)}
    for instr in planned.main.body:
        device = str(instr.device)
        counts[device] = counts.get(device, 0) + len(instr.results)
        own.setdefault(device, []).extend(r for r in instr.results if r in offsets)
    items = _object(data, "plan.arenas", " ".join(sorted(counts)))
    arenas: dict[str, ArenaPlan] = {}
    for device, registers in own.items():
        where = f"plan.arenas.{device}"
        sizes = _object(items[device], where, "nbytes lower_bound")
        total = sum(-(-r.type.nbytes // ALIGNMENT) * ALIGNMENT for r in registers)
        nbytes = _integer(sizes["nbytes"], f"{where}.nbytes", total)
        for r in registers:
            if offsets[r] + r.type.nbytes > nbytes:
                raise ArtifactError(f"{r} at {offsets[r]} does not fit {where} of {nbytes} bytes")
        bound = _integer(sizes["lower_bound"], f"{where}.lower_bound", nbytes)
        buffers = len({offsets[r] for r in registers if r.type.nbytes})
        arenas[device] = ArenaPlan(nbytes, bound, total, counts[device], buffers)
    return arenas


def _reasons(data: Any, steps: int) -> dict[int, Reason]:
    reasons: dict[int, Reason] = {}
    for i, item in _list(data, "plan.reasons", steps):
        where = f"plan.reasons[{i}]"
        fields = _object(item, where, "step code sentence fix")
        step = _integer(fields["step"], f"{where}.step", steps - 1)
        texts = [_text(fields[name], f"{where}.{name}") for name in ("code", "sentence", "fix")]
        reasons[step] = Reason(*texts)
    return reasons


def _object(data: Any, where: str, keys: str) -> dict[str, Any]:
    """An object with exactly these keys."""
    if not isinstance(data, dict):
        raise ArtifactError(f"{where} must be an object, not {type(data).__name__}")
    expected = set(keys.split())
    missing, unknown = sorted(expected - set(data)), sorted(map(str, set(data) - expected))
    if missing:
        raise ArtifactError(f"{where} lacks {missing[0]!r}")
    if unknown:
        raise ArtifactError(f"{where} has an unknown key {unknown[0][:40]!r}")
    return data


def _list(data: Any, where: str, most: int | None = None) -> list[tuple[int, Any]]:
    if not isinstance(data, list):
        raise ArtifactError(f"{where} must be a list, not {type(data).__name__}")
    if most is not None and len(data) > most:
        raise ArtifactError(f"{where} has {len(data)} entries, at most {most} make sense")
    return list(enumerate(data))


def _integer(data: Any, where: str, most: int) -> int:
    if type(data) is not int or not 0 <= data <= most:
        raise ArtifactError(f"{where} must be an integer from 0 to {most}, not {_show(data)}")
    return data


def _place(data: Any, where: str) -> int:
    offset = _integer(data, where, _LARGEST)
    if offset % ALIGNMENT:
        raise ArtifactError(f"{where} must be a multiple of {ALIGNMENT}, not {offset}")
    return offset


def _number(data: Any, where: str) -> float:
    if type(data) not in (int, float) or not 0 <= data <= _LARGEST:
        raise ArtifactError(f"{where} must be a number from 0 to {_LARGEST}, not {_show(data)}")
    return float(data)


def _text(data: Any, where: str) -> str:
    """A text fit to print: a file must not send control sequences to a terminal."""
    if not isinstance(data, str) or not 0 < len(data) <= _TEXT:
        raise ArtifactError(f"{where} must be a text of 1 to {_TEXT} characters, not {_show(data)}")
    if not all(char.isprintable() or char == "\n" for char in data):
        raise ArtifactError(f"{where} has characters that cannot be printed")
    return data


def _show(data: Any) -> str:
    """A value in an error, short whatever it is."""
    if isinstance(data, str):
        return repr(data[:40])
    small = data is None or isinstance(data, float | bool) or (isinstance(data, int) and abs(data) <= 2**64)
    return repr(data) if small else f"this {type(data).__name__}"
