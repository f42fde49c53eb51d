"""The op table in docs/ is the one that the records give."""

from __future__ import annotations

from pathlib import Path

from forgec.ir.op import OPS
from forgec.ir.op_table import markdown

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m forgec.ir.op_table > docs/ops.md"


def test_every_op_says_what_it_means():
    undocumented = [name for name, record in OPS.items() if not record.doc]
    assert not undocumented
