"""The table of attacks in SECURITY.md is what the tests try."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
ATTACKS = runpy.run_path(str(ROOT / "scripts" / "attacks.py"))


def test_the_table_is_made_of_the_marks() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert text == ATTACKS["page"](text), "run scripts/attacks.py"
    assert ATTACKS["table"]().count("\n") > 40


def test_every_mark_is_read() -> None:
    """Each mark stands on a test by itself, with its words written out: what the script reads is all there is."""
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        marks = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n) == "pytest.mark.attack"]
        found = list(ATTACKS["marked"](path))
        assert len(marks) == len(found), path
        assert all(name.startswith("test_") and tried and "|" not in tried for tried, name in found), path
