"""Starting a studio: open the database, fill it the first time, serve until stopped."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

import uvicorn

from tutelage.records import UserError
from tutelage.studio import accounts, rounds
from tutelage.studio.app import build
from tutelage.studio.connections import LINE, Connection, Server
from tutelage.studio.project import open_project
from tutelage.studio.security import loopback
from tutelage.studio.store import PATIENCE, open_store, url_of

FIRST_PORT, LAST_PORT = 8400, 8420
GRACE = 3
"""Seconds that open pages, which may be watching curves, are waited for when the studio stops."""


def serve(folder: Path, *, host: str, port: int, database: str, browser: bool) -> None:
    """Run the studio until it is stopped. Raises UserError for a folder, database or address that cannot be used."""
    from tutelage.studio.intake import first_fill

    project = open_project(folder)
    store = open_store(url_of(folder, database), patience=PATIENCE)
    ended = threading.Event()
    try:
        if not loopback(host) and not accounts.has_admin(store):
            raise UserError(
                f"--host {host} can be reached by others, and there is no admin yet: make one first with "
                f"`tutelage account {folder} NAME --role admin`"
            )
        first_fill(store, project)
        with _listen(host, port) as listening:
            address = f"http://{_name(host)}:{listening.getsockname()[1]}"
            _tell(f"the studio is at {address}   (Ctrl-C stops it; nothing is lost)")
            if not accounts.any_account(store):
                _tell("first: make your account there, then bring prompts in")
            if not loopback(host):
                _tell("passwords travel in clear over http: let others in through a proxy that speaks https")
            if browser:
                threading.Thread(target=_open_soon, args=(address,), daemon=True).start()
            app = build(project, store, local=loopback(host))
            config = uvicorn.Config(
                app,
                http=Connection,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
            watching = rounds.watch(store, ended)
            with contextlib.suppress(KeyboardInterrupt):  # the ordinary way to stop
                Server(config).run(sockets=[listening])
            ended.set()
            watching.join()
    finally:
        ended.set()
        store.close()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _name(host: str) -> str:
    """The host as an address in a browser has it."""
    if loopback(host):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    """The address, or with port 0 the first free one of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for one in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        # The protocol is named because asyncio switches TCP's waiting for more to send off only where it knows it is
        # TCP: else every answer whose body follows its headers comes 40 ms late.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, one))
            listening.listen(LINE)
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
        else:
            return listening
    where = str(port) if port else f"{FIRST_PORT} to {LAST_PORT}"
    raise UserError(f"cannot listen on {host}, port {where}: {reason}")


def _open_soon(address: str) -> None:
    time.sleep(0.7)
    webbrowser.open(address)
