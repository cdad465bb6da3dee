"""How long `tutelage --help` and every `tutelage COMMAND --help` take: wall time, median of five.

    .venv/bin/python benchmarks/startup.py

Each is a fresh process. The house's limit is 0.5 s on an idle machine: help must not wait for torch. The last
row is a process that does nothing; the ratio is to that row, so that a busy machine can be told from a slow
command.
"""

from __future__ import annotations

import subprocess
import sys

from common import arguments, seconds, show, spread, tutelage

from tutelage.cli import COMMANDS


def measure(words: list[str], repeats: int) -> dict[str, float]:
    """Wall time of a command. Raises CalledProcessError when it fails."""

    def once() -> None:
        subprocess.run(words, check=True, capture_output=True)

    return spread([seconds(once)[0] for _ in range(repeats)])


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__, repeats=(5, "fresh processes per command"))
    commands = {"tutelage --help": [*tutelage(), "--help"]}
    commands |= {f"tutelage {name} --help": [*tutelage(), name, "--help"] for name in COMMANDS}
    commands["python -c pass"] = [sys.executable, "-c", "pass"]
    result = {name: measure(words, given.repeats) for name, words in commands.items()}
    nothing = result["python -c pass"]["median"]
    table = [["seconds", "median", "min", "max", "ratio"]]
    for name, found in result.items():
        times = [f"{found[k]:.2f}" for k in ("median", "min", "max")]
        table.append([name, *times, f"{found['median'] / nothing:.1f}"])
    show(result, table, as_json=given.json)


if __name__ == "__main__":
    main()
