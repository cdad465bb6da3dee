"""With this folder on PYTHONPATH, a Python process and its children reach nothing but this machine.

Who tries is refused, and written down in the file that TUTELAGE_CALLS names.
"""

from __future__ import annotations

import os
import sys
from typing import Any

HERE = (None, "", "localhost", "127.0.0.1", "::1")


def watch(event: str, words: tuple[Any, ...]) -> None:
    """An audit hook: sees every look-up and connection of the interpreter's sockets, whoever opens them."""
    if event == "socket.getaddrinfo":
        host = words[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = words[1][0] if isinstance(words[1], tuple) else ""  # else a path: a socket of this machine
    else:
        return
    if host not in HERE:
        with open(os.environ["TUTELAGE_CALLS"], "a", encoding="utf-8") as calls:
            calls.write(f"{event} {host} by {sys.argv}\n")
        raise OSError(f"no network here: {event} {host}")


sys.addaudithook(watch)
