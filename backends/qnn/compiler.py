"""Segments to context binaries: emit, look in the cache, compile in worker processes, pack.

Every segment is compiled for its chip, and for the chip whose performance model stands for it; the second
compile only gives the prediction, which does not depend on the values of weights, so it is kept without
them. A compile that fails is explained: by the operators that the vendor names, or by bisection to the
instruction without which it goes through.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

import numpy as np
import xxhash

from forgec.errors import BackendError
from forgec.ir.program import Apply, Constant, Instr, Program, Recipe, Register
from forgec.ir.types import TensorType

from ..base import Constants, Settings
from ..vendor.cache import Cache, key_of
from ..vendor.calls import bound_inputs
from ..vendor.portion import failing_beginning
from ..vendor.worker import Job, Outcome, error_of, run_all
from . import prediction
from .container import Container, pack
from .emit import Emitted, emit
from .legalise import legalise_segment
from .process import RESULTS, TASKS
from .socs import Chip
from .translate import originals, refused_instructions

__all__ = ["Refused", "compile_segments", "compiler_id", "missing", "model_files", "weight_recipes"]

_OPTIONS = {"htp_graph_finalization_optimization_mode": "3"}
"""About a tenth fewer cycles than the default for up to half more compile time."""

_CONTEXT = "context.onnx"


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


@dataclass
class _Work:
    """One segment on its way: where it was emitted, the jobs that are left, what is known."""

    segment: Program
    legal: Program
    folder: Path
    emitted: Emitted
    build_key: str
    estimate_key: str
    build: Job | None = None
    estimate: Job | None = None
    code: bytes | None = None


def weight_recipes(part: Program, bound: Sequence[str]) -> list[Recipe]:
    """The further inputs of a segment's code, in order, over the constants that are bound."""
    legal = legalise_segment(part)
    as_inputs = bound_inputs(legal, bound)
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        emitted = emit(legal.program, legal.values(zeros), Path(name), as_inputs=list(as_inputs))
    return [_permuted(as_inputs[key], perm) for key, perm in emitted.bound]


def zeros(constant: Constant) -> np.ndarray:
    """A value for a constant whose value does not matter."""
    return np.zeros(constant.type.array_shape, constant.type.dtype.numpy)


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
    *,
    bound: Sequence[Sequence[str]] = (),
) -> list[bytes]:
    """Code of every segment. Raises ``BackendError`` naming the first that fails, and why.

    ``bound`` names constants of every segment that become inputs, behind the others.
    """
    store = Cache() if cached is None else cached
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        works = [
            _prepare(segment, constants, Path(name) / str(i), chip, store, f"segment {i}", names, settings)
            for i, (segment, names) in enumerate(zip_longest(segments, bound, fillvalue=()))
            if isinstance(segment, Program)
        ]
        builds = [work.build for work in works if work.build is not None]
        jobs = [*builds, *(work.estimate for work in works if work.estimate is not None)]
        outcomes = dict(zip(map(id, jobs), run_all(jobs, settings), strict=True))
        for work in works:
            if work.build is not None:
                _check(work, outcomes[id(work.build)], constants, settings, chip, explain=not bound)
        return [_finish(work, chip, store) for work in works]


def _prepare(
    segment: Program,
    constants: Constants,
    folder: Path,
    chip: Chip,
    store: Cache,
    what: str,
    bound: Sequence[str],
    settings: Settings,
) -> _Work:
    legal = legalise_segment(segment)
    folder.mkdir()
    as_inputs = bound_inputs(legal, bound)
    emitted = emit(legal.program, legal.values(constants), folder, as_inputs=list(as_inputs))
    model = emitted.path.read_bytes()
    options = json.dumps(_OPTIONS)
    build_key = key_of("qnn code", model, _digest(emitted.weights), compiler_id(), str(chip.soc), options)
    estimate_key = key_of("qnn estimate", model, compiler_id(), str(chip.proxy), options)
    work = _Work(segment, legal.program, folder, emitted, build_key, estimate_key)
    work.code = store.get(build_key)
    if not settings.predict and work.code is None:
        work.build_key = key_of(build_key, "without a prediction")
        work.code = store.get(work.build_key)
    if work.code is None:
        work.build = _job(folder / "build", f"{what} for {chip.name}", chip.soc, {}, _CONTEXT)
        if settings.predict and store.get(estimate_key) is None:
            options_of = prediction.PROVIDER_OPTIONS
            work.estimate = _job(
                folder / "estimate", f"{what} for {chip.proxy_name}", chip.proxy, options_of, None
            )
    return work


def _job(folder: Path, what: str, soc: int, provider: dict[str, str], context: str | None) -> Job:
    folder.mkdir()
    task = {"model": "../model.onnx", "soc": soc, "context": context, "provider": {**_OPTIONS, **provider}}
    (folder / TASKS).write_text(json.dumps([task]))
    script = Path(__file__).with_name("process.py")
    return Job(what, (sys.executable, "-P", str(script)), folder)


def _digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _error(job: Job) -> str | None:
    """What the vendor said against the job's only task: empty if nothing, None if it never came to an end."""
    results = job.folder / RESULTS
    if not results.is_file():
        return None
    return str(json.loads(results.read_text().splitlines()[0])["error"])


def _check(
    work: _Work, outcome: Outcome, constants: Constants, settings: Settings, chip: Chip, explain: bool
) -> None:
    """``BackendError`` if a segment did not compile; with ``explain`` after looking for the culprit."""
    try:
        _explain(work, outcome, constants, settings, chip, explain)
    except BackendError as error:
        error.log = outcome.log
        raise


def _explain(
    work: _Work, outcome: Outcome, constants: Constants, settings: Settings, chip: Chip, explain: bool
) -> None:
    job = work.build
    assert job is not None
    said = _error(job)
    if said == "":
        return
    if outcome.stopped:
        raise error_of(job, outcome, settings)
    if not explain:
        raise BackendError(f"Qualcomm's compiler failed: {(said or outcome.log)[-300:]}", job.what)
    refused = refused_instructions(said or "", outcome.log, work.legal)
    if refused:
        what = f"Qualcomm's compiler refuses {len(refused)} instructions:" + "".join(
            f"\n  {line}" for line in refused
        )
        raise Refused(what, job.what, "place them on the CPU", originals(work.segment, refused.values()))
    culprit = _bisect(work.segment, constants, settings, chip)
    where = f"{culprit.source or culprit.op}" if culprit is not None else job.what
    if said is None:
        what = f"Qualcomm's compiler died (exit code {outcome.code})"
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
        job = _job(Path(name) / "build", "bisection", chip.soc, {}, None)
        run_all([job], settings)
        return _error(job) == ""


def _finish(work: _Work, chip: Chip, store: Cache) -> bytes:
    if work.code is not None:
        return work.code
    assert work.build is not None
    folder = work.build.folder
    context = (folder / _CONTEXT).read_bytes()
    files = {_CONTEXT: context, **{path.name: path.read_bytes() for path in sorted(folder.glob("*.bin"))}}
    code = Container(
        compiler_id(),
        chip.soc,
        (*work.emitted.inputs, *work.emitted.bound.values()),
        work.emitted.outputs,
        _tables(work.segment),
        _estimate(work, store, sum(map(len, files.values()))),
        files,
    )
    packed = pack(code)
    store.put(work.build_key, packed)
    return packed


def _estimate(work: _Work, store: Cache, code_bytes: int) -> dict | None:
    """The prediction, from the cache or the job for the proxy chip; None if that failed."""
    if work.estimate is None:
        kept = store.get(work.estimate_key)
        return None if kept is None else json.loads(kept)
    sources = {r.id: str(instr.source or "") for instr in work.legal.main.body for r in instr.results}
    found = prediction.read_profile(work.estimate.folder, sources, code_bytes)
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
