"""A terminal for tests: a script of commands runs in it, and the test types what a user would."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CTRL_C, CTRL_D = "\x03", "\x04"

# Every command must succeed; 130 is the exit code of one that was stopped by a typed Ctrl-C.
PREAMBLE = """\
trap : INT
trap 'code=$?; [ $code = 130 ] || exit $code' ERR
"""

Reply = Callable[[re.Match[str]], str]


def run(
    script: str, folder: Path, environment: Mapping[str, str], replies: Mapping[str, Reply], patience: float
) -> str:
    """Run a bash script in a terminal; returns what the terminal showed.

    Whenever a pattern of `replies` appears in what is new on the screen, what its function returns is typed. Raises
    AssertionError when a command fails, or when all together take longer than `patience` seconds.
    """
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-c", f"{PREAMBLE}{script}\nexit 0"],
        cwd=folder,
        env=dict(environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # the session's own terminal: Ctrl-C works
    )
    os.close(theirs)
    shown, until = _converse(mine, replies, time.monotonic() + patience), time.monotonic() + 10
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    os.close(mine)
    assert process.wait() == 0, f"exit code {process.returncode}:\n{shown[-6000:]}"
    return shown


def _converse(terminal: int, replies: Mapping[str, Reply], until: float) -> str:
    """Read until the terminal is closed or time is up; type the replies."""
    shown, read = "", 0
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # nobody has the terminal open any more
            return shown
        shown += piece.decode(errors="replace").replace("\r\n", "\n")
        for pattern, reply in replies.items():
            if found := re.search(pattern, shown[read:]):
                read += found.end()
                os.write(terminal, reply(found).encode())
    return shown
