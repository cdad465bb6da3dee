"""Collection rules: hand-made prompts for each rule, and properties that must hold for any prompts."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.duplicates import DEDUP_PREFIX, Duplicates, beginning
from tutelage.data.prompts import Collected, collect, first_turn, named_split, split_of, split_unit, transcript
from tutelage.records import FieldError, Prompt, UserError

TRAIN, VALID, TEST = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def prompt(id: str, text: str, user: str = "ann", split: str = "train") -> Prompt:
    return Prompt(id=id, text=text, user=user, split=split)


def ids(prompts: object) -> list[str]:
    return [p.id for p in prompts]  # type: ignore[attr-defined]


def reasons(collected: Collected) -> dict[str, str]:
    return {p.id: str(reason) for p, reason in collected.dropped}


def test_equal_prompts_are_kept_once_whatever_their_case_and_spacing() -> None:
    got = collect([prompt("a", "Name a fish."), prompt("b", "  name A\nfish.", "bob"), prompt("c", "Name a fish")])
    assert ids(got.kept) == ["a", "c"]
    assert reasons(got) == {"b": "duplicate: same words as a"}


def test_a_long_shared_beginning_makes_a_duplicate_and_one_character_less_does_not() -> None:
    start = "x" * (DEDUP_PREFIX - 1)
    got = collect([prompt("a", start + "ya"), prompt("b", start + "yb"), prompt("c", start + "za")])
    assert ids(got.kept) == ["a", "c"]
    assert reasons(got) == {"b": "duplicate: same beginning as a"}


def test_a_short_prompt_that_begins_a_longer_one_is_no_duplicate() -> None:
    assert len(collect([prompt("a", "Name a fish"), prompt("b", "Name a fish that can fly")]).kept) == 2


def test_at_most_200_prompts_of_a_user_are_kept_in_order_of_arrival() -> None:
    mine = [prompt(f"a{i}", f"task number {i}", "ann") for i in range(203)]
    other = [prompt("b0", "something else", "bob")]
    got = collect(mine + other)
    assert ids(got.kept) == [f"a{i}" for i in range(200)] + ["b0"]
    assert reasons(got)["a200"] == "over the user limit: ann has 200 prompts already"


def test_prompts_without_a_user_have_no_limit_and_are_split_one_by_one() -> None:
    got = collect([prompt(f"p{i}", f"task number {i}", "unknown") for i in range(400)])
    assert len(got.kept) == 400
    assert set(Counter(p.split for p in got.kept)) == {"train", "valid", "test"}


def test_longer_than_the_token_limit_goes_and_exactly_the_limit_stays() -> None:
    got = collect(
        [prompt("a", "one two three"), prompt("b", "one two three four")],
        count_tokens=lambda text: len(text.split()),
        max_tokens=3,
    )
    assert ids(got.kept) == ["a"]
    assert reasons(got) == {"b": "too long: 4 tokens, limit 3"}


def test_personal_data_is_dropped_from_the_training_split_only() -> None:
    text = "Write to jane@example.com or call +44 20 7946 0958."
    for shares, kept in ((TRAIN, []), (VALID, ["a"]), (TEST, ["a"])):
        assert ids(collect([prompt("a", text)], shares=shares).kept) == kept
    got = collect([prompt("a", text)], shares=TRAIN)
    assert reasons(got) == {"a": "personal data: e-mail, phone number"}
    assert "jane" not in got.summary() + reasons(got)["a"]


def test_a_dropped_prompt_does_not_push_out_its_clean_neighbour() -> None:
    start = "y" * DEDUP_PREFIX
    dirty, clean = prompt("a", f"{start} jane@example.com"), prompt("b", f"{start} and more")
    assert ids(collect([dirty, clean], shares=TRAIN).kept) == ["b"]


def test_split_is_the_salted_sha256_of_the_user() -> None:
    digest = hashlib.sha256(b"tutelage-split-1\0user:ann").digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    expected = "train" if point < 0.8 else "valid" if point < 0.9 else "test"
    assert split_of("user:ann") == expected
    assert collect([prompt("a", "x")]).kept[0].split == expected


def test_split_shares_come_out_as_asked() -> None:
    counts = Counter(split_of(f"user:{i}") for i in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert counts["valid"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert split_of("user:1", shares=TEST) == "test"
    assert {split_of("user:1", salt=str(i)) for i in range(50)} == {"train", "valid", "test"}


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (-0.1, 1.0, 0.1)])
def test_shares_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        split_of("user:1", shares=shares)


def test_existing_prompts_count_for_everything_and_stay_out_of_the_result() -> None:
    old = [
        prompt("a", "one", "ann", "test"),
        prompt("b", "two", "ann", "test"),
        prompt("u", "free", "unknown", "valid"),
    ]
    new = [
        prompt("c", "ONE", "bob"),
        prompt("d", "three", "ann"),
        prompt("e", "four", "ann"),
        prompt("a", "one", "ann"),
    ]
    got = collect(new, existing=old, user_limit=3, shares=TRAIN)
    assert [(p.id, p.split) for p in got.kept] == [("d", "test")]
    assert reasons(got) == {
        "c": "duplicate: same words as a",
        "e": "over the user limit: ann has 3 prompts already",
    }
    assert ids(got.here) == ["a"]


def test_a_marked_split_stays_and_the_users_other_prompts_follow_it() -> None:
    mixed = [prompt("c", "three"), prompt("a", "one", split="valid"), prompt("b", "two", split="test")]
    got = collect(mixed, marked={"a", "b"}, shares=TRAIN)
    assert [(p.id, p.split) for p in got.kept] == [("c", "valid"), ("a", "valid"), ("b", "test")]
    old = [prompt("z", "zero", split="train")]
    got = collect(mixed, existing=old, marked={"a", "b"}, shares=TEST)
    assert [(p.id, p.split) for p in got.kept] == [("c", "train"), ("a", "valid"), ("b", "test")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("TRAIN", "train"),
        ("train_sft", "train"),
        ("validation", "valid"),
        ("val", "valid"),
        ("Dev", "valid"),
        ("valid", "valid"),
        ("test_prefs", "test"),
        (" Test ", "test"),
        ("", ""),
        (None, ""),
    ],
)
def test_split_names_of_data_sets_are_known(name: str | None, split: str) -> None:
    assert named_split({"split": name}) == split
    assert named_split({}) == ""


@pytest.mark.parametrize("name", ["fold3", "all", 1, True, ["train"]])
def test_other_split_names_are_refused_with_the_way_out(name: object) -> None:
    with pytest.raises(FieldError, match=r"expected one of train, valid, test, .* --ignore split"):
        named_split({"split": name})


def test_an_id_for_two_texts_is_refused() -> None:
    with pytest.raises(UserError, match="prompt id 'a' is used for two different texts"):
        collect([prompt("a", "one"), prompt("a", "two")])


def test_summary_is_written_for_people() -> None:
    prompts = [prompt(f"p{i}", f"task {i}", f"user{i}") for i in range(1200)]
    prompts += [
        prompt("d1", "task 1", "eve"),
        prompt("d2", "task 2", "eve"),
        prompt("m", "ask jane@example.com", "joe"),
    ]
    got = collect(prompts, shares=TRAIN)
    assert got.summary() == (
        "1,203 prompts in, 1,200 kept from 1,200 users (train 1,200, valid 0, test 0)\n"
        "3 dropped: 2 duplicate, 1 personal data"
    )
    assert (
        collect([prompt("a", "x", "unknown")], shares=TEST).summary()
        == "1 prompts in, 1 kept (train 0, valid 0, test 1)"
    )


def test_transcripts_and_their_first_turn() -> None:
    assert transcript([("user", " hello ")]) == "hello"
    turns = [("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "bye")]
    text = transcript(turns)
    assert text == "System: be kind\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye"
    assert first_turn(text) == "hi"
    assert first_turn(transcript(turns[1:])) == "hi"
    assert first_turn("What does Human: mean?") == "What does Human: mean?"
    one, other = (prompt("a", t, "unknown") for t in (transcript(turns[1:]), "HI "))
    assert split_unit(one) == split_unit(other) == "turn:hi"


def test_a_prefix_needs_a_length() -> None:
    with pytest.raises(ValueError, match="length"):
        beginning("text", 0)


words = st.sampled_from(["tea", "milk", "sugar", "ann@example.com", "x" * 140])
texts = st.lists(words, min_size=1, max_size=4).map(" ".join)
users = st.sampled_from(["ann", "bob", "cid", "unknown"])
many = st.lists(st.tuples(texts, users), max_size=25).map(
    lambda rows: [prompt(f"p{i}", text, user) for i, (text, user) in enumerate(rows)]
)


@settings(max_examples=60, deadline=None)
@given(many, st.integers(0, 25))
def test_prompts_that_arrive_later_change_nothing_before(prompts: list[Prompt], cut: int) -> None:
    def run(some: list[Prompt], existing: tuple[Prompt, ...] = ()) -> Collected:
        return collect(some, existing=existing, user_limit=3, count_tokens=len, max_tokens=300)

    whole, early = run(prompts), run(prompts[:cut])
    assert whole.kept[: len(early.kept)] == early.kept
    assert whole.dropped[: len(early.dropped)] == early.dropped
    later = run(prompts[cut:], existing=early.kept)
    assert early.kept + later.kept == whole.kept


@settings(max_examples=60, deadline=None)
@given(many)
def test_invariants_of_any_collection(prompts: list[Prompt]) -> None:
    got = collect(prompts, user_limit=3)
    assert sorted(ids(got.kept) + [p.id for p, _ in got.dropped]) == sorted(ids(prompts))
    seen = Duplicates()
    for p in got.kept:
        assert seen.find(p.text) is None
        seen.add(p.text, p.id)
    assert all(count <= 3 for user, count in Counter(p.user for p in got.kept).items() if user != "unknown")
    splits: dict[str, set[str]] = {}
    for p in got.kept:
        splits.setdefault(split_unit(p), set()).add(p.split)
    assert all(len(found) == 1 for found in splits.values())
    assert not any(p.split == "train" and "@" in p.text for p in got.kept)
    assert collect(got.kept, user_limit=3).kept == got.kept
