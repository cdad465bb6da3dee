"""A studio's folder: what is to be learned, on which model, and where the rounds' runs lie.

project.json     the settings below
guidelines.md    what labelers are told
studio.db        the database, unless another is named
runs/round-N     what round N trained
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.records import Demonstration, Prompt, UserError, write_json, write_records, write_text

FILE = "project.json"

GUIDELINES = """# What a good response is

Rank and write as the person who asked would want.

1. **Helpful**: it does what was asked, answers the question that was meant, in clear words, no longer than needed.
2. **Truthful**: it invents nothing, and does not go along with a false premise.
3. **Harmless**: it hurts nobody, is kind, and gives no advice that is dangerous in the real world.

While training data is collected, helpfulness weighs most. In an evaluation, truth and harmlessness weigh most, unless
one response is much more helpful, only slightly less truthful or harmless, and nothing serious is at stake.

Two responses of about the same quality are tied. Skip a task whose meaning you cannot make out, and say why.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """project.json, field by field."""

    name: str
    description: str = ""
    model: str = "smollm2-135m"  # base model: embedded name, hub id, or a folder (relative: within the studio's)
    preset: str = "studio"  # recipe of tutelage/presets.py
    k: int = 4  # responses per prompt
    max_prompt_tokens: int = 256
    max_response_tokens: int = 96

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), {"str": str, "int": int}[str(field.type)]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"field {field.name!r} is {type(value).__name__}, expected {field.type}")
        if not self.name.strip():
            raise ValueError("field 'name' is empty")
        if not 2 <= self.k <= 9:
            raise ValueError(f"field 'k' is {self.k}; expected 2 to 9")
        if min(self.max_prompt_tokens, self.max_response_tokens) < 1:
            raise ValueError("a token limit is below 1")


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with its settings and guidelines."""

    folder: Path
    settings: Settings
    guidelines: str

    @property
    def runs(self) -> Path:
        """Where rounds are trained."""
        return self.folder / "runs"


def init(folder: Path, *, source: str = "", name: str = "", model: str = "") -> Project:
    """Make a studio's folder, empty or with an embedded workflow's prompts and guidelines. Raises UserError."""
    if (folder / FILE).exists():
        raise UserError(f"{folder}: is a studio already; open it with `tutelage studio {folder}`")
    for name_of_ours in ("guidelines.md", "prompts.jsonl", "demonstrations.jsonl", "studio.db"):
        if (folder / name_of_ours).exists():
            raise UserError(f"{folder}: holds a {name_of_ours} that would be overwritten; choose an empty folder")
    fields: dict[str, Any] = {"name": name or folder.resolve().name}
    guidelines = GUIDELINES
    records: dict[str, Sequence[Prompt | Demonstration]] = {}
    if source:
        from tutelage import workflows

        workflow = workflows.load(source)
        fields = {
            "name": name or workflow.title,
            "description": workflow.description,
            "max_prompt_tokens": workflow.max_prompt_tokens,
            "max_response_tokens": workflow.max_response_tokens,
        }
        guidelines = workflow.guidelines
        # What simulated labelers check is left out: here people judge.
        records["prompts.jsonl"] = [dataclasses.replace(p, checks=()) for p in workflow.prompts]
        records["demonstrations.jsonl"] = workflow.demonstrations
    try:
        settings = Settings(**fields | ({"model": _as_written(folder, model)} if model else {}))
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    for file, rows in records.items():
        write_records(folder / file, rows)
    write_text(folder / "guidelines.md", guidelines)
    write_json(folder / FILE, dataclasses.asdict(settings))  # last: its being there says that the folder is whole
    return Project(folder, settings, guidelines)


def _as_written(folder: Path, model: str) -> str:
    """A model for project.json: a folder within the studio's is relative to it, another one absolute."""
    if not Path(model).is_dir():
        return model
    path, studio = Path(model).resolve(), folder.resolve()
    return str(path.relative_to(studio) if path.is_relative_to(studio) else path)


def open_project(folder: Path) -> Project:
    """Open a studio's folder. Raises UserError naming file and field."""
    path = folder / FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        guidelines = (folder / "guidelines.md").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; `tutelage init {folder}` makes a studio") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    known = {f.name for f in dataclasses.fields(Settings)}
    if not isinstance(row, dict) or (unknown := sorted(set(row) - known)):
        what = (
            f"field {unknown[0]!r} is unknown; one of {', '.join(sorted(known))}"
            if isinstance(row, dict)
            else "is no object"
        )
        raise UserError(f"{path}: {what}")
    if "name" not in row:
        raise UserError(f"{path}: field 'name' is missing")
    try:
        settings = Settings(**row)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if settings.model and (folder / settings.model).is_dir():
        settings = dataclasses.replace(settings, model=str((folder / settings.model).resolve()))
    return Project(folder, settings, guidelines)
