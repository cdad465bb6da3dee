"""A user's mistakes at the command line: exit code 2, one line that says what and where, nothing lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyloop import (
    Data,
    ppo_config,
    prompts,
    ranking,
    reward_config,
    sample_config,
    sft_config,
    without_digests,
    write_data,
)

from tutelage import cli, model, ppo, reward, sample, sft
from tutelage.model import Lm
from tutelage.records import to_dict, write_records, write_text

TinyModel = Callable[[str], Path]
Refused = Callable[[list[str]], str]


@dataclasses.dataclass(frozen=True)
class Loop:
    """Data and finished runs."""

    data: Data
    base: Path
    sft: Path
    reward: Path
    samples: Path

    def words(self, name: str, out: Path, **changes: Any) -> list[str]:
        """The command line of a stage, with some options changed; None leaves one out."""
        configs: dict[str, Any] = {
            "sft": lambda: sft_config(self.base, self.data, out),
            "reward": lambda: reward_config(self.sft, self.data, out),
            "ppo": lambda: ppo_config(self.sft, self.reward, self.data, out),
            "sample": lambda: sample_config(self.sft, self.data, out),
        }
        config = configs[name]()
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        changed = {n: v for n, v in values.items() if v != type(config).__dataclass_fields__[n].default} | changes
        return [name] + [
            word
            for option, value in changed.items()
            if value is not None
            for word in (f"--{option.replace('_', '-')}", str(value))
        ]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> Loop:
    folder = tmp_path_factory.mktemp("loop")
    data, base = write_data(folder), tiny_model_dir("llama")
    sft.train(sft_config(base, data, folder / "sft"))
    reward.train(reward_config(folder / "sft", data, folder / "reward"))
    sample.sample(sample_config(folder / "sft", data, folder / "samples", limit=4))
    return Loop(data, base, folder / "sft", folder / "reward", folder / "samples")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """A function that runs a command which must fail, and returns the one line it says."""

    def run(words: list[str]) -> str:
        capsys.readouterr()
        assert cli.main(words) == 2
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if not line.startswith("  ")]  # progress is indented
        assert out == ""
        assert len(said) == 1, err
        assert said[0].startswith("tutelage: ")
        return said[0].removeprefix("tutelage: ")

    return run


# ---- files -----------------------------------------------------------------------------------------------

READERS = {
    "prompts": [("sample", "prompts"), ("ppo", "prompts")],
    "demonstrations": [("sft", "demonstrations"), ("reward", "demonstrations"), ("sample", "shots")],
    "rankings": [("reward", "rankings")],
}
"""Which option of which stage reads a kind of file."""

FIELDS = {"prompts": "text", "demonstrations": "response", "rankings": "ranks"}


def without(row: dict[str, Any], field: str) -> str:
    return json.dumps({k: v for k, v in row.items() if k != field})


DAMAGES: dict[str, tuple[Callable[[dict[str, Any], str], str], str]] = {
    "not JSON": (lambda row, field: json.dumps(row)[:-9], "not valid JSON"),
    "not an object": (lambda row, field: "[1, 2]", "field '(row)' is list, expected an object"),
    "field missing": (without, "field '{field}' is missing"),
    "field unknown": (lambda row, field: json.dumps(row | {"txet": "x"}), "field 'txet' is unknown"),
    "field of another type": (lambda row, field: json.dumps(row | {field: 7}), "field '{field}' is int"),
    "not text": (lambda row, field: '["caf\udce9"]', "not UTF-8 text"),
    "split unknown": (lambda row, field: json.dumps(row | {"split": "dev"}), "field 'split' is 'dev'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_malformed_line(kind: str, damage: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    change, complaint = DAMAGES[damage]
    lines = getattr(loop.data, kind).read_text().splitlines()
    lines[2] = change(json.loads(lines[2]), FIELDS[kind])
    damaged = tmp_path / f"{kind}.jsonl"
    damaged.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    command, option = READERS[kind][0]
    said = refused(loop.words(command, tmp_path / "run", **{option: damaged}))
    assert said.startswith(f"{damaged}, line 3: {complaint.format(field=FIELDS[kind])}")


@pytest.mark.parametrize(("command", "option"), [reader for kind in READERS.values() for reader in kind])
@pytest.mark.parametrize("state", ["missing", "a folder", "forbidden"])
def test_an_unreadable_file(
    command: str,
    option: str,
    state: str,
    loop: Loop,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, real = tmp_path / "input.jsonl", Path.open

    def forbidden(path: Path, *arguments: Any, **named: Any) -> Any:  # root may read what nobody may
        if path == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **named)

    if state == "a folder":
        file.mkdir()
    elif state == "forbidden":
        write_text(file, "{}")
        monkeypatch.setattr(Path, "open", forbidden)
    assert refused(loop.words(command, tmp_path / "run", **{option: file})).startswith(f"{file}: ")


def test_a_mistake_mended_is_a_run_begun(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "demonstrations.jsonl"
    words = loop.words("sft", tmp_path / "run", demonstrations=file)
    write_text(file, "{}\n")
    assert refused(words).startswith(f"{file}, line 1: field 'id' is missing")
    shutil.copy(loop.data.demonstrations, file)
    assert cli.main(words) == 0


RANKINGS = {
    "one response": ({"responses": 1, "ranks": 1}, "field 'responses' has 1 entries; a ranking needs 2 to 9"),
    "ten responses": ({"responses": 10, "ranks": 10}, "field 'responses' has 10 entries"),
    "too few ranks": ({"responses": 4, "ranks": 3}, "field 'ranks' has 3 entries for 4 responses"),
}


@pytest.mark.parametrize("case", RANKINGS)
def test_a_ranking_that_is_none(case: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    counts, complaint = RANKINGS[case]
    row = to_dict(ranking(prompts()[0], 0))
    changed = {name: (row[name] * 3)[:count] for name, count in counts.items()}
    file = tmp_path / "rankings.jsonl"
    write_text(file, json.dumps(row | changed) + "\n")
    said = refused(loop.words("reward", tmp_path / "run", rankings=file))
    assert said.startswith(f"{file}, line 1: {complaint}")


def test_nothing_but_ties(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "rankings.jsonl"
    tied = [dataclasses.replace(ranking(p, n), ranks=(1, 1, 1, 1)) for n, p in enumerate(prompts())]
    write_records(file, tied)
    said = refused(loop.words("reward", tmp_path / "run", rankings=file))
    assert said.startswith(f"{file}: no untied comparison")


@pytest.mark.parametrize("k", [1, 10])
def test_too_few_or_too_many_samples_to_rank(k: int, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    made = sample.sample(sample_config(loop.sft, loop.data, tmp_path / "samples", k=k, limit=1))
    folder = write_workflow(tmp_path / "workflow", loop.data)
    words = [
        "rank",
        "--samples",
        str(made.path),
        "--workflow",
        str(folder),
        "--out",
        str(tmp_path / "rankings"),
    ]
    said = refused(words)
    assert said.startswith(str(made.path))
    assert "2 to 9" in said


def write_workflow(folder: Path, data: Data) -> Path:
    """The toy data as a workflow."""
    settings = {"name": "toy", "title": "Toy", "description": "Toy.", "max_prompt_tokens": 64}
    settings |= {"max_response_tokens": 8}
    write_text(folder / "workflow.json", json.dumps(settings))
    write_text(folder / "guidelines.md", "Be kind.")
    shutil.copy(data.prompts, folder / "prompts.jsonl")
    shutil.copy(data.demonstrations, folder / "demonstrations.jsonl")
    return folder


@pytest.mark.parametrize("split", ["valid", "nothing at all"])
@pytest.mark.parametrize(("command", "kind"), [("sft", "demonstrations"), ("reward", "rankings"), ("ppo", "prompts")])
def test_an_empty_split(command: str, kind: str, split: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in getattr(loop.data, kind).read_text().splitlines()]
    file = tmp_path / f"{kind}.jsonl"
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows if row["split"] == split))
    said = refused(loop.words(command, tmp_path / "run", **{kind: file}))
    assert said.startswith(f"{file}: no ")
    assert "train split" in said


def test_a_split_nobody_is_in(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words("sample", tmp_path / "run", split="test"))
    assert said == f"{loop.data.prompts}: no prompts in split 'test'"


@pytest.mark.parametrize("command", ["sft", "reward", "ppo", "sample"])
def test_a_prompt_too_long(command: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words(command, tmp_path / "run", max_prompt_tokens=5))
    file = {"sft": "demonstrations", "reward": "rankings"}.get(command, "prompts")
    assert said.startswith(f"{getattr(loop.data, file)}, line 1: ")
    assert "the limit is 5 (it begins: 'Tell me about the parcel')" in said


@pytest.mark.parametrize(("command", "kind"), [("sft", "demonstrations"), ("reward", "rankings")])
def test_more_than_the_model_has_room_for(
    command: str, kind: str, loop: Loop, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lm, "room", 12)
    said = refused(loop.words(command, tmp_path / "run"))
    assert said.startswith(f"{getattr(loop.data, kind)}, line 1: ")
    assert " has room for 12; shorten it, or leave out what is too long with --drop-long" in said


@pytest.mark.parametrize(("command", "kind"), [("sft", "demonstrations"), ("reward", "rankings")])
def test_a_response_too_long(command: str, kind: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words(command, tmp_path / "run", max_response_tokens=3))
    assert said.startswith(f"{getattr(loop.data, kind)}, line 1: ")
    assert ": a response has " in said
    assert "the limit is 3; shorten it" in said


@pytest.mark.parametrize(("command", "kind"), [("sft", "demonstrations"), ("reward", "rankings")])
def test_what_is_too_long_can_be_left_out(
    command: str, kind: str, loop: Loop, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in getattr(loop.data, kind).read_text().splitlines()]
    longer = next(n for n, row in enumerate(rows) if row["split"] == "train")
    rows[longer]["prompt"] += " and once more" * 40
    file = tmp_path / f"{kind}.jsonl"
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    given = {kind: file, "max_prompt_tokens": 60}
    assert "the limit is 60" in refused(loop.words(command, tmp_path / "refused", **given))
    assert cli.main([*loop.words(command, tmp_path / "run", **given), "--drop-long"]) == 0
    assert " left out as too long (the first: " in capsys.readouterr().err
    said = refused([*loop.words(command, tmp_path / "none", **given | {"max_prompt_tokens": 5}), "--drop-long"])
    assert " are too long (the first: " in said


def test_no_pretraining_text(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words("ppo", tmp_path / "run", pretraining=None))
    assert said.startswith("ptx_coef is set but no pretraining text is given")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["sft", "ppo"])
@pytest.mark.parametrize(("text", "complaint"), [("Too short.", "fewer than"), (None, "cannot be read")])
def test_bad_pretraining_text(
    command: str, text: str | None, complaint: str, loop: Loop, refused: Refused, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    if text is not None:
        write_text(file, text)
    said = refused(
        loop.words(command, tmp_path / "run", pretraining=file, **({"ptx_tokens": 64} if command == "ppo" else {}))
    )
    assert said.startswith(f"{file}: pretraining text ")
    assert complaint in said


# ---- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "loss"),
    [("sft", "lm_loss"), ("reward", "ranking_loss"), ("ppo", "policy_loss"), ("ppo", "value_loss")],
)
def test_a_loss_that_is_no_number(
    command: str, loss: str, loop: Loop, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"sft": sft, "reward": reward, "ppo": ppo}[command]
    checks = {"sft": "check_policy", "ppo": "check_start"}
    real = getattr(page, loss)
    words = loop.words(command, tmp_path / "run", **({"checkpoint_every": 1} if command == "ppo" else {}))
    calls = [0]

    def broken(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        return real(*arguments) * (float("nan") if calls[0] > 8 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(page, loss, broken)
        if command in checks:  # they call the loss too, and are not what is tested here
            patch.setattr(page, checks[command], lambda *_: None)
        longer = {"sft": ["--epochs", "4"], "reward": ["--epochs", "4"], "ppo": ["--iterations", "6"]}[command]
        assert "became nan at step" in refused([*words, *longer])
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
    assert cli.main([*words, *longer]) == 0


def test_a_policy_that_runs_away(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words("ppo", tmp_path / "run", max_kl=1e-9, lr=1.0, iterations=8))
    assert "stopped: KL is" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"


# ---- words -----------------------------------------------------------------------------------------------

EVALUATED = ["--workflow", "w", "--policy", "p", "--reward", "r", "--out", "o"]
WORDS = [
    (["nonsense"], "no command 'nonsense'; one of: demo, "),
    (
        ["sft", "--demonstrations", "d", "--out", "o", "--epoch-count", "3"],
        "Unrecognized options: --epoch-count",
    ),
    (["sft", "--demonstrations", "d", "--out", "o", "stray"], "Unrecognized options: stray"),
    (["sft", "--demonstrations", "d", "--out", "o", "--epochs", "many"], "Error parsing --epochs"),
    (["sft", "--demonstrations", "d", "--out", "o", "--epochs", "0"], "epochs must be more than 0, got 0"),
    (["sft", "--demonstrations", "d", "--out", "o", "--dtype", "fp8"], "invalid choice 'fp8'"),
    (["sft", "--demonstrations", "d"], "--out PATH"),
    (["sft", "--demonstrations"], "Missing value for argument '--demonstrations'"),
    (["sft", "--config"], "--config needs a file"),
    (["sft", "--config", "nowhere.json"], "nowhere.json: no such file"),
    (["ppo", "--policy", "p", "--reward", "r", "--prompts", "q", "--out", "o"], "ptx_coef is set but"),
    (["demo", "--preset", "huge"], "no preset 'huge'; expected one of demo, small, paper"),
    (["demo", "--preset", "small", "--workflow", "nowhere"], "no workflow 'nowhere'"),
    (["add", "a", "b", "c"], "3 words given"),
    (["evaluate", *EVALUATED, "--answers", *"abcdefghij"], "name at most 9 samples runs"),
    (["evaluate", *EVALUATED, "--answers", "a"], "name at least two samples runs"),
    (["chat", "no/such/model/anywhere"], "model 'no/such/model/anywhere': no such folder"),
    (["doctor", "nowhere"], "nowhere: not a run folder"),
    (["report", "nowhere"], "nowhere"),
    (["fetch", "gpt-9"], "'gpt-9' is not an embedded model"),
]


@pytest.mark.parametrize(
    ("words", "complaint"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_words_that_mean_nothing(
    words: list[str], complaint: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint in refused(words)
    assert list(tmp_path.iterdir()) == []


def test_a_config_with_a_setting_nobody_knows(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_text(file, json.dumps(json.loads((loop.sft / "config.json").read_text()) | {"epoch": 3}))
    said = refused(["sft", "--config", str(file)])
    assert said == f"{file}: field 'epoch' is not a setting of SftConfig"


# ---- folders ---------------------------------------------------------------------------------------------


def unfinished(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    info = json.loads((folder / "run.json").read_text())
    write_text(folder / "run.json", json.dumps(info | {"finished": False, "status": "running"}))
    return folder


def test_a_run_of_the_wrong_kind(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    swapped = loop.words("ppo", tmp_path / "run", policy=loop.reward)
    assert refused(swapped) == f"{loop.reward}: is a run of kind 'reward', expected sft or ppo"
    swapped = loop.words("ppo", tmp_path / "other", reward=loop.sft)
    assert refused(swapped) == f"{loop.sft}: is a run of kind 'sft', expected reward"
    assert "is a run of kind 'samples', expected" in refused(["doctor", str(loop.samples)])
    words = ["rank", "--samples", str(loop.sft), "--workflow", "support", "--out", str(tmp_path / "rankings")]
    assert refused(words) == f"{loop.sft}: is a run of kind 'sft', expected samples"


def test_an_unfinished_run(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder = unfinished(loop.sft, tmp_path / "sft")
    for words in (loop.words("ppo", tmp_path / "run", policy=folder), ["chat", str(folder)]):
        assert refused(words).startswith(f"{folder}: the run is not finished")


@pytest.mark.attack("writing a run over somebody's files")
def test_a_folder_that_holds_something_else(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    write_text(tmp_path / "run" / "thesis.txt", "years of work")
    said = refused(loop.words("sft", tmp_path / "run"))
    assert said == f"{tmp_path / 'run'}: not empty and not a run folder; name another folder"
    write_text(tmp_path / "own" / "config.json", "{}")
    assert "not empty and not a run folder" in refused(loop.words("sft", tmp_path / "own"))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]
    assert (tmp_path / "own" / "config.json").read_text() == "{}"


def test_a_folder_of_another_stage(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in loop.sft.rglob("*")}
    said = refused(loop.words("reward", loop.sft))
    assert said == f"{loop.sft}: holds a run of kind 'sft', not 'reward'; name another folder"
    assert before == {p: p.stat().st_mtime_ns for p in loop.sft.rglob("*")}


def test_settings_changed_on_resume(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder = unfinished(loop.sft, tmp_path / "sft")
    config = json.loads((folder / "config.json").read_text())
    write_text(folder / "config.json", json.dumps(config | {"out": str(folder)}))
    said = refused(loop.words("sft", folder, lr=0.5))
    assert said.startswith(f"{folder}: was started with lr=0.0002, now 0.5; repeat the first command")
    changed = tmp_path / "demonstrations.jsonl"
    shutil.copy(loop.data.demonstrations, changed)
    info = json.loads((folder / "run.json").read_text())
    info["parents"]["demonstrations"]["digest"] = "another"
    write_text(folder / "run.json", json.dumps(info))
    said = refused(loop.words("sft", folder))
    assert f"its demonstrations ({loop.data.demonstrations}) has changed since the run began" in said


@pytest.mark.attack("a damaged run folder")
@pytest.mark.parametrize("file", ["run.json", "config.json"])
def test_a_damaged_run_folder(file: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder = unfinished(loop.sft, tmp_path / "sft")
    (folder / file).write_text('{"kind": "sf')
    assert refused(loop.words("sft", folder)).startswith(f"{folder / file}: ")


@pytest.mark.attack("a damaged checkpoint")
def test_a_damaged_checkpoint(loop: Loop, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = loop.words("sft", tmp_path / "run", epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "save_lm", interrupt)
        assert cli.main(words) == 130
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:1000])
    assert refused(words).startswith(f"{state}: damaged")
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # the way out that it names
    assert cli.main(words) == 0


def test_a_type_that_means_another_on_resume(
    loop: Loop, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = loop.words("sft", tmp_path / "run", epochs=2, dtype="auto")
    for dtype in (torch.float32, torch.bfloat16):  # one processor, then another
        monkeypatch.setattr(model, "choose_dtype", lambda device, wanted="auto", dtype=dtype: dtype)
        with monkeypatch.context() as patch:
            patch.setattr(sft, "save_lm", interrupt)
            if dtype == torch.float32:
                assert cli.main(words) == 130
    said = refused(words)
    assert said.startswith(f"{tmp_path / 'run'}: was begun in fp32 on ")
    assert "bf16 here" in said
    assert "--dtype fp32" in said
    monkeypatch.undo()
    assert cli.main(loop.words("sft", tmp_path / "run", epochs=2, dtype="fp32")) == 0  # the way out that it names


@pytest.mark.parametrize("kind", ["sft", "reward", "samples"])
def test_every_stage_records_what_it_was_computed_on(kind: str, loop: Loop) -> None:
    (computed,) = json.loads((getattr(loop, kind) / "run.json").read_text())["computed_on"]
    assert computed["dtype"] == "fp32"
    assert computed["threads"] == torch.get_num_threads()
    assert {"processor", "device", "torch", "transformers"} <= computed.keys()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["{}", "not JSON", None])
def test_a_reward_model_without_its_shift(damage: str | None, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder = without_digests(loop.reward, tmp_path / "reward")
    file = folder / "model" / "scalar.json"
    file.unlink() if damage is None else file.write_text(damage)
    said = refused(loop.words("ppo", tmp_path / "run", reward=folder))
    assert said.startswith(f"{file}: missing or damaged")


def test_weights_that_are_not_what_was_trained(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    shutil.copytree(loop.sft, tmp_path / "sft")
    file = tmp_path / "sft" / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for words in (["chat", str(tmp_path / "sft")], loop.words("sample", tmp_path / "run", model=tmp_path / "sft")):
        assert refused(words).startswith(f"{file}: damaged")


# ---- models ----------------------------------------------------------------------------------------------


def test_a_reward_model_with_another_tokenizer(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    file = without_digests(loop.reward, tmp_path / "reward") / "model" / "tokenizer.json"
    held = json.loads(file.read_text())
    words = held["model"]["vocab"]
    (one, a), (two, b) = list(words.items())[300:302]
    words |= {one: b, two: a}
    file.write_text(json.dumps(held))
    said = refused(loop.words("ppo", tmp_path / "run", reward=tmp_path / "reward"))
    assert "the reward model's tokenizer differs from the policy's" in said


def test_a_reward_model_of_another_base(
    loop: Loop, refused: Refused, tmp_path: Path, tiny_model_dir: TinyModel
) -> None:
    other = tmp_path / "reward"
    reward.train(reward_config(tiny_model_dir("gpt_neox"), loop.data, other))
    said = refused(loop.words("ppo", tmp_path / "run", reward=other))
    assert "they cannot share a trunk" in said


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.attack("code in pickled weights")
def test_pickled_weights_are_never_loaded(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "exploded"
    shutil.copytree(loop.base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Bomb(trace)}, folder / "pytorch_model.bin")
    for words in (["chat", str(folder)], loop.words("sft", tmp_path / "run", model=folder)):
        assert refused(words).startswith(f"{folder}: has its weights as a pickle only")
    assert not trace.exists()


@pytest.mark.attack("a model with files missing")
@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_half_a_model(missing: str, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(loop.base, folder)
    (folder / missing).unlink()
    assert refused(loop.words("sft", tmp_path / "run", model=folder)).startswith(f"{folder}: ")


def test_a_model_nobody_has(loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words("sft", tmp_path / "run", model="nobody/has-this"))
    assert said.startswith("nobody/has-this: cannot be opened as a model")


@pytest.mark.parametrize("layers", [0, 4, 9])
def test_more_layers_than_there_are(layers: int, loop: Loop, refused: Refused, tmp_path: Path) -> None:
    said = refused(loop.words("sft", tmp_path / "run", trainable_layers=layers))
    assert said.startswith(f"trainable_layers is {layers}, but")
