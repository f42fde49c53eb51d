"""What Intel's compiler printed, in words that a user can act on."""

from __future__ import annotations

import re

__all__ = ["NO_MESSAGE", "NO_REASON", "clean", "failures", "translate"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(r"^(Exception from |Check '|\[ ?(INFO|WARNING|DEBUG|TRACE)|compilerAdapter|\s*$)")

NO_REASON = "Compilation failed"
"""What the compiler says when it says nothing."""

NO_MESSAGE = "no message"
"""What we say when it does not even say that."""

_TABLE: tuple[tuple[str, str], ...] = (
    (r"Failed to find BLOCKED for 0", "an input or output has more than 5 axes, the most that the NPU takes"),
    (r"Missing upper bound|Upper bounds are not specified", "a shape is open: give every dimension a size"),
    (r"total shape size on dynamic shape", "attention must have a static shape"),
    (r"Unsupported ConvertOp configuration: (\S+) -> (\S+)", r"the NPU cannot convert \1 to \2"),
    (r"op operand #\d+ must be ranked tensor.*'tensor<([^']+)>'", r"an operand is \1, not taken here"),
    (r"ScatterNDUpdate node '[^']*' has unsupported reduction type", "a scatter must replace what it finds"),
    (r"Unsupported data type '([^']+)'", r"this NPU has no element type \1"),
    (r"SDPAFusionMatcher.*THROWN.*", "the compiler's attention matcher fails on this mask"),
    (r"String attribute output_type is not|Attribute \S+ can't be processed", "an operator is not supported"),
    (r"New order '(\w+)' doesn't match original rank '(\d+)'", r"an operator is not supported in rank \2"),
    (r"output_type attribute 'si64' should have only SI32", "an index must be i32"),
    (r"Failed to parse COMPILATION_MODE_PARAMS", "the compiler does not know a mode parameter"),
)  # fmt: skip


def clean(log: str) -> str:
    """A log without colours and carriage returns."""
    return _COLOUR.sub("", log).replace("\r", "")


def failures(log: str) -> dict[int, str]:
    """The library's message for every model that failed, by index; -1 stands for the start."""
    found: dict[int, str] = {}
    for match in re.finditer(r"^@failed (-?\d+) (\S+)\n(.*?)^@end$", log, re.M | re.S):
        found[int(match[1])] = match[3].strip()
    return found


def translate(message: str, log: str) -> str:
    """One sentence for a rejection: ours where the message is known, with the compiler's own words behind."""
    errors = re.findall(r"^\[ ?ERROR\][^\]]*\](.*)$", log, re.M)
    text = message + "\n" + "\n".join(errors)
    node = re.search(r"[nN]ode '([^']+)'", text)
    own = next((line.strip() for line in _said(message)), NO_MESSAGE)
    for pattern, wording in _TABLE:
        match = re.search(pattern, text)
        if match:
            own = f"{match.expand(wording)} ({match[0][:160]})"
            break
    return f"Intel's compiler refuses it: {own}{f', at {node[1]}' if node else ''}"


def _said(message: str) -> list[str]:
    """The lines of a message that say something, the most telling first."""
    lines = [line for line in message.splitlines() if not _NOISE.match(line)]
    after = message.partition("Compiler returned msg:")[2].splitlines()
    return [line for line in after if line.strip()] + lines
