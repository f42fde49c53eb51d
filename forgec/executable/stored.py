"""Executables to and from files: which member holds what of a program.

A file has one program or several. Each has its own members, those of the first at the top of the archive,
the others' in ``entries/NAME/``; the weights are one member, each constant once by its key, and so are the
states.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from forgec import backends

from ..collector import collector_paused
from ..errors import ArtifactError, ForgecError
from ..ir.in_place import flatten
from ..ir.op import get
from ..ir.parser import parse
from ..ir.printer import to_text
from ..ir.program import Program
from ..ir.types import TensorType
from ..ir.verifier import verify
from ..plan.plan import HOST, Plan
from ..plan.serialise import from_json, to_json
from ..report.report import Report
from .archive import (
    EXTRA,
    PLAN,
    PROGRAM,
    REPORT,
    SELFTEST,
    WEIGHTS,
    Manifest,
    entry_prefix,
    in_file,
    segment_name,
)
from .constants import from_file
from .executable import Executable, Shared
from .pages import worth_holding
from .reader import Archive
from .samples import SelfTest, stored_selftest
from .states import States
from .strictjson import dump_json, parse_json
from .weights import constant_tensors
from .writer import LazyTensor, write_archive

__all__ = ["load", "load_entries", "save_entries"]

_STATE = "@"
"""Prefix of a state's initial value among the weights."""

Members = dict[str, bytes | Sequence[LazyTensor]]


def save_entries(path: str | os.PathLike[str], entries: Mapping[str, Executable]) -> None:
    """Write a file of programs that share constants and states; the first one is the file's main program."""
    (main_name, main), *_ = entries.items()
    members: Members = {}
    weights: dict[str, LazyTensor] = {}
    prefixes = {name: "" if exe is main else entry_prefix(name) for name, exe in entries.items()}
    for name, executable in entries.items():
        members.update(_members(executable.shared, prefixes[name]))
        weights.update(_weights(executable.shared))
    members.update((EXTRA + name, read()) for name, read in main.shared.extra.items())
    for name, executable in entries.items():
        if executable.selftest is not None:
            members[prefixes[name] + SELFTEST] = _selftest_tensors(executable.selftest)
    members[WEIGHTS] = list(weights.values())
    others = {name: exe.signature for name, exe in entries.items() if exe is not main}
    manifest = Manifest(main.info, main.signature, {}, main_name if others else "", others)
    write_archive(path, manifest, members)


def load(
    path: str | os.PathLike[str],
    verify_weights: bool = True,
    threads: int | None = None,
    target: str | None = None,
) -> Executable:
    """The executable in a ``.forge`` file, of several the main one. Its weights are mapped, not read; needs
    no PyTorch.

    Of programs for several targets it is the one for ``target``; else the one whose device the machine has,
    that for the CPU, or the first. ``verify_weights=False`` skips the digests of the weights, nothing else;
    ``threads`` is :attr:`Executable.threads`. Raises :class:`ArtifactError` for a file that is damaged,
    foreign, of a newer version, or has no program for the target.
    """
    entries = load_entries(path, verify_weights)
    executable = entries[_chosen(path, entries, target)]
    executable.threads = threads
    return executable


def _chosen(path: str | os.PathLike[str], entries: Mapping[str, Executable], target: str | None) -> str:
    """Which of a file's programs to run."""
    first = next(iter(entries))
    if target is not None:
        wanted = backends.resolve(target)
        having = {executable.info.target: name for name, executable in reversed(list(entries.items()))}
        if wanted not in having:
            known = ", ".join(sorted(having))
            raise ArtifactError(f"there is no program for {wanted} in the file, but for {known}", str(path))
        return having[wanted]
    if len(entries) == 1 or not set(entries) <= set(backends.targets()):
        return first
    here = [name for name in (*backends.present(), HOST) if name in entries]
    return here[0] if here else first


@collector_paused()
def load_entries(
    path: str | os.PathLike[str], verify_weights: bool = True, hold_weights: bool = False
) -> dict[str, Executable]:
    """All programs of a file by name, the main one first; they share weights and states.

    ``hold_weights`` reads weights into memory of the process where the map has no large pages, if there is
    enough.
    """
    archive = Archive(path)
    archive.check()
    manifest = archive.manifest
    signatures = {"": manifest.signature, **{entry_prefix(n): s for n, s in manifest.entries.items()}}
    held = hold_weights and WEIGHTS in archive and worth_holding(manifest.members[WEIGHTS].size)
    try:
        with archive.checking(WEIGHTS, verify_weights, held) as tensors:
            programs = {prefix: _program(archive, prefix) for prefix in signatures}
            plans = {
                prefix: _plan(parse_json(archive.read(prefix + PLAN), prefix + PLAN), program)
                for prefix, program in programs.items()
            }
            weights = tensors()
        constants = from_file(weights, [plan.program.constants for plan in plans.values()])
        types = common_states([plan.program.states for plan in plans.values()])
        initial = {k.removeprefix(_STATE): array for k, array in weights.items() if k.startswith(_STATE)}
        states = States(types, initial)
        found = {}
        for prefix, name in zip(signatures, (manifest.entry, *manifest.entries), strict=True):
            tests = prefix + SELFTEST
            shared = Shared(
                programs[prefix],
                plans[prefix],
                signatures[prefix],
                constants,
                replace(manifest.info, target=name) if name in backends.targets() else manifest.info,
                {name: array for name, array in initial.items() if name in programs[prefix].states},
                partial(_stored_report, archive, prefix + REPORT),
                stored_selftest(archive.tensors(tests), signatures[prefix]) if tests in archive else None,
                {
                    name.removeprefix(EXTRA): partial(archive.read, name)
                    for name in archive
                    if name.startswith(EXTRA)
                },
                partial(_stored_code, archive, prefix),
                backends.get,
            )
            found[name] = Executable.of(shared, states)
    except ArtifactError as error:
        raise in_file(error, archive.path) from error
    except (ForgecError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the program in the file is not valid: {error}", archive.path) from error
    return found


def common_states(tables: Iterable[Mapping[str, TensorType]]) -> dict[str, TensorType]:
    """The states of several programs; :class:`ArtifactError` if two have one of other types."""
    types: dict[str, TensorType] = {}
    for table in tables:
        for name, kind in table.items():
            if types.setdefault(name, kind) != kind:
                raise ArtifactError(f"state {name} is {types[name]} in one program, {kind} in another")
    return types


def _members(shared: Shared, prefix: str) -> Members:
    """What one program has for itself."""
    members: Members = {
        prefix + PROGRAM: to_text(shared.program).encode(),
        prefix + PLAN: dump_json(to_json(shared.plan)),
    }
    for index, segment in enumerate(shared.segments):
        if any(not get(instr.op).view for instr in segment.main.body):
            code = shared.code(index)
            if code:
                members[prefix + segment_name(index)] = code
    if shared.report is not None:
        members[prefix + REPORT] = dump_json(shared.report.to_dict())
    return members


def _weights(shared: Shared) -> dict[str, LazyTensor]:
    """Constants by key, and initial values of states."""
    tensors = constant_tensors(shared.plan, shared.segments, shared.constants, shared.backend)
    weights = {tensor.name: tensor for tensor in tensors}
    for name, array in shared.initial.items():
        key = _STATE + name
        weights[key] = LazyTensor(key, TensorType.of(array), partial(np.asarray, array))
    return weights


def _selftest_tensors(test: SelfTest) -> list[LazyTensor]:
    arrays = {f"input.{i}": a for i, a in enumerate(test.inputs)}
    arrays |= {f"output.{i}": a for i, a in enumerate(test.outputs)}
    return [LazyTensor(name, TensorType.of(a), partial(np.asarray, a)) for name, a in arrays.items()]


def _plan(data: Any, program: Program) -> Plan:
    """The plan for a structured program, whose flat form depends on the target."""
    target = data.get("target", HOST) if isinstance(data, dict) else HOST
    return from_json(data, flatten(program, off_host=target != HOST))


def _program(archive: Archive, prefix: str) -> Program:
    program = parse(archive.read(prefix + PROGRAM).decode())
    verify(program)
    return program


def _stored_report(archive: Archive, name: str) -> Report | None:
    return Report.from_json(archive.read(name)) if name in archive else None


def _stored_code(archive: Archive, prefix: str, index: int) -> bytes:
    name = prefix + segment_name(index)
    return archive.read(name) if name in archive else b""
