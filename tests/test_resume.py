"""Killed at any point and called again, a stage ends with the same bytes; a full disk costs only the step.

The stages run in children of a fork server, which has imported torch once, so that they can really be killed.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from tinyloop import Data, ppo_config, reward_config, sample_config, sft_config, write_data

from tutelage.run import Run

PAGES = ("sft", "reward", "ppo", "sample")
ENTRY = {"sft": "train", "reward": "train", "ppo": "train", "sample": "sample"}
TinyModel = Callable[[str], Path]

pytestmark = pytest.mark.timeout(1800)  # some tests start ten children, and a machine may be busy


# ---- in the child ----------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(count: int, act: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but the `count`-th call goes to `act` first."""
    calls = [0]

    def called(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            act(*arguments)
        return real(*arguments, **named)

    return called


def plant_kill(page: Any, point: str, count: int) -> None:
    """Make this process kill itself at the `count`-th time it comes to a point."""
    import tutelage.run

    def half_a_line(run: Run, file: str, row: dict[str, Any]) -> None:
        with (run.path / file).open("a") as out:
            out.write(json.dumps(row)[: len(str(row)) // 2])
        die()

    def half_a_file(path: Path, tensors: Any) -> None:
        path.write_bytes(b"\x40" * 1000)
        die()

    def at_name(wanted: str) -> Callable[..., None]:
        return lambda path, *_: die() if wanted in str(path) else None

    module = tutelage.run
    if point == "log":
        Run.log = nth(count, half_a_line, Run.log)  # type: ignore[method-assign]
    elif point == "save_tensors":
        page.save_tensors = nth(count, half_a_file, page.save_tensors)
    elif point == "replace":  # the checkpoint is written whole, but has no name yet
        os.replace = every(at_name("/.step-"), os.replace)
    elif point == "latest":  # the checkpoint has its name, but `latest` does not say so
        module.write_text = nth(count, at_name("latest"), module.write_text)
    elif point == "start":
        module.write_json = nth(count, lambda *_: die(), module.write_json)
    elif point == "finish":
        Run.finish = nth(1, lambda *_: die(), Run.finish)  # type: ignore[method-assign]


def every(act: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        act(*arguments)
        return real(*arguments)

    return called


def run_page(name: str, config: Any, point: str = "", count: int = 1) -> None:
    """A stage, called as the command line calls it."""
    page = importlib.import_module(f"tutelage.{name}")
    plant_kill(page, point, count)
    getattr(page, ENTRY[name])(config)


# ---- in the test -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., ForkServerProcess]]:
    """A function that starts a stage in a child."""
    context = multiprocessing.get_context("forkserver")
    late = ("transformers.models.llama.modeling_llama", "transformers.generation.utils")  # imported at the first model
    context.set_forkserver_preload([*(f"tutelage.{name}" for name in PAGES), *late])
    alive: list[ForkServerProcess] = []

    def child(*arguments: Any) -> ForkServerProcess:
        process = context.Process(target=run_page, args=arguments)
        process.start()
        alive.append(process)
        return process

    yield child
    for process in alive:
        process.kill()


@pytest.fixture
def stage(start: Callable[..., ForkServerProcess]) -> Callable[..., int]:
    """A function that runs a stage in a child to its end, or to its death, and returns the exit code."""

    def run(*arguments: Any) -> int:
        process = start(*arguments)
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return run


@dataclasses.dataclass(frozen=True)
class Loop:
    """Data and the runs that later stages start from."""

    data: Data
    base: Path
    sft: Path
    reward: Path

    def config(self, name: str, out: Path, **changes: Any) -> Any:
        """A stage of several checkpoints."""
        if name == "sft":
            fields = {"epochs": 3, "pretraining": self.data.text}
            return sft_config(self.base, self.data, out, **fields | changes)
        if name == "reward":
            return reward_config(self.sft, self.data, out, **{"batch": 2, "epochs": 3, "mean_share": 0.3} | changes)
        if name == "sample":
            return sample_config(self.sft, self.data, out, **changes)
        fields = {"iterations": 5, "checkpoint_every": 2, "snapshot_every": 2, "lr": 1e-3, "ema": 0.9}
        reward = changes.pop("reward", self.reward)
        return ppo_config(self.sft, reward, self.data, out, **fields | changes)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> Loop:
    from tutelage import reward, sft

    folder = tmp_path_factory.mktemp("loop")
    data, base = write_data(folder), tiny_model_dir("llama")
    sft.train(sft_config(base, data, folder / "sft"))
    reward.train(reward_config(folder / "sft", data, folder / "reward"))
    return Loop(data, base, folder / "sft", folder / "reward")


def products(folder: Path) -> dict[str, bytes]:
    """Every file of a finished run that two runs of one config must share, byte for byte."""
    own = ("run.json", "config.json", "timings.jsonl")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in own]
    model_configs = sorted(folder.glob("model*/config.json"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in [*files, *model_configs]}


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = products(one), products(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    results = [json.loads((path / "run.json").read_text())["result"] for path in (one, other)]
    assert results[0] == results[1]


KILLS = {
    "sft": "start 2, log 2, save_tensors 1, log 5, latest 1, replace 1, finish 1",
    "reward": "start 1, log 3, save_tensors 2, replace 1, latest 2, finish 1",
    "ppo": "save_tensors 2, latest 1, log 10, replace 1, finish 1",
    "sample": "log 3, replace 1, latest 1, log 12, finish 1",
}
"""Points at which a stage is killed, one after the other, each time counted from its last resume."""

TYPES = {"sft": "bf16", "reward": "fp32", "ppo": "bf16", "sample": "fp32"}


@pytest.mark.parametrize("name", PAGES)
def test_a_killed_stage_ends_with_the_same_bytes(
    name: str, loop: Loop, stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage(name, loop.config(name, tmp_path / "whole", dtype=TYPES[name])) == 0
    config = loop.config(name, tmp_path / "killed", dtype=TYPES[name])
    for kill in KILLS[name].split(", "):
        point, count = kill.split()
        assert stage(name, config, point, int(count)) == -signal.SIGKILL, kill
    assert stage(name, config) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")


VARIANTS = [
    ("sft", {"trainable_layers": "all", "pretraining": None}, 5),
    ("sft", {"keep": "last"}, 5),
    ("reward", {"dtype": "bf16"}, 9),
    ("ppo", {"keep": "ema"}, 10),
    ("ppo", {"trainable_layers": "all", "ptx_coef": 0.0, "inner_epochs": 2}, 10),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes", "count"), VARIANTS, ids=str)
def test_so_does_every_variant(
    name: str, changes: dict[str, Any], count: int, loop: Loop, stage: Callable[..., int], tmp_path: Path
) -> None:
    if changes.get("trainable_layers") == "all" and name == "ppo":
        assert stage("reward", loop.config("reward", tmp_path / "reward", trainable_layers="all")) == 0
        changes = changes | {"reward": tmp_path / "reward"}
    assert stage(name, loop.config(name, tmp_path / "whole", **changes)) == 0
    config = loop.config(name, tmp_path / "killed", **changes)
    assert stage(name, config, "log", count) == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "latest").exists()
    assert stage(name, config) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_killed_from_outside_as_soon_as_a_checkpoint_appears(
    loop: Loop, start: Callable[..., ForkServerProcess], stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage("ppo", loop.config("ppo", tmp_path / "whole")) == 0
    config = loop.config("ppo", tmp_path / "killed")
    process = start("ppo", config)
    while process.is_alive() and not (tmp_path / "killed" / "checkpoints" / "latest").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert stage("ppo", config) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_stage_is_left_alone(loop: Loop, stage: Callable[..., int], tmp_path: Path) -> None:
    config = loop.config("sample", tmp_path / "sample")
    assert stage("sample", config) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "sample").iterdir()}
    assert stage("sample", config) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "sample").iterdir()}


# ---- a full disk -----------------------------------------------------------------------------------------


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def words(name: str, config: Any) -> list[str]:
    """The command line of a config."""
    made = [name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and not isinstance(value, tuple | bool):
            made += [f"--{field.name.replace('_', '-')}", str(value)]
    return made


FULL = [
    ("sft", "tutelage.loop.save_file", 2),
    ("sft", "tutelage.run.write_text", 2),
    ("sft", "tutelage.run.Run.log", 5),
    ("sft", "transformers.PreTrainedModel.save_pretrained", 1),
    ("reward", "tutelage.loop.save_file", 3),
    ("reward", "transformers.PreTrainedModel.save_pretrained", 1),
    ("ppo", "tutelage.loop.save_file", 4),
    ("ppo", "tutelage.run.Run.log", 8),
    ("sample", "tutelage.run.write_json", 4),
    ("sample", "tutelage.run.Run.log", 12),
]


@pytest.mark.parametrize(("name", "writer", "count"), FULL, ids=str)
def test_a_full_disk_is_one_line_and_the_stage_resumes(
    name: str,
    writer: str,
    count: int,
    loop: Loop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tutelage import cli

    config = loop.config(name, tmp_path / "run")
    holder, attribute = locate(writer)
    with monkeypatch.context() as patch:
        patch.setattr(holder, attribute, nth(count, full, getattr(holder, attribute)))
        assert cli.main(words(name, config)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("  ")]
    assert len(said) == 1
    assert said[0].startswith("tutelage: ")
    assert os.strerror(errno.ENOSPC) in said[0]
    assert cli.main(words(name, config)) == 0
    page = importlib.import_module(f"tutelage.{name}")
    getattr(page, ENTRY[name])(loop.config(name, tmp_path / "whole"))
    assert_same(tmp_path / "whole", tmp_path / "run")


def locate(name: str) -> tuple[Any, str]:
    """The object that holds an attribute, and the attribute's name."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:-1]:
            found = getattr(found, part)
        return found, parts[-1]
    raise ImportError(name)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that one checkpoint of SFT fits into, but not two. Skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(
    tiny_disk: Path, loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tutelage import cli, sft

    config = loop.config("sft", tiny_disk / "run")
    assert cli.main(words("sft", config)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("  ")]
    assert len(said) == 1
    assert said[0].startswith("tutelage: ")
    assert (tiny_disk / "run" / "checkpoints" / "latest").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    assert cli.main(words("sft", config)) == 0
    sft.train(loop.config("sft", tmp_path / "whole"))
    assert_same(tmp_path / "whole", tiny_disk / "run")
