"""Driving Intel's NPU compiler: models in, blobs and what it said about them out.

A few processes share the models, each taking the next one that none has. What was not done when they ended
badly goes on in others, the model that one was at alone. Results are kept in the compile cache under the
model's content, the platform, the options and the compiler.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    keys_of = [_key(model, options, toolchain) for model in models]
    distinct = dict(zip(keys_of, models, strict=True))
    results: dict[str, Built | Rejected] = {}
    for key in distinct:
        found = cache.get(key)
        if found is not None:
            results[key] = Built.from_bytes(found)
    left = [_by_length({key: model for key, model in distinct.items() if key not in results})]
    while any(left):
        with tempfile.TemporaryDirectory() as temporary:
            pools = [
                _pool([distinct[key] for key in keys], Path(temporary) / str(n), options, toolchain, settings)
                for n, keys in enumerate(left)
            ]
            outcomes = iter(run_all([job for pool in pools for job in pool], settings))
            again: list[list[str]] = []
            errors: list[BackendError] = []
            for keys, pool in zip(left, pools, strict=True):
                try:
                    done, died = _results(pool, [next(outcomes) for _ in pool], settings, len(keys))
                except BackendError as error:
                    errors.append(error)
                    continue
                for number, result in done.items():
                    results[keys[number]] = result
                    if isinstance(result, Built):
                        cache.put(keys[number], result.to_bytes())
                again += [[keys[number]] for number in died]
                again.append([key for number, key in enumerate(keys) if number not in {*done, *died}])
            if errors:
                raise errors[0]
            left = [keys for keys in again if keys]
    return [results[key] for key in keys_of]


def _by_length(models: Mapping[str, Model]) -> list[str]:
    """Keys of models, those with the longest graph first."""
    return sorted(models, key=lambda key: -len(models[key].xml))


def _pool(
    models: Sequence[Model],
    folder: Path,
    options: Mapping[str, str],
    toolchain: Toolchain,
    settings: Settings,
) -> list[Job]:
    """Processes that share models: one for each, within the settings."""
    _write(models, folder)
    what = models[0].what + (f" and {len(models) - 1} more" if len(models) > 1 else "")
    jobs = []
    for number in range(min(len(models), max(1, settings.jobs))):
        own = folder / f"process{number}"
        own.mkdir()
        command = toolchain.command("NPU", "../jobs", options)
        # The first program under Wine starts what all wait for that start meanwhile, for five minutes.
        jobs.append(Job(what, command, own, toolchain.environment, serves_others=bool(toolchain.wine)))
    return jobs


def _write(models: Sequence[Model], folder: Path) -> None:
    """Models in folders of their own, and ``jobs``, which lists these as they are seen from beside them."""
    folder.mkdir(exist_ok=True)
    for index, model in enumerate(models):
        (folder / str(index)).mkdir()
        model.write(folder / str(index))
    (folder / "jobs").write_text("".join(f"../{index}\n" for index in range(len(models))))


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
            (job,) = _pool(rest, Path(temporary), options, toolchain, replace(settings, jobs=1))
            outcome = run(job, settings)
            log = clean(outcome.log)
            failed = failures(log)
            if -1 in failed:
                raise BackendError(f"Intel's NPU compiler does not start: {failed[-1]}", job.what)
            for index in range(len(rest)):
                blob = job.folder.parent / str(index) / _BLOB
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


def _results(
    pool: Sequence[Job], outcomes: Sequence[Outcome], settings: Settings, count: int
) -> tuple[dict[int, Built | Rejected], list[int]]:
    """What the processes of a pool finished, by number of model, and the models at which one of them ended
    badly; an error if it had but one, or they did nothing."""
    results: dict[int, Built | Rejected] = {}
    died = []
    for job, outcome in zip(pool, outcomes, strict=True):
        log = clean(outcome.log)
        failed = failures(log)
        if -1 in failed:
            raise BackendError(f"Intel's NPU compiler does not start: {failed[-1]}", job.what)
        for own in re.finditer(r"^@begin (\d+)\n(.*?)(?=^@begin |\Z)", log, re.M | re.S):
            index, said = int(own[1]), own[2]
            done = re.search(rf"^@done {index} ([\d.]+)", said, re.M)
            blob, trace = (job.folder.parent / str(index) / name for name in (_BLOB, _TRACE))
            if index in failed:
                results[index] = Rejected(translate(failed[index], said), log=said)
            elif done is not None and blob.exists():
                schedule = trace.read_bytes() if trace.exists() else b""
                results[index] = Built(blob.read_bytes(), said, schedule, float(done[1]))
            else:
                died.append(index)
    if (not results and (count == 1 or not died)) or any(o.stopped == "cancelled" for o in outcomes):
        job, outcome = min(zip(pool, outcomes, strict=True), key=lambda pair: pair[1].ok)
        raise error_of(job, outcome, settings)
    return results, died
