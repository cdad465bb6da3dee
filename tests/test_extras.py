"""What an error says when an extra is missing: a command that works here. tests/test_packaging.py runs it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tutelage import __version__, extras

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "install"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a package that is installed outside every checkout."""
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    record = tmp_path / f"tutelage-{__version__}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.4\nName: tutelage\nVersion: {__version__}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return record


def test_in_a_checkout_it_is_installed_from_there() -> None:
    options = ["--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[studio]"]
    assert shlex.split(extras.install("studio")) == [*PIP, *options]
    said = str(extras.missing("the studio", "studio"))
    assert said.startswith("the studio needs the extra 'studio', which is not installed; install it with: ")
    assert said.endswith(extras.install("studio"))


def test_from_a_wheel_it_is_installed_from_that_wheel(installed: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "of mine" / f"tutelage-{__version__}-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    (installed / "direct_url.json").write_text(json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    assert shlex.split(extras.install("parquet")) == [*PIP, f"{wheel}[parquet]"]


@pytest.mark.parametrize("url", ["", "file:///nowhere/tutelage.whl", "https://example.org/tutelage.whl"])
def test_where_the_wheel_is_gone_the_installed_package_is_named(installed: Path, url: str) -> None:
    if url:
        (installed / "direct_url.json").write_text(json.dumps({"url": url}))
    assert shlex.split(extras.install("postgres")) == [*PIP, f"tutelage[postgres]=={__version__}"]
