"""Starting a studio: open the database, fill it the first time, serve until stopped."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

import uvicorn

from tutelage.records import UserError
from tutelage.studio import accounts, rounds
from tutelage.studio.address import Site, public_site, trusted
from tutelage.studio.app import build
from tutelage.studio.connections import LINE, Connection, Server
from tutelage.studio.project import open_project
from tutelage.studio.security import loopback
from tutelage.studio.store import PATIENCE, open_store, url_of

FIRST_PORT, LAST_PORT = 8400, 8420
GRACE = 3
"""Seconds that open pages, which may be watching curves, are waited for when the studio stops."""


def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    database: str,
    browser: bool,
    public_url: str = "",
    proxies: tuple[str, ...] = (),
) -> None:
    """Run the studio until it is stopped. Raises UserError for a folder, database or address that cannot be used."""
    from tutelage.studio.intake import first_fill

    public_site(public_url, "")  # wrong words are told before anything is opened
    believed = trusted(proxies)
    project = open_project(folder)
    store = open_store(url_of(folder, database), patience=PATIENCE, folder=folder)
    ended = threading.Event()
    try:
        if not (loopback(host) or public_url or accounts.has_admin(store)):
            raise UserError(
                f"--host {host} can be reached by others, and there is no admin yet: make one first with "
                f"`tutelage account {folder} NAME --role admin`"
            )
        first_fill(store, project)
        with _listen(host, port) as listening:
            site = public_site(public_url, f"http://{_name(host)}:{listening.getsockname()[1]}")
            setup = "" if accounts.has_admin(store) else secrets.token_urlsafe(24)
            first = f"{site.url}/setup?token={setup}" if setup else ""
            others = bool(public_url) or not loopback(host)
            _tell_where(site, first, clear=others and not site.origin.startswith("https:"))
            if browser:
                threading.Thread(target=_open_soon, args=(first or site.url,), daemon=True).start()
            config = uvicorn.Config(
                build(project, store, site=site, setup=setup),
                http=Connection,
                log_level="warning",
                access_log=False,  # it would hold the tokens of invitations and of the setup
                server_header=False,
                timeout_graceful_shutdown=GRACE,
                proxy_headers=bool(believed),
                forwarded_allow_ips=believed,
            )
            watching = rounds.watch(store, ended)
            with contextlib.suppress(KeyboardInterrupt):  # the ordinary way to stop
                Server(config).run(sockets=[listening])
            ended.set()
            watching.join()
    finally:
        ended.set()
        store.close()


def _tell_where(site: Site, first: str, *, clear: bool) -> None:
    """Print the studio's address. first: where its first admin makes an account; clear: passwords travel in clear."""
    through = f", through the proxy in front of {site.listens}" if site.origin else ""
    _tell(f"the studio is at {site.url}{through}   (Ctrl-C stops it; nothing is lost)")
    if first:
        _tell(f"first: make your account, then bring prompts in. This address opens that page once:\n{first}")
    if clear:
        _tell("passwords travel in clear over http: let others in through a proxy that speaks https (docs/deploy.md)")


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
