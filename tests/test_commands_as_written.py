"""Every block of commands in the documentation runs as it is written, in a terminal, in a copy of this checkout.

The quick runs use a stand-in for the embedded model (tests/tinymodels.py) and a small part of the embedded workflow,
the slow ones the real model and all of it. Nothing else differs: what is typed is what the pages say.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from pathlib import Path

import pyarrow
import pytest
from packaged import ROOT, checkout, elsewhere, offline
from pyarrow import parquet
from terminal import CTRL_C, CTRL_D, run
from tinymodels import save_stand_in

PAGES = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUN = ("README.md", "docs/install.md", "docs/tutorial.md")
"""The pages with commands; each has a test below."""

ELSEWHERE = {"docs/deploy.md": "tests/studio/test_proxy.py"}
"""Pages whose commands need more than this machine's user has, and the tests that try what they say."""

SAMPLES = {"README.md": ['{"id": "p1", "text": "Where is my parcel?"']}
"""How blocks begin that are no commands: samples of our own records."""


def blocks(page: str) -> list[str]:
    """The fenced blocks of a page that hold commands, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(?:sh|bash)?\n(.*?)^```$", text, flags=re.M | re.S)
    return [b for b in found if not b.startswith(tuple(SAMPLES.get(page, ())))]


def visited(found: re.Match[str]) -> str:
    """Ask the studio for something, then stop it."""
    with urllib.request.urlopen(f"{found[1]}/static/style.css", timeout=60) as answer:
        assert answer.status == 200
    return CTRL_C


REPLIES = {
    r"the studio is at (http://\S+)": visited,
    r"\n> $": lambda _: f"Where is my parcel?\n{CTRL_D}",
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the embedded model is a tiny one."""
    folder = tmp_path_factory.mktemp("cache")
    save_stand_in(folder)
    return folder


# ---- no block is forgotten -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_with_commands_is_run(page: str) -> None:
    assert bool(blocks(page)) == (page in RUN or (page in ELSEWHERE and (ROOT / ELSEWHERE[page]).exists()))


@pytest.mark.parametrize("page", SAMPLES)
def test_blocks_that_are_left_out_are_there_and_hold_no_command(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for start in SAMPLES[page]:
        (block,) = re.findall(rf"^```\w*\n({re.escape(start)}.*?)^```$", text, flags=re.M | re.S)
        json.loads("[" + re.sub(r"\}\n\{", "},{", block) + "]")


# ---- the pages ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    """No command of it loads a model."""
    tree = checkout(tmp_path / "tutelage", small=True)
    shown = run("".join(blocks("docs/tutorial.md")), tree, offline(tmp_path / "home", tmp_path / "cache"), REPLIES, 800)
    assert "the studio is at" in shown and "the database is sound" in shown
    for name in ("data/README.md", "data/preferences.parquet", "shop.backup"):
        assert (tree / name).exists(), name


def readme(tree: Path, environment: dict[str, str], patience: float) -> None:
    """Run the README's blocks; the files that its reader brings along are made of what its demo left."""
    first, *rest = blocks("README.md")
    run(first, tree, environment, REPLIES, patience)
    assert (tree / "runs/demo/report.html").exists()
    shutil.copy(tree / "runs/demo/data/prompts.jsonl", tree / "prompts.jsonl")
    write_comparisons(tree / "runs/demo/rankings/rankings.jsonl", tree / "comparisons.parquet")
    shown = run("".join(rest), tree, environment, REPLIES, patience)
    for name in (
        "runs/studio/studio.db",
        "runs/evaluation/evaluation.json",
        "mine/prompts.jsonl",
        "mine/rankings.jsonl",
    ):
        assert (tree / name).exists(), f"{name}\n{shown[-4000:]}"


def write_comparisons(rankings: Path, out: Path) -> None:
    """Rankings as TRL has them: a prompt, what was chosen, what was rejected."""
    rows = []
    for line in rankings.read_text().splitlines():
        found = json.loads(line)
        order = sorted(zip(found["ranks"], (r["text"] for r in found["responses"]), strict=True))
        if order[0][0] != order[-1][0]:
            rows.append({"prompt": found["prompt"], "chosen": order[0][1], "rejected": order[-1][1]})
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_readme_runs_as_written_on_a_stand_in(tmp_path: Path, stand_in: Path) -> None:
    readme(checkout(tmp_path / "tutelage", small=True), offline(tmp_path / "home", stand_in), 1700)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_the_readme_runs_as_written_on_the_embedded_model(tmp_path: Path, embedded_model: Path) -> None:
    tree, cache = checkout(tmp_path / "tutelage", small=False), embedded_model.parents[2]
    readme(tree, offline(tmp_path / "home", cache) | {"OMP_NUM_THREADS": "2"}, 4 * 3600 - 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_installation_runs_as_written(tmp_path: Path, stand_in: Path) -> None:
    """In a copy without `.venv`; pip downloads what the page's commands ask for."""
    tree = checkout(tmp_path / "tutelage", small=True)
    shutil.rmtree(tree / ".venv")
    home = tmp_path / "home"
    home.mkdir()
    shown = run("".join(blocks("docs/install.md")), tree, elsewhere(home, XDG_CACHE_HOME=str(stand_in)), {}, 3500)
    assert "usage: tutelage COMMAND" in shown
