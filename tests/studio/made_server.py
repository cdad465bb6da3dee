"""A real studio in a process of its own, and labelers who talk to it over HTTP."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import cli
from tutelage.studio import accounts
from tutelage.studio.app import COOKIE
from tutelage.studio.store import Store

PATIENCE = 120.0  # seconds; a busy machine is no failure


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """`tutelage studio`, started as a user starts it and answering."""

    def __init__(self, folder: Path, database: str, port: int = 0, more: tuple[str, ...] = ()) -> None:
        self.port = port or free_port()
        words = [sys.executable, "-m", "tutelage.cli", *studio_words(folder, database, self.port), *more]
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the server
        self.process = subprocess.Popen(words, stderr=self._said, start_new_session=True)
        wait_for(self.port, lambda: self.process.poll() is None)

    @property
    def said(self) -> str:
        """What it printed so far."""
        self._said.seek(0)
        return self._said.read()

    @property
    def setup(self) -> str:
        """The address that opens the setup page, as it printed it."""
        found = re.search(r"^https?://\S+/setup\?token=\S+$", self.said, re.MULTILINE)
        assert found, self.said
        return found.group()

    def stop(self) -> tuple[int, str]:
        """As Ctrl-C does; returns the exit code and what it said."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=PATIENCE)
        return self.process.returncode, self.said

    def kill(self) -> None:
        """SIGKILL: no goodbye, no cleaning up."""
        self.process.kill()
        self.process.wait()


class Forked:
    """The same command in a process forked from one that has imported everything: it is up in no time."""

    def __init__(self, folder: Path, database: str, port: int = 0) -> None:
        self.port = port or free_port()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pytest", "tutelage.studio.server", "tutelage.studio.pages"])
        self.process = context.Process(target=cli.main, args=(studio_words(folder, database, self.port),))
        self.process.start()
        wait_for(self.port, self.process.is_alive)

    def kill(self) -> None:
        """SIGKILL: no goodbye, no cleaning up."""
        self.process.kill()
        self.process.join()


def studio_words(folder: Path, database: str, port: int) -> list[str]:
    """The command line."""
    return ["studio", str(folder), "--no-browser", "--port", str(port), "--database", database]


def wait_for(port: int, alive: Callable[[], bool]) -> None:
    """Until the studio answers. Raises AssertionError when it ended before it did."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert alive(), "the studio did not start"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/login")
            connection.getresponse().read()
            connection.close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("the studio did not answer")


@contextmanager
def running(folder: Path, database: str, *more: str) -> Iterator[Server]:
    """A server that is killed in the end. more: further words of the command line."""
    server = Server(folder, database, more=more)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


def ranked(k: int) -> dict[str, Any]:
    """What a page sends for a comparison."""
    ratings = [{"likert": 7 - n % 7, "flags": {}, "note": ""} for n in range(k)]
    log = [["rank", n, n + 1] for n in range(k)]
    return {"ranks": list(range(1, k + 1)), "ratings": ratings, "touched": True, "edited": "", "log": log}


@dataclass
class Labeler:
    """Claims and submits over HTTP; keeps the keys of answers, as a page does until they are acknowledged."""

    port: int
    token: str
    k: int
    acknowledged: set[str] = field(default_factory=set)
    pending: tuple[str, str] | None = None  # (task, key) sent, not acknowledged
    wrong: str = ""  # an answer of the server's that should not have come
    connection: http.client.HTTPConnection | None = None

    @classmethod
    def of(cls, store: Store, account: str, port: int, k: int) -> Labeler:
        """A labeler who is logged in."""
        return cls(port, accounts.open_session(store, account), k)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
        """(status, where it leads, body) of one request on a connection that stays open."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Cookie": f"{COOKIE}={self.token}"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        try:
            self.connection.request(method, path, data, headers)
            answer = self.connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise
        return answer.status, answer.headers.get("location", ""), text

    def claim(self) -> str | None:
        """The next task's id."""
        status, to, text = self.call("POST", "/next/compare")
        assert status == 303 and to != "/login", f"claim: {status}, {to}, {text}"
        found = re.fullmatch(r"/task/(\w+)", to)
        return found and found.group(1)

    def submit(self, task: str, key: str) -> None:
        """Send an answer, and remember that it was acknowledged."""
        self.pending = (task, key)
        body = {"key": key, "seconds": 3.0, "body": ranked(self.k)}
        status, _, text = self.call("POST", f"/api/task/{task}/submit", body)
        assert status == 200, f"submit: {status}, {text}"
        self.acknowledged.add(key)
        self.pending = None


def work_until(stop: threading.Event, labeler: Labeler, keys: Iterator[str]) -> None:
    """Claim and submit until told to stop or the server is gone; first of all send again what was not acknowledged."""
    try:
        if labeler.pending is not None:
            labeler.submit(*labeler.pending)
        while not stop.is_set():
            task = labeler.claim()
            if task is None:
                return
            labeler.submit(task, next(keys))
    except (OSError, http.client.HTTPException):
        return  # the server was killed
    except AssertionError as error:
        labeler.wrong = str(error)
