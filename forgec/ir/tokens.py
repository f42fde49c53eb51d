"""Tokens of IR text: one regular expression, and a cursor over its matches that knows how to complain.

The expression has no nested repetition that could match one text in two ways, so splitting is linear on any
input. Positions are not kept: an error looks its own up by splitting again.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import NoReturn

from ..errors import ParseError
from .limits import MAX_DIM, MAX_INT, MAX_RANK, type_excess
from .types import DType, TensorType

__all__ = ["Cursor", "unquote"]

MAX_TEXT = 1 << 27
"""Characters; a program of a million instructions stays below."""
MAX_TUPLE = 64
"""Entries of a tuple attribute."""

_TOKEN = re.compile(
    r"""[ \t\r]*(
      "[^"\\\n]*(?:\\.[^"\\\n]*)*"              # quoted text
    | "[^\n]*                                   # quoted text that does not end: an error when it is met
    | \#[^\n]*                                  # source comment
    | [A-Za-z_][A-Za-z0-9_.]*(?:\[[0-9,\ ]*\])? # word, or tensor type
    | \[[-0-9,\ ]*\]                            # tuple of integers
    | \+(?:0x[0-9a-f]+|_)                       # offset
    | -?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|inf)
    | ->
    | \n
    | .                                         # punctuation, or a character that is an error when it is met
    )""",
    re.VERBOSE | re.ASCII,
)
_INT = re.compile(r"-?[0-9]{1,20}")
_FLOAT = re.compile(r"-?(?:[0-9]{1,400}(?:\.[0-9]{1,400})?(?:e[+-]?[0-9]{1,5})?|inf)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|(.))")
_PLAIN_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_DTYPES = {dtype.value: dtype for dtype in DType}
_CONTEXT = 100
"""Characters of a source line that an error shows at most."""


def unquote(text: str) -> str:
    """The text inside quotes with its escapes replaced; ``ValueError`` if one is not known."""
    inner = text[1:-1]
    return _ESCAPE.sub(_unescape, inner) if "\\" in inner else inner


def _unescape(match: re.Match[str]) -> str:
    code, plain = match.groups()
    if code is not None:
        return chr(int(code, 16))
    if plain not in _PLAIN_ESCAPES:
        raise ValueError(f"unknown escape \\{plain}")
    return _PLAIN_ESCAPES[plain]


class Cursor:
    """The tokens of a text and a position in them. Every method that reads raises :class:`ParseError`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tokens: list[str] = []
        if len(text) > MAX_TEXT:
            self.fail(f"the text is {len(text)} characters long, over {MAX_TEXT}")
        self.tokens = _TOKEN.findall(text if text.endswith("\n") else text + "\n")
        self.tokens.append("")
        self._types: dict[str, TensorType] = {}

    @property
    def token(self) -> str:
        """The next token; empty at the end of the text."""
        return self.tokens[self.at]

    def accept(self, token: str) -> bool:
        """Step over the next token if it is this one."""
        if self.tokens[self.at] == token:
            self.at += 1
            return True
        return False

    def expect(self, token: str, hint: str | None = None) -> None:
        if self.tokens[self.at] != token:
            self.fail(f"expected {_show(token)}, found {_show(self.token)}", hint)
        self.at += 1

    def end_line(self) -> None:
        """Step over the end of this line and over empty lines."""
        self.expect("\n")
        self.skip_lines()

    def skip_lines(self) -> None:
        while self.tokens[self.at] == "\n":
            self.at += 1

    def word(self, what: str) -> str:
        token = self.tokens[self.at]
        if not _WORD.fullmatch(token):
            self.fail(f"expected {what}, found {_show(token)}")
        self.at += 1
        return token

    def string(self, what: str) -> str:
        token = self.tokens[self.at]
        if not token.startswith('"'):
            self.fail(f"expected {what} in quotes, found {_show(token)}")
        if not _closed(token):
            self.fail("quoted text does not end on its line", 'close it with "; a line break inside is \\n')
        try:
            text = unquote(token)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), 'the escapes are \\\\ \\" \\n \\r \\t and \\u{hex}')
        self.at += 1
        return text

    def type(self) -> TensorType:
        """A tensor type such as ``f32[1,16]``, within the bounds of ``limits``."""
        token = self.tokens[self.at]
        known = self._types.get(token)
        if known is None:
            known = self._types[token] = self._new_type(token)
        self.at += 1
        return known

    def _new_type(self, token: str) -> TensorType:
        name, bracket, sizes = token.partition("[")
        if not bracket or not sizes.endswith("]"):
            self.fail(f"expected a tensor type, found {_show(token)}", "write it like f32[1,16]")
        if name not in _DTYPES:
            self.fail(f"unknown element type {_show(name)}", f"known: {', '.join(_DTYPES)}")
        shape = self._ints(sizes[:-1], "size", MAX_DIM, MAX_RANK)
        t = TensorType(_DTYPES[name], shape)
        excess = type_excess(t)
        if excess:
            self.fail(excess)
        return t

    def _ints(self, text: str, what: str, largest: int, most: int) -> tuple[int, ...]:
        parts = text.split(",") if text.strip() else []
        if len(parts) > most:
            self.fail(f"{len(parts)} numbers, in a list of at most {most}")
        for part in parts:
            if not _INT.fullmatch(part.strip()) or abs(int(part)) > largest:
                self.fail(f"{what} {part.strip()[:40]!r} is not an integer up to {largest}")
        return tuple(map(int, parts))

    def is_tuple(self) -> bool:
        return self.tokens[self.at].startswith("[")

    def int_tuple(self) -> tuple[int, ...]:
        """A tuple attribute such as ``[1,0]``."""
        token = self.tokens[self.at]
        if len(token) < 2:
            self.fail("expected a list of integers such as [1,0]")
        values = self._ints(token[1:-1], "entry", MAX_INT, MAX_TUPLE)
        self.at += 1
        return values

    def number(self) -> int | float | bool:
        """``true``, ``false``, ``inf``, ``nan``, an integer, or a float: what has a point or an exponent."""
        token = self.tokens[self.at]
        value: int | float | bool
        if token in ("true", "false"):
            value = token == "true"
        elif token in ("inf", "nan"):
            value = float(token)
        elif _INT.fullmatch(token):
            value = int(token)
            if abs(value) > MAX_INT:
                self.fail(f"integer {token} is outside 64 bits")
        elif _FLOAT.fullmatch(token):
            value = float(token)
        else:
            self.fail(f"expected a number, found {_show(token)}")
        self.at += 1
        return value

    def offset(self) -> int | None:
        """``+0x40`` or ``+_``."""
        token = self.tokens[self.at]
        if len(token) < 2 or len(token) > 3 + 16:
            self.fail("expected an offset such as +0x40, of at most 16 digits, or +_")
        self.at += 1
        return None if token == "+_" else int(token[1:], 16)

    def fail(self, what: str, hint: str | None = None, at: int | None = None) -> NoReturn:
        """Raise :class:`ParseError` at token number ``at``, by default the next one."""
        match = next(islice(_TOKEN.finditer(self.text), self.at if at is None else at, None), None)
        position = len(self.text) if match is None else match.start(1)
        start = self.text.rfind("\n", 0, position) + 1
        stop = self.text.find("\n", start)
        line = self.text[start : stop if stop >= 0 else len(self.text)]
        column = position - start
        first = max(0, column - _CONTEXT // 2)
        shown = "".join(c if c.isprintable() else " " for c in line[first : first + _CONTEXT])
        number = self.text.count("\n", 0, start) + 1
        where = f"line {number}, column {column + 1}\n    {shown}\n    {' ' * (column - first)}^"
        raise ParseError(what, where, hint)


def _closed(token: str) -> bool:
    """True if a quoted token ends with its closing quote; the expression lets one run to the line's end."""
    body = token[1:-1]
    return len(token) >= 2 and token.endswith('"') and (len(body) - len(body.rstrip("\\"))) % 2 == 0


def _show(token: str) -> str:
    if token in ("", "\n"):
        return "the end of the text" if not token else "the end of the line"
    return repr(token if len(token) <= 40 else token[:37] + "...")
