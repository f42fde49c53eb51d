"""The published JSON schema of a report; ``python -m forgec.report.publish`` writes its file."""

from __future__ import annotations

import json
from pathlib import Path

from . import codec
from .report import SCHEMA, Report

__all__ = ["SCHEMA_FILE", "schema_text"]

SCHEMA_FILE = Path(__file__).parent / "schema" / "report-1.json"


def schema_text() -> str:
    """The schema (draft 2020-12) as the file holds it."""
    return json.dumps(codec.schema(Report, f"urn:{SCHEMA.replace('/', ':')}", SCHEMA), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
