"""Two admins, or two tabs of one, at the same moment: on either database it is as if one had come after the other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from made_studio import Made

from tutelage.records import Response, UserError
from tutelage.studio import batches, forms, intake
from tutelage.studio.check import check
from tutelage.studio.schema import items
from tutelage.studio.store import Store

PEOPLE = 6


def together(act: Callable[[int], Any]) -> tuple[list[Any], list[str]]:
    """Everybody does it at once: what it gave those for whom it worked, and the lines that the others were told."""
    gate, done, told = threading.Barrier(PEOPLE), [], []
    wrong: list[BaseException] = []

    def run(n: int) -> None:
        gate.wait()
        try:
            done.append(act(n))
        except UserError as error:
            told.append(str(error))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(PEOPLE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return done, told


@pytest.fixture(autouse=True)
def _sound(store: Store) -> object:
    """Whatever a test did, counters and rows agree when it is over."""
    yield
    assert check(store) == []


def test_one_file_brought_in_by_all_comes_in_once(store: Store, made: Made) -> None:
    admin = made.account("admin")
    rows = [{"prompt": f"Wave number {n}: what does it say?", "completion": f"wash {n}"} for n in range(50)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done, told = together(lambda _: intake.bring_in(store, admin, "waves.jsonl", content))
    assert told == []
    assert sorted(brought.kept for brought in done) == [0] * (PEOPLE - 1) + [50]


def test_one_prompt_written_by_all_is_there_once(store: Store, made: Made) -> None:
    admin = made.account("admin")
    done, told = together(lambda _: intake.write_prompt(store, admin, "What does the sea say?"))
    assert len(done) == 1 and all("duplicate" in line for line in told)
    shots = [("cat", "kitten"), ("dog", "puppy")]
    done, told = together(lambda _: intake.write_few_shot(store, admin, "Name the young.", shots))
    assert len(done) == 1 and all("duplicate" in line for line in told)


def test_batches_made_at_once_share_no_prompt(store: Store, made: Made) -> None:
    made.prompts(5 * PEOPLE)
    done, told = together(lambda n: batches.add_demonstrate(store, f"words {n}", number=5))
    assert (len(done), told) == (PEOPLE, [])
    with store.read() as tx:
        asked = tx.execute(sa.select(items.c.prompt_id)).scalars().all()
    assert len(asked) == len(set(asked)) == 5 * PEOPLE


def test_a_name_is_for_one_batch(store: Store, made: Made) -> None:
    made.prompts(5 * PEOPLE)
    done, told = together(lambda _: batches.add_demonstrate(store, "words", number=5))
    assert (len(done), told) == (1, ["there is a batch called 'words' already"] * (PEOPLE - 1))
    (prompt,) = made.prompts()
    rows = [(prompt, [Response(id=f"r{n}", text=f"Wash {n}.") for n in range(2)])]
    done, told = together(lambda _: batches.add_compare(store, "waves", rows))
    assert (len(done), told) == (1, ["there is a batch called 'waves' already"] * (PEOPLE - 1))


def test_every_new_form_has_a_number_of_its_own(store: Store) -> None:
    names = list(forms.QUESTIONS)
    done, told = together(lambda n: forms.publish(store, names[: n + 1]))
    assert (sorted(done), told) == (list(range(2, 2 + PEOPLE)), [])
