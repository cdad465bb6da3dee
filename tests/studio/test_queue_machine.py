"""The queue under whatever order of moves: a state machine, and a crowd of threads.

The machine plays labelers who claim, write, submit (late, twice, from old pages), skip, put aside and come back, while
the clock jumps both ways, overlaps change and batches close. After every move the promises of `queue` are checked
against the rows themselves; in the end everybody works until nothing is left, and no item has more or fewer labelers
than it should.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from made_studio import Clock, Made, ranking

from tutelage.studio import queue
from tutelage.studio.check import check
from tutelage.studio.queue import LEASE, Gone
from tutelage.studio.schema import answers, assignments, batches, items
from tutelage.studio.store import Store, open_store

LABELERS, ITEMS, K = 5, 4, 2
who = st.integers(0, LABELERS - 1)
JUMPS = st.sampled_from([1.0, LEASE - 1, LEASE + 1, 10 * LEASE, -1.0, -LEASE, -100 * LEASE])


class Labeling(RuleBasedStateMachine):
    """Five labelers, four items, one clock."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store: Store
        self.sent: list[tuple[str, str, str]] = []  # (labeler, task, key) of every acknowledged submit

    @initialize(overlap=st.integers(1, 4))
    def begin(self, overlap: int) -> None:
        self.store = self.open()
        made = Made(self.store)
        self.batch = made.filled(count=ITEMS, overlap=overlap, k=K)
        self.labelers = made.crowd(LABELERS)
        self.key = made.key
        self.over = dict.fromkeys(made.item_ids(self.batch), 0)  # how far an overlap's lowering left an item over it

    def open(self) -> Store:
        raise NotImplementedError

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.drain()
            self.store.close()

    # ---- moves -------------------------------------------------------------------------------------------------

    @rule(who=who)
    def claim(self, who: int) -> None:
        task = queue.claim(self.store, self.labelers[who], "compare")
        if task is not None:
            assert self.row(task).state == "active"

    @rule(who=who, data=st.data())
    def write(self, who: int, data: st.DataObject) -> None:
        task = self.one_of(who, data)
        if task is None:
            return
        row = self.row(task)
        number = queue.save_draft(self.store, self.labelers[who], task, row.fence, {"words": row.draft_no}, 1.0)
        assert number == row.draft_no + 1
        with pytest.raises(Gone):
            queue.save_draft(self.store, self.labelers[who], task, row.fence - 1, {"words": "old page"}, 1.0)

    @rule(who=who, data=st.data())
    def submit(self, who: int, data: st.DataObject) -> None:
        task = self.one_of(who, data)
        if task is None:
            return
        key, before = self.key(), self.count_answers()
        receipt = queue.submit(self.store, self.labelers[who], task, key, ranking(K), 1.0)
        assert not receipt.repeated and self.count_answers() == before + 1
        self.sent.append((self.labelers[who], task, key))

    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        if self.sent:
            labeler, task, key = data.draw(st.sampled_from(self.sent))
            before = self.count_answers()
            assert queue.submit(self.store, labeler, task, key, ranking(K), 1.0).repeated
            assert self.count_answers() == before

    @rule(who=who, data=st.data(), state=st.sampled_from(["skipped", "postponed"]))
    def give_back(self, who: int, data: st.DataObject, state: str) -> None:
        task = self.one_of(who, data)
        if task is not None and self.row(task).state != "submitted":
            queue.give_back(self.store, self.labelers[who], task, state, "unclear")
            assert self.row(task).state == state

    @rule(who=who, data=st.data())
    def resume(self, who: int, data: st.DataObject) -> None:
        task = self.one_of(who, data)
        if task is None:
            return
        with contextlib.suppress(Gone):  # its batch is closed
            assert queue.resume(self.store, self.labelers[who], task) == (self.row(task).state == "active")

    @rule(seconds=JUMPS)
    def jump(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule(overlap=st.integers(1, LABELERS))
    def change_overlap(self, overlap: int) -> None:
        queue.change_overlap(self.store, self.batch, overlap)
        for row in self.items():
            self.over[row.id] = max(0, row.held + row.done - overlap)

    @rule(is_open=st.booleans())
    def open_or_close(self, is_open: bool) -> None:
        self.set_open(is_open)

    # ---- promises ----------------------------------------------------------------------------------------------

    @invariant()
    def counters_are_the_rows(self) -> None:
        if hasattr(self, "store"):
            assert check(self.store) == []

    @invariant()
    def nobody_is_over_the_overlap(self) -> None:
        for row in self.items():
            left_over = row.held + row.done - row.quota
            assert left_over <= self.over[row.id], "places were given out beyond the overlap"
            self.over[row.id] = max(0, left_over)

    @invariant()
    def nobody_is_twice_on_an_item(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as tx:
            columns = assignments.c.item_id, assignments.c.account_id
            pairs = tx.execute(sa.select(*columns)).all()
            counted = tx.execute(
                sa.select(answers.c.item_id, answers.c.account_id).where(answers.c.number == 1, ~answers.c.extra)
            ).all()
        assert len(pairs) == len(set(pairs)) and len(counted) == len(set(counted))

    @invariant()
    def every_acknowledged_answer_is_there_once(self) -> None:
        if hasattr(self, "store"):
            with self.store.read() as tx:
                keys = tx.execute(sa.select(answers.c.key)).scalars().all()
            assert sorted(keys) == sorted(key for _, _, key in self.sent)

    def drain(self) -> None:
        """Everybody works until nobody finds anything; then no item is over, or under while somebody could fill it."""
        self.set_open(True)
        self.clock.move(1000 * LEASE)
        for labeler in self.labelers:
            while (task := queue.claim(self.store, labeler, "compare")) is not None:
                key = self.key()
                assert not queue.submit(self.store, labeler, task, key, ranking(K), 1.0).extra
                self.sent.append((labeler, task, key))
        for row in self.items():
            assert row.held == 0
            if row.done < row.quota:
                with self.store.read() as tx:
                    query = sa.select(assignments.c.state).where(assignments.c.item_id == row.id)
                    states = tx.execute(query).scalars().all()
                assert len(states) == LABELERS, "somebody who never had this item found nothing to do"
                assert "expired" not in states and "active" not in states
        self.nobody_is_over_the_overlap()
        self.counters_are_the_rows()
        self.every_acknowledged_answer_is_there_once()

    # ---- looking -----------------------------------------------------------------------------------------------

    def items(self) -> list[sa.Row[Any]]:
        if not hasattr(self, "store"):
            return []
        with self.store.read() as tx:
            return list(tx.execute(sa.select(items).where(items.c.batch_id == self.batch)))

    def row(self, task: str) -> sa.Row[Any]:
        with self.store.read() as tx:
            return tx.execute(sa.select(assignments).where(assignments.c.id == task)).one()

    def one_of(self, who: int, data: st.DataObject) -> str | None:
        with self.store.read() as tx:
            query = sa.select(assignments.c.id).where(assignments.c.account_id == self.labelers[who])
            mine = tx.execute(query.order_by(assignments.c.item_id)).scalars().all()
        return data.draw(st.sampled_from(mine)) if mine else None

    def count_answers(self) -> int:
        with self.store.read() as tx:
            return int(tx.execute(sa.select(sa.func.count()).select_from(answers)).scalar_one())

    def set_open(self, is_open: bool) -> None:
        with self.store.write() as tx:
            tx.execute(batches.update().where(batches.c.id == self.batch).values(open=is_open))


HOUSE = settings(deadline=None, derandomize=True, stateful_step_count=30, suppress_health_check=list(HealthCheck))


def play(open_fresh: Any, examples: int) -> None:
    class Machine(Labeling):
        def open(self) -> Store:
            found: Store = open_fresh(self.clock)
            return found

    run_state_machine_as_test(Machine, settings=settings(HOUSE, max_examples=examples))


@pytest.fixture(params=["sqlite", "postgresql"])
def open_fresh(request: pytest.FixtureRequest) -> Any:
    """A function from a clock to an opened, empty database; the machine needs one for every game."""
    if request.param == "postgresql":
        again = request.getfixturevalue("postgres_again")
        yield lambda clock: open_store(again(), clock)
        return
    # In memory where there is such a folder: durability is what test_kills is for.
    root = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=root) as folder:
        template = request.getfixturevalue("migrated_file").read_bytes()

        def fresh(clock: Clock) -> Store:
            path = Path(tempfile.mkdtemp(dir=folder)) / "studio.db"
            path.write_bytes(template)
            return open_store(f"sqlite:///{path}", clock)

        yield fresh


def test_no_order_of_moves_breaks_a_promise(open_fresh: Any) -> None:
    play(open_fresh, examples=10)


@pytest.mark.slow
def test_no_order_of_moves_breaks_a_promise_many_times(open_fresh: Any) -> None:
    play(open_fresh, examples=300)


# ---- all at once -----------------------------------------------------------------------------------------------


def crowd_at_work(store: Store, made: Made, clock: Clock, *, labelers: int, count: int, overlap: int) -> None:
    """Many threads, each a labeler, who claim, dawdle past their leases, skip, put aside, submit twice."""
    batch = made.filled(count=count, overlap=overlap, k=K)
    people = made.crowd(labelers)
    wrong: list[BaseException] = []
    clock_lock = threading.Lock()

    def work(labeler: str, seed: int) -> None:
        draw = random.Random(seed)
        try:
            while (task := queue.claim(store, labeler, "compare")) is not None:
                luck = draw.random()
                if luck < 0.06:
                    queue.give_back(store, labeler, task, "skipped", "unclear")
                elif luck < 0.12:
                    queue.give_back(store, labeler, task, "postponed")
                    queue.resume(store, labeler, task)
                elif luck < 0.18:
                    with clock_lock:
                        clock.move(draw.choice([LEASE + 1, -LEASE, 5.0]))
                else:
                    key = made.key()
                    for _ in range(draw.choice([1, 1, 2])):
                        queue.submit(store, labeler, task, key, ranking(K), 1.0)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(who, n)) for n, who in enumerate(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    clock.move(1000 * LEASE)
    for labeler in people:  # what was let lie in the end
        while (task := queue.claim(store, labeler, "compare")) is not None:
            queue.submit(store, labeler, task, made.key(), ranking(K), 1.0)
    assert check(store) == []
    with store.read() as tx:
        rows = tx.execute(sa.select(items.c.done, items.c.held).where(items.c.batch_id == batch)).all()
        rivals = sa.select(answers.c.item_id).where(answers.c.number == 1, ~answers.c.extra)
        counted = tx.execute(sa.select(sa.func.count()).select_from(rivals.subquery())).scalar_one()
    assert set(map(tuple, rows)) == {(overlap, 0)}, "an item is over or under its overlap"
    assert counted == count * overlap


def test_sixty_four_labelers_at_once_leave_no_item_over_or_under(store: Store, made: Made, clock: Clock) -> None:
    crowd_at_work(store, made, clock, labelers=64, count=40, overlap=3)


@pytest.mark.slow
def test_sixty_four_labelers_at_once_on_a_thousand_places(store: Store, made: Made, clock: Clock) -> None:
    crowd_at_work(store, made, clock, labelers=64, count=250, overlap=4)
