"""The queue, move by move, on both databases: who gets what, what counts, what comes back."""

from __future__ import annotations

import threading

import pytest
from made_studio import Clock, Made, ranking

from tutelage.records import UserError
from tutelage.studio import accounts, queue
from tutelage.studio.check import check
from tutelage.studio.places import sweep
from tutelage.studio.queue import LEASE, Gone
from tutelage.studio.store import Store


@pytest.fixture(autouse=True)
def _sound(store: Store) -> object:
    """Whatever a test did, counters and rows agree when it is over."""
    yield
    assert check(store) == []


def claimed(store: Store, account: str, kind: str = "compare") -> str:
    found = queue.claim(store, account, kind)
    assert found is not None
    return found


# ---- claim -----------------------------------------------------------------------------------------------------


def test_items_are_given_in_their_order_to_each_labeler_once(store: Store, made: Made) -> None:
    batch = made.batch(overlap=2)
    wanted = made.items(batch, 3)
    for labeler in made.crowd(2):
        got = []
        while (found := queue.claim(store, labeler, "compare")) is not None:
            got.append(made.item_of(found).id)
            queue.submit(store, labeler, found, made.key(), ranking(4), 1.0)
        assert got == wanted
    assert [made.item(i).done for i in wanted] == [2, 2, 2]


def test_what_is_in_hand_is_given_again_with_a_new_fence_and_lease(store: Store, made: Made, clock: Clock) -> None:
    made.filled(count=2)
    [me] = made.crowd(1)
    first = claimed(store, me)
    before = made.assignment(first)
    clock.move(60)
    assert claimed(store, me) == first
    after = made.assignment(first)
    assert (after.fence, after.expires) == (before.fence + 1, before.expires + 60)
    with pytest.raises(Gone, match="another tab"):
        queue.save_draft(store, me, first, before.fence, {}, 1.0)


def test_a_full_item_is_given_to_nobody_else(store: Store, made: Made) -> None:
    made.filled(count=1, overlap=2)
    one, two, three = made.crowd(3)
    claimed(store, one), claimed(store, two)
    assert queue.claim(store, three, "compare") is None


def test_a_batch_of_a_group_is_for_that_group(store: Store, made: Made) -> None:
    made.filled(team="nurses")
    [nurse] = made.crowd(1, team="nurses")
    [other] = made.crowd(1, team="teachers")
    assert queue.claim(store, other, "compare") is None
    assert queue.claim(store, nurse, "compare") is not None


def test_a_closed_batch_gives_nothing_and_a_weightier_one_comes_first(store: Store, made: Made) -> None:
    made.filled(open=False)
    made.filled(priority=0)
    urgent = made.filled(priority=5)
    [me] = made.crowd(1)
    assert made.item_of(claimed(store, me)).batch_id == urgent


@pytest.mark.parametrize(("role", "kinds"), [("heldout", ["judge"]), ("reviewer", []), ("admin", [])])
def test_roles_are_given_their_kinds_only(store: Store, made: Made, role: str, kinds: list[str]) -> None:
    for kind in ("demonstrate", "compare", "judge"):
        made.filled(kind)
    [me] = made.crowd(1, role)
    assert [k for k in ("demonstrate", "compare", "judge") if queue.claim(store, me, k)] == kinds


def test_a_kind_in_hand_does_not_stand_in_the_way_of_another(store: Store, made: Made) -> None:
    made.filled("compare"), made.filled("demonstrate")
    [me] = made.crowd(1)
    assert claimed(store, me, "compare") != claimed(store, me, "demonstrate")


# ---- submit ----------------------------------------------------------------------------------------------------


def test_the_same_submit_five_times_is_one_answer(store: Store, made: Made) -> None:
    made.filled()
    [me] = made.crowd(1)
    task, key = claimed(store, me), made.key()
    receipts = [queue.submit(store, me, task, key, ranking(4), 1.0) for _ in range(5)]
    assert {r.answer_id for r in receipts} == {made.answers()[0].id}
    assert [r.repeated for r in receipts] == [False, True, True, True, True]
    assert len(made.answers()) == 1


def test_a_second_submit_is_a_revision_and_fills_no_second_place(store: Store, made: Made) -> None:
    made.filled(overlap=3)
    [me] = made.crowd(1)
    task = claimed(store, me)
    numbers = [queue.submit(store, me, task, made.key(), ranking(4), 1.0).number for _ in range(3)]
    assert numbers == [1, 2, 3]
    item = made.item_of(task)
    assert (item.held, item.done) == (0, 1)


def test_of_two_tabs_the_older_one_cannot_overwrite_what_the_newer_one_submitted(store: Store, made: Made) -> None:
    made.filled()
    [me] = made.crowd(1)
    task = claimed(store, me)
    old = made.assignment(task).fence
    claimed(store, me)
    new = made.assignment(task).fence
    queue.submit(store, me, task, made.key(), ranking(4), 1.0, new)
    with pytest.raises(Gone, match="another tab"):
        queue.submit(store, me, task, made.key(), ranking(4, [4, 3, 2, 1]), 1.0, old)
    assert [a.body["ranks"] for a in made.answers()] == [[1, 2, 3, 4]]


def test_the_older_tab_may_still_give_the_first_answer(store: Store, made: Made) -> None:
    made.filled()
    [me] = made.crowd(1)
    task = claimed(store, me)
    old = made.assignment(task).fence
    claimed(store, me)
    assert not queue.submit(store, me, task, made.key(), ranking(4), 1.0, old).extra


def test_a_key_is_for_one_task_only(store: Store, made: Made) -> None:
    made.filled(count=3)
    one, two = made.crowd(2)
    key = made.key()
    queue.submit(store, one, claimed(store, one), key, ranking(4), 1.0)
    with pytest.raises(Gone, match="another task"):
        queue.submit(store, two, claimed(store, two), key, ranking(4), 1.0)
    with pytest.raises(Gone, match="another task"):
        queue.submit(store, one, claimed(store, one), key, ranking(4), 1.0)


def test_a_key_for_two_tasks_at_the_same_moment_is_for_the_first(store: Store, made: Made) -> None:
    made.filled(count=2)
    people, key = made.crowd(2), made.key()
    tasks = [claimed(store, who) for who in people]
    booked, told = threading.Event(), []

    def late() -> None:
        booked.wait()
        try:
            queue.submit(store, people[1], tasks[1], key, ranking(4), 1.0)
        except Gone as error:
            told.append(str(error))

    other = threading.Thread(target=late)
    other.start()
    with store.write() as tx:
        queue._submit(tx, store.clock(), people[0], tasks[0], key, ranking(4), 1.0, None)
        booked.set()
        other.join(0.3)
        assert other.is_alive()  # it waits for what becomes of this one
    other.join()
    assert told == ["this submit belongs to another task"]
    assert [a.account_id for a in made.answers()] == people[:1]
    assert made.assignment(tasks[1]).state == "active"


def test_nobody_writes_into_the_task_of_somebody_else(store: Store, made: Made) -> None:
    made.filled()
    mine, other = made.crowd(2)
    task = claimed(store, mine)
    with pytest.raises(Gone):
        queue.submit(store, other, task, made.key(), ranking(4), 1.0)
    with pytest.raises(Gone):
        queue.save_draft(store, other, task, 1, {}, 1.0)
    with pytest.raises(Gone):
        queue.give_back(store, other, task, "skipped", "not mine")
    with pytest.raises(Gone):
        queue.resume(store, other, task)
    assert made.assignment(task).state == "active"


def test_an_answer_carries_the_batch_as_it_stood(store: Store, made: Made) -> None:
    made.filled(mode="truthful-first")
    [me] = made.crowd(1)
    task = claimed(store, me)
    queue.submit(store, me, task, made.key(), ranking(4), 7.5)
    [answer] = made.answers()
    row = made.assignment(task)
    assert (answer.mode, answer.form, answer.seconds) == ("truthful-first", 1, 7.5)
    assert (answer.order_seed, row.state, row.draft) == (row.order_seed, "submitted", None)


# ---- drafts and leases -----------------------------------------------------------------------------------------


def test_writing_renews_the_lease(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    for number in (1, 2, 3):
        clock.move(LEASE - 1)
        assert queue.save_draft(store, me, task, 1, {"response": "word " * number}, number) == number
    assert queue.claim(store, other, "compare") is None


def test_a_lease_that_ran_out_gives_the_place_to_the_next_one(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    assert made.item_of(claimed(store, other)).id == made.item_of(task).id
    assert made.assignment(task).state == "expired"


def test_words_written_after_the_lease_ran_out_are_kept(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    claimed(store, other)
    queue.save_draft(store, me, task, 1, {"response": "late words"}, 9.0)
    row = made.assignment(task)
    assert (row.state, row.draft) == ("expired", {"response": "late words"})


def test_a_late_answer_counts_while_its_place_is_free(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    assert sweep(store) == 1
    assert not queue.submit(store, me, task, made.key(), ranking(4), 1.0).extra
    assert queue.claim(store, other, "compare") is None


def test_a_late_answer_whose_place_was_taken_is_kept_as_an_extra(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    theirs = claimed(store, other)
    assert queue.submit(store, me, task, made.key(), ranking(4), 1.0).extra
    assert not queue.submit(store, other, theirs, made.key(), ranking(4), 1.0).extra
    assert queue.submit(store, me, task, made.key(), ranking(4), 1.0).extra, "a revision stands where the first stood"
    assert made.item_of(task).done == 1


def test_a_lease_ends_strictly_after_its_time(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    claimed(store, made.crowd(1)[0])
    clock.move(LEASE)
    assert sweep(store) == 0
    clock.move(0.001)
    assert sweep(store) == 1


def test_a_clock_set_back_takes_nothing_away(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(-1_000_000)
    assert queue.claim(store, other, "compare") is None
    assert not queue.submit(store, me, task, made.key(), ranking(4), 1.0).extra


# ---- giving back and taking up again ---------------------------------------------------------------------------


def test_skipped_is_gone_for_this_labeler_and_free_for_others(store: Store, made: Made) -> None:
    made.filled()
    me, other = made.crowd(2)
    queue.give_back(store, me, claimed(store, me), "skipped", "unclear")
    assert queue.claim(store, me, "compare") is None
    assert queue.claim(store, other, "compare") is not None


def test_skipping_what_ran_out_gives_nothing_back_a_second_time(store: Store, made: Made, clock: Clock) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    theirs = claimed(store, other)
    queue.give_back(store, me, task, "skipped", "unclear")
    item = made.item_of(theirs)
    assert (item.held, item.done, item.free) == (1, 0, False)


def test_put_aside_keeps_the_draft_and_comes_back_when_asked(store: Store, made: Made) -> None:
    made.filled()
    [me] = made.crowd(1)
    task = claimed(store, me)
    queue.save_draft(store, me, task, 1, {"response": "half"}, 5.0)
    queue.give_back(store, me, task, "postponed")
    assert queue.claim(store, me, "compare") is None
    assert queue.resume(store, me, task)
    row = made.assignment(task)
    assert (row.state, row.draft, row.fence) == ("active", {"response": "half"}, 2)


def test_nothing_is_taken_up_again_where_its_place_is_taken(store: Store, made: Made) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    queue.give_back(store, me, task, "postponed")
    claimed(store, other)
    assert not queue.resume(store, me, task)


def test_taking_up_what_is_in_hand_renews_it_and_what_is_submitted_stays(
    store: Store, made: Made, clock: Clock
) -> None:
    made.filled()
    [me] = made.crowd(1)
    task = claimed(store, me)
    clock.move(100)
    assert queue.resume(store, me, task)
    assert made.assignment(task).expires == clock.now + LEASE
    queue.submit(store, me, task, made.key(), ranking(4), 1.0)
    assert not queue.resume(store, me, task)
    with pytest.raises(Gone, match="submitted already"):
        queue.give_back(store, me, task, "skipped", "too late")


def test_what_ran_out_can_be_taken_up_though_the_place_of_another_ran_out_now(
    store: Store, made: Made, clock: Clock
) -> None:
    made.filled()
    me, other = made.crowd(2)
    task = claimed(store, me)
    clock.move(LEASE + 1)
    claimed(store, other)
    clock.move(LEASE + 1)
    assert queue.resume(store, me, task)


def test_a_closed_batch_takes_nothing_up_again(store: Store, made: Made) -> None:
    from tutelage.studio.schema import batches

    batch = made.filled()
    [me] = made.crowd(1)
    task = claimed(store, me)
    queue.give_back(store, me, task, "postponed")
    with store.write() as tx:
        tx.execute(batches.update().where(batches.c.id == batch).values(open=False))
    with pytest.raises(Gone, match="closed"):
        queue.resume(store, me, task)


def test_a_state_that_is_none_is_a_mistake_in_the_code(store: Store, made: Made) -> None:
    made.filled()
    [me] = made.crowd(1)
    with pytest.raises(ValueError, match="expected skipped or postponed"):
        queue.give_back(store, me, claimed(store, me), "lost")


# ---- changing what is asked ------------------------------------------------------------------------------------


def test_a_greater_overlap_reopens_what_was_full(store: Store, made: Made) -> None:
    batch = made.filled()
    one, two = made.crowd(2)
    made.answer(one)
    assert queue.claim(store, two, "compare") is None
    queue.change_overlap(store, batch, 2)
    assert made.answer(two) is not None
    assert queue.claim(store, one, "compare") is None


def test_a_smaller_overlap_takes_nothing_from_those_at_work(store: Store, made: Made) -> None:
    batch = made.filled(overlap=3)
    one, two, three = made.crowd(3)
    first, second = claimed(store, one), claimed(store, two)
    queue.change_overlap(store, batch, 1)
    assert queue.claim(store, three, "compare") is None
    for labeler, task in ((one, first), (two, second)):
        assert not queue.submit(store, labeler, task, made.key(), ranking(4), 1.0).extra
    assert made.item_of(first).done == 2


@pytest.mark.parametrize("overlap", [0, -1, 101])
def test_an_overlap_that_makes_no_sense_is_refused(store: Store, made: Made, overlap: int) -> None:
    batch = made.filled()
    with pytest.raises(UserError, match="1 to 100"):
        queue.change_overlap(store, batch, overlap)


def test_items_are_appended_after_those_that_are_there(store: Store, made: Made) -> None:
    batch = made.batch()
    first, second = made.items(batch, 2), made.items(batch, 3)
    assert [made.item(i).place for i in [*first, *second]] == [0, 1, 2, 3, 4]
    with store.write() as tx:
        queue.add_items(tx, store.clock(), batch, [])
    assert made.item_ids(batch) == [*first, *second]


# ---- people who change -----------------------------------------------------------------------------------------


def test_a_closed_account_gives_back_what_it_held_at_once(store: Store, made: Made) -> None:
    made.filled()
    admin, leaver, stays = made.account("admin"), made.account(), made.account()
    task = claimed(store, leaver.id)
    accounts.change(store, admin, leaver.id, role="labeler", team="training", active=False)
    assert made.assignment(task).state == "expired"
    assert queue.claim(store, stays.id, "compare") is not None
    with pytest.raises(Gone, match="closed"):
        queue.claim(store, leaver.id, "compare")


def test_who_became_a_held_out_labeler_gives_no_training_data_any_more(store: Store, made: Made) -> None:
    made.filled()
    admin, me = made.account("admin"), made.account()
    task = claimed(store, me.id)
    accounts.change(store, admin, me.id, role="heldout", team="", active=True)
    with pytest.raises(Gone, match="role changed"):
        queue.submit(store, me.id, task, made.key(), ranking(4), 1.0)
    with pytest.raises(Gone, match="role changed"):
        queue.resume(store, me.id, task)
