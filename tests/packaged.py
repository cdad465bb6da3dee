"""The built wheel and sdist, and environments outside the checkout to install them into.

`furnished` is the quick kind of environment: it holds links to those packages of the running one that given
requirements lead to, and nothing else, so a package that is used but not declared is missing there too, and nothing is
downloaded. `empty` is the true kind: pip downloads everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("parquet", "studio", "postgres")

FEW_TESTS = ("tests/conftest.py", "tests/tinymodels.py", "tests/test_advantages.py")
"""What a copy of the checkout has of the tests: `make test` is tried there, not everything tested again."""

KEPT = {"valid": 4, "train": 8, "test": 3}
"""Prompts of the embedded workflow that the small copy keeps, with their demonstrations, in this order.

All labelers rank those to validate on, so with them first even the few prompts of the preset `small` show agreement.
"""


def build(source: Path, out: Path, *kinds: str) -> list[Path]:
    """Build the distributions of a source tree, by the back end that pyproject.toml names: "-t", "wheel" for one."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *kinds]
    subprocess.run(words, cwd=source, check=True, capture_output=True, text=True)
    return sorted(out.iterdir())


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml requires, with some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [Requirement(line) for line in sum((optional[extra] for extra in extras), project["dependencies"])]


def closure(wanted: Iterable[Requirement]) -> list[metadata.Distribution]:
    """The installed distributions that requirements lead to, each requirement's own extras included."""
    waiting, seen = list(wanted), set[tuple[str, str]]()
    found: dict[str, metadata.Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        distribution = found.setdefault(requirement.name, metadata.distribution(requirement.name))
        lines = [Requirement(line) for line in distribution.requires or ()]
        for extra in {"", *requirement.extras} - {e for name, e in seen if name == requirement.name}:
            seen.add((requirement.name, extra))
            waiting += [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]
    return list(found.values())


def furnished(folder: Path, *wanted: Requirement) -> Path:
    """A virtual environment in which exactly the closure of some requirements is installed; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in closure(wanted):
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        assert tops, f"{distribution.name} has no list of its files"
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return folder / "bin" / "python"


def empty(folder: Path) -> Path:
    """A virtual environment with nothing but pip; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def elsewhere(home: Path, **more: str) -> dict[str, str]:
    """The environment variables of a user with another home, who knows nothing of this checkout."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PYTHON", "PYTEST", "COV_", "VIRTUAL_ENV", "XDG_", "MAKE", "MFLAGS"))
    }
    return kept | {"HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


# ---- a clone ---------------------------------------------------------------------------------------------------


def tracked(folder: str = ".") -> list[str]:
    """The files of this checkout that a commit of everything would hold. Skips the test where there is no git."""
    words = ["git", "ls-files", "-co", "--exclude-standard", folder]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this tree is not a git checkout: nothing says which files belong to it")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def checkout(folder: Path, *, small: bool) -> Path:
    """A copy of this tree as a clone would have it, with few tests, set up where `make` would download packages."""
    for name in tracked():
        if not name.startswith("tests/") or name in FEW_TESTS:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    if small:
        cut(folder / "tutelage" / "workflows" / "support")
    furnished(folder / ".venv", *declared("dev", *EXTRAS), Requirement("pip"))
    return folder


def cut(workflow: Path) -> None:
    """Leave a part of a workflow's own prompts and demonstrations."""
    kept: list[str] = []
    rows = [json.loads(line) for line in (workflow / "prompts.jsonl").read_text().splitlines()]
    shown = {json.loads(line)["prompt_id"] for line in (workflow / "demonstrations.jsonl").read_text().splitlines()}
    for split, count in KEPT.items():
        own = [row["id"] for row in rows if row["split"] == split and (row["id"] in shown or split == "test")]
        kept += own[:count]
    for file, field in (("prompts.jsonl", "id"), ("demonstrations.jsonl", "prompt_id")):
        lines = (workflow / file).read_text().splitlines(keepends=True)
        places = [(kept.index(key), line) for line in lines if (key := json.loads(line)[field]) in kept]
        (workflow / file).write_text("".join(line for _, line in sorted(places)))


def offline(home: Path, cache: Path) -> dict[str, str]:
    """A user's, with pip offline: what is needed is there already."""
    home.mkdir(exist_ok=True)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    return elsewhere(home, XDG_CACHE_HOME=str(cache), BROWSER="true", TERM="dumb", **offline)
