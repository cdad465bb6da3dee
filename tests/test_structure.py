"""The rules of the house no single file shows: who imports whom, what loads torch, how long things are.

Modules are named without the leading `tutelage.`; a rule about a module that does not exist yet is skipped.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tutelage"
FILE_LINES, FUNCTION_LINES, TRAIN_LINES = 400, 60, 120

FOUNDATION = ("records", "run", "config", "settings", "lock", "integrity", "environment")
"""Import each other at most, no torch, nothing above them."""

EQUATIONS = ("losses", "advantages")
"""Tensors in, tensors out: torch and the standard library alone."""

PAGES = ("sft", "sample", "reward", "ppo")
"""Meet by run folders only: never import each other, the studio or the evaluation."""

TORCH = ("torch", "transformers", "tokenizers", "safetensors.torch", "accelerate")
TRANSFORMERS = ("model", "opening", "attention", "template", "convert", "scalar")
"""The only modules that touch transformers."""

TORCH_FREE = (
    *FOUNDATION,
    "extras",
    "labelers",
    "rubric",
    "judging",
    "workflows",
    "presets",
    "data.prompts",
    "data.sources",
    "evaluate.agreement",
    "evaluate.calibration",
    "evaluate.intervals",
    "evaluate.winrate",
    "loopfolder",
    "findings",
    "exhibits",
    "curves",
    "charts",
    "glossary",
    "evaluate.text",
    "fetch",
    "embedded",
    "report",
    "studio",
    "cli",
)
"""Importing these (packages: all they hold) loads neither torch nor transformers."""


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its short name; the package itself is "".

    Migrations are none: Alembic runs these files by path, and each stays as it was when its schema was released.
    """
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "migrations" in path.parts:
            continue
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def within(name: str) -> list[str]:
    """A module and, for a package, all below it. Skips the test when there is none."""
    found = [m for m in modules() if m == name or m.startswith(name + ".")]
    if not found:
        pytest.skip(f"tutelage.{name} does not exist yet")
    return found


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, in functions too; `from a import b` is a.b where that is a module."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"tutelage.{name}: relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("tutelage").removeprefix(".")
                is_module = base.startswith("tutelage") and inner in modules()
                found.add(f"{base}.{alias.name}" if is_module else base)
    return frozenset(found)


def own(name: str) -> set[str]:
    """Short names of the package's modules that a module imports."""
    return {m.removeprefix("tutelage").removeprefix(".") for m in imports(name) if m.split(".")[0] == "tutelage"}


def touches(name: str, libraries: tuple[str, ...]) -> set[str]:
    """Which of the libraries a module imports, wherever in it."""
    return {m for m in imports(name) if any(m == lib or m.startswith(lib + ".") for lib in libraries)}


def reaches(name: str, targets: tuple[str, ...]) -> set[str]:
    """Which of the package's modules `targets` (or modules below them) a module imports itself."""
    return {m for m in own(name) if any(m == target or m.startswith(target + ".") for target in targets)}


@pytest.mark.parametrize("name", FOUNDATION)
def test_the_foundation_stands_on_nothing(name: str) -> None:
    within(name)
    assert own(name) <= {"", *FOUNDATION}
    assert not touches(name, TORCH)


def test_records_stand_on_the_standard_library() -> None:
    within("records")
    assert own("records") == set()
    assert {m.split(".")[0] for m in imports("records")} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations_know_torch_alone(name: str) -> None:
    within(name)
    allowed = {"torch", *sys.stdlib_module_names}
    assert {m.split(".")[0] for m in imports(name)} <= allowed


@pytest.mark.parametrize("name", PAGES)
def test_pages_meet_by_run_folders_only(name: str) -> None:
    within(name)
    others = tuple(page for page in PAGES if page != name)
    assert not reaches(name, (*others, "studio", "evaluate", "report", "pipeline"))


def test_nobody_imports_the_command_line() -> None:
    within("cli")
    importers = {name for name in modules() if "cli" in own(name) and name not in ("__main__", "cli")}
    assert not importers


def test_the_report_reads_runs_and_needs_no_torch() -> None:
    within("report")
    assert not touches("report", TORCH)
    assert not reaches("report", (*PAGES, "model", "generate", "pipeline"))


def test_the_studio_never_reaches_torch() -> None:
    for name in within("studio"):
        assert not touches(name, TORCH), name
        assert not reaches(name, (*PAGES, "model", "generate", "pipeline")), name


def test_only_these_modules_touch_transformers() -> None:
    assert {name for name in modules() if touches(name, ("transformers",))} <= set(TRANSFORMERS)


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """What of torch and transformers is loaded after importing each torch-free module, in a fresh process."""
    names = [m for name in TORCH_FREE for m in modules() if m == name or m.startswith(name + ".")]
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module('tutelage.' + name)\n"
        "    found[name] = sorted({'torch', 'transformers'} & set(sys.modules))\n"
        "    if found[name]: break\n"  # once loaded, those after it could not be told apart
        "print(json.dumps(found))\n"
    )
    names = [name for name in names if not name.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(names)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", TORCH_FREE)
def test_importing_it_loads_no_torch(name: str, loaded: dict[str, list[str]]) -> None:
    for module in within(name):
        assert loaded.get(module, []) == []


def test_importing_the_command_line_loads_no_torch() -> None:
    within("cli")
    code = "import sys, tutelage.cli; print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("name", modules())
def test_files_and_functions_stay_short(name: str) -> None:
    text = modules()[name].read_text(encoding="utf-8")
    too_long = []
    if (lines := len(text.splitlines())) > FILE_LINES:
        too_long.append(f"{name}: {lines} lines, at most {FILE_LINES}")
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = TRAIN_LINES if name in PAGES and node.name == "train" else FUNCTION_LINES
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                too_long.append(f"{name}.{node.name}: {lines} lines, at most {limit}")
    assert not too_long


@pytest.mark.parametrize("name", modules())
def test_every_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name)), f"tutelage.{name} has no docstring"


def test_the_rules_would_be_noticed() -> None:
    """The walker sees what it should: imports at the top, inside functions, and of packages' modules."""
    assert "torch" in imports("losses")
    assert touches("fetch", ("filelock",))  # imported inside a function
    assert "embedded" in own("fetch")
    assert importlib.util.find_spec("tutelage.records") is not None
