"""``forgec toolchain``: vendors' compilers that no package brings."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import OptionError
from . import flags
from .boundary import verb
from .output import Format, Output

__all__ = ["toolchain"]

_KNOWN = ("intel-npu",)


@verb("forgec toolchain install intel-npu", "forgec toolchain install intel-npu --format json")
def toolchain(
    action: Annotated[str, typer.Argument(metavar="install", help="What to do.")],
    name: Annotated[str, typer.Argument(metavar="intel-npu", help="Whose compiler.")],
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Set up a vendor's compiler in the cache folder.

    intel-npu: Intel's NPU compiler. The native library is used where it is installed; otherwise OpenVINO's
    package for Windows is fetched and its compiler set up under Wine, which takes two minutes.
    """
    if action != "install":
        raise OptionError(f"there is no action {action!r}", hint="forgec toolchain install intel-npu")
    if name not in _KNOWN:
        raise OptionError(f"there is no toolchain {name!r}", hint=f"one of: {', '.join(_KNOWN)}")
    from ..backends.openvino import toolchain as intel

    output = Output(fmt, quiet)
    found = intel.install(output.note)
    document = {"toolchain": name, "compiler": found.identity, "folder": str(found.folder)}
    output.result(document, lambda printer: printer.line(f"{found.identity} in {found.folder}"))
