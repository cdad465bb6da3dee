"""What the benchmarks share: the clock, the spread, the table, and what both sides of a race are given.

Every number printed is measured in the run that prints it, the two sides in turns, so that a busy machine
slows both: read the ratios, not the seconds. No benchmark needs more than `make install`; the one that
measures TRL makes a virtual environment for it by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

MODEL = "smollm2-135m"
ROW = 64  # sequences decoded, and episodes of a PPO iteration


def arguments(text: str, **options: tuple[Any, str]) -> argparse.Namespace:
    """Command-line words: --json, and one option per (default, meaning)."""
    parser = argparse.ArgumentParser(description=text.strip().splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for name, (default, meaning) in options.items():
        kind = {"type": type(default)} if default is not None else {}
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=meaning, **kind)
    return parser.parse_args()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call, and what it returned."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def tutelage() -> list[str]:
    """The command line of this environment: its script, or the module where none is installed."""
    script = Path(sys.executable).with_name("tutelage")
    return [str(script)] if script.exists() else [sys.executable, "-m", "tutelage.cli"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """Largest resident size so far, of this process or of its largest finished child (RUSAGE_CHILDREN)."""
    size = resource.getrusage(who).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def endless(lm: Any) -> Any:
    """The same model with an end token that no draw can give (id -1): every row decodes every token."""
    lm.tokenizer = SimpleNamespace(eos_token_id=-1, pad_token_id=lm.pad)
    return lm


def prompts(count: int, shortest: int, longest: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Random token ids: what a prompt says changes no speed, how long it is does."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(100, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def show(result: dict[str, Any], table: Sequence[Sequence[Any]], *, as_json: bool) -> None:
    """The machine in one line, then the table, its header first; or everything as JSON."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    if as_json:
        print(json.dumps({"cores": cores, "load": round(load, 2)} | result, indent=2))
        return
    busy = "; the machine is busy with other work: trust the ratios only" if load > cores + 1 else ""
    print(f"{cores} cores, load {load:.1f}{busy}\n")
    cells = [[str(cell) for cell in row] for row in table]
    first, *rest = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for name, *numbers in cells:
        line = [number.rjust(width) for number, width in zip(numbers, rest, strict=True)]
        print("  ".join([name.ljust(first), *line]))
