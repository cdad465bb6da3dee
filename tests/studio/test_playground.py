"""The playground: the keeper of the model host, the stream of answers, votes, and what goes wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from made_round import give_round, train_round
from made_studio import Made, Visit
from starlette.testclient import TestClient

from tutelage.studio import accounts, playground
from tutelage.studio import host as keeper
from tutelage.studio.app import COOKIE, build
from tutelage.studio.export import export
from tutelage.studio.host import Busy, Event, Host
from tutelage.studio.pages.playground import _event
from tutelage.studio.project import Project, init
from tutelage.studio.schema import votes
from tutelage.studio.store import Store, open_store

PATIENCE = 120.0  # seconds for anything the models do: the machine may be busy


@pytest.fixture(scope="session")
def trained(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round's folder to copy from."""
    return train_round(tmp_path_factory, tiny_model_dir("llama"))


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """One model host for all tests: starting one takes seconds."""
    made = Host()
    yield made
    made.close()


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> Project:
    """A studio on the tiny model."""
    made = init(tmp_path / "studio", name="Harbour", model=str(tiny_model_dir("llama")))
    return Project(made.folder, dataclasses.replace(made.settings, max_response_tokens=8), made.guidelines)


@pytest.fixture
def app(project: Project, store: Store, host: Host) -> FastAPI:
    """The application, with the session's model host."""
    made = build(project, store)
    made.state.host = host
    return made


@pytest.fixture
def plain(tmp_path: Path, project: Project) -> Iterator[tuple[Store, FastAPI]]:
    """A store and an application on SQLite alone, for what the kind of database does not matter to."""
    store = open_store(f"sqlite:///{tmp_path / 'studio.db'}")
    yield store, build(project, store)
    store.close()


# ---- the keeper of the child -----------------------------------------------------------------------------------


class Heard:
    """What a ticket was told, and a way to wait for its end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._over = threading.Event()
        self._any = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._any.set()
        if event.get("done") and "model" not in event:
            self._over.set()

    def wait(self) -> list[Event]:
        assert self._over.wait(PATIENCE), self.events
        return self.events

    def wait_for_any(self) -> None:
        assert self._any.wait(PATIENCE)

    @property
    def errors(self) -> list[str]:
        return [str(e["error"]) for e in self.events if "error" in e]


def asked(model: Path, **changes: Any) -> Event:
    models = [{"name": "0", "path": str(model)}]
    return {
        "prompt": "The sea",
        "models": models,
        "temperature": 1.0,
        "seed": 1,
        "max_tokens": 6,
        "reward": None,
    } | changes


def test_the_host_starts_when_asked_and_again_when_its_process_died(
    host: Host, tiny_model_dir: Callable[[str], Path]
) -> None:
    model = tiny_model_dir("llama")
    first, second = Heard(), Heard()
    host.ask(asked(model), first)
    said = first.wait()
    assert [e for e in said if e.get("done") and "model" in e]
    before = host.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    host.ask(asked(model), second)
    again = second.wait()
    assert not second.errors
    assert host.pid not in (None, before)
    assert again[-2]["text"] == said[-2]["text"]


def test_a_host_killed_in_mid_answer_says_so_and_serves_the_next(
    host: Host, tiny_model_dir: Callable[[str], Path]
) -> None:
    model, heard, following = tiny_model_dir("llama"), Heard(), Heard()
    host.ask(asked(model, models=[{"name": str(n), "path": str(model)} for n in range(400)], max_tokens=100), heard)
    host.ask(asked(model), following)
    heard.wait_for_any()
    pid = host.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    heard.wait()
    assert len(heard.errors) == 1 and heard.errors[0].startswith("the model process ended (")
    following.wait()
    assert not following.errors


def test_a_cancelled_question_makes_room_for_the_next(host: Host, tiny_model_dir: Callable[[str], Path]) -> None:
    model, heard, waiting, last = tiny_model_dir("llama"), Heard(), Heard(), Heard()
    long = host.ask(asked(model, models=[{"name": str(n), "path": str(model)} for n in range(400)]), heard)
    behind = host.ask(asked(model), waiting)
    assert behind.ahead >= 1
    host.cancel(behind)
    host.ask(asked(model), last)
    heard.wait_for_any()
    host.cancel(long)
    assert heard.wait()[-1] == {"done": True, "cancelled": True}
    assert sum("model" in e and bool(e.get("done")) for e in heard.events) < 400
    assert waiting.wait() == [{"done": True, "cancelled": True}]
    assert not last.wait()[-1]["cancelled"]


def scripted(body: str, **limits: float) -> Host:
    """A host whose child runs a few lines in place of models: how it ends or hangs is the point."""
    return Host((sys.executable, "-uc", f"import json, sys, time\nfor line in sys.stdin:\n    {body}"), **limits)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("time.sleep(600)", "the models took too long and were stopped; ask again"),
        ("print('{')", "the model process said something that cannot be read and was stopped; ask again"),
        ("sys.exit('no memory left')", "the model process ended (no memory left); ask again"),
        ("sys.exit(3)", "the model process ended (exit code 3); ask again"),
    ],
)
def test_a_child_that_misbehaves_is_one_line(body: str, problem: str) -> None:
    host, heard = scripted(body, silence=1.0), Heard()
    host.ask({}, heard)
    heard.wait()
    assert heard.errors == [problem]
    assert host.pid is None
    host.close()


def test_a_child_that_cannot_start_is_one_line() -> None:
    host, heard = Host(("/nowhere/python",)), Heard()
    host.ask({}, heard)
    heard.wait()
    assert heard.errors == ["the model process cannot be started (No such file or directory)"]
    host.close()


def test_too_many_in_line_are_turned_away_and_closing_lets_all_go() -> None:
    host, heard = scripted("time.sleep(600)"), [Heard() for _ in range(keeper.WAITING + 1)]
    host.ask({}, heard[0])
    while host.pid is None:
        time.sleep(0.01)
    for one in heard[1:]:
        host.ask({}, one)
    with pytest.raises(Busy, match=f"{keeper.WAITING} questions are waiting"):
        host.ask({}, Heard())
    pid = host.pid
    host.close()
    assert all(one.wait()[-1]["done"] for one in heard)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Busy, match="being stopped"):
        host.ask({}, Heard())


def test_an_idle_host_gives_its_memory_back() -> None:
    answer = "print(json.dumps({'id': json.loads(line)['id'], 'done': True}))"
    host, heard = scripted(answer, idle=0.2), Heard()
    host.ask({}, heard)
    heard.wait()
    end = time.monotonic() + PATIENCE
    while host.pid is not None and time.monotonic() < end:
        time.sleep(0.02)
    assert host.pid is None
    again = Heard()
    host.ask({}, again)
    assert again.wait() == [{"done": True, "cancelled": False}]
    host.close()


# ---- the page --------------------------------------------------------------------------------------------------


def ask(client: TestClient, **sent: Any) -> list[tuple[str, Any]]:
    """Ask over HTTP; the server-sent events as (kind, data)."""
    reply = client.post("/api/playground/answer", json={"prompt": "Tell me about the sea"} | sent)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in reply.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def of(events: list[tuple[str, Any]], kind: str) -> list[Any]:
    return [data for name, data in events if name == kind]


def test_without_a_round_the_base_model_answers_alone(visit: Visit, made: Made) -> None:
    made.prompts(3)
    client = visit("labeler")
    shown = client.get("/playground").text
    assert "No round has been finished yet" in shown
    assert shown.count("<option") == 4
    assert 'id="blind"' not in shown
    events = ask(client, blind=True)
    assert of(events, "start")[0]["labels"] == ["Base model"]
    assert len(of(events, "end")) == 1
    assert of(events, "done") == [{"votable": False}]
    reply = client.post("/api/playground/vote", json={"key": of(events, "start")[0]["key"], "best": 0})
    assert (reply.status_code, reply.json()["problem"]) == (422, "field 'best' needs two whole answers to choose from")
    assert "start a round on the" in visit("admin").get("/playground").text


def test_the_models_of_a_round_answer_side_by_side(visit: Visit, project: Project, trained: Path, store: Store) -> None:
    give_round(project, trained)
    client = visit("labeler")
    shown = client.get("/playground").text
    assert "Round 1 (newest)" in shown and "/rounds/1/report" not in shown  # labelers may not read reports
    events = ask(client)
    start = of(events, "start")[0]
    assert start["labels"] == ["Base model", "Base, prompted", "SFT", "PPO"]
    ends = of(events, "end")
    assert [e["place"] for e in ends] == [0, 1, 2, 3]
    assert all(isinstance(e["score"], float) and 1 <= e["tokens"] <= 8 for e in ends)
    for end in ends:
        assert "".join(p["text"] for p in of(events, "piece") if p["place"] == end["place"]) == end["text"]
    told = client.post("/api/playground/vote", json={"key": start["key"], "best": 3}).json()
    assert told["answers"][3]["name"] == "round-1/ppo_ptx"
    again = client.post("/api/playground/vote", json={"key": start["key"], "best": 0})  # a second tab, a second click
    assert again.status_code == 200
    with store.read() as tx:
        row = tx.execute(sa.select(votes)).one()
    assert row.best == 3 and row.prompt == "Tell me about the sea"
    assert [a["model"] for a in row.answers] == ["base", "prompted", "round-1/sft", "round-1/ppo_ptx"]
    assert [a["text"] for a in row.answers] == [e["text"] for e in ends]
    theirs = visit("reviewer").get("/playground").text
    assert "round-1/ppo_ptx" in theirs and "/rounds/1/report" in theirs
    assert "Votes so far" not in shown


def test_a_blind_sitting_names_nobody_before_the_vote(visit: Visit, project: Project, trained: Path) -> None:
    folder = give_round(project, trained)
    shutil.rmtree(folder / "sft")
    client = visit("labeler")
    orders = set()
    for _ in range(2):
        events = ask(client, blind=True)
        text = json.dumps(events).replace(of(events, "start")[0]["key"], "")  # it is random, and may spell anything
        assert of(events, "start")[0]["labels"] == ["Answer A", "Answer B", "Answer C", "Answer D"]
        assert all(e["score"] is None for e in of(events, "end"))
        assert not any(name in text for name in ("sft", "ppo", "base", "prompted", str(folder)))
        hidden = [p["place"] for p in of(events, "problem")]
        assert len(hidden) == 1
        key = of(events, "start")[0]["key"]
        refused = client.post("/api/playground/vote", json={"key": key, "best": hidden[0]})
        assert refused.status_code == 422  # nobody can vote for what did not answer
        told = client.post("/api/playground/vote", json={"key": key, "best": -1}).json()["answers"]
        assert told[hidden[0]]["name"] == "round-1/sft"
        assert told[hidden[0]]["problem"] == f"{folder / 'sft'}: the run is gone; it was deleted or moved"
        assert sum(isinstance(a["score"], float) for a in told) == 3
        orders.add(tuple(a["name"] for a in told))
    tally, ties, bad = playground.tally(client.app.state.store)  # type: ignore[attr-defined]
    assert {t.model: (t.shown, t.best) for t in tally} == {
        "base": (2, 0), "prompted": (2, 0), "round-1/ppo_ptx": (2, 0)
    }  # fmt: skip
    assert (ties, bad) == (2, 0)


def test_blind_orders_are_shuffled(project: Project, trained: Path) -> None:
    give_round(project, trained)
    orders = {
        tuple(m.name for m in playground.prepare(project, "me", {"prompt": "x", "blind": True})[0].models)
        for _ in range(60)
    }
    assert len(orders) > 12  # of 24


def test_a_deleted_run_is_one_line_and_the_others_go_on(visit: Visit, project: Project, trained: Path) -> None:
    folder = give_round(project, trained)
    client = visit("labeler")
    assert len(of(ask(client), "end")) == 4
    shutil.rmtree(folder / "ppo_ptx")
    shutil.rmtree(folder / "reward")
    events = ask(client)
    assert [e["place"] for e in of(events, "end")] == [0, 1, 2]
    assert all(e["score"] is None for e in of(events, "end"))
    problems = {p.get("place"): p["text"] for p in of(events, "problem")}
    assert problems == {
        3: f"{folder / 'ppo_ptx'}: the run is gone; it was deleted or moved",
        None: f"no scores: {folder / 'reward'}: the run is gone; it was deleted or moved",
    }
    assert of(events, "done") == [{"votable": True}]


def test_older_rounds_can_be_chosen_and_a_round_may_end_with_sft(project: Project, trained: Path) -> None:
    give_round(project, trained, 1)
    second = give_round(project, trained, 2)
    (second / "round.json").write_text(json.dumps({"policy": "sft", "model": "elsewhere"}))
    give_round(project, trained, 3)
    (project.runs / "round-3" / "round.json").unlink()  # still being trained
    assert playground.finished(project) == [2, 1]
    assert [m.name for m in playground.models(project, 2)] == ["base", "prompted", "round-2/sft"]
    assert playground.models(project, 2)[0].path == "elsewhere"
    assert playground.reward_of(project, 2) is None
    _, request = playground.prepare(project, "me", {"prompt": "x", "round": 1})
    assert request["reward"] == str((project.runs / "round-1" / "reward").resolve())
    shots = playground.worked_examples(project.runs / "round-1")
    assert len(shots) == playground.SHOTS


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ({"prompt": "  "}, "field 'prompt' is empty; type one or choose an example"),
        ({"prompt": 3}, "field 'prompt' is empty; type one or choose an example"),
        ({"prompt": "x" * 2_000_000}, "field 'prompt' has 2,000,000 characters; at most 20,000"),
        ({"prompt": "a\0b"}, "field 'prompt' holds a character that is no text"),
        ({"round": 7}, "field 'round' is no finished round"),
        ({"round": [1]}, "field 'round' is no finished round"),
        ({"temperature": 9}, "field 'temperature' must be a number from 0 to 2"),
        ({"temperature": True}, "field 'temperature' must be a number from 0 to 2"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_line(
    plain: tuple[Store, FastAPI], sent: dict[str, Any], problem: str
) -> None:
    client = logged_in(*plain)
    reply = client.post("/api/playground/answer", json={"prompt": "x"} | sent)
    assert (reply.status_code, reply.json()) == (422, {"problem": problem})


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ({"best": 0}, "field 'key' must be text"),
        ({"key": "x", "best": "0"}, "field 'best' must be a whole number"),
        ({"key": "x", "best": True}, "field 'best' must be a whole number"),
        ({"key": "x", "best": 0}, "field 'key' is of no answers the studio still knows; ask the models again"),
    ],
)
def test_a_vote_that_makes_no_sense_is_one_line(
    plain: tuple[Store, FastAPI], sent: dict[str, Any], problem: str
) -> None:
    reply = logged_in(*plain).post("/api/playground/vote", json=sent)
    assert (reply.status_code, reply.json()) == (422, {"problem": problem})


def logged_in(store: Store, app: FastAPI, role: str = "labeler") -> TestClient:
    client = TestClient(app)
    client.cookies.set(COOKIE, accounts.open_session(store, Made(store).account(role).id))
    return client


def sitting(account: str) -> playground.Sitting:
    models = tuple(playground.Model(n, "sft", n) for n in ("one", "two", "three"))
    row = {"score": None, "tokens": 1, "ended": True}
    return playground.Sitting(account, "p", models, True, {0: row | {"text": "a"}, 2: row | {"text": "b"}})


def test_nobody_votes_for_somebody_else(plain: tuple[Store, FastAPI]) -> None:
    store, app = plain
    client = logged_in(store, app)
    app.state.sittings = playground.Sittings()
    key = app.state.sittings.open(sitting("somebody else"))
    assert client.post("/api/playground/vote", json={"key": key, "best": 0}).status_code == 422


def test_a_vote_counts_places_among_whole_answers(store: Store, made: Made) -> None:
    me = made.account()
    sittings = playground.Sittings(kept=2)
    key = sittings.open(sitting(me.id))
    sittings.vote(store, me.id, key, 2)
    with store.read() as tx:
        row = tx.execute(sa.select(votes)).one()
    assert [a["model"] for a in row.answers] == ["one", "three"] and row.best == 1
    for _ in range(2):
        sittings.open(sitting(me.id))
    with pytest.raises(ValueError, match="no answers the studio still knows"):
        sittings.vote(store, me.id, key, 2)


def test_votes_are_kept_apart_from_rankings(store: Store, made: Made, tmp_path: Path) -> None:
    me = made.account()
    sittings = playground.Sittings()
    sittings.vote(store, me.id, sittings.open(sitting(me.id)), 0)
    assert export(store, tmp_path / "out")["rankings"] == 0
    assert not (tmp_path / "out" / "votes.jsonl").exists()
    export(store, tmp_path / "all", playground=True)
    assert json.loads((tmp_path / "all" / "votes.jsonl").read_text())["best"] == 0
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as tx:
        tx.execute(votes.delete())


def test_hostile_text_stays_text(visit: Visit, made: Made, project: Project) -> None:
    """Prompts stand in attributes and options, model text in JSON within an event: neither can break out."""
    hostile = '"><script>alert(1)</script></option>\n\nevent: done\ndata: {}'
    made.prompts(1, text=hostile)
    shown = visit("labeler").get("/playground").text
    assert "<script>alert" not in shown and "&lt;script&gt;alert(1)" in shown
    asked, _ = playground.prepare(project, "me", {"prompt": hostile})
    kind, data = playground.tell(asked, {"model": "0", "text": hostile})
    assert _event(kind, data).count("\n\n") == 1
    assert json.loads(_event(kind, data).split("data: ", 1)[1])["text"] == hostile


def test_only_people_of_the_studio_may_ask(plain: tuple[Store, FastAPI]) -> None:
    client = TestClient(plain[1])
    assert client.get("/playground", follow_redirects=False).status_code == 303
    assert client.post("/api/playground/answer", json={"prompt": "x"}).status_code == 401
    assert client.post("/api/playground/vote", json={}).status_code == 401


# ---- on a real server ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application on a port of its own, in a thread, with its beginning and its end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def test_whoever_goes_away_stops_the_models_and_the_studio_ends_its_host(
    plain: tuple[Store, FastAPI], project: Project, trained: Path
) -> None:
    store, app = plain
    give_round(project, trained)
    settings = dataclasses.replace(project.settings, max_response_tokens=100)
    app.state.project = Project(project.folder, settings, project.guidelines)
    app.state.host = own = Host()
    cookies = dict(logged_in(store, app).cookies)
    with serving(app) as address, httpx.Client(base_url=address, cookies=cookies, timeout=PATIENCE) as client:
        with client.stream("POST", "/api/playground/answer", json={"prompt": "The sea"}) as reply:
            for line in reply.iter_lines():
                if line == "event: piece":
                    break
        end = time.monotonic() + PATIENCE
        while own._current is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert own._current is None
        again = client.post("/api/playground/answer", json={"prompt": "The sea"})
        assert "event: done" in again.text
        pid = own.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
