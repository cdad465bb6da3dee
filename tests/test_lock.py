"""One process at a time in a folder: the other is told who works there, and a dead one holds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tutelage.lock import LOCK, exclusive, take
from tutelage.records import UserError
from tutelage.run import Run
from tutelage.settings import RankConfig

HOLD = """
import sys
from pathlib import Path
from tutelage.run import Run
from tutelage.settings import RankConfig
folder = Path(sys.argv[1])
run = Run.start(folder, "rankings", RankConfig(samples=Path("s"), workflow="support", out=folder))
run.log("metrics.jsonl", {"step": 0})
print("held", flush=True)
if sys.stdin.readline():
    run.finish(rankings=3)
    print("finished", flush=True)
    sys.stdin.readline()
"""

Holder = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """A function that starts a process which works in a run folder; a line finishes its run, a second one ends it."""
    alive: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, text=True)
        alive.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in alive:
        process.kill()
        process.communicate()


def start(folder: Path) -> Run:
    return Run.start(folder, "rankings", RankConfig(samples=Path("s"), workflow="support", out=folder))


def test_a_second_process_is_refused_and_the_first_named(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run")
    assert str(caught.value).startswith(f"{tmp_path / 'run'}: process {first.pid} on ")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    with pytest.raises(UserError, match="not finished"):  # readers are not kept waiting
        Run.open(tmp_path / "run")
    assert Run(tmp_path / "run", {"finished": False}).rows("metrics.jsonl") == [{"step": 0}]


def test_a_killed_process_holds_nothing(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path / "run")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert start(tmp_path / "run").rows("metrics.jsonl") == [{"step": 0}]


def test_a_finished_run_is_free_and_keeps_no_trace_of_the_lock(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path / "run")
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "finished\n"  # and its process still lives
    assert start(tmp_path / "run").result == {"rankings": 3}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "metrics.jsonl", "run.json"]
    assert LOCK not in json.loads((tmp_path / "run" / "run.json").read_text())["files"]


def test_the_same_process_may_begin_again(tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    first.log("metrics.jsonl", {"step": 0})
    again = start(tmp_path / "run")
    again.finish(rankings=1)
    assert start(tmp_path / "run").finished


def test_a_folder_is_held_during_a_block(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tutelage.lock import take; lock = take(Path(sys.argv[1]))"

    def other() -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False).returncode

    with exclusive(tmp_path):
        assert other() == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        _ = 1 / 0
    assert other() == 0
    assert take(tmp_path).is_locked
