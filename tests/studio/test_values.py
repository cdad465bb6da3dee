"""Whose values: agreement and conflicts by hand, the page, and a reward model for a group by the real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from made_round import give_round, train_round
from made_studio import Made, Visit, ranking
from starlette.testclient import TestClient

from tutelage.records import Ranking, Response, UserError, read_records
from tutelage.settings import RewardConfig
from tutelage.studio import accounts, groupmodel, queue, rounds, values
from tutelage.studio.accounts import Account
from tutelage.studio.app import COOKIE, build
from tutelage.studio.project import Project, init, open_project
from tutelage.studio.schema import rounds as round_table
from tutelage.studio.store import Store, open_store

PATIENCE = 300.0  # seconds for a training on a busy machine


def given(group: str, labeler: str, ranks: tuple[int, ...], prompt: str = "p", split: str = "train") -> Ranking:
    shown = tuple(Response(id=f"{prompt}/{n}", text="") for n in range(len(ranks)))
    return Ranking(
        prompt_id=prompt, prompt=prompt, responses=shown, ranks=ranks, labeler=labeler, group=group, split=split
    )


def test_groups_are_counted() -> None:
    rows = [given("a", "1", (1, 2)), given("a", "2", (1, 2)), given("b", "3", (1, 1), "q")]
    assert values.groups(rows, rows[:1]) == [values.Group("a", 2, 2, 1, 1), values.Group("b", 1, 1, 1, 0)]


def test_agreement_within_and_across() -> None:
    rows = [
        given("a", "1", (1, 2, 3)),
        given("a", "2", (1, 3, 2)),
        given("b", "3", (3, 2, 1)),
        given("c", "4", (1, 2), "q"),
    ]
    found = {(p.first, p.second): p.agreement for p in values.agreements(rows)}
    within, across = found["a", "a"], found["a", "b"]
    assert within is not None and across is not None
    assert within.untied is not None and within.untied.value == pytest.approx(2 / 3)
    assert across.untied is not None and across.untied.value == pytest.approx(1 / 6)  # labeler 2 and 3 agree on 2 > 1
    assert (across.pairs, across.strict.n) == (6, 1)
    assert found["b", "b"] is None and found["a", "c"] is None
    assert list(found) == [("a", "a"), ("b", "b"), ("c", "c"), ("a", "b"), ("a", "c"), ("b", "c")]


def test_conflicts_are_listed_the_worst_first() -> None:
    rows = [
        given("a", "1", (1, 2, 3)), given("b", "2", (3, 2, 1)),
        given("a", "1", (1, 2, 2), "q"), given("a", "4", (1, 1, 2), "q"), given("b", "2", (1, 2, 2), "q"),
        given("a", "1", (1, 2), "same"), given("b", "2", (1, 2), "same"),
    ]  # fmt: skip
    first, second = values.conflicts(rows)
    assert (first.prompt_id, first.distance, first.means) == ("p", 1.0, {"a": (1, 2, 3), "b": (3, 2, 1)})
    # Mean verdicts of a on q's pairs: .5, 1, .5; of b: 1, 1, 0. Half the gaps, over three pairs: (.25 + 0 + .25) / 3.
    assert second.distance == pytest.approx(1 / 6)
    assert second.means == {"a": (1.25, 2.0, 2.75), "b": (1.0, 2.5, 2.5)}
    assert second.labelers == {"a": 2, "b": 1}
    assert values.conflicts(rows, count=1) == [first]


def test_the_same_responses_in_another_order_are_the_same_set() -> None:
    other = Ranking(
        prompt_id="p",
        prompt="p",
        responses=(Response(id="p/1", text=""), Response(id="p/0", text="")),
        ranks=(1, 2),
        labeler="2",
        group="b",
    )
    assert [c.distance for c in values.conflicts([given("a", "1", (1, 2)), other])] == [1.0]


def test_what_reward_models_choose_and_foretell() -> None:
    rows = [given("a", "1", (1, 2, 2)), given("a", "1", (2, 1, 1), "q", "valid")]
    mine = {"p/0": 1.0, "p/1": 0.0, "p/2": 0.5, "q/0": 1.0, "q/1": 1.0, "q/2": 2.0}
    other = {"p/0": 0.0, "p/1": 1.0, "p/2": 0.5}
    assert values.choice(("p/0", "p/1", "p/2"), mine) == "p/0"
    assert values.choice(("p/0", "x"), mine) is None
    assert values.unlike(rows, mine, other) == (1, 1)  # q was not scored by the other
    found = values.foretells(rows, mine, frozenset(("q",)))
    assert found is not None and (found.value, found.n) == (0.75, 1)  # one pair right, one tied by the model
    assert values.foretells(rows, mine, frozenset()) is None


# ---- the page --------------------------------------------------------------------------------------------------


def two_minds(made: Made, count: int = 3, k: int = 3) -> tuple[Account, Account]:
    """Two labelers of two groups who rank the same responses in opposite orders."""
    one, two = made.account(team="mornings"), made.account(team="evenings")
    made.filled("compare", count, overlap=2, k=k)
    for _ in range(count):
        made.answer(one.id, body=ranking(k))
        made.answer(two.id, body=ranking(k, list(range(k, 0, -1))))
    return one, two


def test_the_page_shows_groups_agreement_and_conflicts(visit: Visit, made: Made) -> None:
    empty = visit("reviewer").get("/values")
    assert empty.status_code == 200 and "Nobody has ranked anything yet" in empty.text
    two_minds(made)
    shown = visit("reviewer").get("/values").text
    assert "mornings and evenings" in shown or "evenings and mornings" in shown
    assert shown.count("100% apart") == 3
    assert "0% <span" in shown  # they never agree
    assert f"{groupmodel.NEEDED} rankings of training prompts are needed; there are 3." in shown
    assert "Train on" not in shown


def test_what_models_wrote_is_rendered_harmless(visit: Visit, made: Made, store: Store) -> None:
    one, two = made.account(team="<b>x"), made.account(team="y")
    prompt = made.prompts(1, text="**bold** <script>alert(1)</script>")[0]
    shown = made.responses(prompt, 2, text="<img src=x onerror=alert(2)> [a](javascript:alert(3))")
    batch = made.batch(overlap=2)
    with store.write() as tx:
        queue.add_items(tx, store.clock(), batch, [(prompt, shown)])
    made.answer(one.id, body=ranking(2))
    made.answer(two.id, body=ranking(2, [2, 1]))
    text = visit("admin").get("/values").text
    assert "<strong>bold</strong>" in text
    assert all(bad not in text for bad in ("<script>alert", "<img", "<b>x", 'javascript:alert(3)"'))


@pytest.mark.parametrize("role", ["labeler", "heldout"])
def test_labelers_do_not_see_it(visit: Visit, role: str) -> None:
    client = visit(role)
    assert client.get("/values").status_code == 403
    assert client.get("/api/values/training").status_code == 403
    assert client.post("/values/train", data={"group": "x"}).status_code == 403


def test_only_admins_train(visit: Visit, made: Made) -> None:
    two_minds(made, 1)
    assert visit("reviewer").post("/values/train", data={"group": "mornings"}).status_code == 403
    assert visit("admin").post("/values/train", data={"group": "nobody"}).status_code == 404


def test_too_few_rankings_say_how_many_are_needed(visit: Visit, made: Made) -> None:
    two_minds(made, 2)
    reply = visit("admin").post("/values/train", data={"group": "mornings"})
    assert reply.status_code == 409
    assert f"has 2 rankings that can train a reward model; {groupmodel.NEEDED} are needed" in reply.text


def test_held_out_prompts_and_judgements_never_train(store: Store, made: Made) -> None:
    me = made.account(team="mornings")
    made.filled("compare", 1)
    made.filled("judge", 1)
    for kind in ("compare", "judge"):
        made.answer(me.id, kind)
    found = groupmodel.compared(store)
    assert {g: len(r) for g, r in found.items()} == {"mornings": 1, groupmodel.JUDGED: 1}
    assert groupmodel.usable(
        [given("a", "1", (1, 2)), given("a", "1", (1, 1)), given("a", "1", (1, 2), split="test")]
    ) == [given("a", "1", (1, 2))]


def test_group_names_become_folders_of_their_own(project: Project) -> None:
    names = ["a", "A", "../../etc", "", "training", "x" * 64, "夜"]
    folders = {groupmodel.folder_of(project, name) for name in names}
    assert len(folders) == len(names)
    assert {f.parent for f in folders} == {project.runs / "values"}
    assert groupmodel.slug("training") != "training"  # the reward page's own word for whoever trains it


# ---- a reward model for a group --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round's folder to copy from."""
    return train_round(tmp_path_factory, tiny_model_dir("llama"))


@pytest.fixture
def small(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], trained: Path
) -> Iterator[tuple[Project, Store, Made]]:
    """A studio with a finished round of a tiny model, and two groups of two minds."""
    folder = init(tmp_path / "studio", name="Harbour", model=str(tiny_model_dir("llama"))).folder
    settings = json.loads((folder / "project.json").read_text()) | {"preset": "small"}
    (folder / "project.json").write_text(json.dumps(settings))
    project = open_project(folder)
    store = open_store(f"sqlite:///{tmp_path / 'studio.db'}", folder=folder)
    made = Made(store)
    two_minds(made, groupmodel.NEEDED)
    give_round(project, trained)
    yield project, store, made
    store.close()


def logged_in(store: Store, app: FastAPI, role: str) -> TestClient:
    client = TestClient(app)
    client.cookies.set(COOKIE, accounts.open_session(store, Made(store).account(role).id))
    return client


def until_done(client: TestClient) -> None:
    end = time.monotonic() + PATIENCE
    while client.get("/api/values/training").json()["group"] is not None:
        assert time.monotonic() < end, "the training did not end"
        time.sleep(0.1)


@pytest.mark.timeout(900)
def test_a_groups_model_is_trained_on_its_rankings_and_scores_all_responses(small: tuple[Project, Store, Made]) -> None:
    project, store, _ = small
    client = logged_in(store, build(project, store), "admin")
    assert f"Train on {groupmodel.NEEDED} rankings" in client.get("/values").text
    reply = client.post("/values/train", data={"group": "mornings"})
    assert reply.status_code == 200 and "Being trained" in reply.text  # followed back to the page
    busy = client.post("/values/train", data={"group": "evenings"})
    assert busy.status_code == 409 and "the model of group &#39;mornings&#39; is being trained" in busy.text
    until_done(client)
    model = groupmodel.look(project, "mornings")
    assert (model.state, model.message, model.trained_on, model.round) == ("ready", "", groupmodel.NEEDED, 1)
    folder = groupmodel.folder_of(project, "mornings")
    run = json.loads((folder / "reward" / "run.json").read_text())
    assert run["result"]["n_prompts"] == groupmodel.NEEDED
    assert json.loads((folder / "config.json").read_text())["trainable_layers"] == 2  # as the round's own
    rows = read_records(Ranking, folder / "rankings.jsonl")
    mine = [r for r in rows if r.group == groupmodel.slug("mornings")]
    assert len(mine) == groupmodel.NEEDED and len(rows) == 2 * groupmodel.NEEDED
    assert set(model.scores) == {r.id for row in rows for r in row.responses}
    shown = client.get("/values").text
    assert "model of mornings" in shown and shown.count(">chosen</strong>") == values.SHOWN


def test_stopping_never_reaches_the_process_of_an_earlier_training(small: tuple[Project, Store, Made]) -> None:
    """A training that died with the studio leaves its process id behind, which somebody else may have by now."""
    project, store, _ = small
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        groupmodel.start(store, project, "evenings").join(PATIENCE)
        left = groupmodel.folder_of(project, "evenings")
        assert not (left / groupmodel.PID).exists()
        shutil.copytree(left, groupmodel._next(left))
        (groupmodel._next(left) / groupmodel.PID).write_text(str(bystander.pid))
        worker = groupmodel.start(store, project, "evenings")
        groupmodel.stop(project)
        worker.join(PATIENCE)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_training_is_stopped_and_goes_on(small: tuple[Project, Store, Made]) -> None:
    project, store, _ = small
    client = logged_in(store, build(project, store), "admin")
    nothing = client.post("/values/stop")
    assert nothing.status_code == 409 and "is being trained" in nothing.text
    worker = groupmodel.start(store, project, "evenings")
    pid = groupmodel._next(groupmodel.folder_of(project, "evenings")) / groupmodel.PID
    until = time.monotonic() + PATIENCE
    while not pid.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "the reward model of group &#39;evenings&#39; is being trained" in client.post("/rounds").text
    assert client.post("/values/stop").status_code == 200
    worker.join(PATIENCE)
    assert groupmodel.training(project) is None
    assert groupmodel.look(project, "evenings").state == "failed"
    groupmodel.start(store, project, "evenings").join(PATIENCE)
    assert groupmodel.look(project, "evenings").state == "ready"


def test_a_stop_counts_though_its_signal_is_lost(
    small: tuple[Project, Store, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, store, _ = small
    monkeypatch.setattr(groupmodel.os, "kill", lambda *_: None)
    worker = groupmodel.start(store, project, "evenings")
    groupmodel.stop(project)
    worker.join(PATIENCE)
    found = groupmodel.look(project, "evenings")
    assert (found.state, found.message) == ("failed", "stopped")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_becomes_of_a_groups_model(small: tuple[Project, Store, Made]) -> None:
    """It fails in one line, goes on when mended, stays while a newer one is trained, and stands beside another's."""
    project, store, made = small
    client = logged_in(store, build(project, store), "admin")
    weights = next((project.runs / "round-1" / "sft" / "model").glob("*.safetensors"))
    kept = weights.read_bytes()
    weights.write_bytes(b"torn")
    groupmodel.start(store, project, "mornings").join()
    found = groupmodel.look(project, "mornings")
    assert found.state == "failed" and "cannot be opened as a model" in found.message
    assert "The last training did not finish: " in client.get("/values").text
    weights.write_bytes(kept)
    groupmodel.start(store, project, "mornings").join()
    before = groupmodel.look(project, "mornings")
    assert before.state == "ready"

    again = made.account(team="mornings")
    made.filled("compare", 1, k=3)
    made.answer(again.id, body=ranking(3))
    worker = groupmodel.start(store, project, "mornings")
    meanwhile = groupmodel.look(project, "mornings")
    assert (meanwhile.state, meanwhile.scores) == ("training", before.scores)
    worker.join()
    after = groupmodel.look(project, "mornings")
    assert after.state == "ready" and after.trained_on == before.trained_on + 1
    assert set(before.scores) < set(after.scores)
    assert not list((project.runs / "values").glob("*.next"))

    groupmodel.start(store, project, "evenings").join()
    shown = client.get("/values").text
    assert f"of {groupmodel.NEEDED + 1} sets of responses" in shown
    assert shown.count(">chosen</strong>") == 2 * values.SHOWN


def test_no_round_or_a_running_one_is_said(small: tuple[Project, Store, Made]) -> None:
    project, store, _ = small
    folder = project.runs / "round-2"
    with rounds._alive_lock(folder):  # what a training round holds
        with store.write() as tx:
            row = {"number": 2, "state": "running", "folder": str(folder), "pid": 0, "settings": {}, "message": ""}
            tx.execute(round_table.insert().values(**row, started=0.0))
        with pytest.raises(UserError, match="a round is being trained"):
            groupmodel.start(store, project, "mornings")
    shutil.rmtree(project.runs / "round-1" / "sft")
    with pytest.raises(UserError, match="no round has been finished yet"):
        groupmodel.start(store, project, "mornings")
    assert groupmodel.training(project) is None


def test_a_half_way_training_goes_on_in_a_studio_that_was_moved(tmp_path: Path) -> None:
    rows = [given("a", "1", (1, 2))]

    def prepare(studio: Path, epochs: int = 1) -> Path:
        folder = studio / "runs" / "values" / "a.next"
        model, ranked = str(studio / "runs" / "round-1" / "sft"), folder / "rankings.jsonl"
        settings = RewardConfig(model=model, rankings=ranked, out=folder / "reward", epochs=epochs)
        groupmodel._prepare(folder, rows, settings)
        return folder

    (prepare(tmp_path / "old") / "half-way").touch()
    (tmp_path / "old").rename(tmp_path / "new")
    folder = prepare(tmp_path / "new")
    assert (folder / "half-way").exists()
    assert str(tmp_path / "old") not in (folder / "config.json").read_text()
    assert not (prepare(tmp_path / "new", epochs=2) / "half-way").exists()


def test_the_lock_is_held_by_a_child_that_outlives_the_studio(project: Project) -> None:
    """A studio that was killed leaves its training running; the next one must not start another in the same folder."""
    lock = groupmodel._lock(project, "mornings")
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)
    ) as child:
        lock.close()  # what the kernel does for a killed studio
        assert groupmodel.training(project) == "mornings"
        with pytest.raises(UserError, match="the model of group 'mornings' is being trained"):
            groupmodel._lock(project, "evenings")
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)
    assert groupmodel.training(project) is None
