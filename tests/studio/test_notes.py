"""What a labeler says beside the ranks - ratings, flags, a note - reaches who reads the answer, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path

from made_studio import Made, Visit, ranking

from tutelage.records import Ranking, read_records
from tutelage.studio import intake, queue
from tutelage.studio.export import export
from tutelage.studio.store import Store

NOTE = "The second half <b>repeats</b> itself; ask Ülkü."


def noted() -> dict[str, object]:
    """A ranking whose second response was flagged and noted."""
    body = ranking(2)
    body["ratings"][1] = {"likert": 3, "flags": {"hallucination": True, "sexual_content": False}, "note": NOTE}
    return body


def test_reviewers_and_admins_read_ratings_flags_and_notes(visit: Visit, made: Made) -> None:
    made.filled("compare", k=2, overlap=2)
    ada = made.account(name="Ada")
    made.answer(ada.id, "compare", noted())
    prompt = made.item(made.answers()[0].item_id).prompt_id
    for role in ("reviewer", "admin"):
        said = " ".join(visit(role).get(f"/prompts/{prompt}").text.split())
        for expected in ("Ada", "rated 7 of 7", "rated 3 of 7", "Invents facts", "&lt;b&gt;repeats", "in 12 s", "UTC"):
            assert expected in said
        assert "<b>repeats" not in said and "Sexual content" not in said


def test_other_labelers_see_nothing_of_it(visit: Visit, made: Made, store: Store) -> None:
    made.filled("compare", k=2, overlap=3)
    made.answer(made.account(name="Ada").id, "compare", noted())
    prompt = made.item(made.answers()[0].item_id).prompt_id
    for role in ("labeler", "heldout"):
        other = made.account(role)
        client = visit(other)
        assert client.get(f"/prompts/{prompt}").status_code == 403
        task = queue.claim(store, other.id, "compare") if role == "labeler" else None
        seen = client.get("/").text
        if task:
            seen += client.get(f"/task/{task}").text + client.post(f"/api/task/{task}/open").text
        assert "repeats" not in seen and "Ada" not in seen


def test_the_export_has_them_and_our_own_reader_keeps_them(made: Made, store: Store, tmp_path: Path) -> None:
    made.filled("compare", k=2)
    made.answer(made.account().id, "compare", noted())
    export(store, tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "rankings.jsonl").read_text().splitlines()]
    assert sorted(r["note"] for r in row["ratings"]) == ["", NOTE]
    assert "`note`" in (tmp_path / "out" / "README.md").read_text()
    (read,) = read_records(Ranking, tmp_path / "out" / "rankings.jsonl")
    assert [r.note for r in read.ratings] == [r["note"] for r in row["ratings"]]
    intake.bring_in(store, made.account("admin"), "rankings.jsonl", (tmp_path / "out" / "rankings.jsonl").read_bytes())
    first, again = made.answers()
    assert again.account_id != first.account_id
    assert sorted(r["note"] for r in again.body["ratings"]) == ["", NOTE]
