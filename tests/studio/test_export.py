"""What goes out: complete, the same bytes for the same database, nothing that was not asked for, fast enough."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from made_studio import Made, Visit, ranking

from tutelage.data import sources
from tutelage.records import Demonstration, Prompt, Ranking, UserError, read_records
from tutelage.studio import export as export_module
from tutelage.studio import groupmodel, intake, overview, queue
from tutelage.studio.export import export, shuffled, write_round_data
from tutelage.studio.harvest import pseudonym, verdicts
from tutelage.studio.ids import new_id
from tutelage.studio.outfolder import whole
from tutelage.studio.project import init
from tutelage.studio.schema import actions, answers, prompts, votes
from tutelage.studio.store import Store, open_store, url_of

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "studio_export.py"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def worked(made: Made, store: Store) -> dict[str, str]:
    """A studio where two groups ranked and wrote, one best response was edited, and a held-out labeler judged."""
    one = made.account("labeler", name="One")
    two = made.account("labeler", name="Two", team="north")
    out = made.account("heldout", name="Out")
    made.filled("compare", 2, overlap=2, k=3)
    made.answer(one.id, body=ranking(3, [1, 2, 2]) | {"edited": "The sea, I said, is wide."})
    made.answer(one.id, body=ranking(3, [2, 1, 3]))
    made.answer(two.id, body=ranking(3, [1, 1, 1]))
    made.filled("judge", 1, k=2)
    made.answer(out.id, "judge", ranking(2))
    made.filled("demonstrate", 2)
    made.answer(two.id, "demonstrate")
    made.answer(one.id, "demonstrate")
    return {"one": one.id, "two": two.id, "out": out.id}


@pytest.mark.attack("markup in the name of a group, in the card of an export")
def test_names_are_text_in_the_card(store: Store, made: Made, tmp_path: Path) -> None:
    me = made.account("labeler", team="<script>alert(1)</script> `x` [y](z)")
    made.filled("compare", 1, k=2)
    made.answer(me.id, body=ranking(2))
    export(store, tmp_path / "out")
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \`x\` \[y\](z)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.attack("finding out from an export who wrote a prompt")
def test_an_export_names_nobody_who_wrote_a_prompt(store: Store, made: Made, tmp_path: Path) -> None:
    me = made.account("admin", name="Ada Lovelace")
    intake.write_prompt(store, me, "Tell me about the harbour.", use_case="chat")
    (old,) = made.prompts(1)
    with store.write() as tx:
        tx.execute(prompts.update().where(prompts.c.id == old).values(source="written by Ada Lovelace"))
    export(store, tmp_path / "out")
    assert [row["source"] for row in rows(tmp_path / "out" / "prompts.jsonl")] == ["written in the studio"] * 2


def test_the_pairs_of_a_few_shot_prompt_are_demonstrations_of_their_own(
    store: Store, made: Made, tmp_path: Path
) -> None:
    me = made.account()
    (prompt,) = made.prompts(kind="few-shot", text="Name the young.\n\ncow\ncalf\n\ndog")
    batch = made.batch("demonstrate")
    with store.write() as tx:
        queue.add_items(tx, store.clock(), batch, [(prompt, [])])
    given = [{"query": "cat", "response": "kitten"}, {"query": "hen", "response": "chick"}]
    made.answer(me.id, "demonstrate", {"response": "puppy", "rows": given})
    counts = export(store, tmp_path / "out")
    found = read_records(Demonstration, tmp_path / "out" / "demonstrations.jsonl")
    assert counts["demonstrations"] == 3
    assert len({d.id for d in found}) == 3
    assert [(d.prompt, d.response) for d in found] == [
        ("Name the young.\n\ncow\ncalf\n\ndog", "puppy"),
        ("Name the young.\n\ncow\ncalf\n\ndog\npuppy\n\nhen\nchick\n\ncat", "kitten"),
        ("Name the young.\n\ncow\ncalf\n\ndog\npuppy\n\ncat\nkitten\n\nhen", "chick"),
    ]
    data = write_round_data(store, tmp_path / "data")
    assert len(read_records(Demonstration, data["demonstrations"])) == 3


def test_everything_goes_out_as_records(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    counts = export(store, tmp_path / "out")
    rankings = read_records(Ranking, tmp_path / "out" / "rankings.jsonl")
    demonstrations = read_records(Demonstration, tmp_path / "out" / "demonstrations.jsonl")
    prompts = read_records(Prompt, tmp_path / "out" / "prompts.jsonl")
    pairs = rows(tmp_path / "out" / "preferences.jsonl")
    assert counts == {
        "prompts": len(prompts),
        "demonstrations": len(demonstrations),
        "edited": 1,
        "rankings": len(rankings),
        "comparisons": len(pairs),
        "ties": 4,
        "labelers": 2,
    }
    assert (len(prompts), len(demonstrations), len(rankings), len(pairs)) == (5, 3, 3, 5)
    assert {r.labeler for r in rankings} == {pseudonym(worked["one"]), pseudonym(worked["two"])}
    assert {(r.labeler, r.group) for r in rankings} == {
        (pseudonym(worked["one"]), "training"),
        (pseudonym(worked["two"]), "north"),
    }
    assert [d.response for d in demonstrations if d.id.endswith("-edited")] == ["The sea, I said, is wide."]
    text = " ".join(path.read_text() for path in (tmp_path / "out").glob("*.jsonl"))
    for account in worked.values():
        assert account not in text
    assert "Two" not in text


def test_pairs_of_one_item_share_their_group(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(store, out)
    pairs = rows(out / "preferences.jsonl")
    groups: dict[str, set[str]] = {}
    for pair in pairs:
        groups.setdefault(pair["group_id"], set()).add(pair["prompt_id"])
    assert all(len(prompts) == 1 for prompts in groups.values())
    assert sorted(sum(pair["group_id"] == name for pair in pairs) for name in groups) == [2, 3]
    assert sources.load(out / "preferences.jsonl").shape == "TRL preference"  # ours come back in


def test_parquet_holds_the_same_rows(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    parquet = pytest.importorskip("pyarrow.parquet")
    export(store, out)
    for name in ("preferences", "demonstrations"):
        assert parquet.read_table(out / f"{name}.parquet").to_pylist() == rows(out / f"{name}.jsonl")


def test_parquet_is_written_a_row_group_at_a_time(
    store: Store, worked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export_module, "GROUP", 2)
    export(store, out)
    file = parquet.ParquetFile(out / "preferences.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 2, 1]
    assert file.read().to_pylist() == rows(out / "preferences.jsonl")


def test_without_pyarrow_the_rest_goes_out(
    store: Store, worked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(store, tmp_path / "all")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    export(store, tmp_path / "plain")
    plain, everything = digests(tmp_path / "plain"), digests(tmp_path / "all")
    assert set(everything) - set(plain) == {"preferences.parquet", "demonstrations.parquet"}
    assert {name for name in plain if plain[name] != everything[name]} == {"README.md", "manifest.json"}
    assert ".parquet" not in (tmp_path / "plain" / "README.md").read_text()


def test_an_older_export_leaves_nothing_behind(
    store: Store, worked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Votes that were asked for once must not lie beside rankings that came later, nor tables of older rows."""
    out = tmp_path / "out"
    export(store, out, playground=True)
    (out / "notes.txt").write_text("mine")  # what no export wrote stays
    (out / "more").mkdir()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    export(store, out)
    names = ("README.md", "demonstrations.jsonl", "preferences.jsonl", "prompts.jsonl", "rankings.jsonl")
    assert {path.name for path in out.iterdir()} == {*names, "manifest.json", "notes.txt", "more"}
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == set(names)


# ---- what is not its own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "rankings.jsonl", "votes.jsonl", "project.json", "manifest.json"])
def test_a_folder_with_anything_of_others_is_left_alone(store: Store, tmp_path: Path, name: str) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(UserError, match=f"mine: holds {name} and is no earlier export; name a new folder"):
        export(store, out, playground=True)
    assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "{}"


def test_a_studios_own_folder_is_left_alone(store: Store, tmp_path: Path) -> None:
    folder = init(tmp_path / "support", source="support").folder
    before = digests(folder)
    with pytest.raises(UserError, match="is no earlier export"):
        export(store, folder)
    assert digests(folder) == before
    export(store, folder / "out dir")  # a folder within it is one like any other


def test_what_was_changed_in_an_export_or_added_to_it_is_not_replaced(store: Store, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(store, out)
    made.prompts(1)
    (out / "votes.jsonl").write_text("mine")
    before = digests(out)
    with pytest.raises(UserError, match=r"votes\.jsonl: is in the way, and no export wrote it"):
        export(store, out, playground=True)
    assert digests(out) == before
    (out / "README.md").write_text("my own words")
    with pytest.raises(UserError, match=r"README\.md: was changed since it was exported; move it away"):
        export(store, out)
    (out / "README.md").unlink()
    assert export(store, out)["prompts"] == 1
    assert (out / "votes.jsonl").read_text() == "mine" and (out / "README.md").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tutelage.studio import export, outfolder
from tutelage.studio.store import open_store, url_of
module, name, at = {"writing": (export, "_write_votes", 1), "moving": (outfolder.os, "replace", 5)}[sys.argv[2]]
real, calls = getattr(module, name), []
def dies(*given):
    calls.append(given)
    if len(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
setattr(module, name, dies)
export.export(open_store(url_of(Path(sys.argv[1]))), Path(sys.argv[1]) / "out", playground=True)
"""


@pytest.mark.parametrize("when", ["writing", "moving"])
def test_an_export_that_is_killed_leaves_the_one_before(migrated_file: Path, tmp_path: Path, when: str) -> None:
    shutil.copy(migrated_file, tmp_path / "studio.db")
    out = tmp_path / "out"
    with contextlib.closing(open_store(url_of(tmp_path))) as store:
        made = Made(store)
        made.prompts(2)
        export(store, out)
        before = digests(out)
        made.prompts(2)
        done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, when], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        if when == "writing":
            assert digests(out) == before
        export(store, out)  # and the next one clears away what was left
        assert not list(out.glob(".*")) and "votes.jsonl" not in digests(out)
        export(store, tmp_path / "other")
        assert digests(out) == digests(tmp_path / "other") != before


def test_two_exports_into_one_folder_wait_for_each_other(store: Store, tmp_path: Path) -> None:
    with whole(tmp_path / "out"), pytest.raises(UserError, match="another export is writing into it"):
        export(store, tmp_path / "out")


# ---- whose group ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "team"), [("labeler", "south"), ("heldout", "heldout")])
def test_a_change_of_group_leaves_earlier_answers_in_theirs(
    store: Store, made: Made, worked: dict[str, str], visit: Visit, tmp_path: Path, role: str, team: str
) -> None:
    export(store, tmp_path / "before", kinds=("compare", "judge"))
    fields = {"role": role, "team": team, "active": "true"}
    for who in ("one", "two"):
        assert visit("admin").post(f"/people/{worked[who]}", data=fields).status_code == 200
    export(store, tmp_path / "after", kinds=("compare", "judge"))
    assert digests(tmp_path / "after") == digests(tmp_path / "before")
    assert export(store, tmp_path / "north", teams=["north"])["rankings"] == 1
    assert {r.group for r in verdicts(store)} == {"training", "north", "heldout"}
    assert set(groupmodel.compared(store)) == {"training", "north", groupmodel.JUDGED}
    with store.read() as tx:
        assert overview.count(tx, 0.0).groups == {"north": 1, "training": 2}
        seen = {row.team for row in tx.execute(sa.text("SELECT team FROM rankings"))}
    assert seen == {"training", "north", "heldout"}
    kind = "judge" if role == "heldout" else "compare"
    made.filled(kind, 1, k=2)
    made.answer(worked["one"], kind, ranking(2))
    assert sorted(r.group for r in verdicts(store) if r.labeler == worked["one"]) == sorted(["training"] * 2 + [team])


def test_the_same_database_and_seed_give_the_same_bytes(store: Store, made: Made, tmp_path: Path) -> None:
    labeler = made.account()
    made.filled("compare", 12)
    while made.answer(labeler.id):
        pass
    export(store, tmp_path / "one", seed=1)
    export(store, tmp_path / "two", seed=1)
    export(store, tmp_path / "three", seed=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    first, other = ((tmp_path / name / "rankings.jsonl").read_text().splitlines() for name in ("one", "three"))
    assert first != other
    assert sorted(first) == sorted(other)
    export(store, tmp_path / "one", seed=2)  # over an older export
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_one_more_answer_moves_no_other() -> None:
    ids = [f"id-{n}" for n in range(100)]
    before = shuffled(ids, 7)
    after = shuffled([*ids, "new"], 7)
    assert [name for name in after if name != "new"] == before != ids


def test_judgements_go_out_only_when_asked_for(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    export(store, tmp_path / "both", kinds=("compare", "judge"))
    export(store, tmp_path / "judge", kinds=("judge",))
    assert len(rows(tmp_path / "both" / "rankings.jsonl")) == 4
    (judged,) = rows(tmp_path / "judge" / "rankings.jsonl")
    assert (judged["labeler"], judged["group"]) == (pseudonym(worked["out"]), "heldout")


def test_a_group_alone(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = export(store, out, teams=("north",))
    assert (counts["rankings"], counts["demonstrations"], counts["labelers"]) == (1, 1, 1)
    assert "north" in (out / "README.md").read_text()


def test_votes_go_out_only_when_asked_for(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    now = store.clock()
    with store.write() as tx:
        answer = {"model": "sft", "text": "Secret vote", "score": 0.1, "tokens": 3}
        row = {"id": new_id(now), "account_id": worked["one"], "prompt": "Hm", "answers": [answer, answer], "best": 0}
        tx.execute(votes.insert().values(**row, created=now))
    export(store, tmp_path / "plain")
    assert not any(b"Secret vote" in path.read_bytes() for path in (tmp_path / "plain").iterdir())
    assert export(store, tmp_path / "asked", playground=True)["votes"] == 1
    (vote,) = rows(tmp_path / "asked" / "votes.jsonl")
    assert vote["labeler"] == pseudonym(worked["one"])
    assert "Secret vote" not in (tmp_path / "asked" / "rankings.jsonl").read_text()


def test_the_latest_revision_counts_and_the_audit_log_agrees(store: Store, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    labeler = made.account()
    made.filled("compare", 3, k=2)
    task = queue.claim(store, labeler.id, "compare")
    assert task is not None
    queue.submit(store, labeler.id, task, made.key(), ranking(2, [1, 2]), 5.0)
    queue.submit(store, labeler.id, task, made.key(), ranking(2, [2, 1]), 5.0)
    made.answer(labeler.id)
    counts = export(store, out)
    assert counts["rankings"] == 2
    assert sorted(row["ranks"] for row in rows(out / "rankings.jsonl")) == [[1, 2], [2, 1]]
    with store.read() as tx:
        logged = dict(tx.execute(sa.select(actions.c.what, sa.func.count()).group_by(actions.c.what)).all())
        held = tx.execute(sa.select(sa.func.count()).select_from(answers)).scalar_one()
    assert (logged["submit"], logged["revise"], held) == (2, 1, 3)


def test_an_answer_the_audit_log_does_not_know_stops_the_export(store: Store, made: Made, tmp_path: Path) -> None:
    labeler = made.account()
    made.filled("compare", 1)
    made.answer(labeler.id)
    with store.write() as tx:
        queue.log(tx, store.clock(), labeler.id, "submit", "an answer that is not there")
    with pytest.raises(UserError, match="the audit log tells of 2 answers"):
        export(store, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_studio_goes_out_too(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = export(store, out)
    assert not any(counts.values())
    assert "0 prompts" in (out / "README.md").read_text()


def test_a_folder_that_cannot_be_written_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out: cannot be written"):
        export(store, tmp_path / "file" / "out")


def test_round_data_trains_and_nothing_else(store: Store, worked: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = write_round_data(store, out)
    assert set(found) == {"prompts", "demonstrations", "rankings"}
    assert len(read_records(Ranking, found["rankings"])) == 3
    assert len(read_records(Demonstration, found["demonstrations"])) == 3
    assert len(read_records(Prompt, found["prompts"])) == 5
    north = write_round_data(store, out, teams=["north"])
    assert {r.group for r in read_records(Ranking, north["rankings"])} == {"north"}
    assert len(read_records(Demonstration, north["demonstrations"])) == 2  # everybody's, but not the edit of a ranking


def test_what_goes_out_comes_in_again(store: Store, made: Made, worked: dict[str, str], tmp_path: Path) -> None:
    """Import of our own export into the same studio adds no prompt, and the rankings once."""
    export(store, tmp_path / "out")
    admin = made.account("admin")
    content = (tmp_path / "out" / "rankings.jsonl").read_bytes()
    done = intake.bring_in(store, admin, "rankings.jsonl", content)
    assert done.kept == 0
    assert export(store, tmp_path / "again")["rankings"] == 6


def test_an_embedded_workflow_goes_out_as_it_came_in(store: Store, tmp_path: Path) -> None:
    project = init(tmp_path / "support", source="support")
    intake.first_fill(store, project)
    found = write_round_data(store, tmp_path / "round")
    came, went = (
        sorted(read_records(Prompt, path), key=lambda p: p.id)
        for path in (project.folder / "prompts.jsonl", found["prompts"])
    )
    assert went == came
    texts = [
        sorted((d.prompt_id, d.response, d.split) for d in read_records(Demonstration, path))
        for path in (project.folder / "demonstrations.jsonl", found["demonstrations"])
    ]
    assert texts[0] == texts[1]


def test_the_download_is_one_archive(worked: dict[str, str], visit: Visit) -> None:
    admin = visit("admin")
    first = admin.get("/batches/export.zip")
    assert first.status_code == 200
    with zipfile.ZipFile(io.BytesIO(first.content)) as packed:
        assert {"prompts.jsonl", "rankings.jsonl", "preferences.jsonl", "README.md"} <= set(packed.namelist())
        assert "votes.jsonl" not in packed.namelist()
        assert len(packed.read("rankings.jsonl").splitlines()) == 3
    assert admin.get("/batches/export.zip").content == first.content
    group = admin.get("/batches/export.zip", params={"team": "north", "what": "both", "votes": "true"})
    with zipfile.ZipFile(io.BytesIO(group.content)) as packed:
        assert len(packed.read("rankings.jsonl").splitlines()) == 1
        assert "votes.jsonl" in packed.namelist()


def measured(comparisons: int, k: int) -> dict[str, Any]:
    words = [sys.executable, str(BENCHMARK), "--json", "--twice", "1", "--comparisons", str(comparisons), "--k", str(k)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_small_export_is_quick_and_small() -> None:
    found = measured(3_000, 2)
    assert found["counts"]["comparisons"] == 3_000
    assert found["same_bytes"]
    assert found["processor"] < 6
    assert found["peak_bytes"] < 200 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_thousand_comparisons() -> None:
    """In seconds of a processor, which other work on the machine stretches less than the clock's."""
    found = measured(50_000, 2)
    assert found["counts"]["comparisons"] == 50_000
    assert found["same_bytes"]
    assert found["processor"] < 10
    assert found["peak_bytes"] < 200 * 2**20
