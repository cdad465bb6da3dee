"""Importers on the public sets beside the repository, against their stated counts; skipped where absent."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.adding import add
from tutelage.data.prompts import collect, split_unit
from tutelage.data.sources import Imported, load, sniff
from tutelage.records import Demonstration, Ranking, read_records, write_records

DATA = Path(__file__).parents[2] / "shared" / "data"
OASST = "oasst_eval_trees/en_100_tree.jsonl.gz"
FEEDBACK = "qa_feedback_dev/dev_feedback.jsonl.gz"
DOLLY = "dolly15k/dolly15k.jsonl.gz"
P3 = "t0_p3_sample/t0_20_per_template.jsonl.gz"
HH = "hh_harmless_test/test.jsonl.gz"
HH_TRUNCATED = "hh_harmless_train5k_trunc/preference_train.jsonl.gz"
LOTTERY = "oasst_eval_trees/prompt_lottery_en_250_text.jsonl.gz"


def path_of(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    return DATA / name


@lru_cache
def loaded(path: Path) -> Imported:
    return load(path)


def rows_of(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def untied(imported: Imported) -> int:
    return sum(len(ranking.pairs()) for ranking in imported.rankings)


@pytest.mark.parametrize(
    ("name", "shape", "prompts", "demonstrations", "rankings", "pairs"),
    [
        (OASST, "Open-Assistant trees", 480, 0, 212, 754),
        (LOTTERY, "bare prompts", 250, 0, 0, 0),
        (FEEDBACK, "QA-Feedback", 261, 261, 246 + 6 * 15, 1566 - 180),
        (DOLLY, "Dolly instructions", 12_608, 12_775, 0, 0),
        (HH, "HH transcripts", 996, 0, 997, 997),
        (HH_TRUNCATED, "TRL preference", 4113, 0, 4662, 4662),
    ],
)
def test_counts(name: str, shape: str, prompts: int, demonstrations: int, rankings: int, pairs: int) -> None:
    path = path_of(name)
    imported = loaded(path)
    assert sniff(path) == imported.shape == shape
    found = (len(imported.prompts), len(imported.demonstrations), len(imported.rankings), untied(imported))
    assert found == (prompts, demonstrations, rankings, pairs)


def test_every_record_has_its_prompt_and_its_split() -> None:
    for name in (OASST, FEEDBACK, DOLLY, HH, HH_TRUNCATED):
        imported = loaded(path_of(name))
        prompts = {prompt.id: prompt for prompt in imported.prompts}
        assert len(prompts) == len(imported.prompts)
        records: list[Demonstration | Ranking] = [*imported.demonstrations, *imported.rankings]
        for record in records:
            prompt = prompts[record.prompt_id]
            assert (prompt.text, prompt.split) == (record.prompt, record.split)
        ids = [demonstration.id for demonstration in imported.demonstrations]
        assert len(set(ids)) == len(ids)


def test_tree_ranks_are_those_of_the_siblings() -> None:
    path = path_of(OASST)
    sizes = Counter(len(ranking.responses) for ranking in loaded(path).rankings)
    assert sizes == {2: 57, 3: 117, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    messages: dict[str, Any] = {}
    queue = [row["prompt"] for row in rows_of(path)]
    while queue:
        message = queue.pop()
        messages[message["message_id"]] = message
        queue += message["replies"]
    for ranking in loaded(path).rankings:
        assert ranking.prompt.endswith(messages[ranking.prompt_id]["text"].strip())
        for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
            message = messages[response.id]
            assert message["parent_id"] == ranking.prompt_id
            assert (message["rank"] + 1, message["text"].strip()) == (rank, response.text)


def test_all_turns_of_a_tree_are_in_one_split() -> None:
    units: dict[str, set[str]] = {}
    for prompt in loaded(path_of(OASST)).prompts:
        units.setdefault(split_unit(prompt), set()).add(prompt.split)
    assert len(units) == 100
    assert all(len(splits) == 1 for splits in units.values())


def test_qa_feedback_keeps_every_comparison_as_it_was() -> None:
    path = path_of(FEEDBACK)
    imported = loaded(path)
    by_prompt: dict[str, list[Ranking]] = {}
    for ranking in imported.rankings:
        by_prompt.setdefault(ranking.prompt_id, []).append(ranking)
    assert Counter(map(len, by_prompt.values())) == {1: 246, 6: 15}
    for prompt, row in zip(imported.prompts, rows_of(path), strict=True):
        verdicts: dict[tuple[str, str], int] = {}
        for ranking in by_prompt[prompt.id]:
            entries = [(r.id, rank) for r, rank in zip(ranking.responses, ranking.ranks, strict=True)]
            for (one, rank), (two, other) in combinations(entries, 2):
                verdicts[one, two] = 0 if rank == other else 1 if rank < other else 2
        assert list(verdicts.values()) == row["preference"]


def test_openings_shared_by_two_hh_files_get_one_split() -> None:
    splits: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for name in (HH, HH_TRUNCATED):
        for prompt in loaded(path_of(name)).prompts:
            splits.setdefault(split_unit(prompt), set()).add(prompt.split)
            files.setdefault(split_unit(prompt), set()).add(name)
    assert sum(len(found) == 2 for found in files.values()) == 206
    assert all(len(found) == 1 for found in splits.values())


def test_hh_prompts_end_where_the_assistant_speaks() -> None:
    for ranking, row in zip(loaded(path_of(HH)).rankings, rows_of(path_of(HH)), strict=True):
        for response, text in zip(ranking.responses, (row["chosen"], row["rejected"]), strict=True):
            assert " ".join(text.split()).endswith(" ".join(f"Assistant: {response.text}".split()))


def test_imported_rankings_survive_writing_and_reading(tmp_path: Path) -> None:
    rankings = list(loaded(path_of(FEEDBACK)).rankings)
    write_records(tmp_path / "rankings.jsonl", rankings)
    assert read_records(Ranking, tmp_path / "rankings.jsonl") == rankings


def test_collection_rules_on_a_real_set() -> None:
    imported = loaded(path_of(DOLLY))
    got = collect(imported.prompts, count_tokens=lambda text: len(text.split()), max_tokens=300)
    rules = Counter(reason.rule for _, reason in got.dropped)
    assert set(rules) == {"personal data", "too long", "duplicate"}
    assert len(got.kept) + len(got.dropped) == 12_608
    rest = imported.restricted_to(got.kept)
    assert {demonstration.prompt_id for demonstration in rest.demonstrations} == {prompt.id for prompt in got.kept}


@pytest.mark.parametrize(
    ("name", "duplicates"), [(OASST, 0), (HH, 0), (HH_TRUNCATED, 5), (FEEDBACK, 0), (DOLLY, 14), (P3, 100)]
)
def test_only_what_asks_the_same_is_a_duplicate(name: str, duplicates: int) -> None:
    """Threads of one tree, and questions about one passage, are different prompts; "What is love?" twice is one."""
    rules = Counter(reason.rule for _, reason in collect(loaded(path_of(name)).prompts).dropped)
    assert rules["duplicate"] == duplicates


def test_a_file_of_trees_is_added_whole(tmp_path: Path) -> None:
    assert "now 480 prompts, 0 demonstrations, 212 rankings" in add(tmp_path / "mine", path_of(OASST))


def test_end_markers_of_a_real_set_are_taken_off() -> None:
    imported = loaded(path_of(P3))
    assert len(imported.demonstrations) == 5_324 - 140
    assert not any("<|endoftext|>" in d.response for d in imported.demonstrations)
    assert "140 rows: a response that is an end marker alone: only the prompt kept" in imported.notes
