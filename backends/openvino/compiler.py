"""Driving Intel's NPU compiler: models in, blobs and what it said about them out.

Models are spread over a few processes, which compile theirs in turn: to start the compiler takes as long as a
small model. What was not done when a process ended badly goes on in others, the model that it was at alone.
Results are kept in the compile cache under the model's content, the platform, the options and the compiler.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openvino as ov

from forgec.errors import BackendError

from ..base import Settings
from ..vendor.cache import Cache, key_of
from ..vendor.worker import Job, Outcome, error_of, run, run_all
from .messages import NO_MESSAGE, NO_REASON, clean, failures, translate
from .toolchain import Toolchain

__all__ = ["Built", "Model", "Rejected", "build", "build_batch"]

_MODE = "dump-task-stats=true enable-schedule-trace=true enable-weights-sparsity=false"
"""Statistics and the simulated schedule; dense weights are not searched for zeros."""

_END = {
    "": "dies of it",
    "time": "takes more than its time for it",
    "memory": "takes more than its memory for it",
    "cancelled": "was cancelled at it",
}

_MODEL, _BLOB, _TRACE = "model", "model.blob", "compileTimeScheduleTrace.json"

_LEAST = 0.25
"""A further process takes a model that is at least so large a part of the largest."""


@dataclass(frozen=True)
class Model:
    """An OpenVINO model as files in memory. ``what`` names it in errors; ``sources`` are places in the user's
    model by the register that names of nodes begin with."""

    what: str
    xml: bytes
    weights: bytes
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ov.Model, what: str) -> Model:
        with tempfile.TemporaryDirectory() as folder:
            xml, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
            ov.serialize(model, xml, weights)
            return cls(what, xml.read_bytes(), weights.read_bytes())

    def write(self, folder: Path) -> Path:
        """Write the two files; the path of the first."""
        (folder / f"{_MODEL}.bin").write_bytes(self.weights)
        path = folder / f"{_MODEL}.xml"
        path.write_bytes(self.xml)
        return path


@dataclass(frozen=True)
class Built:
    """A blob, the compiler's log, its simulated schedule (JSON, empty if there is none), and the seconds that
    it took, also if they are those of an earlier run."""

    blob: bytes
    log: str
    schedule: bytes
    seconds: float = 0.0

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("blob", self.blob)
            archive.writestr("log", self.log, zipfile.ZIP_DEFLATED)
            archive.writestr("schedule", self.schedule, zipfile.ZIP_DEFLATED)
            archive.writestr("seconds", repr(self.seconds))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Built:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            blob, log, schedule, seconds = map(archive.read, ("blob", "log", "schedule", "seconds"))
            return cls(blob, log.decode(), schedule, float(seconds))


@dataclass(frozen=True)
class Rejected:
    """The compiler's reason for refusing a model, in our words. ``silent`` if it gave none: it died, hung, or
    only said that it failed. ``log`` is what it printed."""

    reason: str
    silent: bool = False
    log: str = ""


def build(
    models: Sequence[Model],
    platform: str,
    toolchain: Toolchain,
    settings: Settings,
    cache: Cache,
    properties: Mapping[str, str] | None = None,
) -> list[Built | Rejected]:
    """Compile models for a platform, from the cache where they are there.

    Raises ``BackendError`` if the compiler dies, hangs or takes too much memory.
    """
    options = _properties(platform, properties)
    keys = [_key(model, options, toolchain) for model in models]
    distinct = dict(zip(keys, models, strict=True))
    results: dict[str, Built | Rejected] = {}
    for key in distinct:
        found = cache.get(key)
        if found is not None:
            results[key] = Built.from_bytes(found)
    groups = _spread({key: model for key, model in distinct.items() if key not in results}, settings.jobs)
    while groups:
        with tempfile.TemporaryDirectory() as temporary:
            jobs = [
                _job([distinct[key] for key in group], Path(temporary) / str(number), options, toolchain)
                for number, group in enumerate(groups)
            ]
            left: list[list[str]] = []
            for group, job, outcome in zip(groups, jobs, run_all(jobs, settings), strict=True):
                done = _results(job, outcome, settings, len(group))
                for key, result in zip(group, done, strict=False):
                    results[key] = result
                    if isinstance(result, Built):
                        cache.put(key, result.to_bytes())
                left += [rest for rest in (group[len(done) + 1 :], group[len(done) : len(done) + 1]) if rest]
            groups = left
    return [results[key] for key in keys]


def _spread(models: Mapping[str, Model], processes: int) -> list[list[str]]:
    """Keys of models by the process that is to compile them, of about equal length of graph."""
    lengths = {key: len(model.xml) for key, model in models.items()}
    groups: list[list[str]] = []
    for key in sorted(lengths, key=lambda key: -lengths[key]):
        worth = not groups or lengths[key] >= _LEAST * lengths[groups[0][0]]
        if worth and len(groups) < max(1, processes):
            groups.append([key])
        else:
            min(groups, key=lambda group: sum(lengths[key] for key in group)).append(key)
    return groups


def build_batch(
    models: Sequence[Model], platform: str, toolchain: Toolchain, settings: Settings
) -> list[Built | Rejected]:
    """Compile small models in one process; one that kills it is rejected, and the rest go on in another."""
    mode = "enable-weights-sparsity=false"
    options = {**_properties(platform, {"NPU_COMPILATION_MODE_PARAMS": mode}), "LOG_LEVEL": "LOG_ERROR"}
    results: list[Built | Rejected] = []
    while len(results) < len(models):
        rest = models[len(results) :]
        with tempfile.TemporaryDirectory() as temporary:
            job = _job(rest, Path(temporary), options, toolchain)
            outcome = run(job, settings)
            log = clean(outcome.log)
            failed = failures(log)
            if -1 in failed:
                raise BackendError(f"Intel's NPU compiler does not start: {failed[-1]}", job.what)
            for index in range(len(rest)):
                blob = job.folder / str(index) / _BLOB
                if index in failed:
                    reason = translate(failed[index], log)
                    results.append(Rejected(reason, silent=reason.endswith((NO_REASON, NO_MESSAGE))))
                elif f"@done {index} " in log:
                    results.append(Built(blob.read_bytes(), "", b""))
                else:
                    results.append(Rejected(f"Intel's compiler {_END[outcome.stopped]}", silent=True))
                    break
    return results


def _properties(platform: str, more: Mapping[str, str] | None) -> dict[str, str]:
    return {
        "NPU_COMPILER_TYPE": "PLUGIN",
        "NPU_PLATFORM": platform,
        "NPU_COMPILATION_MODE_PARAMS": _MODE,
        **(more or {}),
        "LOG_LEVEL": "LOG_INFO",
    }


def _key(model: Model, options: Mapping[str, str], toolchain: Toolchain) -> str:
    return key_of("intel 2", toolchain.identity, repr(sorted(options.items())), model.xml, model.weights)


def _job(models: Sequence[Model], folder: Path, options: Mapping[str, str], toolchain: Toolchain) -> Job:
    folder.mkdir(exist_ok=True)
    for index, model in enumerate(models):
        (folder / str(index)).mkdir()
        model.write(folder / str(index))
    (folder / "jobs").write_text("".join(f"{index}\n" for index in range(len(models))))
    what = models[0].what if len(models) == 1 else f"{len(models)} models"
    return Job(what, toolchain.command("NPU", "jobs", options), folder, toolchain.environment)


def _results(job: Job, outcome: Outcome, settings: Settings, count: int) -> list[Built | Rejected]:
    """Of the first models of a process, as many as it finished; an error if it had but one and did not."""
    log = clean(outcome.log)
    failed = failures(log)
    if -1 in failed:
        raise BackendError(f"Intel's NPU compiler does not start: {failed[-1]}", job.what)
    results: list[Built | Rejected] = []
    for index in range(count):
        own = re.search(rf"^@begin {index}\n(.*?)(?=^@begin |\Z)", log, re.M | re.S)
        said = "" if own is None else own[1]
        done = re.search(rf"^@done {index} ([\d.]+)", said, re.M)
        blob, trace = (job.folder / str(index) / name for name in (_BLOB, _TRACE))
        if index in failed:
            results.append(Rejected(translate(failed[index], said), log=said))
        elif done is not None and blob.exists():
            schedule = trace.read_bytes() if trace.exists() else b""
            results.append(Built(blob.read_bytes(), said, schedule, float(done[1])))
        elif count == 1 or outcome.stopped == "cancelled":
            raise error_of(job, outcome, settings)
        else:
            break
    return results
