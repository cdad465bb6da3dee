"""Peak memory of a command: the resident size of its largest process, and its wall time.

    .venv/bin/python benchmarks/memory.py tutelage demo --out runs/measured
    .venv/bin/python benchmarks/memory.py --json tutelage report runs/demo

The command runs as a child; the system's accounting of finished children (getrusage) gives the number, so
nothing is sampled and no peak is missed. What the command prints goes to standard error. Without a command it
measures `tutelage --help`, what a process costs that never loads torch. The exit code is the command's.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from common import peak_bytes, seconds, show, tutelage


def main() -> int:
    """Run, measure and print."""
    as_json = sys.argv[1:2] == ["--json"]
    command = sys.argv[1 + as_json :] or ["tutelage", "--help"]
    words = [*tutelage(), *command[1:]] if command[0] == "tutelage" else command
    spent, done = seconds(lambda: subprocess.run(words, check=False, stdout=sys.stderr))
    peak = peak_bytes(resource.RUSAGE_CHILDREN)
    result = {"command": command, "seconds": spent, "peak_bytes": peak, "exit": done.returncode}
    row = [" ".join(command), f"{peak / 1e6:,.0f} MB", f"{spent:.1f} s", done.returncode]
    show(result, [["command", "peak", "time", "exit"], row], as_json=as_json)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
