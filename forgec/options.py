"""Compile options: one frozen dataclass that the Python face and the command line share.

Every option is one field: its annotation is its type, its default the value without the option, and its
metadata what the help says and which values are legal. Checks and parsing derive from that, so a new option
is one new field.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import OptionError
from .weights import FORMATS, WeightSpec

__all__ = ["CACHE_MODES", "CAPTURE_MODES", "FOLD_MODES", "Options"]

CAPTURE_MODES = ("auto", "blocks", "full")
FOLD_MODES = ("auto", "on", "off")
CACHE_MODES = ("auto", "f32", "f16")


@dataclass(frozen=True)
class _Rule:
    """``read`` turns command-line text into a value; ``check`` gives the value or raises ``ValueError``."""

    read: Callable[[str], Any]
    check: Callable[[Any], Any]
    values: str


def _number(low: float, high: float) -> _Rule:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError
        return float(value)

    return _Rule(float, check, f"a number from {low:g} to {high:g}")


def _integer(low: int, high: int) -> _Rule:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return _Rule(int, check, f"a whole number from {low} to {high}")


def _choice(*names: str) -> _Rule:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return _Rule(str, check, "one of " + ", ".join(names))


def _flag() -> _Rule:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }

    def read(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return _Rule(read, check, "true or false")


def _switches() -> _Rule:
    def read(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def check(value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError
        names = tuple(value)
        if not all(isinstance(name, str) and len(name) > 1 and name[0] == "-" for name in names):
            raise ValueError
        return names

    return _Rule(read, check, 'names of passes to turn off, each with a minus: "-cse"')


def _calibration() -> _Rule:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        return value

    return _Rule(str, check, "server, laptop, or a file that forgec bench --calibrate wrote")


def _weights() -> _Rule:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            WeightSpec.parse(value)
        except ValueError as error:
            raise OptionError(f"option weights: {error}", hint="for example int4:64,lm_head=int8") from None
        return value

    return _Rule(str, check, f"{', '.join(FORMATS)}, int4:GROUP, w4a8:GROUP, and PATTERN=FORMAT after commas")


def _option(default: Any, rule: _Rule, meaning: str) -> Any:
    return field(default=default, metadata={"rule": rule, "meaning": meaning})


@dataclass(frozen=True)
class Options:
    """How to compile. ``Options(...)`` raises :class:`OptionError` for an illegal value."""

    fusion: float = _option(
        1.0,
        _number(0, 1),
        "how much to fuse: 0 nothing, 1 every match, between them that share of the matches, evenly spread",
    )
    rounds: int = _option(2, _integer(1, 8), "rounds of all passes at most; stops earlier at a fixpoint")
    passes: tuple[str, ...] = _option((), _switches(), "passes to turn off")
    capture: str = _option(
        "auto",
        _choice(*CAPTURE_MODES),
        "trace each distinct block once (blocks), everything (full), or blocks where a check passes (auto)",
    )
    check: bool = _option(True, _flag(), "compare the result with eager PyTorch on the example inputs")
    strict: bool = _option(False, _flag(), "an instruction that the target cannot run is an error")
    timeout: float = _option(600.0, _number(1, 86400), "seconds that one run of a vendor's compiler may take")
    memory: int = _option(
        0, _integer(0, 1 << 20), "MiB that one run of a vendor's compiler may take, 0 for no limit"
    )
    jobs: int = _option(2, _integer(1, 64), "vendor's compilers that run at the same time")
    fold: str = _option(
        "auto",
        _choice(*FOLD_MODES),
        "for NPUs: compile repeated blocks once, with their weights as inputs (on), or where that costs next "
        "to no simulated time (auto)",
    )
    predict: bool = _option(
        True,
        _flag(),
        "ask the vendor's model how long the device will take, where that is a compile of its own (Hexagon)",
    )
    costs: str = _option(
        "server",
        _calibration(),
        "what instructions cost on the CPU, for placement and estimates: a calibration's name or JSON file",
    )
    weights: str = _option(
        "auto",
        _weights(),
        "format of weights: of all, then by glob pattern over their names, as in int4:64,lm_head=int8; auto "
        "is as the model has them: floats, or the codes of a quantised ONNX file",
    )

    cache: str = _option(
        "auto",
        _choice(*CACHE_MODES),
        "how a language model keeps keys and values on the CPU: f32, or f16, which auto takes beside "
        "compressed weights",
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))

    @classmethod
    def of(cls, given: Options | Mapping[str, Any] | None = None, **more: Any) -> Options:
        """Options from an ``Options``, a mapping or nothing, with ``more`` on top.

        Raises :class:`OptionError` for an unknown name, with the nearest known one, and for an illegal value.
        """
        base = given if isinstance(given, Options) else cls()
        named = {**({} if given is None or isinstance(given, Options) else given), **more}
        for name in named:
            _spec(name)
        return dataclasses.replace(base, **named)

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> dict[str, Any]:
        """Values by name from texts like ``"fusion=0.5"``, for :meth:`of`.

        Raises :class:`OptionError` as :meth:`of` does, and for a text that is not ``name=value``.
        """
        values: dict[str, Any] = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise OptionError(
                    f"{text!r} is not an option", hint="write name=value, for example fusion=0.5"
                )
            spec = _spec(name.strip())
            try:
                values[spec.name] = spec.metadata["rule"].read(value.strip())
            except ValueError:
                raise _illegal(spec, value) from None
        return values

    def to_dict(self) -> dict[str, Any]:
        """Values by name in JSON's types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """Name, meaning and legal values with the default, of every option."""
        return [
            (f.name, f.metadata["meaning"], f"{f.metadata['rule'].values} (default {_show(f.default)})")
            for f in dataclasses.fields(cls)
        ]


def _spec(name: str) -> dataclasses.Field[Any]:
    specs = {spec.name: spec for spec in dataclasses.fields(Options)}
    if name in specs:
        return specs[name]
    near = difflib.get_close_matches(name, specs, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "the options are " + ", ".join(specs)
    raise OptionError(f"there is no option {name!r}", hint=hint)


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    try:
        return spec.metadata["rule"].check(value)
    except ValueError:
        raise _illegal(spec, value) from None


def _illegal(spec: dataclasses.Field[Any], value: Any) -> OptionError:
    return OptionError(f"option {spec.name} is {value!r}, and must be {spec.metadata['rule'].values}")


def _show(value: Any) -> str:
    return "none" if value == () else str(value).lower() if isinstance(value, bool) else str(value)
