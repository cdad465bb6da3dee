"""The built wheel and sdist, and environments outside the checkout to install them into.

`furnished` is the quick kind of environment: it holds links to those packages of the running one that given
requirements lead to, and nothing else, so a package that is used but not declared is missing there too, and nothing is
downloaded. `empty` is the true kind: pip downloads everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("parquet", "studio", "postgres")


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
