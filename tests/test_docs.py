"""Documentation that cannot go stale: every logged name is explained, every `file:name` and command exists."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tinyloop import ppo_config, reward_config, sft_config, write_data

from tutelage import cli, config, settings
from tutelage.evaluate.text import TextStats
from tutelage.evaluate.winrate import WinRate

ROOT = Path(__file__).parent.parent
DOCS, PACKAGE = ROOT / "docs", ROOT / "tutelage"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])


def explained() -> dict[str, set[str]]:
    """{section of metrics.md: the names in the first column of its table}."""
    sections = re.split(r"^## ", (DOCS / "metrics.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    return {s.split("\n", 1)[0]: set(re.findall(r"^\| `([^`]+)`", s, flags=re.M)) for s in sections}


def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def keys(node: ast.AST) -> set[str]:
    """String keys of all dictionaries written out in a piece of source."""
    dictionaries = [n for n in ast.walk(node) if isinstance(n, ast.Dict)]
    found = [k.value for d in dictionaries for k in d.keys if isinstance(k, ast.Constant)]
    return {k for k in found if isinstance(k, str)}


def function(file: str, name: str) -> ast.FunctionDef:
    return next(n for n in tree(file).body if isinstance(n, ast.FunctionDef) and n.name == name)


def written(path: Path) -> set[str]:
    """Names of all rows of a log."""
    return {name for row in path.read_text(encoding="utf-8").splitlines() for name in json.loads(row)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Path:
    """Tiny runs of the three stages that train, with everything on that logs a name."""
    from tutelage import ppo, reward, sft

    folder = tmp_path_factory.mktemp("logged")
    data, base = write_data(folder), tiny_model_dir("llama")
    sft.train(sft_config(base, data, folder / "start"))
    reward.train(reward_config(folder / "start", data, folder / "reward"))
    chosen = {"reward": folder / "reward", "pretraining": data.text}
    sft.train(sft_config(folder / "start", data, folder / "sft", **chosen))
    few = write_data(folder / "few", valid=0)  # nothing held out
    sft.train(sft_config(folder / "start", few, folder / "few" / "sft", **chosen))
    ppo.train(ppo_config(folder / "start", folder / "reward", data, folder / "ppo", snapshot_every=1))
    return folder


@pytest.mark.parametrize(
    "log",
    [
        "sft/metrics.jsonl",
        "reward/metrics.jsonl",
        "reward/pairs.jsonl",
        "ppo/metrics.jsonl",
        "ppo/samples.jsonl",
        "ppo/timings.jsonl",
    ],
)
def test_every_logged_name_is_explained_and_no_other(runs: Path, log: str) -> None:
    few = written(runs / "few" / log) if (runs / "few" / log).exists() else set()
    assert written(runs / log) | few == explained()[log]


@pytest.mark.parametrize(
    ("log", "file", "name"),
    [
        ("samples/samples.jsonl", "sample.py", "_row"),
        ("evaluation/answers.jsonl", "evaluate/judge.py", "_row"),
        ("evaluation/evaluation.json", "evaluate/judge.py", "evaluate"),
        ("evaluation/frontier.jsonl", "evaluate/frontier.py", "measure"),
        ("evaluation/frontier.jsonl", "evaluate/frontier.py", "frontier"),
    ],
)
def test_what_the_evaluation_writes_is_explained(log: str, file: str, name: str) -> None:
    assert keys(function(file, name)) - {"reward"} <= explained()[log]  # reward: the name of a parent


def test_the_summary_is_explained() -> None:
    summary = tree("evaluate/summary.py")
    named = {n.value for n in ast.walk(summary) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    fields = {f.name for kind in (WinRate, TextStats) for f in dataclasses.fields(kind)} - {"rate"}
    found = keys(summary) | fields | {"value", "low", "high", "n"}
    found |= named & {"accuracy", "accuracy_heldout_labelers", "calibration_error", "n_pairs"}
    assert found <= explained()["summary.json"]


def test_what_finished_stages_report_is_explained() -> None:
    told = explained()["run.json: result"]
    for file in ("sft.py", "sample.py", "rank.py", "evaluate/judge.py", "reward.py", "ppo.py"):
        for call in ast.walk(tree(file)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "run.finish":
                assert {k.arg for k in call.keywords if k.arg} <= told, file
    assert keys(function("reward.py", "_measure").body[-1]) <= told


def test_no_log_is_forgotten() -> None:
    """Every file name given to `run.log` has a section."""
    logged = set()
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "run.log" and call.args:
                assert isinstance(call.args[0], ast.Constant), f"{path.name}: a log without a fixed name"
                logged.add(str(call.args[0].value))
    assert logged == {s.split("/")[1] for s in explained() if s.endswith(".jsonl")}


def exists(reference: str) -> bool:
    """Whether `file.py:name` or `file.py:Class.member` is defined in the package."""
    file, _, dotted = reference.partition(":")
    if not (PACKAGE / file).is_file():
        return False
    body = tree(file).body
    for part in dotted.split("."):
        found = next((n for n in body if part in names(n)), None)
        if found is None:
            return False
        body = getattr(found, "body", [])
    return True


def names(node: ast.stmt) -> Iterator[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.AnnAssign | ast.Assign):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
        yield from (t.id for t in targets if isinstance(t, ast.Name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_references_into_the_code_exist(page: Path) -> None:
    found = re.findall(r"`([\w/]+\.py:[\w.]+)`", page.read_text(encoding="utf-8"))
    assert [reference for reference in found if not exists(reference)] == []
    assert len(found) > 50 or page.name != "paper.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_commands_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text) for link in link if link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    commands = re.findall(r"(?:^|`)tutelage ([a-z]+)", text, flags=re.M)
    assert set(commands) <= set(cli.COMMANDS)


STAGES = {
    "sft": settings.SftConfig,
    "sample": settings.SampleConfig,
    "rank": settings.RankConfig,
    "reward": settings.RewardConfig,
    "ppo": settings.PpoConfig,
    "evaluate": settings.EvaluateConfig,
}


def test_the_readme_s_commands_are_understood() -> None:
    """Each stage's command line, as printed, parses."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in re.findall(r"^tutelage (.+--out .+)$", text, flags=re.M)]
    assert {words[0] for words in lines} == set(STAGES)
    for name, *words in lines:
        config.parse(STAGES[name], words, f"tutelage {name}")


def test_pages_that_the_code_names_exist() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"docs/([\w-]+\.\w+)", path.read_text(encoding="utf-8")):
            assert (DOCS / name).exists(), f"{path.name} names docs/{name}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
