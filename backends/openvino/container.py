"""The code of a segment for an Intel NPU: one ZIP of the blob, the model that it was made from, and what the
compiler said about it. Ordinary tools open it."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass

from forgec.errors import ArtifactError

from ..prediction import Layer, Prediction

__all__ = ["Code"]

_XML, _WEIGHTS, _BLOB, _PREDICTION = "model.xml", "model.bin", "model.blob", "prediction.json"


@dataclass(frozen=True)
class Code:
    """``xml`` and ``weights`` are the OpenVINO model, kept for drivers that cannot take the blob and for
    running without the device."""

    xml: bytes
    weights: bytes
    blob: bytes
    prediction: Prediction | None

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            members = {_XML: self.xml, _WEIGHTS: self.weights, _BLOB: self.blob}
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
                return cls(*(archive.read(name) for name in (_XML, _WEIGHTS, _BLOB)), _prediction(archive))
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
    found = json.loads(archive.read(_PREDICTION))
    layers = tuple(Layer(**layer) for layer in found.pop("layers"))
    return Prediction(**{**found, "uncosted": tuple(found["uncosted"]), "layers": layers})
