"""The run folder: whole or refused, resumable to the byte, and known by its content."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tutelage import run as run_module
from tutelage.integrity import digest
from tutelage.records import UserError
from tutelage.run import Run


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/x")
    lr: float = 0.1
    groups: tuple[str, ...] = ("training",)
    seed: int = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n')
    return path


def refused(act: Callable[[], object], *fragments: str) -> str:
    """The one line of the UserError that `act` must raise."""
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


def begun(folder: Path, config: Config | None = None, **parents: Path) -> Run:
    """A run that has something to show: it resumes, where one that ended at the door starts anew."""
    run = Run.start(folder, "sft", config or Config(), parents=parents)
    run.log("metrics.jsonl", {"step": 0})
    return run


def put(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state.txt").write_text(text) and None


# ---- starting and opening ----------------------------------------------------------------------------------


def test_a_fresh_run_records_where_it_comes_from(folder: Path, parent: Path) -> None:
    run = Run.start(folder, "sft", Config(out=folder), parents={"rows": parent})
    info = json.loads((folder / "run.json").read_text())
    assert (run.kind, run.finished, info["status"], info["seed"]) == ("sft", False, "running", 7)
    assert info["parents"] == {"rows": {"path": str(parent), "digest": digest(parent)}}
    assert {"command", "version", "packages", "machine", "created"} <= info.keys()
    assert run.config() == {"out": str(folder), "lr": 0.1, "groups": ["training"], "seed": 7}
    assert run.parent("rows") == parent
    assert run.model == folder / "model"


def test_a_finished_run_opens_and_is_not_started_again(folder: Path) -> None:
    Run.start(folder, "sft", Config()).finish(loss=0.5)
    run = Run.open(folder, "sft", "ppo")
    assert run.finished
    assert run.result == {"loss": 0.5}
    assert run.info["seconds"] >= 0
    again = Run.start(folder, "sft", Config())
    assert again.finished
    assert again.result == {"loss": 0.5}
    refused(lambda: Run.start(folder, "sft", replace(Config(), lr=0.2)), "lr=0.1", "0.2")


def test_an_unfinished_run_is_not_read_from(folder: Path) -> None:
    run = begun(folder)
    refused(lambda: Run.open(folder), str(folder), "not finished", "'running'", "resume")
    run.stop("KL beyond its limit")
    refused(lambda: Run.open(folder), "'stopped'")
    assert json.loads((folder / "run.json").read_text())["why"] == "KL beyond its limit"
    assert not Run.start(folder, "sft", Config()).finished  # it may be resumed


def test_another_kind_is_refused(folder: Path) -> None:
    Run.start(folder, "sft", Config()).finish()
    refused(lambda: Run.open(folder, "reward", "ppo"), str(folder), "'sft'", "reward or ppo")
    refused(lambda: Run.start(folder, "reward", Config()), str(folder), "'sft'", "'reward'")


def test_another_config_is_refused_and_the_field_named(folder: Path) -> None:
    begun(folder)
    refused(lambda: Run.start(folder, "sft", replace(Config(), lr=0.2)), "lr=0.1", "0.2")
    assert not Run.start(folder, "sft", Config()).finished


@pytest.mark.parametrize("act", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_folder_of_runs_may_be_moved_or_copied(tmp_path: Path, act: Callable[[Path, Path], object]) -> None:
    """The run that resumes, and whoever reads it, find what lay beside it beside it: never in the place of before."""
    old, new = tmp_path / "old", tmp_path / "new"
    for where in ("data", "other"):
        (old / where).mkdir(parents=True)
        (old / where / "rows.jsonl").write_text("{}\n")
    rows = old / "data" / "rows.jsonl"
    begun(old / "runs" / "a", Reading(out=old / "runs" / "a", prompts=rows), rows=rows)
    act(old, new)
    rows = new / "data" / "rows.jsonl"
    run = Run.start(new / "runs" / "a", "sft", Reading(out=new / "runs" / "a", prompts=rows), parents={"rows": rows})
    assert run.rows("metrics.jsonl") == [{"step": 0}]
    assert run.parent("rows") == rows == run.located(run.config()["prompts"])
    other = Reading(out=new / "runs" / "a", prompts=new / "other" / "rows.jsonl")
    refused(lambda: Run.start(new / "runs" / "a", "sft", other), "was started with prompts=", "other")


@dataclass(frozen=True)
class Reading(Config):
    prompts: Path = Path("prompts.jsonl")


def test_a_path_written_otherwise_and_a_moved_folder_are_the_same_run(
    folder: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder, Reading(out=folder, prompts=parent))
    monkeypatch.chdir(parent.parent)
    moved = folder.rename(folder.parent / "two")
    assert Run.start(moved, "sft", Reading(out=moved, prompts=Path(parent.name))).rows("metrics.jsonl")
    other = parent.with_name("others.jsonl")
    other.write_text(parent.read_text())
    refused(lambda: Run.start(moved, "sft", Reading(out=moved, prompts=other)), "prompts=", "others.jsonl")


def test_a_stopped_run_that_goes_on_is_running(folder: Path) -> None:
    begun(folder).stop("the policy diverged")
    assert json.loads((folder / "run.json").read_text())["why"] == "the policy diverged"
    Run.start(folder, "sft", Config())
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "running"
    assert "why" not in info


def test_a_config_of_other_fields_is_refused(folder: Path) -> None:
    @dataclass(frozen=True)
    class Newer(Config):
        clip: float = 0.3

    begun(folder)
    refused(lambda: Run.start(folder, "sft", Newer()), "clip=None", "0.3")


def test_a_run_that_ended_at_the_door_starts_anew(folder: Path) -> None:
    # a mistake in the data, found before the first step: it may be repaired, and the options changed
    Run.start(folder, "sft", Config())
    run = Run.start(folder, "reward", replace(Config(), lr=0.2))
    assert (run.kind, run.config()["lr"]) == ("reward", 0.2)


def test_a_changed_parent_is_refused(folder: Path, parent: Path) -> None:
    begun(folder, rows=parent)
    Run.start(folder, "sft", Config(), parents={"rows": parent})
    parent.write_text('{"id": 2}\n')
    refused(
        lambda: Run.start(folder, "sft", Config(), parents={"rows": parent}),
        "its rows",
        str(parent),
        "changed",
    )


def test_a_folder_of_somebody_else_is_left_alone(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    refused(lambda: Run.start(folder, "sft", Config()), str(folder), "not empty and not a run folder")
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    refused(lambda: Run.open(folder), str(folder), "not a run folder")
    refused(lambda: Run.open(folder / "nowhere"), "not a run folder")


def test_an_empty_folder_is_taken(folder: Path) -> None:
    folder.mkdir(parents=True)
    assert Run.start(folder, "sft", Config()).path == folder


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"run"', '{"kind": "sft"}', "\x00\x00"])
def test_a_damaged_run_json_is_one_line(folder: Path, text: str) -> None:
    begun(folder).finish()
    (folder / "run.json").write_text(text)
    for act in (lambda: Run.open(folder, "sft"), lambda: Run.start(folder, "sft", Config())):
        refused(act, str(folder / "run.json"), "damaged")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_config_json_is_one_line(folder: Path, text: str) -> None:
    run = begun(folder)
    (folder / "config.json").write_text(text)
    for act in (lambda: Run.start(folder, "sft", Config()), run.config):
        refused(act, str(folder / "config.json"), "damaged")


@pytest.mark.parametrize("file", ["run.json", "config.json"])
def test_a_kill_while_a_run_begins_is_no_dead_end(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    def killed(path: Path, value: object) -> None:
        if path.name == file:
            (path.parent / f".{file}.a1b2").write_text("{")  # what a kill leaves of an atomic write
            raise KeyboardInterrupt
        write(path, value)

    write = run_module.write_json
    monkeypatch.setattr(run_module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        Run.start(folder, "sft", Config())
    monkeypatch.undo()
    assert Run.start(folder, "sft", replace(Config(), lr=0.3)).config()["lr"] == 0.3


def test_a_run_without_its_config_is_not_overwritten(folder: Path) -> None:
    begun(folder)
    (folder / "config.json").unlink()
    refused(lambda: Run.start(folder, "sft", Config()), str(folder))
    assert (folder / "metrics.jsonl").exists()


# ---- logs --------------------------------------------------------------------------------------------------


def test_rows_come_back_and_a_torn_last_line_is_left_out(folder: Path) -> None:
    run = Run.start(folder, "sft", Config())
    assert run.rows("metrics.jsonl") == []
    rows = [{"step": 0, "text": "é\nnew line\u2028"}, {"step": 1, "loss": 0.25}]
    for row in rows:
        run.log("metrics.jsonl", row)
    assert run.rows("metrics.jsonl") == rows
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2, "lo')
    assert run.rows("metrics.jsonl") == rows


# ---- checkpoints and resuming ------------------------------------------------------------------------------


def test_without_a_checkpoint_the_logs_start_anew(folder: Path) -> None:
    run = Run.start(folder, "sft", Config())
    for log in ("metrics.jsonl", "samples.jsonl", "timings.jsonl"):
        run.log(log, {"step": 0})
    again = Run.start(folder, "sft", Config())
    assert again.latest() is None
    assert again.rows("metrics.jsonl") == again.rows("samples.jsonl") == []
    assert again.rows("timings.jsonl") == [{"step": 0}]  # no two runs share them


def steps(run: Run, start: int, stop: int, every: int = 2) -> None:
    """A stage in small: a row a step, a checkpoint every two."""
    for step in range(start, stop):
        run.log("metrics.jsonl", {"step": step, "note": "ü" * step})
        if step % 3 == 0:
            run.log("samples.jsonl", {"step": step})
        if (step + 1) % every == 0:
            run.checkpoint(step + 1, put(f"after {step + 1}"), {"best": {"loss": step / 10}})


@pytest.mark.parametrize("killed_at", range(8))
def test_a_killed_and_resumed_run_ends_with_the_same_bytes(tmp_path: Path, killed_at: int) -> None:
    whole, torn = (
        Run.start(tmp_path / "whole", "sft", Config()),
        Run.start(tmp_path / "torn", "sft", Config()),
    )
    steps(whole, 0, 7)
    steps(torn, 0, min(killed_at, 7))
    with (tmp_path / "torn" / "metrics.jsonl").open("ab") as log:
        log.write(b'{"step": 9, "half a r')
    again = Run.start(tmp_path / "torn", "sft", Config())
    saved = again.latest()
    start = saved[1]["step"] if saved else 0
    assert start == min(killed_at, 7) // 2 * 2
    if saved:
        assert (saved[0] / "state.txt").read_text() == f"after {start}"
        assert saved[1]["best"] == {"loss": (start - 1) / 10}
    steps(again, start, 7)
    for log in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "torn" / log).read_bytes() == (tmp_path / "whole" / log).read_bytes()


def test_only_the_last_checkpoint_is_kept_and_finishing_removes_it(folder: Path) -> None:
    run = Run.start(folder, "sft", Config())
    steps(run, 0, 6)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["latest", "step-000006"]
    run.finish()
    assert not (folder / "checkpoints").exists()


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(folder: Path) -> None:
    def killed(unfinished: Path) -> None:
        (unfinished / "state.txt").write_text("half a fi")
        raise KeyboardInterrupt

    run = Run.start(folder, "sft", Config())
    steps(run, 0, 3)
    run.log("metrics.jsonl", {"step": 3})
    with pytest.raises(KeyboardInterrupt):
        run.checkpoint(4, killed, {})
    again = Run.start(folder, "sft", Config())
    saved = again.latest()
    assert saved is not None
    assert (saved[0] / "state.txt").read_text() == "after 2"
    assert [r["step"] for r in again.rows("metrics.jsonl")] == [0, 1]
    again.checkpoint(4, put("after 4"), {})  # the half one is no obstacle
    found = Run.start(folder, "sft", Config()).latest()
    assert found is not None
    assert (found[0] / "state.txt").read_text() == "after 4"


@pytest.mark.parametrize("moment", ["before the rename", "before latest", "before the old ones go"])
def test_a_kill_at_any_moment_of_a_checkpoint_resumes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run = Run.start(folder, "sft", Config())
    steps(run, 0, 3)
    run.log("metrics.jsonl", {"step": 3})

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = {"before the rename": (os, "replace"), "before latest": (run_module, "write_text")}
    name, attribute = target.get(moment, (run_module.shutil, "rmtree"))
    removals = iter([None, None])  # the two that clear the way for the new folder may pass

    def killed_later(*_: object, **__: object) -> None:
        if next(removals, 1):
            raise KeyboardInterrupt

    last = moment == "before the old ones go"
    if moment == "before the rename":  # state.json is written by renaming too: that may pass
        real = os.replace

        def killed_folder(a: Path, b: Path) -> None:
            if Path(b).name.startswith("step-"):
                raise KeyboardInterrupt
            real(a, b)

        monkeypatch.setattr(os, "replace", killed_folder)
    else:
        monkeypatch.setattr(name, attribute, killed_later if last else killed)
    with pytest.raises(KeyboardInterrupt):
        run.checkpoint(4, put("after 4"), {})
    monkeypatch.undo()
    found = Run.start(folder, "sft", Config()).latest()
    assert found is not None
    assert (found[0] / "state.txt").read_text() == ("after 4" if last else "after 2")
    assert found[1]["step"] == (4 if last else 2)


def test_what_a_checkpoint_refers_to_is_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs too: a checkpoint that outlives a power cut would else cut a log back to bytes it never got."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    run = Run.start(folder, "sft", Config())
    run.log("metrics.jsonl", {"step": 0})
    monkeypatch.setattr(os, "fsync", fsync)
    run.checkpoint(1, put("after 1"), {})
    assert {"state.txt", "state.json", "metrics.jsonl", "checkpoints"} <= set(synced)


def test_the_seconds_of_all_attempts_add_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(run_module.time, "time", lambda: now[0])
    run = Run.start(folder, "sft", Config())
    now[0] += 10
    run.checkpoint(1, put(""), {})
    now[0] += 500  # lost: killed before the next checkpoint
    again = Run.start(folder, "sft", Config())
    assert again.latest() is not None
    now[0] += 7
    again.finish()
    assert Run.open(folder).info["seconds"] == pytest.approx(17)


# ---- damage ------------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": half,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["state.txt", "state.json", "SHA256SUMS", "metrics.jsonl", "samples.jsonl"])
def test_a_damaged_checkpoint_is_one_line_and_a_way_out(folder: Path, file: str, damage: str) -> None:
    run = Run.start(folder, "sft", Config())
    steps(run, 0, 5)
    path = folder / file if file.endswith(".jsonl") else folder / "checkpoints" / "step-000004" / file
    DAMAGES[damage](path)
    again = Run.start(folder, "sft", Config())
    kept = {log: (folder / log).read_bytes() for log in ("metrics.jsonl", "samples.jsonl") if (folder / log).exists()}
    refused(again.latest, str(path.parent), f"delete {folder / 'checkpoints'}")
    assert kept == {log: (folder / log).read_bytes() for log in kept}  # nothing is cut off what may be repaired
    run_module.shutil.rmtree(folder / "checkpoints")
    assert Run.start(folder, "sft", Config()).latest() is None


@pytest.mark.parametrize("text", ["step-999999", "../../other", "..", "", "step-000004\nstep-000004"])
def test_a_latest_that_names_no_checkpoint(folder: Path, text: str) -> None:
    steps(Run.start(folder, "sft", Config()), 0, 5)
    (folder / "checkpoints" / "latest").write_text(text)
    refused(Run.start(folder, "sft", Config()).latest, str(folder / "checkpoints" / "latest"), "names no checkpoint")
    assert (folder / "metrics.jsonl").exists()


def test_what_follows_the_checkpoint_may_be_anything(folder: Path) -> None:
    steps(Run.start(folder, "sft", Config()), 0, 5)
    with (folder / "metrics.jsonl").open("ab") as log:
        log.write(b"\x00\xff")
    assert Run.start(folder, "sft", Config()).latest() is not None


def finished(folder: Path) -> Path:
    run = begun(folder)
    run.model.mkdir()
    (run.model / "model.safetensors").write_bytes(bytes(300_000))
    (run.path / "records.jsonl").write_text('{"id": 1}\n')
    run.finish()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_run_s_files_are_what_they_were(folder: Path, damage: str) -> None:
    readers: dict[str, Callable[[], object]] = {
        "model/model.safetensors": lambda: Run.open(folder).intact("model"),
        "metrics.jsonl": lambda: Run.open(folder).rows("metrics.jsonl"),
        "config.json": lambda: Run.open(folder).config(),
        "records.jsonl": lambda: Run.start(
            folder.parent / "next", "reward", Config(), parents={"rows": folder / "records.jsonl"}
        ),
    }
    finished(folder)
    for read in readers.values():
        read()
    for file, read in readers.items():
        run_module.shutil.rmtree(folder)
        finished(folder)
        DAMAGES[damage](folder / file)
        if (file, damage) != ("records.jsonl", "gone"):  # its reader says so
            refused(read, str(folder / file))


def test_what_nobody_reads_may_go(folder: Path) -> None:
    finished(folder)
    run_module.shutil.rmtree(folder / "model")
    assert Run.open(folder).rows("metrics.jsonl") == [{"step": 0}]


def test_a_run_of_an_older_version_has_no_digests(folder: Path) -> None:
    info = json.loads((finished(folder) / "run.json").read_text())
    del info["files"]
    (folder / "run.json").write_text(json.dumps(info))
    assert Run.open(folder).intact("model") == folder / "model"


def test_a_line_of_a_log_that_is_none(folder: Path) -> None:
    run = begun(folder)
    for line in (b"{\n", b"7\n", b"\xff\n", b"\x00\x00\n"):
        (folder / "metrics.jsonl").write_bytes(b'{"step": 0}\n' + line + b'{"step": 2}\n')
        refused(lambda: run.rows("metrics.jsonl"), f"{folder / 'metrics.jsonl'}, line 2: damaged")


# ---- what it is computed on --------------------------------------------------------------------------------


def on(folder: Path, **environment: object) -> Run:
    run = Run.start(folder, "sft", Typed())
    run.computes(**environment)
    return run


@dataclass(frozen=True)
class Typed(Config):
    dtype: str = "auto"


def test_going_on_with_other_threads_is_said_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = on(folder, dtype="fp32", threads=1)
    assert run.latest() is None
    steps(run, 0, 3)
    assert on(folder, dtype="fp32", threads=1).latest() is not None
    assert capsys.readouterr().err == ""
    again = on(folder, dtype="fp32", threads=2)
    assert again.latest() is not None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"tutelage: warning: {folder}: goes on with threads 1 before and 2 now: ")
    again.finish()
    computed = json.loads((folder / "run.json").read_text())["computed_on"]
    assert [row["threads"] for row in computed] == [1, 2]
    assert computed[0]["processor"] == computed[1]["processor"] != ""


def test_what_left_no_checkpoint_is_not_named(folder: Path) -> None:
    on(folder, dtype="fp32", threads=1).log("metrics.jsonl", {"step": 0})
    run = on(folder, dtype="fp32", threads=2)
    assert run.latest() is None
    run.finish()
    assert [row["threads"] for row in run.info["computed_on"]] == [2]


def test_going_on_in_another_type_is_refused(folder: Path) -> None:
    run = on(folder, dtype="bf16")
    assert run.latest() is None
    steps(run, 0, 3)
    logs = (folder / "metrics.jsonl").read_bytes()
    refused(on(folder, dtype="fp32").latest, str(folder), "begun in bf16", "fp32", "--dtype bf16")
    assert (folder / "metrics.jsonl").read_bytes() == logs
    refused(lambda: Run.start(folder, "sft", Typed(dtype="fp32")), "dtype='auto'", "'fp32'")
    named = Run.start(folder, "sft", Typed(dtype="bf16"))  # the way out
    named.computes(dtype="bf16")
    assert named.latest() is not None


# ---- digests -----------------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_bytes(parent: Path) -> None:
    before = digest(parent)
    parent.touch()
    assert digest(parent) == before
    parent.write_text(parent.read_text() + "\n")
    assert digest(parent) != before


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"layers": 2}')
    (path / "model.safetensors").write_bytes(bytes(300_000))
    return path


def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "checkpoints" / "model")  # also below a folder of that name
    before = digest(path)
    assert digest(model_folder(tmp_path / "copy")) == before
    for name in ("run.json", "timings.jsonl", "report.html"):  # these change without the product changing
        (path / name).write_text("x")
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "latest").write_text("x")
    assert digest(path) == before
    seen = {before}
    for change in (
        lambda: (path / "config.json").write_text('{"layers": 3}'),
        lambda: (path / "model.safetensors").write_bytes(bytes(300_001)),
        lambda: (path / "model.safetensors").write_bytes(bytes(300_000) + b"\1"),
        lambda: (path / "model.safetensors").write_bytes(b"\1" + bytes(300_000)),
        lambda: (path / "tokenizer.json").write_text("new"),
    ):
        change()
        seen.add(digest(path))
    assert len(seen) == 6


def test_a_name_is_known_by_itself() -> None:
    assert digest(Path("smollm2-135m")) == digest(Path("smollm2-135m")) != digest(Path("gemma-3-270m"))


def test_fields_of_any_settings_survive_the_record(folder: Path) -> None:
    config = Config(out=folder, groups=("a", "b"))
    Run.start(folder, "sft", config)
    held = Run.start(folder, "sft", config).config()
    assert held.keys() == {f.name for f in dataclasses.fields(Config)}
