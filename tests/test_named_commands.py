"""Commands that messages, pages, help texts and documents name exist, and are understood as they are written there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage import cli, config

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMED = re.compile(r"(?:`|: |^|\s{2,})tutelage ([a-z][^`\n]*?)(?=`|\s{2,}|$)", re.M)
BLANK = "9"
"""What stands for a value that a message fills in; it does for a name, a path and a number."""


class Understood(Exception):
    """The command line was parsed; nothing more is tried."""


def written(node: ast.AST) -> str | None:
    """The text of a string in source code."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(value) or BLANK for value in node.values)
    return None


def texts() -> Iterator[tuple[str, str]]:
    """(file, text) of everything that may name a command: strings and docstrings, templates, documents."""
    for path in sorted((ROOT / "tutelage").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
        for node in ast.walk(tree):
            if (text := written(node)) and id(node) not in inner:
                yield path.name, text
    for path in [*(ROOT / "tutelage").rglob("*.html"), *DOCUMENTS]:
        text = re.sub(r"</?code>|```\w*", "`", path.read_text(encoding="utf-8")).replace("\\\n", " ")
        yield path.name, re.sub(r"(?<=\S) +", " ", re.sub(r"  +#.*", "", text))


def commands() -> list[tuple[str, str]]:
    """(file, words) of every command that is named."""
    named = {(file, re.sub(r"\bN\b", BLANK, found)) for file, text in texts() for found in NAMED.findall(text)}
    return sorted(named)


def test_commands_are_found() -> None:
    found = commands()
    assert len(found) > 40
    assert ("cli.py", "demo") in found  # the first screen's advice
    assert ("server.py", f"account {BLANK} NAME --role admin") in found
    assert ("README.md", "doctor runs/ppo_ptx") in found


@pytest.mark.parametrize(("file", "line"), commands(), ids=lambda text: text)
def test_a_named_command_is_understood(file: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*given: Any) -> None:
        real(*given)
        raise Understood

    real = config.parse
    monkeypatch.setattr(config, "parse", parse)
    name, *words = shlex.split(line)
    if name == "COMMAND" or name not in cli.COMMANDS:
        pytest.fail(f"{file}: there is no `tutelage {name}`")
    if not words:
        return  # it is only mentioned
    if words == ["--help"]:
        with pytest.raises(SystemExit):
            cli.COMMANDS[name][1](words)
        return
    with pytest.raises(Understood):
        cli.COMMANDS[name][1](words)


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    found = {t for _, text in texts() for t in re.findall(r"(?:^|`)make ([a-z-]+)(?=`|\n|\s\s)", text, flags=re.M)}
    assert {"demo", "studio", "test"} <= found <= targets


def test_modules_to_run_exist() -> None:
    found = {name for _, text in texts() for name in re.findall(r"python -m ((?:tutelage|benchmarks)[\w.]*)", text)}
    assert found
    assert [name for name in found if importlib.util.find_spec(name.rstrip(".")) is None] == []
