"""Dataclass <-> command line <-> JSON. An unknown key is an error; no environment variables, no global state."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from tutelage.records import UserError

C = TypeVar("C")


def parse(kind: type[C], arguments: list[str], program: str) -> C:
    """A config from command-line words. `--config runs/x/config.json` takes a finished run's fields as defaults."""
    import tyro

    arguments = [
        part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])
    ]
    default: Any = None
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise UserError("--config needs a file: a run's config.json")
        default = load(kind, Path(arguments[place + 1]))
        del arguments[place : place + 2]
    given = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: C = tyro.cli(kind, args=arguments, prog=program, description=kind.__doc__, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_in_one_line(said.getvalue())}; see {program} --help") from None
    return parsed


def _in_one_line(said: str) -> str:
    """tyro's complaint without its heading, frame and advice."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" │╭╮╰╯─") for line in said.splitlines()]
    kept = itertools.takewhile(lambda line: "helptext" not in line, lines[1:])
    return " ".join(line for line in kept if line.strip("-"))


def load(kind: type[C], path: Path) -> C:
    """A config from its JSON. Raises UserError naming the file and the field."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: expected an object of settings")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in row:
        if name not in known:
            raise UserError(f"{path}: field {name!r} is not a setting of {kind.__name__}")
    try:
        return kind(**{name: _as(hints[name], value) for name, value in row.items()})
    except TypeError as error:
        raise UserError(f"{path}: {error}") from None


def _as(hint: Any, value: Any) -> Any:
    """JSON has no paths and no tuples: bring both back."""
    if value is None:
        return None
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if Path in options and isinstance(value, str):
        return Path(value)
    if isinstance(value, list):
        inner = typing.get_args(hint)[:1]
        return tuple(_as(inner[0], v) if inner else v for v in value)
    return value


def fail(error: UserError) -> int:
    """Print a user's mistake as one line; exit code 2."""
    print(f"tutelage: {error}", file=sys.stderr)
    return 2
