"""What is built is whole: sdist and wheel are installed elsewhere, with each extra, and used there.

The quick tests link to the packages of this environment that the extra asks for (tests/packaged.py); the slow ones
download everything into an empty environment, as a user does.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pytest
from packaged import EXTRAS, ROOT, build, cut, declared, elsewhere, empty, furnished, tracked
from pyarrow import parquet
from tinymodels import save_stand_in

CHOICES = [(), ("parquet",), ("studio",), ("postgres",), EXTRAS]
PATIENCE = 300.0
DATABASE = "postgresql://nobody@127.0.0.1:1/none"  # nobody listens there
NAMES = pytest.mark.parametrize("extras", CHOICES, ids=lambda extras: "+".join(extras) or "none")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this tree."""
    found = build(ROOT, tmp_path_factory.mktemp("built"))
    sdist, wheel = (next(p for p in found if p.name.endswith(end)) for end in (".tar.gz", ".whl"))
    return sdist, wheel


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the embedded model is a tiny one."""
    folder = tmp_path_factory.mktemp("cache")
    save_stand_in(folder, layers=4)
    return folder


class Installed:
    """A wheel in an environment of its own, used from a folder that is no checkout."""

    def __init__(self, python: Path, home: Path, cache: Path, extras: tuple[str, ...]) -> None:
        self.python, self.home, self.extras = python, home, extras
        self.environment = elsewhere(home, XDG_CACHE_HOME=str(cache))
        home.mkdir()

    def run(self, *words: str | Path, code: int = 0) -> str:
        """What `tutelage WORDS` prints; where it fails, that is one line."""
        command = [self.python.parent / "tutelage", *words]
        done = subprocess.run(command, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code != 2 or (done.stderr.startswith("tutelage: ") and done.stderr.count("\n") == 1)
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, folder: str) -> Iterator[int]:
        """The port of `tutelage studio`, stopped in the end as Ctrl-C stops it."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = [self.python.parent / "tutelage", "studio", folder, "--no-browser", "--port", str(port)]
        log = self.home / "studio.log"
        with log.open("w") as said:
            process = subprocess.Popen(words, cwd=self.home, env=self.environment, stderr=said)
            try:
                until = time.monotonic() + PATIENCE
                while "the studio is at" not in log.read_text():
                    assert process.poll() is None and time.monotonic() < until, log.read_text()
                    time.sleep(0.05)
                get(port, "/login")
                yield port
                process.send_signal(2)
                assert process.wait(PATIENCE) == 0, log.read_text()
            finally:
                process.kill()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def use(user: Installed, wheel: Path) -> None:
    """A first hour: what an extra brings works, and where it is missing one line says how to get it."""
    assert "usage: tutelage COMMAND" in user.run("--help")
    assert "Folder to make" in user.run("init", "--help")
    assert "next   tutelage studio shop" in user.run("init", "shop", "--from", "support")
    write_parquet(user.home / "forty.parquet")
    for extra, words, works in (
        ("parquet", ("add", "mine", "forty.parquet"), 0),
        ("studio", ("check", "shop"), 0),
        ("postgres", ("check", "shop", "--database", DATABASE), 2),
    ):
        if extra == "postgres" and "studio" not in user.extras:
            continue  # the studio comes first
        said = user.run(*words, code=works if extra in user.extras else 2)
        assert (f"needs the extra '{extra}'" in said) == (extra not in user.extras), said
    if "studio" in user.extras:
        serve(user, wheel)


def write_parquet(path: Path) -> None:
    """The prompts of the tutorial as a Parquet file."""
    rows = [json.loads(line) for line in (ROOT / "docs/tutorial/forty.jsonl").read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def serve(user: Installed, wheel: Path) -> None:
    """The studio answers: its first page, every static file of the wheel, from a database made by the migrations."""
    with zipfile.ZipFile(wheel) as archive:
        static = [n.removeprefix("tutelage/studio") for n in archive.namelist() if "/studio/static/" in n]
    with user.serving("shop") as port:
        first = re.search(r"http://\S+(/setup\?token=\S+)", (user.home / "studio.log").read_text())
        status, page = get(port, first[1] if first else "/login")
        assert status == 200 and b"<form" in page
        assert static and [path for path in static if get(port, path)[0] != 200] == []
    assert "the database is sound" in user.run("check", "shop")


# ---- what is in them ---------------------------------------------------------------------------------------


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == set(tracked("tutelage"))


def test_the_sdist_makes_the_same_wheel_and_holds_what_the_makefile_uses(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    (again,) = build(tree, tmp_path / "again", "-t", "wheel")
    assert again.read_bytes() == built[1].read_bytes()
    for name in (
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        "SECURITY.md",
        "scripts",
        "benchmarks",
        "tests",
        "docs",
    ):
        assert (tree / name).exists(), name


def test_the_installation_page_names_the_wheel_that_is_built(built: tuple[Path, Path]) -> None:
    assert f"dist/{built[1].name}[" in (ROOT / "docs/install.md").read_text(encoding="utf-8")


# ---- installed elsewhere -----------------------------------------------------------------------------------


@NAMES
@pytest.mark.timeout(900)
def test_the_wheel_works_with_just_the_packages_it_declares(
    extras: tuple[str, ...], built: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    python = furnished(tmp_path / "env", *declared(*extras))
    wheel = f"{built[1]}[{','.join(extras)}]" if extras else str(built[1])
    words = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", wheel]
    subprocess.run(words, check=True)  # with no index: fails where a requirement is not met
    use(Installed(python, tmp_path / "home", cache, extras), built[1])


@pytest.mark.timeout(900)
def test_the_demo_of_an_installed_wheel_ends_with_its_report(
    built: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    python = furnished(tmp_path / "env", *declared())
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", built[1]], check=True
    )
    user = Installed(python, tmp_path / "home", cache, ())
    cut(shutil.copytree(ROOT / "tutelage" / "workflows" / "support", user.home / "few"))
    said = user.run("demo", "--preset", "small", "--workflow", "few")
    assert "report    runs/demo/report.html" in said
    assert "<html" in (user.home / "runs/demo/report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@NAMES
def test_the_wheel_works_in_an_empty_environment(
    extras: tuple[str, ...], built: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    python = empty(tmp_path / "env")
    wheel = f"{built[1]}[{','.join(extras)}]" if extras else str(built[1])
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, wheel], check=True)
    user = Installed(python, tmp_path / "home", cache, extras)
    use(user, built[1])
    if "studio" not in extras:  # the error's command does what it says
        said = user.run("check", "shop", code=2)
        command = said.split("install it with: ")[1]
        assert "tutelage-" in command and str(python) in command
        subprocess.run(command.strip(), shell=True, check=True, cwd=user.home, env=user.environment)
        assert "the database is sound" in user.run("check", "shop")
    shutil.rmtree(tmp_path / "env")  # the size of torch


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_small_demo_of_a_wheel_in_an_empty_environment(
    built: tuple[Path, Path], embedded_model: Path, tmp_path: Path
) -> None:
    python = empty(tmp_path / "env")
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, built[1]], check=True)
    user = Installed(python, tmp_path / "home", embedded_model.parents[2], ())
    assert "report    runs/demo/report.html" in user.run("demo", "--preset", "small")
    shutil.rmtree(tmp_path / "env")
