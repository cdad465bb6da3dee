"""Workflows: a kind of work to teach, as four files in a folder.

    prompts.jsonl          one Prompt a line, with the checks of the simulated labelers
    demonstrations.jsonl   one Demonstration a line, each for a prompt of prompts.jsonl
    guidelines.md          what a human labeler is told
    workflow.json          name, title, description, token limits, rubric settings (tutelage/rubric.py)

The folders beside this file are embedded in the package; any other folder with the same files loads the same
way.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import rubric
from tutelage.judging import checks, focus
from tutelage.records import Demonstration, Prompt, UserError, read_records
from tutelage.rubric import Rubric

_HERE = Path(__file__).parent
_OWN_FIELDS = ("name", "title", "description", "max_prompt_tokens", "max_response_tokens", "settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A kind of work: prompts, demonstrations, guidelines, and the rubric that stands in for labelers."""

    name: str
    title: str
    description: str
    prompts: tuple[Prompt, ...]
    demonstrations: tuple[Demonstration, ...]
    guidelines: str
    rubric: Rubric
    max_prompt_tokens: int
    max_response_tokens: int
    settings: dict[str, Any]
    """What the workflow changes in a run's configuration; read by tutelage.config."""


def names() -> tuple[str, ...]:
    """The embedded workflows, sorted."""
    return tuple(sorted(path.parent.name for path in _HERE.glob("*/workflow.json")))


def load(name_or_path: str | Path) -> Workflow:
    """An embedded workflow by name, or any folder with the same files. Raises UserError in one line."""
    folder = Path(name_or_path)
    if str(name_or_path) in names():
        folder = _HERE / str(name_or_path)
    elif not folder.is_dir():
        known = ", ".join(names()) or "none"
        raise UserError(f"no workflow {str(name_or_path)!r}: neither embedded ({known}) nor a folder")
    row = _read_json(folder / "workflow.json")
    prompts = tuple(read_records(Prompt, folder / "prompts.jsonl"))
    demonstrations = tuple(read_records(Demonstration, folder / "demonstrations.jsonl"))
    _check_prompts(prompts, folder)
    _check_demonstrations(demonstrations, prompts, folder)
    where = str(folder / "workflow.json")
    applied = rubric.parse({key: value for key, value in row.items() if key not in _OWN_FIELDS}, where)
    learned = dataclasses.replace(
        applied.settings, acts=focus.common_acts(prompts, demonstrations, applied.settings.courtesy)
    )
    if learned.closed_domain:
        learned = dataclasses.replace(
            learned,
            trade=focus.trade_words(prompts, demonstrations),
            trade_pairs=focus.trade_pairs(prompts, demonstrations),
        )
    return Workflow(
        name=_text(row, "name", where),
        title=_text(row, "title", where),
        description=_text(row, "description", where),
        prompts=prompts,
        demonstrations=demonstrations,
        guidelines=_read_text(folder / "guidelines.md"),
        rubric=dataclasses.replace(applied, settings=learned),
        max_prompt_tokens=_count(row, "max_prompt_tokens", where),
        max_response_tokens=_count(row, "max_response_tokens", where),
        settings=_object(row, "settings", where),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a workflow folder needs it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: is {type(row).__name__}, expected an object")
    known = (*_OWN_FIELDS, *rubric.fields())
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise UserError(f"{path}: field {unknown[0]!r} is unknown; expected some of {', '.join(known)}")
    return row


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row.get(name), str) or not row[name].strip():
        raise UserError(f"{where}: field {name!r} must be text")
    return str(row[name])


def _count(row: dict[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: field {name!r} must be a whole number >= 1")
    return value


def _object(row: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = row.get(name, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: field {name!r} must be an object")
    return value


def _check_prompts(prompts: tuple[Prompt, ...], folder: Path) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(f"{folder / 'prompts.jsonl'}: id {prompt.id!r} occurs twice")
        seen.add(prompt.id)
        try:
            checks.validate(prompt)
        except UserError as error:
            raise UserError(f"{folder / 'prompts.jsonl'}: {error}") from None


def _check_demonstrations(demonstrations: tuple[Demonstration, ...], prompts: tuple[Prompt, ...], folder: Path) -> None:
    by_id = {prompt.id: prompt for prompt in prompts}
    seen: set[str] = set()
    for demonstration in demonstrations:
        where = f"{folder / 'demonstrations.jsonl'}: demonstration {demonstration.id!r}"
        prompt = by_id.get(demonstration.prompt_id)
        if demonstration.id in seen:
            raise UserError(f"{where}: the id occurs twice")
        if prompt is None:
            raise UserError(f"{where}: prompt_id {demonstration.prompt_id!r} is not in prompts.jsonl")
        if (demonstration.prompt, demonstration.split) != (prompt.text, prompt.split):
            raise UserError(f"{where}: prompt text or split differs from prompt {prompt.id!r}")
        seen.add(demonstration.id)
