"""Compile a model for several targets, as programs of one file that share what they can of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import backends
from .compile import Progress, planned, resolve
from .errors import OptionError
from .executable import Programs
from .executable.constants import Kept
from .options import Options

__all__ = ["compile_targets"]


def compile_targets(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    targets: Sequence[str],
    options: Options | Mapping[str, Any] | None = None,
    name: str | None = None,
    origin: str = "",
    progress: Progress | None = None,
    **named_options: Any,
) -> Programs:
    """Compile a model once for each target; the programs are called as their targets are.

    ``forgec.load`` gives the one whose device the machine has, else that for the CPU, else the first. All
    else is as for ``forgec.compile``, which raises what is raised here, and ``OptionError`` for no target or
    one that is named twice.
    """
    chosen = Options.of(options, **named_options)
    wanted = [backends.resolve(target) for target in targets]
    twice = next((target for target in wanted if wanted.count(target) > 1), None)
    if twice is not None or not wanted:
        what = "no target is given" if twice is None else f"the target {twice} is given twice"
        raise OptionError(what, hint="for example targets=['intel-npu4000', 'cpu']")
    model, args, kwargs, name, origin = resolve(model, args, kwargs, name, origin)
    kept = Kept(several=True)
    return Programs(
        {
            target: planned(
                model,
                args,
                kwargs,
                target=target,
                chosen=chosen,
                name=name,
                origin=origin,
                kept=kept,
                progress=progress,
            ).finished()
            for target in wanted
        }
    )
