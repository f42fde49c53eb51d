"""The code of a segment for an Intel NPU: one ZIP of blobs, the models that they were made from, and what the
compiler said about them. Ordinary tools open it.

A segment is one compiled part, or several that are called in turn, in which case ``calls.txt`` says how (see
``vendor.calls``).
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass

from forgec.errors import ArtifactError

from ..prediction import Prediction

__all__ = ["Code", "Compiled"]

_CALLS, _PREDICTION = "calls.txt", "prediction.json"


@dataclass(frozen=True)
class Compiled:
    """``xml`` and ``weights`` are the OpenVINO model, kept for drivers that cannot take the blob and for
    running without the device. ``blob`` is empty for what the host does."""

    xml: bytes
    weights: bytes
    blob: bytes

    def files(self, name: str) -> dict[str, bytes]:
        return {f"{name}.xml": self.xml, f"{name}.bin": self.weights, f"{name}.blob": self.blob}


@dataclass(frozen=True)
class Code:
    """``calls`` is empty for the one part that is the segment."""

    parts: tuple[Compiled, ...]
    prediction: Prediction | None
    calls: bytes = b""

    @property
    def files(self) -> dict[str, bytes]:
        """What there is for the vendor's tools, by name."""
        if not self.calls:
            return self.parts[0].files("model")
        found = {
            name: data for i, part in enumerate(self.parts) for name, data in part.files(f"part{i}").items()
        }
        return {**found, _CALLS: self.calls}

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            members = self.files
            if self.prediction is not None:
                members[_PREDICTION] = json.dumps(dataclasses.asdict(self.prediction)).encode()
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo: a fixed date, so equal in equal out
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Code:
        """The parts; :class:`ArtifactError` if they are not all there."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = set(archive.namelist())
                calls = archive.read(_CALLS) if _CALLS in names else b""
                count = sum(name.endswith(".xml") for name in names)
                stems = [f"part{i}" for i in range(count)] if calls else ["model"]
                parts = tuple(
                    Compiled(*(archive.read(f"{stem}.{kind}") for kind in ("xml", "bin", "blob")))
                    for stem in stems
                )
                return cls(parts, _prediction(archive), calls)
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the code for an Intel NPU is damaged: {error}") from error

    @classmethod
    def prediction_of(cls, data: bytes) -> Prediction | None:
        """The prediction alone, without reading the rest."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _prediction(archive)


def _prediction(archive: zipfile.ZipFile) -> Prediction | None:
    if _PREDICTION not in archive.namelist():
        return None
    return Prediction.from_dict(json.loads(archive.read(_PREDICTION)))
