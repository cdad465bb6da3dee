"""The model host on tiny random models: what it says, that it stops, and what happens when a run is not there."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tinyloop

from tutelage import reward, score, sft, speak
from tutelage.model import load
from tutelage.records import Ranking, UserError, read_records
from tutelage.template import prompt_ids, response_ids

Event = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an SFT run and a reward run of a tiny model."""
    folder = tmp_path_factory.mktemp("speak")
    data = tinyloop.write_data(folder)
    sft.train(tinyloop.sft_config(tiny_model_dir("llama"), data, folder / "sft"))
    reward.train(tinyloop.reward_config(folder / "sft", data, folder / "reward"))
    return folder


def request(*models: tuple[str, Path], **changes: Any) -> Event:
    asked = {"id": 1, "prompt": "Tell me about the sea", "temperature": 1.0, "seed": 3, "max_tokens": 8, "reward": None}
    return asked | {"models": [{"name": name, "path": str(path)} for name, path in models]} | changes


def heard(asked: Event, shelf: speak.Shelf | None = None) -> list[Event]:
    """Everything that is said to one request, in this process."""
    said: list[Event] = []
    speak.Speaker(shelf or speak.Shelf(2**30), said.append).answer(asked)
    return said


def pieces(said: list[Event], model: str) -> str:
    return "".join(e["text"] for e in said if e.get("model") == model and "text" in e and not e.get("done"))


def ends(said: list[Event]) -> dict[str, Event]:
    return {e["model"]: e for e in said if e.get("done") and "model" in e}


def test_an_answer_comes_in_pieces_that_add_up(runs: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    said = heard(request(("base", tiny_model_dir("llama")), ("sft", runs / "sft"), reward=str(runs / "reward")))
    found = ends(said)
    assert list(found) == ["base", "sft"]
    for name, end in found.items():
        assert len([e for e in said if e.get("model") == name and "text" in e]) > 2
        assert pieces(said, name) == end["text"]
        assert 1 <= end["tokens"] <= 8
        assert isinstance(end["score"], float)
    assert said[-1] == {"id": 1, "done": True, "cancelled": False}
    again = heard(request(("sft", runs / "sft")))
    assert ends(again)["sft"]["text"] == found["sft"]["text"]  # the same seed, the same answer
    other = heard(request(("sft", runs / "sft"), seed=4))
    assert ends(other)["sft"]["text"] != found["sft"]["text"]


def test_the_score_is_the_reward_runs_own(runs: Path, tmp_path: Path) -> None:
    """What the host says, what the helper writes and what training measured are one number."""
    out = tmp_path / "scores.json"
    assert (
        score.main(["--reward", str(runs / "reward"), "--rankings", str(runs / "rankings.jsonl"), "--out", str(out)])
        == 0
    )
    found = json.loads(out.read_text())["scores"]
    rankings = read_records(Ranking, runs / "rankings.jsonl")
    assert set(found) == {r.id for ranking in rankings for r in ranking.responses}
    measured = [json.loads(line) for line in (runs / "reward" / "pairs.jsonl").read_text().splitlines()]
    held = next(r for r in rankings if r.split == "valid" and r.group == "training")
    differences = [abs(found[held.responses[i].id] - found[held.responses[j].id]) for i, j in held.pairs()]
    theirs = [abs(row["difference"]) for row in measured if row["prompt_id"] == held.prompt_id][: len(differences)]
    assert differences == pytest.approx(theirs, abs=2e-3)


def test_a_missing_run_is_one_line_and_the_others_answer(runs: Path, tmp_path: Path) -> None:
    gone, broken = tmp_path / "gone", tmp_path / "broken"
    shutil.copytree(runs / "sft", broken)
    for file in (broken / "model").glob("*.safetensors"):
        file.write_bytes(b"no weights")
    said = heard(request(("gone", gone), ("broken", broken), ("sft", runs / "sft")))
    errors = {e["model"]: e["error"] for e in said if "error" in e}
    assert set(errors) == {"gone", "broken"}
    assert errors["gone"] == f"{gone}: the run is gone; it was deleted or moved"
    assert all("\n" not in line for line in errors.values())
    assert set(ends(said)) == {"sft"}


def test_a_run_deleted_while_its_model_is_open_is_noticed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sft", tmp_path / "sft")
    shelf = speak.Shelf(2**30)
    assert set(ends(heard(request(("sft", tmp_path / "sft")), shelf))) == {"sft"}
    assert not [e for e in heard(request(("sft", tmp_path / "sft")), shelf) if e.get("loading")]
    shutil.rmtree(tmp_path / "sft")
    said = heard(request(("sft", tmp_path / "sft")), shelf)
    assert [e["error"] for e in said if "error" in e] == [
        f"{tmp_path / 'sft'}: the run is gone; it was deleted or moved"
    ]
    assert shelf.paths() == []


def test_without_its_reward_run_the_answers_come_without_scores(runs: Path, tmp_path: Path) -> None:
    said = heard(request(("sft", runs / "sft"), ("again", runs / "sft"), reward=str(tmp_path / "none")))
    assert [e["error"] for e in said if "error" in e] == [
        f"no scores: {tmp_path / 'none'}: the run is gone; it was deleted or moved"
    ]
    assert [e["score"] for e in ends(said).values()] == [None, None]


def test_a_prompt_too_long_for_the_model_is_one_line(runs: Path) -> None:
    said = heard(request(("sft", runs / "sft"), prompt="sea " * 200))
    assert len(said) == 2 or said[0].get("loading")
    assert any("has room for" in e.get("error", "") for e in said)


def test_a_prompted_answer_ends_at_the_separator(runs: Path) -> None:
    """The worked examples end in a separator; what comes behind it is the model writing the next example."""
    lm = load(runs / "sft")
    shown: list[str] = []
    said = speak.Said(lm, cut=True, show=shown.append)
    with contextlib.suppress(speak.Stop):
        for token in response_ids(lm.tokenizer, "The sea - wide --\n\n---\n\nWhere is the robot"):
            said.take(token)
    assert "robot" not in lm.tokenizer.decode(said.ids)  # it did stop
    said.finish()
    assert (said.text, said.ended) == ("The sea - wide --", True)
    assert "".join(shown) == said.text
    assert said.ids == response_ids(lm.tokenizer, said.text)
    events = heard(
        request(("sft", runs / "sft")) | {"models": [{"name": "p", "path": str(runs / "sft"), "shots": [["a", "b"]]}]}
    )
    assert ends(events)["p"]["text"] == pieces(events, "p")


def test_as_many_worked_examples_as_fit_are_shown(runs: Path) -> None:
    lm = load(runs / "sft")
    shots = [("Where is the sea", "It is there."), ("sea " * 30, "wide " * 30), ("sea " * 30, "wide " * 30)]
    for order in (shots, shots[::-1]):  # the longest go first, wherever they stand
        assert speak.asked_ids(lm, "The sea", order, 8) == prompt_ids(lm.tokenizer, "The sea", shots=shots[:1])
    assert speak.asked_ids(lm, "The sea", [], 8) == prompt_ids(lm.tokenizer, "The sea")
    with pytest.raises(UserError, match=f"no worked example fits before this prompt in {lm.room} positions"):
        speak.asked_ids(lm, "The sea", shots[1:], 8)


def test_the_shelf_keeps_what_fits(runs: Path, tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    base = str(tiny_model_dir("llama"))
    shelf = speak.Shelf(2**30)
    shelf.policy(base, lambda: None)
    shelf.policy(str(runs / "sft"), lambda: None)
    shelf.policy(base, lambda: None)
    assert shelf.paths() == [str(runs / "sft"), base]
    shelf.room = 1
    shelf.policy(base, lambda: None)
    assert shelf.paths() == [base]


def test_cancelled_before_it_begins_nothing_is_said(runs: Path) -> None:
    said: list[Event] = []
    speaker = speak.Speaker(speak.Shelf(2**30), said.append)
    speaker.cancel(1)
    speaker.answer(request(("sft", runs / "sft")))
    assert said == [{"id": 1, "done": True, "cancelled": True}]


def test_cancelled_in_mid_answer_it_stops_there(runs: Path) -> None:
    said: list[Event] = []
    speaker = speak.Speaker(speak.Shelf(2**30), lambda e: (said.append(e), speaker.cancel(1) if "text" in e else None))
    speaker.answer(request(("sft", runs / "sft"), ("again", runs / "sft"), max_tokens=60))
    assert sum("text" in e for e in said) == 1
    assert said[-1] == {"id": 1, "done": True, "cancelled": True}
    assert not any(e.get("model") == "again" for e in said)


def test_lines_that_are_no_requests_are_answered_as_such() -> None:
    said: list[Event] = []
    speaker = speak.Speaker(speak.Shelf(2**30), said.append)
    asked: queue.Queue[Event | None] = queue.Queue()
    speak.listen(["{", "[1]", '{"cancel": 7}', '{"id": 2}'], speaker, asked)
    assert [e["error"].split(" (")[0] for e in said] == ["not a request", "not a request"]
    assert speaker.stopped(7)
    said.clear()
    speaker = speak.Speaker(speak.Shelf(2**30), said.append)
    row = asked.get()
    assert row is not None
    speaker.answer(row)
    assert [sorted(e) for e in said] == [["error", "id"], ["cancelled", "done", "id"]]


def test_the_process_speaks_json_only_and_ends_with_its_input(runs: Path) -> None:
    asked = json.dumps(request(("sft", runs / "sft"))) + "\n"
    with subprocess.Popen(
        [sys.executable, "-m", "tutelage.speak"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(asked)
        child.stdin.flush()
        said = []
        while not said or "model" in said[-1]:
            said.append(json.loads(child.stdout.readline()))
        assert ends(said)["sft"]["text"] == ends(heard(request(("sft", runs / "sft"))))["sft"]["text"]
        child.stdin.close()
        assert child.wait(60) == 0
