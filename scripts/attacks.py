"""The table of attacks in SECURITY.md, made of the tests that are marked `@pytest.mark.attack("what is tried")`.

    .venv/bin/python scripts/attacks.py  # write it again

Tests are found by reading their source, so nothing is imported and nothing runs. tests/test_attacks.py fails while the
table says something else than the marks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "SECURITY.md"
BEGIN, END = "<!-- attacks: written by scripts/attacks.py -->\n", "<!-- end of attacks -->\n"


def marked(path: Path) -> Iterator[tuple[str, str]]:
    """(what is tried, name of the test) for every marked test of a file, in its order."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attack":
                    yield ast.literal_eval(mark.args[0]), node.name


def table() -> str:
    """The table: a row for each marked test, by file and then in the order of the file."""
    rows = ["| tried | held by |\n", "|---|---|\n"]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT / "tests").as_posix()
        rows += [f"| {tried} | `{name}:{test}` |\n" for tried, test in marked(path)]
    return "".join(rows)


def page(text: str) -> str:
    """SECURITY.md with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
