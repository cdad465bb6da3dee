"""The benchmarks of a task page and of restoring, run small: what does not depend on the machine holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks"


def measured(page: str, *words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(FOLDER / page), "--json", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_task_page_loads_little_and_from_nowhere_else() -> None:
    found = measured("studio_page.py", "--turns", "2")
    assert 0 < found["scripts_gzip_bytes"] < 60 * 1024
    assert found["elsewhere"] == []
    assert 0 < found["later_ms"]["min"] <= found["later_ms"]["max"]


def test_what_is_restored_is_what_was_backed_up() -> None:
    found = measured("studio_restore.py", "--megabytes", "8")
    assert found["same"] and found["rows"] > 500
    assert found["bytes"] > 8 * 2**20
