"""What decides the last bits of a result beside its settings: processor, type, threads, versions. No torch here."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tutelage.records import UserError

Environment = dict[str, Any]

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def packages() -> dict[str, str]:
    """The versions of what computes."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def continued(path: Path, before: list[Environment], now: list[Environment]) -> list[Environment]:
    """What the run at `path` is computed on when it goes on: `before` that, and `now` this process, where they differ.

    Says aloud what differs. Raises UserError for another type, which would give another result and not other last bits.
    """
    if not before or not now:
        return before or now
    was, here = before[-1], now[-1]
    changed = sorted(name for name in was | here if was.get(name) != here.get(name))
    if "dtype" in changed:
        raise UserError(
            f"{path}: was begun in {was.get('dtype')} on {was.get('processor')} and would go on in {here.get('dtype')}"
            f" here, to another result; go on with --dtype {was.get('dtype')}, or name another folder"
        )
    if not changed:
        return before
    what = ", ".join(f"{name} {was.get(name)} before and {here.get(name)} now" for name in changed)
    print(
        f"tutelage: warning: {path}: goes on with {what}: its last bits may differ from those of an uninterrupted run;"
        " run.json keeps both under computed_on",
        file=sys.stderr,
    )
    return [*before, here]
