"""What every page's loop leans on: stateless randomness, tensor checkpoints, progress, and the guard against NaN.

Randomness is never carried along: each use derives its generator from (seed, what for, step). Resuming therefore has
no random state to restore, and a killed run cannot differ from an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.records import UserError

if TYPE_CHECKING:
    from tutelage.model import Lm


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, and on nothing else."""
    key = "/".join(map(str, (seed, *names)))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def shuffled(count: int, seed: int, *names: object) -> list[int]:
    """A permutation of 0..count-1."""
    order: list[int] = torch.randperm(count, generator=generator(seed, *names)).tolist()
    return order


def stream(count: int, step: int, size: int, seed: int, *names: object) -> list[int]:
    """The `step`-th batch of `size` indices from an endless stream that visits every index once per pass."""
    chosen: list[int] = []
    orders: dict[int, list[int]] = {}
    for position in range(step * size, (step + 1) * size):
        epoch, index = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = shuffled(count, seed, *names, epoch)
        chosen.append(orders[epoch][index])
    return chosen


def release_memory() -> None:
    """Give back what finished work held: modules hold each other in cycles, and glibc keeps freed pages."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def environment(lm: Lm) -> dict[str, Any]:
    """What a model is computed with, as `Run.computes` records it."""
    dtype = {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(lm.top.head.dtype, str(lm.top.head.dtype))
    found = {"dtype": dtype, "device": lm.device.type, "threads": torch.get_num_threads()}
    if lm.device.type == "cuda":
        return found | {"gpu": torch.cuda.get_device_name(lm.device)}
    return found | {"capability": torch.backends.cpu.get_cpu_capability()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; a full disk is one line, and whatever was there before stays."""
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); the last checkpoint is intact"
        ) from None
    except Exception as error:  # safetensors raises its own type for I/O errors
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{path}: cannot be written ({error}); the last checkpoint is intact") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote."""
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete the folder it is in and repeat the command that wrote it"
        ) from None


def need_finite(name: str, value: float, step: int) -> float:
    """The value, or one line that names what became NaN or infinite and when."""
    if not math.isfinite(value):
        raise UserError(
            f"{name} became {value} at step {step}: training diverged, nothing was saved since the last checkpoint;"
            " lower the learning rate, or check the data for empty responses"
        )
    return value


class Progress:
    """One line of progress with the time left, redrawn in a terminal and printed now and then elsewhere."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, max(total, 1), done
        self.first, self.started, self.printed = done, time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more of the total are done; `note` is shown behind."""
        self.done += count
        now = time.monotonic()
        spent = now - self.started
        left = spent / max(1, self.done - self.first) * (self.total - self.done)
        if not self.live and now - self.printed < 10 and self.done < self.total:
            return
        self.printed = now
        line = f"  {self.label} {self.done}/{self.total}  {clock(spent)} spent, {clock(left)} left  {note}"
        end = "\r" if self.live and self.done < self.total else "\n"
        print(f"\r{line[:118]:<118}" if self.live else line.rstrip(), end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def timed(store: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to `store[name]`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        store[name] = store.get(name, 0.0) + time.perf_counter() - started
