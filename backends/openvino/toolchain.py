"""Where Intel's NPU compiler is on this machine, and how to get it.

OpenVINO's packages for Linux leave the NPU compiler library out; its package for Windows has it. So there are
two routes: the native library, where a distribution or a driver installed it beside OpenVINO, and the Windows
library under Wine, driven by a small C program. ``install`` sets up the second one in the user's cache
folder, from public packages only: pip fetches the Windows package, and builds the program with mingw-w64 or
with the zig compiler, which pip has too. Wine itself comes from the system's packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from forgec.errors import BackendError, TargetError

from ..vendor.cache import folder as cache_folder
from .image import page_aligned

__all__ = ["INSTALL", "VERSION", "Toolchain", "find", "install", "missing"]

VERSION = "2026.4.1"
"""OpenVINO whose compiler the Wine route uses."""

INSTALL = "forgec toolchain install intel-npu"

_LIBRARIES = (
    "openvino.dll",
    "openvino_c.dll",
    "openvino_c.lib",
    "openvino_ir_frontend.dll",
    "openvino_intel_npu_plugin.dll",
    "openvino_intel_npu_compiler.dll",
    "openvino_intel_npu_compiler_loader.dll",
    "openvino_intel_npu_vm_runtime.dll",
    "tbb12.dll",
)
_NATIVE = "libopenvino_intel_npu_compiler.so"
_WINE_PLACES = ("/usr/lib/wine/wine64", "/usr/lib/x86_64-linux-gnu/wine/wine64")
_SOURCE = Path(__file__).with_name("driver.c")
_HEAP = Path(__file__).with_name("heap.h")
_RECORD = "toolchain.json"
_PROPERTIES = {"NPU_COMPILER_TYPE": "PLUGIN"}

_SERVICES = ("Eventlog", "MountMgr", "NDIS", "nsiproxy", "PlugPlay")
_BUSES = ("winebus", "wineusb")
"""Services, and drivers of devices, that Wine starts before a program, which takes longer than a small model;
the compiler needs none of them."""

_KEY = r"HKEY_LOCAL_MACHINE\System\CurrentControlSet\Services"
_REGISTRY = "\n\n".join(
    (
        "REGEDIT4",
        *(f'[{_KEY}\\{name}]\n"Start"=dword:00000004' for name in _SERVICES),  # disabled
        *(f"[-{_KEY}\\{name}]" for name in _BUSES),  # deleted: they start disabled too
        "",
    )
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Toolchain:
    """A way to run the compiler. ``identity`` names the compiler, for caches and reports; ``wine`` is empty
    for the native library."""

    folder: Path
    identity: str
    wine: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, device: str, jobs: Path | str, properties: Mapping[str, str]) -> list[str]:
        """The command that compiles the models of a list of jobs; see ``driver.c`` for what it prints."""
        given = [f"{key}={value}" for key, value in properties.items()]
        if self.wine:
            return [self.wine, str(self.folder / _driver()), device, self.path(jobs), *given]
        return [sys.executable, "-m", "forgec.backends.openvino.native_driver", device, str(jobs), *given]

    def path(self, path: Path | str) -> str:
        """A path as the compiler's side wants it."""
        return f"Z:{path}" if self.wine and str(path).startswith("/") else str(path)


@cache
def _driver() -> str:
    """Name of the driver program, by what it and the prefix that it runs in are made of: another version of
    these has another name, and is not found where the former is."""
    made_of = _SOURCE.read_bytes() + _HEAP.read_bytes() + _REGISTRY.encode()
    return f"driver-{hashlib.sha256(made_of).hexdigest()[:8]}.exe"


def home() -> Path:
    """Folder of the Wine route."""
    return cache_folder() / "toolchains" / f"intel-npu-{VERSION}"


@cache
def find() -> Toolchain | None:
    """The compiler that is there, the native one first; None if there is none."""
    if importlib.util.find_spec("openvino") is None:
        return None
    libraries = _openvino_libraries()
    if (libraries / _NATIVE).exists():
        import openvino

        return Toolchain(libraries, f"native {openvino.get_version()}")
    return _wine_route(home())


def missing() -> str | None:
    """One sentence saying what is missing to compile for Intel's NPUs, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed: pip install 'forgec[openvino]'"
    if find() is None:
        return f"Intel's NPU compiler is not set up: {INSTALL}"
    return None


def install(say: Say = lambda line: None) -> Toolchain:
    """Set up the Wine route, unless there is a compiler already; a minute or two.

    Raises ``TargetError`` if the machine cannot have it, ``BackendError`` if a step fails.
    """
    found = find()
    if found is not None:
        say(f"found {found.identity}")
        return found
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise TargetError(
            "Intel's NPU compiler runs under Wine on x86-64 Linux only", hint="use such a machine"
        )
    if importlib.util.find_spec("openvino") is None:
        raise TargetError("openvino is not installed", hint="pip install 'forgec[openvino]'")
    _install_wine(say)
    final = home()
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent) as temporary:
        building = Path(temporary) / "build"
        building.mkdir()
        _fetch_libraries(building, say)
        _build_driver(building, say)
        shutil.rmtree(building / "include")
        _make_prefix(building, say)
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
    say("asking the compiler for its version")
    trial = _toolchain(final, "")
    answer = _run([*trial.command("NPU", "-", _PROPERTIES)], "the compiler", trial.environment)
    words = next((line.split() for line in answer.splitlines() if line.startswith("@version")), None)
    if words is None:
        raise BackendError(f"the compiler does not start under Wine: {answer[-500:]}", str(final))
    identity = f"OpenVINO {words[1]}, NPU compiler {words[2]}"
    (final / _RECORD).write_text(json.dumps({"identity": identity}))
    find.cache_clear()
    say(f"ready: {identity}")
    return _toolchain(final, identity)


def _wine_route(folder: Path) -> Toolchain | None:
    try:
        identity = str(json.loads((folder / _RECORD).read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _toolchain(folder, identity) if _wine() and (folder / _driver()).exists() else None


def _toolchain(folder: Path, identity: str) -> Toolchain:
    return Toolchain(folder, identity, _wine() or "", _wine_environment(folder))


def _wine() -> str | None:
    places = [shutil.which("wine64"), *_WINE_PLACES, shutil.which("wine")]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def _wine_environment(folder: Path) -> dict[str, str]:
    return {
        "WINEPREFIX": str(folder / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=d",
        "DISPLAY": "",
    }


def _openvino_libraries() -> Path:
    spec = importlib.util.find_spec("openvino")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "libs"


def _install_wine(say: Say) -> None:
    if _wine():
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", "wine64"]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise TargetError("Wine is not installed", hint=f"as root: {' '.join(command)}; then {INSTALL}")
    say("installing Wine")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update"], "the update of package lists", environment)
    _run(command, "the installation of Wine", environment)


def _fetch_libraries(folder: Path, say: Say) -> None:
    say(f"fetching OpenVINO {VERSION} for Windows")
    wheels = folder / "wheels"
    windows = ("--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.11")
    _pip("download", "--no-deps", *windows, "--dest", str(wheels), f"openvino=={VERSION}")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = Path(member)
            if path.parent.name == "libs" and path.name in _LIBRARIES:
                target = folder / path.name
            elif member.startswith("openvino/include/openvino/c/"):
                target = folder / path.relative_to("openvino")
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            data = archive.read(member)
            target.write_bytes(page_aligned(data) if target.suffix == ".dll" else data)
    shutil.rmtree(wheels)
    absent = [name for name in _LIBRARIES if not (folder / name).exists()]
    if absent:
        raise BackendError(f"OpenVINO {VERSION} for Windows lacks {', '.join(absent)}")


def _build_driver(folder: Path, say: Say) -> None:
    say("building the driver program")
    names = ("x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-gcc-win32")
    found = next(filter(None, map(shutil.which, names)), None)
    flags = ["-O2", "-s", "-I", str(folder / "include"), "-o", str(folder / _driver()), str(_SOURCE)]
    flags.append(str(folder / "openvino_c.lib"))
    if found:
        _run([found, *flags], "mingw-w64")
        return
    with tempfile.TemporaryDirectory() as temporary:
        environment = {"ZIG_GLOBAL_CACHE_DIR": temporary, "ZIG_LOCAL_CACHE_DIR": temporary}
        if importlib.util.find_spec("ziglang") is None:
            _pip("install", "--target", temporary, "ziglang")
            environment["PYTHONPATH"] = temporary
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu"]
        _run([*zig, *flags], "the zig compiler", environment)


def _make_prefix(folder: Path, say: Say) -> None:
    say("making a Wine prefix")
    wine = _wine()
    assert wine is not None
    environment = _wine_environment(folder)
    _run([wine, "wineboot", "-i"], "wineboot", environment)
    changes = folder / "services.reg"
    changes.write_text(_REGISTRY)
    _run([wine, "reg", "import", f"Z:{changes}"], "the import into Wine's registry", environment)
    changes.unlink()
    server = Path(wine).with_name("wineserver64")
    if server.exists():
        _run([str(server), "-w"], "wineserver", environment)
    _share_libraries(folder / "prefix")


def _share_libraries(prefix: Path) -> None:
    """Link the prefix's copies of Wine's own libraries to the originals, where they are the same: most of a
    prefix's 700 MB."""
    for libraries in Path("/usr/lib").glob("**/wine/x86_64-windows"):
        for copy in (prefix / "drive_c" / "windows" / "system32").iterdir():
            original = libraries / copy.name
            if original.is_file() and not copy.is_symlink() and copy.read_bytes() == original.read_bytes():
                copy.unlink()
                copy.symlink_to(original)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]]
    _run(command, f"pip {words[0]}")


def _run(command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a command that has to work."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BackendError(f"{what} does not start: {error}") from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip()[-800:]
        raise BackendError(f"{what} failed with exit code {done.returncode}: {tail}", " ".join(command))
    return done.stdout
