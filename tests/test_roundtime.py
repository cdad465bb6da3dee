"""The time left of a round: from measured speeds, over all stages, and honest about what was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tinyloop

from tutelage import presets, roundfolder
from tutelage.records import write_json, write_records
from tutelage.roundtime import Left, left, words, work

PLAN = {
    "sft": {"work": 100.0, "steps": 10},
    "ppo_ptx": {"work": 400.0, "steps": 8},
    "next": {"work": 100.0, "steps": 40},
}


def at(out: Path, stage: str, *, rows: int = 0, spent: dict[str, float] | None = None, done: float = 0.0) -> Path:
    """A round that entered a stage at time 1,000, which has logged so many rows."""
    file = "samples/samples.jsonl" if stage == "next" else f"{stage}/metrics.jsonl"
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    (out / file).write_text("{}\n" * rows + '{"torn')
    found: dict[str, Any] = {"stage": stage, "at": 1000.0, "done": done, "spent": spent or {}, "plan": PLAN}
    write_json(out / roundfolder.STAGE, found)
    return out


def test_before_anything_is_measured_nothing_is_claimed(tmp_path: Path) -> None:
    assert left(tmp_path, [], 1000.0) is None, "no stage yet"
    assert left(at(tmp_path, "sft"), [], 1010.0) is None
    assert "not known yet" in words(None)


def test_a_stage_that_is_done_tells_of_the_others_within_a_wide_range(tmp_path: Path) -> None:
    found = left(at(tmp_path, "ppo_ptx", spent={"sft": 50.0}), [], 1000.0)
    assert found == Left(250.0, 125.0, 500.0)


def test_an_earlier_round_tells_more(tmp_path: Path) -> None:
    told = {"seconds": {"ppo_ptx": 800.0, "next": 100.0}, "plan": {"ppo_ptx": {"work": 800.0}, "next": {"work": 50.0}}}
    found = left(at(tmp_path, "ppo_ptx", spent={"sft": 50.0}), [{"round": 1}, told], 1000.0)
    assert found is not None and found.seconds == pytest.approx(400 + 200)
    assert (found.low, found.high) == (pytest.approx(600 / 1.3), pytest.approx(600 * 1.3))


def test_the_running_stage_is_measured_itself(tmp_path: Path) -> None:
    told = {"seconds": {"next": 100.0}, "plan": {"next": {"work": 100.0}}}
    found = left(at(tmp_path, "ppo_ptx", rows=2), [told], 1060.0)  # two of eight in a minute
    assert found is not None and found.seconds == pytest.approx(180 + 100)
    later = left(at(tmp_path, "ppo_ptx", rows=6), [told], 1180.0)
    assert later is not None and later.seconds == pytest.approx(60 + 100)


def test_after_a_stop_what_was_done_before_is_not_taken_for_speed(tmp_path: Path) -> None:
    told = {"seconds": {"next": 100.0}, "plan": {"next": {"work": 100.0}}}
    found = left(at(tmp_path, "ppo_ptx", rows=6, done=0.5), [told], 1060.0)  # a quarter in this minute, a quarter left
    assert found is not None and found.seconds == pytest.approx(60 + 100)
    fresh = left(at(tmp_path, "ppo_ptx", rows=4, done=0.5, spent={"sft": 100.0}), [told], 1001.0)
    assert fresh is not None and fresh.seconds == pytest.approx(200 + 100)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Left(20, 15, 40), "Less than a minute left"),
        (Left(61, 50, 80), "About 1 minute left"),
        (Left(720, 540, 1080), "About 12 minutes left (9 to 18 min)"),
        (Left(9000, 6000, 12000), "About 2 h 30 min left"),
    ],
)
def test_it_is_said_as_coarsely_as_it_is_known(found: Left, said: str) -> None:
    assert words(found) == said


def test_the_work_of_a_round_covers_all_its_stages(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prompts = tinyloop.prompts(20, 4)
    write_records(data / "prompts.jsonl", prompts)
    write_records(data / "demonstrations.jsonl", [tinyloop.demonstration(p, n) for n, p in enumerate(prompts[:6])])
    few = work(roundfolder.plan(tmp_path, (), 10), presets.studio(6, 0), k=4, judged=4, models=2, response_tokens=64)
    assert list(few) == ["sft", "answers", "next", "report"]
    write_records(data / "rankings.jsonl", [tinyloop.ranking(p, n) for n, p in enumerate(prompts[:12])])
    plan = roundfolder.plan(tmp_path, (), 10)
    whole = work(plan, presets.studio(6, 12), k=4, judged=4, models=3, response_tokens=64)
    assert list(whole) == ["sft", "reward", "folds", "ppo_ptx", "answers", "next", "report"]
    assert whole["ppo_ptx"]["steps"] == 8 and whole["answers"]["steps"] == 12 and whole["next"]["steps"] == 40
    assert max(whole, key=lambda name: whole[name]["work"]) == "ppo_ptx"
    json.dumps(whole)
