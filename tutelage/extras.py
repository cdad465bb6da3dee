"""The extras: packages that Tutelage runs without, and the command that adds them to this installation."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tutelage import __version__
from tutelage.records import UserError

ROOT = Path(__file__).resolve().parents[1]
"""The checkout this package lies in, if it lies in one; else the environment's site-packages."""


def missing(what: str, extra: str) -> UserError:
    """The error for `what` when the packages of `extra` are not installed, with the command that installs them."""
    return UserError(f"{what} needs the extra {extra!r}, which is not installed; install it with: {install(extra)}")


def install(extra: str) -> str:
    """A command line that adds an extra to this installation: from its checkout, or from the wheel it came from."""
    pip = [sys.executable, "-m", "pip", "install"]
    constraints = ROOT / "constraints.txt"
    if constraints.is_file() and (ROOT / "pyproject.toml").is_file():
        return shlex.join([*pip, "--constraint", str(constraints), "--editable", f"{ROOT}[{extra}]"])
    # By name and version pip takes the package that is installed: no index needs to have it.
    origin = _origin()
    return shlex.join([*pip, f"{origin}[{extra}]" if origin else f"tutelage[{extra}]=={__version__}"])


def _origin() -> Path | None:
    """The wheel or folder that pip installed this package from, as it recorded it (PEP 610), if it is still there."""
    try:
        recorded = metadata.distribution("tutelage").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        recorded = None
    url = urlsplit(json.loads(recorded)["url"] if recorded else "")
    path = Path(url2pathname(url.path))
    return path if url.scheme == "file" and path.exists() else None
