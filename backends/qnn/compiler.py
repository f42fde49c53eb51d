"""Segments to context binaries: emit, look in the cache, compile in worker processes, pack.

Every segment is compiled for its chip, and for the chip whose performance model stands for it; the second
compile only gives the prediction, which does not depend on the values of weights, so it is kept without
them. A compile that fails is explained: by the operators that the vendor names, or by bisection to the
instruction without which it goes through.

Segments have a process each. Parts of folded code are small: they are compiled by forks of one process, which
together have the bounds of one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from forgec.errors import BackendError
from forgec.ir.program import Apply, Instr, Program, Recipe, Register
from forgec.ir.types import TensorType

from ..base import Constants, Settings
from ..vendor.cache import Cache, key_of
from ..vendor.calls import bound_inputs
from ..vendor.portion import failing_beginning
from ..vendor.worker import Outcome, error_of, run_all
from . import prediction
from .container import Container, pack, unpack, with_prediction
from .emit import Emitted, emit
from .legalise import legalise_segment
from .runs import CONTEXT, OPTIONS, Run, files_of, job_for, require, run_in, why_none
from .socs import Chip
from .translate import originals, refused_instructions

__all__ = [
    "Built",
    "Refused",
    "Wanted",
    "compile_parts",
    "compile_segments",
    "compiler_id",
    "missing",
    "model_files",
]


@cache
def missing() -> str | None:
    """What there is to install before anything can be compiled; None if nothing is missing."""
    for package in ("onnx", "onnxruntime", "onnxruntime-qnn"):
        try:
            version(package)
        except PackageNotFoundError:
            return f"the package {package} is not installed; pip install forgec[qnn]"
    if not sys.platform.startswith("linux"):
        return "code for Hexagon is compiled on Linux"
    return None


@cache
def compiler_id() -> str:
    return f"onnxruntime {version('onnxruntime')}, onnxruntime-qnn {version('onnxruntime-qnn')}"


class Refused(BackendError):
    """The vendor's compiler refuses these instructions of a segment; the rest may compile without them."""

    def __init__(self, what: str, where: str | None, hint: str | None, instrs: Sequence[Instr]) -> None:
        super().__init__(what, where, hint)
        self.instrs = tuple(instrs)


@dataclass(frozen=True)
class Wanted:
    """A program to compile; ``bound`` names constants that become inputs, behind the others. Without ``code``
    only the prediction is wanted."""

    program: Program
    constants: Constants
    bound: Sequence[str] = ()
    code: bool = True


@dataclass(frozen=True)
class Built:
    """``weights`` are the further inputs of the code, in order, over the constants that were bound.
    ``prediction`` is as :mod:`.prediction` stores it, ``unpredicted`` why it is none though it was asked for;
    ``nbytes`` the size of code, ``seconds`` what the vendor's compiler took, 0 if the cache had it."""

    code: bytes
    weights: tuple[Recipe, ...]
    prediction: dict[str, Any] | None
    nbytes: int
    seconds: float
    unpredicted: str = ""


@dataclass
class _Work:
    """One segment on its way: where it was emitted, the runs that are left, what is known."""

    wanted: Wanted
    legal: Program
    folder: Path
    emitted: Emitted
    weights: tuple[Recipe, ...]
    build_key: str
    estimate_key: str
    build: Run | None = None
    estimate: Run | None = None
    code: bytes | None = None
    prediction: dict[str, Any] | None = None

    @property
    def sources(self) -> dict[int, str]:
        """Places in the user's model, by register."""
        return {r.id: str(instr.source or "") for instr in self.legal.main.body for r in instr.results}

    @property
    def runs(self) -> list[Run]:
        return [run for run in (self.build, self.estimate) if run is not None]


def _permuted(recipe: Recipe, perm: tuple[int, ...]) -> Recipe:
    if not perm:
        return recipe
    kind = TensorType(recipe.type.dtype, tuple(recipe.type.shape[axis] for axis in perm))
    return Apply("transpose", (recipe,), (("perm", perm),), kind)


def compile_segments(
    segments: Sequence[Program],
    constants: Constants,
    settings: Settings,
    chip: Chip,
    cached: Cache | None = None,
) -> list[bytes]:
    """Code of every segment. Raises ``BackendError`` naming the first that fails, and why."""
    store = Cache() if cached is None else cached
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        works = [
            _prepare(Wanted(segment, constants), Path(name) / str(i), chip, store, f"segment {i}", settings)
            for i, segment in enumerate(segments)
        ]
        runs = [work.build for work in works if work.build is not None]
        runs += [work.estimate for work in works if work.estimate is not None]
        outcomes = dict(zip(map(id, runs), run_all([job_for([run]) for run in runs], settings), strict=True))
        for work in works:
            if work.build is not None:
                _check(work, outcomes[id(work.build)], settings, chip)
        ended = [outcomes.get(id(work.estimate)) for work in works]
        return [
            _finish(work, chip, store, outcome, settings).code
            for work, outcome in zip(works, ended, strict=True)
        ]


def compile_parts(
    wanted: Sequence[Wanted], settings: Settings, chip: Chip, cached: Cache | None = None
) -> list[Built]:
    """All of them, ``settings.jobs`` at a time in forks of one process. Raises ``BackendError`` if code that
    is wanted does not compile; a prediction may fail."""
    store = Cache() if cached is None else cached
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        works = [
            _prepare(each, Path(name) / str(i), chip, store, f"part {i}", settings)
            for i, each in enumerate(wanted)
        ]
        runs = [run for work in works for run in work.runs]
        outcome = None
        if runs:
            job = job_for(runs, Path(name), settings.jobs)
            (outcome,) = run_all([job], settings)
            for work in works:
                require(work.build, job, outcome, settings)
        return [_finish(work, chip, store, outcome, settings) for work in works]


def _prepare(wanted: Wanted, folder: Path, chip: Chip, store: Cache, what: str, settings: Settings) -> _Work:
    legal = legalise_segment(wanted.program)
    folder.mkdir()
    as_inputs = bound_inputs(legal, wanted.bound)
    emitted = emit(legal.program, legal.values(wanted.constants), folder, as_inputs=list(as_inputs))
    weights = tuple(_permuted(as_inputs[key], perm) for key, perm in emitted.bound)
    model = emitted.path.read_bytes()
    options = json.dumps(OPTIONS)
    told = json.dumps([options, _tables(wanted.program)])
    build_key = key_of("qnn code", model, _digest(emitted.weights), compiler_id(), str(chip.soc), told)
    estimate_key = key_of("qnn estimate", model, compiler_id(), str(chip.proxy), options)
    work = _Work(wanted, legal.program, folder, emitted, weights, build_key, estimate_key)
    if wanted.code:
        work.code = store.get(build_key)
        if not settings.predict and work.code is None:
            work.build_key = _unpredicted(build_key)
            work.code = store.get(work.build_key)
        if work.code is None:
            work.build = run_in(folder / "build", f"{what} for {chip.name}", chip.soc, {}, CONTEXT)
    if work.code is None and settings.predict:
        kept = store.get(estimate_key)
        work.prediction = None if kept is None else json.loads(kept)
        if kept is None:
            work.estimate = run_in(
                folder / "estimate",
                f"{what} for {chip.proxy_name}",
                chip.proxy,
                prediction.PROVIDER_OPTIONS,
                None if wanted.code else CONTEXT,  # for its size
            )
    return work


def _unpredicted(build_key: str) -> str:
    return key_of(build_key, "without a prediction")


def _digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _check(work: _Work, outcome: Outcome, settings: Settings, chip: Chip) -> None:
    """``BackendError`` if a segment did not compile, after looking for the culprit."""
    try:
        _explain(work, outcome, settings, chip)
    except BackendError as error:
        error.log = outcome.log
        raise


def _explain(work: _Work, outcome: Outcome, settings: Settings, chip: Chip) -> None:
    run = work.build
    assert run is not None
    result = run.result()
    said = result["error"]
    if said == "":
        return
    if outcome.stopped:
        raise error_of(job_for([run]), outcome, settings)
    refused = refused_instructions(said or "", outcome.log, work.legal)
    segment = work.wanted.program
    if refused:
        what = f"Qualcomm's compiler refuses {len(refused)} instructions:" + "".join(
            f"\n  {line}" for line in refused
        )
        raise Refused(what, run.what, "place them on the CPU", originals(segment, refused.values()))
    culprit = _bisect(segment, work.wanted.constants, settings, chip)
    where = f"{culprit.source or culprit.op}" if culprit is not None else run.what
    if said is None:
        what = f"Qualcomm's compiler died (exit code {result.get('code', outcome.code)})"
    else:
        what = f"Qualcomm's compiler failed: {said.splitlines()[0][:300]}"
    if culprit is not None:
        what += f"; it does so from {culprit.op} on"
    raise Refused(what, where, "place this instruction on the CPU", [] if culprit is None else [culprit])


def _bisect(segment: Program, constants: Constants, settings: Settings, chip: Chip) -> Instr | None:
    """The last instruction of the shortest beginning of the segment that does not compile."""
    body = segment.main.body
    if not body:
        return None
    count = failing_beginning(segment, lambda part: not _compiles(part, constants, settings, chip))
    return body[count - 1]


def model_files(segment: Program, constants: Constants) -> dict[str, bytes]:
    """The ONNX model of a segment, by file name."""
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        legal = legalise_segment(segment)
        emit(legal.program, legal.values(constants), Path(name))
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir()) if path.is_file()}


def _compiles(segment: Program, constants: Constants, settings: Settings, chip: Chip) -> bool:
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        legal = legalise_segment(segment)
        emit(legal.program, legal.values(constants), Path(name))
        run = run_in(Path(name) / "build", "bisection", chip.soc, {}, None)
        run_all([job_for([run])], settings)
        return bool(run.result()["error"] == "")


def _finish(work: _Work, chip: Chip, store: Cache, outcome: Outcome | None, settings: Settings) -> Built:
    """``outcome`` is that of the process that made the prediction."""
    if work.code is not None:
        head = unpack(work.code, files=False)
        kept, unpredicted = head.prediction, head.unpredicted
        found = None if kept is None else prediction.placed(kept, work.sources)
        data = work.code if found is None or found == kept else with_prediction(work.code, found)
        return Built(data, work.weights, found, len(data), 0.0, unpredicted)
    run = work.build or work.estimate
    seconds = 0.0 if run is None else float(run.result()["seconds"])
    files = {} if run is None else files_of(run.folder)
    size = sum(map(len, files.values()))
    found = _estimate(work, store, size)
    lost = "" if found is not None else why_none(work.estimate, outcome, settings)
    if work.build is None:
        size = 0 if found is None else found["code_bytes"]
        return Built(b"", work.weights, found, size, seconds, lost)
    code = Container(
        compiler_id(),
        chip.soc,
        (*work.emitted.inputs, *work.emitted.bound.values()),
        work.emitted.outputs,
        _tables(work.wanted.program),
        found,
        files,
        lost,
    )
    packed = pack(code)
    if work.estimate is None or work.estimate.ended:
        store.put(work.build_key, packed)
    else:  # it was stopped, by time or memory: another compile is to try again, one without need not
        store.put(_unpredicted(work.build_key), pack(replace(code, unpredicted="")))
    return Built(packed, work.weights, found, len(packed), seconds, code.unpredicted)


def _estimate(work: _Work, store: Cache, code_bytes: int) -> dict[str, Any] | None:
    """The prediction, from the cache or the run for the proxy chip; None if that failed."""
    if work.estimate is None:
        return None if work.prediction is None else prediction.placed(work.prediction, work.sources)
    found = prediction.read_profile(work.estimate.folder, work.sources, code_bytes)
    if found is not None:
        store.put(work.estimate_key, json.dumps(found).encode())
    return found


def _tables(segment: Program) -> dict[int, int]:
    """By position of an input that is the ids of an embedding: how many rows the table has."""
    position = {r.id: i for i, r in enumerate(segment.main.params)}
    rows: dict[int, int] = {}
    for instr in segment.main.body:
        look_up = instr.op in ("embedding", "embedding_q")
        table, ids = instr.operands[:2] if look_up else (None, None)
        if isinstance(ids, Register) and ids.id in position and table is not None:
            rows[position[ids.id]] = table.type.shape[0]  # type: ignore[union-attr]
    return rows
