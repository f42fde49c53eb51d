"""The ``.forge`` file format: which members there are, what the manifest says, how digests are taken.

========================  ==============================================================================
``manifest.json``         schema and version, target, name, signature, options, digest and size of every
                          other member; covered itself by the ZIP's CRC
``program.ir``            text of the structured program
``plan.json``             the plan, in the flat program's register numbers
``weights.safetensors``   constants by ``Constant.key``, initial values of states as ``@NAME``
``selftest.safetensors``  optional: ``input.N`` and ``output.N`` of one run
``report.json``           optional: report of the compile
``segments/N.bin``        optional: code of segment N, in its backend's own form
``extra/...``             optional: further files, for example a tokenizer
``entries/NAME/...``      program, plan, self-test, report and segments of further programs; weights, states
                          and extra files are common to all programs of a file
========================  ==============================================================================

Digests are XXH3-128, which run at the speed of memory: they find damage, not forgery. A tensor member has one
for its header and one per tensor, so that tensors are digested while they are written and can be checked one
at a time. The version counts up with every change that an older reader would not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from ..errors import ArtifactError
from ..version import __version__
from .signature import Signature
from .strictjson import dump_json, parse_json

__all__ = [
    "EXTRA",
    "MANIFEST",
    "PLAN",
    "PROGRAM",
    "REPORT",
    "SELFTEST",
    "VERSION",
    "WEIGHTS",
    "Info",
    "Manifest",
    "Member",
    "digest",
    "entry_prefix",
    "in_file",
    "is_entry",
    "segment_name",
]

VERSION = 1
MANIFEST = "manifest.json"
PROGRAM = "program.ir"
PLAN = "plan.json"
WEIGHTS = "weights.safetensors"
SELFTEST = "selftest.safetensors"
REPORT = "report.json"
EXTRA = "extra/"

_SCHEMA = re.compile(r"forgec\.artifact/([0-9]{1,9})")
_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.x-]{0,79}")
_DIGEST = re.compile(r"[0-9a-f]{32}")


def digest(data: bytes | memoryview) -> str:
    """XXH3-128 of the bytes, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def in_file(error: ArtifactError, path: str) -> ArtifactError:
    """The error with the file's path before the place inside it."""
    where = f"{path}: {error.where}" if error.where and path not in error.where else path
    return ArtifactError(error.what, where, error.hint)


def entry_prefix(name: str) -> str:
    """Where the members of a program are that is not the main one."""
    return f"entries/{name}/"


def segment_name(index: int) -> str:
    """Member that holds the code of a segment."""
    return f"segments/{index}.bin"


@dataclass(frozen=True)
class Info:
    """What an artifact says about itself, for people and tools; running it needs none of this."""

    name: str = ""
    """Name of the model."""
    target: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Compile options in JSON's types."""
    weights: str = ""
    """Where the weights come from, for example a directory, or ``random, seed 0``."""
    forgec: str = __version__
    """Version of forgec that compiled it."""


@dataclass(frozen=True)
class Member:
    """Size in bytes and digest of a member; for a tensor member, of its header, and one digest per tensor."""

    size: int
    digest: str
    tensors: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """The first thing that is read of a file; ``members`` has every member but the manifest itself."""

    info: Info
    signature: Signature
    members: Mapping[str, Member]
    entry: str = ""
    """Name of the main program, if there are others."""
    entries: Mapping[str, Signature] = field(default_factory=dict)
    """Signatures of the other programs by name."""

    def to_bytes(self) -> bytes:
        """The manifest as the file holds it."""
        members = {
            name: {
                "size": m.size,
                "digest": m.digest,
                **({} if m.tensors is None else {"tensors": dict(m.tensors)}),
            }
            for name, m in self.members.items()
        }
        value = {
            "schema": f"forgec.artifact/{VERSION}",
            "forgec": self.info.forgec,
            "name": self.info.name,
            "target": self.info.target,
            "options": dict(self.info.options),
            "weights": self.info.weights,
            "signature": self.signature.to_json(),
            "members": members,
        }
        if self.entries:
            value["entry"] = self.entry
            value["entries"] = {name: signature.to_json() for name, signature in self.entries.items()}
        return dump_json(value)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Manifest:
        """The manifest of :meth:`to_bytes`.

        Raises :class:`ArtifactError` for a foreign one, one of a newer version (saying so), or a malformed
        one.
        """
        value = parse_json(data, MANIFEST)
        schema = value.get("schema") if isinstance(value, dict) else None
        match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
        if match is None:
            raise ArtifactError(
                f"this is a ZIP, and not a .forge file: its manifest has the schema {schema!r:.60}",
                hint="check the path",
            )
        if int(match[1]) > VERSION:
            raise ArtifactError(
                f"the file has format {int(match[1])}, written by forgec {value.get('forgec')!r:.30}; "
                f"this is forgec {__version__}, which reads formats up to {VERSION}",
                hint="upgrade: pip install --upgrade forgec",
            )
        texts = {key: value.get(key) for key in ("forgec", "name", "target", "weights")}
        options, members = value.get("options"), value.get("members")
        entry, entries = value.get("entry", ""), value.get("entries", {})
        if not isinstance(entries, dict) or not all(map(is_entry, [entry, *entries] if entries else [])):
            raise _malformed("its entries are not signatures by name")
        for key, text in texts.items():
            if not isinstance(text, str):
                raise _malformed(f"{key} is not a text")
        if not isinstance(options, dict) or not isinstance(members, dict):
            raise _malformed("it lacks options or members")
        return cls(
            Info(options=options, **texts),
            Signature.from_json(value.get("signature")),
            {name: _member(name, value) for name, value in members.items()},
            str(entry),
            {name: Signature.from_json(signature) for name, signature in entries.items()},
        )


def is_entry(name: Any) -> bool:
    """Whether something can be the name of a program in a file."""
    return isinstance(name, str) and _ENTRY.fullmatch(name) is not None


def _member(name: str, entry: Any) -> Member:
    if isinstance(entry, dict):
        size, total, tensors = entry.get("size"), entry.get("digest"), entry.get("tensors")
        digests = [total, *(tensors.values() if isinstance(tensors, dict) else ())]
        if (
            type(size) is int
            and (tensors is None or isinstance(tensors, dict))
            and all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in digests)
        ):
            return Member(size, str(total), tensors)
    raise _malformed(f"its entry of member {name!r:.80} is not size and digests")


def _malformed(why: str) -> ArtifactError:
    return ArtifactError(f"the manifest is malformed: {why}")
