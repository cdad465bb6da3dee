"""Plain text for the pretraining mix: where it comes from, and blocks of tokens drawn from it without state.

The demo's text is the Python documentation that every interpreter carries (`pydoc_data.topics` and the docstrings of
the standard library): real prose and code, on the machine already. A part is held out to measure the alignment tax.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from tutelage.records import UserError, write_text

HELD_OUT = 0.1  # share of the documents that never trains


def python_documentation(limit_chars: int = 2_000_000) -> list[str]:
    """Documents of real text found in the running interpreter's standard library, in a fixed order.

    Long module, class and function docstrings, read from source without importing anything.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    documents: list[str] = []
    size = 0
    for file in sorted(folder.rglob("*.py")):
        if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(file.relative_to(folder).parts):
            continue
        for text in _docstrings(file):
            documents.append(text)
            size += len(text)
        if size > limit_chars:
            break
    return documents


def _docstrings(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return []
    if file.name == "topics.py":  # pydoc_data: the language reference as one dictionary of strings
        values = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        return [v for v in values if isinstance(v, str) and len(v) > 400]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds)]
    return [text for text in found if text and len(text) > 400]


def write_documentation(folder: Path) -> tuple[Path, Path]:
    """Write train and held-out text files of the Python documentation; returns their paths."""
    train, held = folder / "pretraining.txt", folder / "pretraining_heldout.txt"
    if not (train.exists() and held.exists()):
        documents = python_documentation()
        out = [d for d in documents if _held_out(d)]
        write_text(held, "\n\n\n".join(out))
        write_text(train, "\n\n\n".join(d for d in documents if not _held_out(d)))
    return train, held


def _held_out(document: str) -> bool:
    return int(hashlib.sha256(document.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < HELD_OUT


class TextBlocks:
    """Blocks of `tokens` ids from a text file, chosen by (seed, step) alone: nothing to save, exact to resume."""

    def __init__(self, path: Path, encode: Callable[[str], Sequence[int]], tokens: int, seed: int) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: pretraining text cannot be read ({error})") from None
        ids: list[int] = []
        for document in text.split("\n\n\n"):
            ids.extend(encode(document))
        self.blocks = [ids[i : i + tokens] for i in range(0, len(ids) - tokens + 1, tokens)]
        self.tokens, self.seed = tokens, seed
        if not self.blocks:
            raise UserError(f"{path}: pretraining text has fewer than {tokens} tokens")

    def draw(self, step: int, count: int) -> list[Sequence[int]]:
        """`count` blocks for optimiser step `step`: a fresh shuffle per pass, no block twice in a pass."""
        chosen: list[Sequence[int]] = []
        for position in range(step * count, (step + 1) * count):
            epoch, index = divmod(position, len(self.blocks))
            order = self._order(epoch)
            chosen.append(self.blocks[order[index]])
        return chosen

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_cached", (None, []))[0] != epoch:
            order = list(range(len(self.blocks)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._cached: tuple[int | None, list[int]] = (epoch, order)
        return self._cached[1]

    def first(self, count: int) -> list[Sequence[int]]:
        """The first `count` blocks: a fixed measure."""
        return list(self.blocks[:count])
