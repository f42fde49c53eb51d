"""Asking Qualcomm's compiler whether it takes an instruction: one small model each, compiled for real.

All that are asked together are compiled by one worker process, in a fork each; one that kills the compiler is
refused. After one that may hang, it and the rest are asked in a new process, where it comes first and has all
of the time. The answers are kept by
:mod:`forgec.backends.vendor.support`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forgec.errors import BackendError
from forgec.ir.program import Constant, Instr
from forgec.ir.types import DType, TensorType

from ..base import Settings
from ..vendor.support import Trial, single
from ..vendor.worker import Outcome, run
from .job import job_of
from .process import RESULT
from .translate import vendor_reasons

__all__ = ["try_out"]

_REFUSED = "Qualcomm's compiler refuses it"

_DIED = Trial("Qualcomm's compiler dies of it", sized=True)
_HANGS = Trial("Qualcomm's compiler hangs", sized=True)

_BOUND = Settings(timeout_s=120.0)


def try_out(instrs: Sequence[Instr], soc: int) -> list[Trial]:
    """Compile each instruction alone, for real; the reason where that fails, empty where it does not."""
    from .emit import emit

    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        tasks: list[dict[str, Any]] = []
        for i, instr in enumerate(instrs):
            folder = Path(name) / str(i)
            folder.mkdir()
            emit(single(instr), _filling, folder)
            task = {"folder": str(folder), "model": "model.onnx", "soc": soc, "context": None}
            tasks.append({**task, "provider": {}})
        answers: list[Trial] = []
        while len(answers) < len(tasks):
            answers += _answers(tasks[len(answers) :], Path(name))
        return [
            Trial(_vendors_reason(task, Path(name))) if answer.reason == _REFUSED else answer
            for task, answer in zip(tasks, answers, strict=True)
        ]


def _answers(tasks: Sequence[Mapping[str, Any]], folder: Path) -> list[Trial]:
    """Answers up to the first task that has none when the time is up. It hangs if it had all of the time."""
    outcome = _run(tasks, folder)
    answers = []
    for task in tasks:
        result = Path(task["folder"]) / RESULT
        if result.is_file():
            error = json.loads(result.read_text())["error"]
            answers.append(_DIED if error is None else Trial(_reason(error)))
        elif not outcome.stopped:
            raise BackendError(f"Qualcomm's compiler does not start: {outcome.log.strip()[-300:]}")
        else:
            return answers or [_HANGS]
    return answers


def _run(tasks: Sequence[Mapping[str, Any]], folder: Path) -> Outcome:
    return run(job_of("single instructions", tasks, folder), _BOUND)


def _vendors_reason(task: Mapping[str, Any], folder: Path) -> str:
    """The refusal of a task, with what the compiler says about it when it is asked to say more."""
    reasons = vendor_reasons(_run([{**task, "reasons": True}], folder).log)
    return f"{_REFUSED}: {'; '.join(reasons)}" if reasons else _REFUSED


def _reason(error: str) -> str:
    if not error:
        return ""
    if "assigned to the default CPU EP" in error or "Unsupported nodes" in error:
        return _REFUSED
    return f"Qualcomm's compiler fails: {error.splitlines()[0][:200]}"


def _filling(constant: Constant) -> np.ndarray:
    """Values for a constant of a trial: small, different from each other, legal as indices."""
    t: TensorType = constant.type
    if t.dtype is DType.BOOL or t.dtype.is_int:
        return np.zeros(t.array_shape, t.dtype.numpy)
    return np.resize(np.linspace(0.1, 0.9, 251, dtype=np.float32), t.shape).astype(t.dtype.numpy)
