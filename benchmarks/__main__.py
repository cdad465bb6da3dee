"""`make bench`: the benchmarks that need nothing but the house, one after another.

Against TRL, which brings a virtual environment of its own: .venv/bin/python benchmarks/ppo_iteration.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGES = (["startup.py"], ["memory.py"], ["decode.py"], ["ppo_iteration.py", "--side", "ours"])


def main() -> int:
    """Run each as its own process; the exit code is the first that failed."""
    for page, *words in PAGES:
        print(f"\n{page}", flush=True)
        done = subprocess.run([sys.executable, Path(__file__).with_name(page), *words], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
