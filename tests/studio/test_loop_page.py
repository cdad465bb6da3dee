"""The loop's page in all its states, and the page of a round."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from made_studio import Clock, Made, ranking
from starlette.testclient import TestClient

from tutelage.records import UserError, write_json
from tutelage.studio import overview, rounds
from tutelage.studio.project import Project
from tutelage.studio.schema import actions
from tutelage.studio.schema import rounds as table
from tutelage.studio.security import REPORT_POLICY
from tutelage.studio.store import Store

Visit = Callable[[str], TestClient]
HOSTILE = "<script>alert('x')</script><img src=x onerror=y>"


def add_round(store: Store, project: Project, number: int = 1, state: str = "finished", **values: Any) -> Path:
    """A round as the database and its folder have it, without any training."""
    folder = project.runs / f"round-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    row = {"number": number, "state": state, "folder": str(folder), "pid": 0, "settings": {}, "message": ""}
    with store.write() as tx:
        tx.execute(table.insert().values(**row | {"started": store.clock(), "ended": None} | values))
    return folder


def tell(folder: Path, number: int = 1, **values: Any) -> None:
    """A finished round's round.json."""
    learned = {"n": 30, "prompts": 28, "comparisons": 150, "ties": 30, "labelers": [], "not_trained_on": 0}
    groups = {"training": {"labelers": 2, "rankings": 30}}
    found: dict[str, Any] = {
        "round": number,
        "policy": "ppo_ptx",
        "newest": f"round-{number}/ppo_ptx",
        "previous": None,
        "trained_on": {"demonstrations": {"n": 6, "labelers": {"a": 6}}, "rankings": learned | {"groups": groups}},
        "reward_model": {
            "measured": "cross-validation",
            "accuracy": {"value": 0.64, "low": 0.55, "high": 0.72, "n": 28},
            "pairs": 150,
            "note": "",
        },
        "ppo": {"kl": 1.25},
        "answers": {
            "base": {"n": 12, "score": {"value": -1.2, "low": -1.6, "high": -0.8, "n": 12}, "length": 60, "ended": 0.2},
            f"round-{number}/ppo_ptx": {
                "n": 12,
                "score": {"value": 0.3, "low": 0.0, "high": 0.6, "n": 12},
                "length": 31.5,
                "ended": 0.9,
            },
        },
        "score_change": {"value": 1.5, "low": 1.0, "high": 2.0, "n": 12, "new": "x", "old": "base"},
    }
    write_json(folder / "round.json", found | values)


def begun(folder: Path) -> None:
    """What a round in the middle of its PPO has left so far."""
    write_json(folder / "stage.json", {"stage": "ppo_ptx", "line": "optimise the policy", "place": 4, "of": 7})
    for name, row in (
        ("sft", {"step": 0, "loss/train": 3.0}),
        ("reward", {"step": 0, "loss/train": 0.7, "accuracy/train": 0.5}),
        ("ppo_ptx", {"iteration": 0, "score/mean": -0.5, "kl": 0.1, "length": 20.0}),
    ):
        (folder / name).mkdir(parents=True)
        write_json(folder / name / "run.json", {"kind": name, "finished": False, "status": "running", "parents": {}})
        rows = [row, {k: v + 1 for k, v in row.items()}]
        text = "".join(json.dumps(r) + "\n" for r in rows) + '{"torn'
        (folder / name / "metrics.jsonl").write_text(text)
    said = {"iteration": 2, "prompt_id": "p", "prompt": HOSTILE, "response": HOSTILE, "score": 0.5, "kl": 0.2}
    older = said | {"iteration": 1, "response": "an older response"}
    samples = [older | {"length": 3}, said | {"length": 4}]
    (folder / "ppo_ptx" / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in samples))
    (folder / "log.txt").write_text(f"[4/7] optimise\n{HOSTILE}\n")


def step(client: TestClient) -> str:
    """The sentence that says what to do next."""
    found = re.search(r'class="next-sentence">([^<]*)<', client.get("/loop").text)
    assert found
    return found[1]


def write_some(made: Made, count: int) -> None:
    made.filled("demonstrate", count)
    writer = made.account()
    for _ in range(count):
        made.answer(writer.id, "demonstrate")


# ---- the next action -------------------------------------------------------------------------------------------


def test_from_nothing_to_the_first_round(visit: Visit, made: Made) -> None:
    admin = visit("admin")
    assert step(admin) == "Bring prompts in to begin."
    made.prompts(3)
    assert step(admin) == "Write 6 demonstrations to begin."
    write_some(made, 4)
    assert step(admin) == "Write 2 more demonstrations."
    write_some(made, 2)
    assert step(admin) == "Start round 1."
    assert 'action="/rounds"' in admin.get("/loop").text


def test_after_a_round_people_rank_and_the_next_one_starts(
    visit: Visit, made: Made, store: Store, project: Project, clock: Clock
) -> None:
    write_some(made, 6)
    clock.move(10)
    tell(add_round(store, project))
    clock.move(10)
    admin = visit("admin")
    assert step(admin) == "Give people something to rank."
    made.filled("compare", 3)
    assert step(admin) == "Rank 3 more prompts."
    ranker = made.account()
    made.answer(ranker.id)
    assert step(admin) == "Rank 2 more prompts."
    made.answer(ranker.id)
    made.answer(ranker.id)
    assert step(admin) == "Start round 2."


def test_thirty_ranked_prompts_are_enough_though_more_wait(
    made: Made, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "ENOUGH_RANKED", 2)
    write_some(made, 6)
    tell(add_round(store, project))
    made.filled("compare", 5)
    ranker = made.account()
    for _ in range(2):
        made.answer(ranker.id)
    assert overview.overview(store).step.sentence == "Start round 2."


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("stopped", "Round 1 was stopped. Go on with it."),
        ("failed", "Round 1 failed. See why, and try again."),
    ],
)
def test_a_round_that_did_not_end_is_first(
    visit: Visit, store: Store, project: Project, state: str, sentence: str
) -> None:
    add_round(store, project, state=state, message="the <b>disk</b> is full")
    admin = visit("admin")
    assert step(admin) == sentence
    assert 'action="/rounds/1/resume"' in admin.get("/loop").text
    assert "<b>disk</b>" not in admin.get("/rounds/1").text
    assert 'action="/rounds/1/resume"' not in visit("reviewer").get("/loop").text


def test_counts_are_of_people_and_revisions_count_once(made: Made, store: Store) -> None:
    made.filled("compare", 2, overlap=2)
    one, other = made.account(team="day"), made.account(team="night")
    made.answer(one.id)
    made.answer(one.id, body=ranking(4) | {"edited": "A better one."})
    made.answer(other.id)
    with store.read() as tx:
        counts = overview.count(tx, 0.0)
    assert (counts.rankings, counts.ranked_prompts, counts.rankers, counts.edited) == (3, 2, 2, 1)
    assert counts.groups == {"day": 2, "night": 1}
    assert counts.to_rank == 1


# ---- starting --------------------------------------------------------------------------------------------------


def test_the_form_starts_a_round_with_what_was_chosen(
    visit: Visit, made: Made, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_launch", lambda *_: None)
    write_some(made, 6)
    fields = {"offered": "1", "groups": ["day"], "k": "5", "next_prompts": "12", "judge_prompts": "6", "overlap": "2"}
    answer = visit("admin").post("/rounds", data=fields, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/rounds/1")
    found = rounds.all_rounds(store)[0]
    assert found.settings == {"groups": ["day"], "k": 5, "next_prompts": 12, "judge_prompts": 6, "overlap": 2}
    config = json.loads((found.folder / "config.json").read_text())
    assert (config["groups"], config["number"], config["k"]) == (["day"], 1, 5)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"offered": "1"}, "choose at least one group"),
        ({"k": "1"}, "k must be 2 to 9"),
        ({"k": "many"}, ""),
        ({"next_prompts": "0"}, "next_prompts must be more than 0"),
        ({"next_prompts": "100000"}, "at most 1,000 prompts"),
        ({"overlap": "0"}, "labelers per prompt is 0"),
    ],
)
def test_a_wrong_field_is_one_clear_line(visit: Visit, store: Store, fields: dict[str, str], problem: str) -> None:
    answer = visit("admin").post("/rounds", data=fields)
    assert 400 <= answer.status_code < 500 and problem in answer.text
    assert rounds.all_rounds(store) == []


@pytest.mark.parametrize("role", ["labeler", "heldout", "reviewer"])
def test_only_admins_train(visit: Visit, store: Store, project: Project, role: str) -> None:
    add_round(store, project, state="stopped")
    client = visit(role)
    for path in ("/rounds", "/rounds/1/stop", "/rounds/1/resume"):
        assert client.post(path).status_code == 403
    sees = 200 if role == "reviewer" else 403
    assert [client.get(p).status_code for p in ("/loop", "/rounds/1", "/api/rounds/1")] == [sees] * 3
    assert "<button" not in client.get("/rounds/1").text.split('id="live"')[-1] or role != "reviewer"


# ---- a round's page --------------------------------------------------------------------------------------------


def test_while_it_trains_curves_samples_and_log_are_there(
    visit: Visit, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_round(store, project, state="running")
    begun(folder)
    monkeypatch.setattr(rounds, "alive", lambda _: True)
    admin = visit("admin")
    said = admin.get("/rounds/1").text
    for expected in ("Step 4 of 7", "optimise the policy", "SFT: loss per token", "Score", "KL", "Length", "[4/7]"):
        assert expected in said
    assert HOSTILE not in said and "an older response" not in said and "&lt;script&gt;" in said
    assert 'action="/rounds/1/stop"' in said and "round.js" in said
    answer = admin.get("/api/rounds/1").json()
    assert answer["state"] == "running" and HOSTILE not in json.dumps(answer)
    assert set(answer["parts"]) == {"live-stage", "live-curves", "live-samples", "live-log"}
    for name, html in answer["parts"].items():
        assert f'id="{name}"' in said and html.strip() in said, f"the page holds the same {name} that the script gets"
    assert step(admin) == "Round 1 is training."
    assert 'action="/rounds"' not in admin.get("/loop").text


def test_before_the_first_step_the_page_says_so(
    visit: Visit, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_round(store, project, state="running")
    monkeypatch.setattr(rounds, "alive", lambda _: True)
    said = visit("admin").get("/rounds/1").text
    assert "Starting" in said and "No step has been taken yet." in said


def test_when_it_ends_it_says_what_changed(visit: Visit, store: Store, project: Project) -> None:
    folder = add_round(store, project)
    tell(folder)
    (folder / "report.html").write_text("<!doctype html><p>The report.</p>")
    reviewer = visit("reviewer")
    said = reviewer.get("/rounds/1").text
    for expected in (
        "30",
        "training: 30 by 2",
        "64%",
        "[55, 72]",
        "cross-validation",
        "+1.50",
        "1.25",
        "nobody has judged",
    ):
        assert expected in said
    report = reviewer.get("/rounds/1/report")
    assert report.text.endswith("The report.</p>") and report.headers["content-security-policy"] == REPORT_POLICY
    loop = reviewer.get("/loop").text
    assert "64%" in loop and "Round 1" in loop and "/rounds/1/report" in loop


def test_little_is_claimed_of_a_round_without_rankings(visit: Visit, store: Store, project: Project) -> None:
    none = {"reward_model": None, "ppo": None, "score_change": None, "policy": "sft", "newest": "round-1/sft"}
    tell(add_round(store, project), **none, answers={})
    said = visit("admin").get("/rounds/1").text
    assert "of pairs it had not seen" not in said and "demonstrations by 1" in said
    assert "imitates demonstrations (SFT)" in visit("admin").get("/loop").text


def test_blind_judgements_show_on_both_pages(visit: Visit, made: Made, store: Store, project: Project) -> None:
    batch = made.batch("judge")
    for n in range(3):
        prompt = made.prompts(1)[0]
        old = made.responses(prompt, 1, model="base")
        new = made.responses(prompt, 1, model="round-1/ppo_ptx")
        with store.write() as tx:
            from tutelage.studio import queue

            queue.add_items(tx, store.clock(), batch, [(prompt, old + new)])
        made.answer(made.account("heldout").id, "judge", ranking(2, [2, 1] if n else [1, 2]))
    tell(add_round(store, project, settings={"batches": {"judge": batch}}))
    admin = visit("admin")
    assert "67%" in admin.get("/loop").text
    assert "of 3 blind comparisons won against base" in " ".join(admin.get("/rounds/1").text.split())


def test_a_question_is_asked_and_the_decision_taken(
    visit: Callable[[Any], TestClient], made: Made, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended with a question leaves a round that waits; the choice goes to its config and the audit."""
    folder = add_round(store, project, state="running")
    write_json(folder / "question.json", {"round": 1, "question": "It orders 52% as people did <b>."})
    write_json(folder / "config.json", {"number": 1})
    monkeypatch.setattr(rounds, "_launch", lambda *_: None)
    boss = made.account("admin")
    admin = visit(boss)
    said = admin.get("/rounds/1").text
    assert rounds.one(store, 1).state == "waiting"
    assert (
        "It orders 52% as people did &lt;b&gt;." in said and "Collect more rankings" in said and "Go on anyway" in said
    )
    assert step(admin) == "Round 1 waits for a decision."
    reviewer = visit("reviewer").get("/rounds/1").text
    assert "An admin decides." in reviewer and "Go on anyway" not in reviewer
    with pytest.raises(UserError, match="round 1 is waiting; only the latest round, stopped or failed"):
        rounds.resume(store, 1, boss)
    assert admin.post("/rounds/1/decide", data={"choice": "maybe"}).status_code == 400
    monkeypatch.setattr(rounds, "alive", lambda _: True)
    assert admin.post("/rounds/1/decide", data={"choice": "collect_more"}, follow_redirects=False).status_code == 303
    assert json.loads((folder / "config.json").read_text()) == {
        "number": 1,
        "accept_weak_reward": False,
        "collect_more": True,
    }
    assert rounds.one(store, 1).state == "running"
    assert admin.post("/rounds/1/decide", data={"choice": "collect_more"}).status_code == 400
    assert steps(store) == ["collect_more", "waiting"]


def steps(store: Store) -> list[str]:
    """What the audit log says of rounds, by name: these steps share one moment."""
    with store.read() as tx:
        rows = tx.execute(sa.select(actions.c.detail).where(actions.c.what == "round")).scalars()
        return sorted(row["step"] for row in rows)


def test_a_finished_round_says_how_it_stands_and_the_old_policy_can_be_kept(
    visit: Visit, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(rounds, "_launch", lambda store, number, folder, lock: started.append(number))
    worse = {"value": -1.5, "low": -2.0, "high": -1.0, "n": 12, "new": "x", "old": "base"}
    folder = add_round(store, project)
    tell(folder, score_change=worse)
    admin = visit("admin")
    said = " ".join(admin.get("/rounds/1").text.split())
    assert "The new policy: worse than the old one" in said and "base stays in use unless somebody decides" in said
    assert "by the reward model: -1.50 in score on 12 held-out prompts" in said and "Use the new policy" in said
    assert json.loads((folder / "policy.json").read_text())["keep"] == "old" and steps(store) == ["keep-old"]
    assert "The old policy is in use" in admin.get("/loop").text
    admin.post("/rounds/1/keep", data={"policy": "new"})
    assert started == [], "the new policy's answers are up for ranking already"
    said = " ".join(admin.get("/rounds/1").text.split())
    assert "<strong>new</strong> policy is in use" in said and "Keep the old policy" in said
    monkeypatch.setattr(rounds, "alive", lambda _: True)
    admin.post("/rounds/1/keep", data={"policy": "old"})
    assert started == [1] and rounds.one(store, 1).state == "running"
    assert json.loads((folder / "config.json").read_text())["keep"] == "old"
    assert steps(store) == ["keep-new", "keep-old", "keep-old"]
    assert admin.post("/rounds/1/keep", data={"policy": "old"}).status_code == 400, "it trains"


def test_a_folder_that_is_gone_is_said_and_nothing_breaks(visit: Visit, store: Store, project: Project) -> None:
    import shutil

    shutil.rmtree(add_round(store, project))
    admin = visit("admin")
    assert "folder was removed" in admin.get("/rounds/1").text
    assert admin.get("/loop").status_code == 200 and admin.get("/api/rounds/1").status_code == 200
    assert admin.get("/rounds/1/report").status_code == 404


def test_there_is_no_such_round(visit: Visit) -> None:
    admin = visit("admin")
    for path in ("/rounds/9", "/api/rounds/9", "/rounds/9/report"):
        assert admin.get(path).status_code == 404
    assert admin.post("/rounds/9/stop").status_code == 404
    assert admin.get("/rounds/nine").status_code in (404, 422)


def test_stopping_and_going_on_by_the_buttons(
    visit: Visit, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_round(store, project, state="running")
    living = [True]
    monkeypatch.setattr(rounds, "alive", lambda _: living[0])
    monkeypatch.setattr(rounds, "_launch", lambda *_: None)
    admin = visit("admin")
    assert admin.post("/rounds/1/stop").status_code == 200
    assert rounds.one(store, 1).state == "stopping" and "Stop at once" in admin.get("/rounds/1").text
    living[0] = False
    assert "Go on" in admin.get("/rounds/1").text and rounds.one(store, 1).state == "stopped"
    living[0] = True
    admin.post("/rounds/1/resume")
    assert rounds.one(store, 1).state == "running"
    with store.read() as tx:
        trail = tx.execute(sa.text("SELECT what FROM action WHERE what = 'round'")).all()
    assert len(trail) == 3
