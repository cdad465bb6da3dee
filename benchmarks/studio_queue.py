"""How long a labeler waits: claim and submit over HTTP with 100 at work, on SQLite and PostgreSQL; and the cold start.

    .venv/bin/python benchmarks/studio_queue.py

A real `tutelage studio` process over a store of 10,000 prompts with 9 responses each. 100 labelers, each on a
connection of its own, do what the page and its script do: claim a task, load it with its 9 responses, save a draft
every 2 s while they think, and submit a full ranking with nine ratings. They think for --think seconds on average,
exponentially distributed: far less than anybody needs for nine responses. With --think 0 they never pause: that
measures the throughput, and the latency is then the number of labelers over it. The labelers run in a process of their
own, but on the same machine: what they use of it, the studio does not have.

The house's targets, on two idle cores: p50 < 15 ms, p95 < 50 ms, p99 < 150 ms; cold start with 50,000 items in under
2 s and 150 MB.
"""

from __future__ import annotations

import json
import os
import random
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import arguments, show

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "studio"))  # the labelers and the server of the kill test

from made_server import Labeler, Server, ranked, running  # noqa: E402

from tutelage.studio import accounts, queue  # noqa: E402
from tutelage.studio.ids import new_id  # noqa: E402
from tutelage.studio.project import init  # noqa: E402
from tutelage.studio.schema import accounts as account_table  # noqa: E402
from tutelage.studio.schema import batches, prompts, responses  # noqa: E402
from tutelage.studio.store import Store, open_store, url_of  # noqa: E402

K = 9
AUTOSAVE = 2.0  # seconds between drafts
WORDS = ("the sea is wide and the ship sails on while the captain writes a letter home about the weather " * 4).split()


def text(draw: random.Random, count: int) -> str:
    """So many words."""
    return " ".join(draw.choices(WORDS, k=count))


def fill(store: Store, items: int, labelers: int, overlap: int) -> list[str]:
    """Prompts, responses, a batch with items; returns the labelers' ids."""
    draw, now = random.Random(0), store.clock()
    batch, people = new_id(now), [new_id(now) for _ in range(labelers)]
    common = {"use_case": "generation", "kind": "plain", "split": "train", "flags": [], "source": "benchmark"}
    with store.write() as tx:
        row = {"id": batch, "name": "benchmark", "kind": "compare", "mode": "helpful-first", "overlap": overlap}
        tx.execute(batches.insert().values(**row, team="", form=1, priority=0, open=True, created=now))
        tx.execute(
            account_table.insert(),
            [
                {"id": who, "name": f"labeler-{n}", "password": "", "role": "labeler", "team": "training"}
                | {"active": True, "created": now}
                for n, who in enumerate(people)
            ],
        )
    for first in range(0, items, 1000):
        ids = [f"prompt-{n:06d}" for n in range(first, min(first + 1000, items))]
        with store.write() as tx:
            tx.execute(
                prompts.insert(),
                [{"id": i, "text": text(draw, 40), "writer": i, "created": now} | common for i in ids],
            )
            made = [
                {"id": f"{i}/{n}", "prompt_id": i, "text": text(draw, 80), "model": "m", "tokens": 100, "ended": True}
                | {"sampling": {}, "created": now}
                for i in ids
                for n in range(K)
            ]
            tx.execute(responses.insert(), made)
            queue.add_items(tx, now, batch, [(i, [f"{i}/{n}" for n in range(K)]) for i in ids])
    return people


class Crowd:
    """Labelers at work for a while; keeps how long each kind of request took, in seconds."""

    def __init__(self, labelers: list[Labeler], think: float, seconds: float) -> None:
        self.labelers, self.think, self.seconds = labelers, think, seconds
        self.took: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []
        self.requests = 0

    def run(self) -> float:
        """Let them work; returns how many submits a second there were."""
        self.begun = time.perf_counter()
        threads = [threading.Thread(target=self._work, args=(one, n)) for n, one in enumerate(self.labelers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.wrong:
            raise SystemExit(f"a labeler was refused: {self.wrong[0]}")
        return len(self.took["submit"]) / (time.perf_counter() - self.begun)

    def _work(self, labeler: Labeler, seed: int) -> None:
        draw = random.Random(seed)
        time.sleep(draw.uniform(0, self.think))  # they do not all arrive at once
        try:
            while time.perf_counter() - self.begun < self.seconds:
                task = self._timed("claim", labeler.claim)
                if task is None:
                    raise SystemExit("the benchmark ran out of items: fewer seconds, or more items")
                self._timed("page", labeler.call, "GET", f"/task/{task}")
                _, _, opened = self._timed("open", labeler.call, "POST", f"/api/task/{task}/open")
                rest = draw.expovariate(1 / self.think) if self.think else 0.0
                while rest > AUTOSAVE:
                    time.sleep(AUTOSAVE)
                    rest -= AUTOSAVE
                    sent = {"fence": json.loads(opened)["fence"], "seconds": 1.0, "body": {"body": ranked(K), "at": 1}}
                    self._timed("draft", labeler.call, "PUT", f"/api/task/{task}/draft", sent)
                time.sleep(rest)
                self._timed("submit", labeler.submit, task, secrets.token_hex(16))
        except (AssertionError, OSError) as error:
            self.wrong.append(str(error))

    def _timed(self, name: str, act: Any, *words: Any) -> Any:
        started = time.perf_counter()
        result = act(*words)
        self.requests += 1
        if started - self.begun > self.seconds / 10:  # not while the server warms up
            self.took[name].append(time.perf_counter() - started)
        return result


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the worst, in milliseconds."""
    ordered = sorted(values)
    found = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] * 1000 for q in (50, 95, 99)}
    return found | {"max": ordered[-1] * 1000, "n": len(ordered)}


def measure(url: str, given: Any) -> dict[str, Any]:
    """One database under load."""
    with tempfile.TemporaryDirectory() as folder:
        project = init(Path(folder) / "studio", name="Benchmark")
        url = url or str(url_of(project.folder))
        store = open_store(url)
        people = fill(store, given.items, given.labelers, overlap=3)
        with running(project.folder, url) as server:
            labelers = [Labeler.of(store, who, server.port, K) for who in people]
            crowd = Crowd(labelers, given.think, given.seconds)
            before = processor_seconds(server.process.pid)
            rate = crowd.run()
            busy = processor_seconds(server.process.pid) - before
        store.close()
    found: dict[str, Any] = {name: quantiles(values) for name, values in crowd.took.items()}
    return {"submits_per_s": rate, "cpu_ms_per_request": 1000 * busy / crowd.requests, **found}


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a throw-away PostgreSQL that syncs every commit, as a real one does."""
    words = [ROOT / "scripts" / "postgres.sh", "serve", "-c max_connections=100"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def cold_start(items: int) -> dict[str, float]:
    """From nothing running to the first page answered, over a store of many items; and the memory it then takes."""
    with tempfile.TemporaryDirectory() as folder:
        project = init(Path(folder) / "studio", name="Benchmark")
        store = open_store(url_of(project.folder))
        people = fill(store, items, 1, overlap=1)
        token = accounts.open_session(store, people[0])
        store.close()
        found = []
        for _ in range(3):
            started = time.perf_counter()
            server = Server(project.folder, "")
            up = time.perf_counter() - started
            labeler = Labeler(server.port, token, K)
            status, _, _ = labeler.call("GET", "/")
            first = time.perf_counter() - started
            rss = resident(server.process.pid)
            server.kill()
            if status != 200:
                raise SystemExit(f"the desk answered {status}")
            found.append({"up_s": up, "desk_s": first, "rss_mb": rss / 1e6})
        shutil.rmtree(project.folder)
    return min(found, key=lambda one: one["desk_s"])


def processor_seconds(pid: int) -> float:
    """Processor time a process has used (Linux): unlike the latencies, it hardly depends on what else runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory a process holds (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Measure and print."""
    given = arguments(
        __doc__,
        labelers=(100, "labelers at work at once"),
        items=(10_000, "prompts to rank, with 9 responses each"),
        think=(10.0, "seconds a labeler thinks, on average"),
        seconds=(30.0, "seconds of work"),
        start_items=(50_000, "items of the cold start; 0 leaves it out"),
        only=("", "sqlite or postgresql"),
    )
    result: dict[str, Any] = {}
    if given.only != "postgresql":
        result["sqlite"] = measure("", given)
    if given.only != "sqlite":
        with postgres() as url:
            result["postgresql"] = measure(url, given)
    table: list[list[Any]] = [["milliseconds", "p50", "p95", "p99", "max", "requests"]]
    for kind, found in result.items():
        for name in ("claim", "page", "open", "draft", "submit"):
            row = found.get(name)
            if row is None:
                continue
            table.append([f"{kind} {name}", *(f"{row[q]:.1f}" for q in ("p50", "p95", "p99", "max")), row["n"]])
        rate, cost = found["submits_per_s"], found["cpu_ms_per_request"]
        line = f"{kind}: {rate:.1f} submits/s, {cost:.1f} ms of processor a request"
        table.append([line, "", "", "", "", ""])
    if given.start_items:
        result["cold_start"] = found = cold_start(given.start_items)
        line = f"cold start, {given.start_items:,} items: {found['up_s']:.2f} s until it answers, "
        line += f"{found['desk_s']:.2f} s until a desk is shown, {found['rss_mb']:.0f} MB"
        table.append([line, "", "", "", "", ""])
    show(result | {"settings": json.loads(json.dumps(vars(given)))}, table, as_json=given.json)


if __name__ == "__main__":
    main()
