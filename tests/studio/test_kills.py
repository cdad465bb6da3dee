"""No acknowledged answer is lost: the server is killed while labelers work, again and again.

A real server process, real sockets. Labelers claim and submit as fast as they can; at a random moment the process gets
SIGKILL. Every answer that was acknowledged must then be in the database exactly once and the counters must agree with
the rows; what was not acknowledged is sent again after the restart, as the page does, and must not count twice.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from made_server import Forked, Labeler, free_port, work_until
from made_studio import Made

from tutelage.studio.check import check
from tutelage.studio.project import Project
from tutelage.studio.schema import answers, items
from tutelage.studio.store import Store

LABELERS, K = 4, 2


@pytest.fixture
def clock() -> Callable[[], float]:
    """The server's time is the real one, so ours is too."""
    return time.time


def kill_again_and_again(project: Project, store: Store, made: Made, database: str, kills: int, seed: int) -> None:
    made.filled(count=30 * kills, overlap=2, k=K)
    draw, keys = random.Random(seed), (f"answer-{n:020d}" for n in itertools.count())
    port = free_port()
    labelers = [Labeler.of(store, who, port, K) for who in made.crowd(LABELERS)]
    lock = threading.Lock()

    def next_keys() -> Iterator[str]:
        while True:
            with lock:
                key = next(keys)
            yield key

    def count() -> int:
        return sum(len(one.acknowledged) for one in labelers)

    for _ in range(kills):
        server = Forked(project.folder, database, port)
        stop = threading.Event()
        threads = [threading.Thread(target=work_until, args=(stop, one, next_keys())) for one in labelers]
        for thread in threads:
            thread.start()
        wanted = count() + draw.randint(1, 15)
        while count() < wanted and any(thread.is_alive() for thread in threads):
            stop.wait(0.002)
        stop.wait(draw.uniform(0, 0.03))
        server.kill()
        for thread in threads:
            thread.join()
        assert [one.wrong for one in labelers if one.wrong] == []
        verify(store, labelers)
    assert count() > 2 * kills, "the labelers hardly came to work"


def verify(store: Store, labelers: list[Labeler]) -> None:
    acknowledged = set().union(*(one.acknowledged for one in labelers))
    unsure = {one.pending[1] for one in labelers if one.pending is not None}
    with store.read() as tx:
        kept = tx.execute(sa.select(answers.c.key)).scalars().all()
        over = tx.execute(sa.select(items.c.id).where(items.c.held + items.c.done > items.c.quota)).all()
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept), "an acknowledged answer was lost"
    assert set(kept) <= acknowledged | unsure, "an answer nobody sent"
    assert not over
    assert check(store) == []


KILLS = {"sqlite": 35, "postgresql": 15}


@pytest.mark.attack("killing the server while people submit")
@pytest.mark.timeout(1200)
def test_no_acknowledged_answer_is_lost_in_fifty_kills(
    project: Project, store: Store, made: Made, database: str
) -> None:
    kind = "sqlite" if store.sqlite else "postgresql"
    kill_again_and_again(project, store, made, database, KILLS[kind], seed=1)


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
def test_no_acknowledged_answer_is_lost_in_a_thousand_kills(
    project: Project, store: Store, made: Made, database: str
) -> None:
    kind = "sqlite" if store.sqlite else "postgresql"
    kill_again_and_again(project, store, made, database, 20 * KILLS[kind], seed=2)
