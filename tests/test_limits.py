"""Longer than the model's context: told before anything is trained, with file, line and way out; or left out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tinyloop import Data, ppo_config, reward_config, sample_config, sft_config, write_data
from tinymodels import TINY_POSITIONS

from tutelage import cli, ppo, reward, sample, sft
from tutelage.limits import Limits
from tutelage.model import Lm, load
from tutelage.records import TooLong, write_text
from tutelage.run import Run
from tutelage.score import ScoreConfig, score_file
from tutelage.talk import LONGEST

TinyModel = Callable[[str], Path]
LONG = " and the wind" * 60
"""More tokens than the tiny models have positions."""


@dataclass(frozen=True)
class Loop:
    """Data, and the runs that later stages start from."""

    data: Data
    base: Path
    sft: Path
    reward: Path


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> Loop:
    folder = tmp_path_factory.mktemp("loop")
    data, base = write_data(folder), tiny_model_dir("llama")
    sft.train(sft_config(base, data, folder / "sft"))
    reward.train(reward_config(folder / "sft", data, folder / "reward"))
    return Loop(data, base, folder / "sft", folder / "reward")


@pytest.fixture(scope="module")
def lm(loop: Loop) -> Lm:
    return load(loop.sft, dtype="fp32")


def lengthened(file: Path, folder: Path, split: str, field: str) -> tuple[Path, int]:
    """A copy of a file whose first row of a split is too long, and that row's line."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    number = next(n for n, row in enumerate(rows) if row["split"] == split)
    if field == "responses":
        rows[number]["responses"][1]["text"] += LONG
    else:
        rows[number][field] += LONG
    copy = folder / file.name
    write_text(copy, "".join(json.dumps(row) + "\n" for row in rows))
    return copy, number + 1


STAGES: dict[str, tuple[Callable[..., Any], Callable[[Loop, Data, Path], Any]]] = {
    "sft": (sft.train, lambda loop, data, out: sft_config(loop.base, data, out)),
    "reward": (reward.train, lambda loop, data, out: reward_config(loop.sft, data, out)),
    "ppo": (ppo.train, lambda loop, data, out: ppo_config(loop.sft, loop.reward, data, out)),
    "sample": (sample.sample, lambda loop, data, out: sample_config(loop.sft, data, out)),
}
CASES = [
    ("sft", "demonstrations", "train", "prompt", "demonstration 'd0'"),
    ("sft", "demonstrations", "valid", "response", "demonstration 'd12'"),
    ("reward", "rankings", "train", "prompt", "prompt 'p0'"),
    ("reward", "rankings", "train", "responses", "prompt 'p0'"),
    ("reward", "rankings", "valid", "responses", "prompt 'p12'"),
    ("reward", "demonstrations", "train", "response", "demonstration 'd0'"),
    ("ppo", "prompts", "train", "text", "prompt 'p0'"),
    ("ppo", "prompts", "valid", "text", "prompt 'p12'"),
    ("sample", "prompts", "train", "text", "prompt 'p0'"),
]


@pytest.mark.parametrize(("stage", "file", "split", "field", "named"), CASES)
def test_too_long_is_told_before_anything_trains_or_left_out(
    stage: str,
    file: str,
    split: str,
    field: str,
    named: str,
    loop: Loop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy, line = lengthened(getattr(loop.data, file), tmp_path, split, field)
    run, config_of = STAGES[stage]
    config = config_of(loop, dataclasses.replace(loop.data, **{file: copy}), tmp_path / "run")
    with pytest.raises(TooLong) as caught:
        run(config)
    said = str(caught.value)
    assert said.startswith(f"{copy}, line {line}: {named}")
    assert f" has room for {TINY_POSITIONS}" in said
    assert "--drop-long" in said
    assert "\n" not in said
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "config.json", "run.json"]
    capsys.readouterr()
    assert run(dataclasses.replace(config, drop_long=True)).finished
    assert " left out as too long (the first: " in capsys.readouterr().err


def test_a_prompt_that_leaves_a_response_no_room(loop: Loop, tmp_path: Path) -> None:
    longest = TINY_POSITIONS - 4
    for stage in ("ppo", "sample"):
        run, config_of = STAGES[stage]
        config = dataclasses.replace(config_of(loop, loop.data, tmp_path / stage), max_response_tokens=longest)
        with pytest.raises(TooLong, match=rf"line \d+: prompt 'p\d+' has \d+ tokens and {longest} to come, "):
            run(config)


def test_others_are_chosen_for_what_is_left_out(loop: Loop, tmp_path: Path) -> None:
    copy, _ = lengthened(loop.data.prompts, tmp_path, "train", "text")
    config = sample_config(loop.sft, dataclasses.replace(loop.data, prompts=copy), tmp_path / "run", drop_long=True)
    assert sample.sample(dataclasses.replace(config, limit=15)).result["prompts"] == 15


def test_worked_examples_that_leave_no_room(loop: Loop, tmp_path: Path) -> None:
    config = sample_config(loop.sft, loop.data, tmp_path / "run", shots=loop.data.demonstrations, n_shots=6)
    with pytest.raises(TooLong, match=r" tokens with 6 worked examples and 8 to come, "):
        sample.sample(config)


def test_epochs_are_chosen_by_responses_that_fit(loop: Loop, tmp_path: Path) -> None:
    """A held-out prompt with its demonstration fits, but not with the 64 tokens that would be sampled."""
    rows = [json.loads(line) for line in loop.data.demonstrations.read_text().splitlines()]
    rows[-1] |= {"prompt": "Tell me" + " and the wind" * 16, "response": "Yes."}
    copy = tmp_path / "demonstrations.jsonl"
    write_text(copy, "".join(json.dumps(row) + "\n" for row in rows))
    data = dataclasses.replace(loop.data, demonstrations=copy)
    assert sft.train(sft_config(loop.sft, data, tmp_path / "run", reward=loop.reward)).finished


def test_a_reward_run_that_does_not_fit_is_told_before_the_first_epoch(
    loop: Loop, tmp_path: Path, tiny_model_dir: TinyModel
) -> None:
    config = sft_config(tiny_model_dir("gpt_neox"), loop.data, tmp_path / "run", reward=loop.reward)
    with pytest.raises(Exception, match="cannot share a trunk"):
        sft.train(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_text_blocks_are_no_longer_than_the_context(loop: Loop, tmp_path: Path, tiny_model_dir: TinyModel) -> None:
    config = ppo_config(loop.sft, loop.reward, loop.data, tmp_path / "run", ptx_tokens=10 * TINY_POSITIONS)
    assert ppo.train(config).finished


def test_scores_of_what_does_not_fit_are_left_out(loop: Loop, tmp_path: Path) -> None:
    copy, _ = lengthened(loop.data.rankings, tmp_path, "train", "responses")
    scores = score_file(ScoreConfig(reward=loop.reward, rankings=copy, out=tmp_path / "scores.json"))
    assert "p0/1" not in scores
    assert {"p0/0", "p0/2", "p1/1"} <= scores.keys()


def test_a_response_may_be_read_as_far_as_the_context_goes(lm: Lm) -> None:
    with pytest.raises(TooLong, match=f"^here has .* has room for {TINY_POSITIONS}$"):
        Limits(lm).pair("Where?", "No." + LONG, "here")
    prompt, response = Limits(lm).pair("Where?", "No." + LONG, "here", cut=True)
    assert len(prompt) + len(response) == TINY_POSITIONS
    with pytest.raises(TooLong):
        Limits(lm).pair("Where?" + LONG, "No.", "here", cut=True)


def test_a_prompt_that_is_typed(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(lines: Iterator[str]) -> None:
        monkeypatch.setattr("builtins.input", lambda _: next(lines))

    def lines() -> Iterator[str]:
        yield from ("Where?" + LONG, "Where?" + " and the wind" * 20, "Where?")
        raise EOFError

    assert TINY_POSITIONS - LONGEST < 20 * 4  # the second leaves less than the usual room
    for words in (["chat", str(loop.sft)], ["compare", str(loop.sft), str(loop.base)]):
        typed(lines())
        assert cli.main(words) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tutelage: ")]
        assert len(told) == len(words) - 1
        assert f"has room for {TINY_POSITIONS}" in told[0]
    assert cli.main(["compare", str(loop.sft), "--prompt", "Where?" + LONG]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_answers_that_the_reward_model_has_no_room_for(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow, words = write_workflow(tmp_path / "workflow", loop.data), []
    for name in ("one", "other"):
        run = sample.sample(sample_config(loop.sft, loop.data, tmp_path / name, k=1, name=name, split="valid"))
        words.append(str(run.path))
    file = tmp_path / "other" / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["response"]["text"] += LONG
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    info = Run.open(tmp_path / "other").info
    write_text(tmp_path / "other" / "run.json", json.dumps(info | {"files": {}}))
    command = ["evaluate", "--answers", *words, "--workflow", str(workflow), "--policy", str(loop.sft)]
    command += ["--reward", str(loop.reward), "--out", str(tmp_path / "evaluation"), "--dtype", "fp32"]
    capsys.readouterr()
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tutelage: {file}, line 2: prompt {rows[1]['prompt_id']!r} has ")
    assert not (tmp_path / "evaluation" / "rankings.jsonl").exists()
    assert cli.main([*command, "--drop-long"]) == 0
    assert "  1 of 4 answered prompts left out as too long" in capsys.readouterr().err
    assert Run.open(tmp_path / "evaluation").result["prompts"] == 3
    assert Run.open(tmp_path / "evaluation").info["computed_on"][0]["dtype"] == "fp32"


def write_workflow(folder: Path, data: Data) -> Path:
    """The toy data as a workflow."""
    settings = {"name": "toy", "title": "Toy", "description": "Toy.", "max_prompt_tokens": 64}
    write_text(folder / "workflow.json", json.dumps(settings | {"max_response_tokens": 8}))
    write_text(folder / "guidelines.md", "Be kind.")
    shutil.copy(data.prompts, folder / "prompts.jsonl")
    shutil.copy(data.demonstrations, folder / "demonstrations.jsonl")
    return folder
