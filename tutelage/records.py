"""The nouns of the house as frozen records, in and out of JSONL.

Every stage, the studio and the report speak in these records; nothing here imports torch. Reading checks each
line and names file, line and field in one sentence when something is wrong; nothing is skipped in silence.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

USE_CASES = (
    "generation",
    "open QA",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "other",
    "closed QA",
    "extract",
)
"""The ten use cases of the paper's Table 1."""

SPLITS = ("train", "valid", "test")
PROMPT_KINDS = ("plain", "few-shot", "user-based")
RATING_FLAGS = (
    "fails_instruction",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_group",
    "harmful_advice",
    "expresses_opinion",
    "moral_judgment",
)
"""The binary flags of the paper's Table 3, in its order."""

MAX_RANKED = 9
"""The paper ranks K = 4 to 9 responses; 2 and 3 are accepted for outside data."""

LARGEST = 2**53 - 1
"""Numbers are no larger than this: beyond it JSON readers, databases and Parquet differ in what they make of them."""
DEEPEST = 100
"""Levels of lists and objects within each other, at most: writers of JSON give up at some 250."""


class UserError(Exception):
    """A mistake in what the user gave: shown as one line, exit code 2, never a traceback."""


class TooLong(UserError):
    """A text has more tokens than a limit; where the user said so, it is left out instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A task somebody wants done. `checks` are read by simulated labelers only, never by a model."""

    id: str
    text: str
    user: str = "unknown"
    use_case: str = "other"
    kind: str = "plain"
    split: str = "train"
    flags: tuple[str, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        _need(self.text.strip() != "", "text", "is empty")
        _need(self.use_case in USE_CASES, "use_case", f"is {self.use_case!r}; expected one of {', '.join(USE_CASES)}")
        _need(self.kind in PROMPT_KINDS, "kind", f"is {self.kind!r}; expected one of {', '.join(PROMPT_KINDS)}")
        _need(self.split in SPLITS, "split", f"is {self.split!r}; expected one of {', '.join(SPLITS)}")
        for i, check in enumerate(self.checks):
            _bounded(f"checks[{i}]", check)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A response written by a labeler: what the policy should have said."""

    id: str
    prompt: str
    response: str
    prompt_id: str = ""
    labeler: str = "unknown"
    split: str = "train"

    def __post_init__(self) -> None:
        _need(self.prompt.strip() != "", "prompt", "is empty")
        _need(self.response.strip() != "", "response", "is empty")
        _need(self.split in SPLITS, "split", f"is {self.split!r}; expected one of {', '.join(SPLITS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model answered. `tokens` counts its tokens, the end token included; `ended` says it stopped by itself."""

    id: str
    text: str
    model: str = "unknown"
    tokens: int = 0
    ended: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _bounded("tokens", self.tokens)
        _bounded("sampling", self.sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One labeler's view of one response alone: Likert 1 (worst) to 7, the paper's flags (Table 3), and a note.

    The note is free text for whoever reads the answer; nothing is trained on it.
    """

    likert: int
    flags: dict[str, bool] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        _need(1 <= self.likert <= 7, "likert", f"is {self.likert}; expected 1 to 7")
        unknown = sorted(set(self.flags) - set(RATING_FLAGS))
        _need(not unknown, "flags", f"has unknown names {', '.join(unknown)}")
        _need(all(isinstance(v, bool) for v in self.flags.values()), "flags", "must be true or false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One labeler's order over the K responses to one prompt; rank 1 is best, equal ranks are ties."""

    prompt_id: str
    prompt: str
    responses: tuple[Response, ...]
    ranks: tuple[int, ...]
    ratings: tuple[Rating, ...] = ()
    labeler: str = "unknown"
    group: str = "training"
    order_seed: int = 0
    instruction_mode: str = "helpful-first"
    split: str = "train"
    form_version: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        k = len(self.responses)
        _need(self.prompt.strip() != "", "prompt", "is empty")
        _need(2 <= k <= MAX_RANKED, "responses", f"has {k} entries; a ranking needs 2 to {MAX_RANKED}")
        _need(len(self.ranks) == k, "ranks", f"has {len(self.ranks)} entries for {k} responses")
        places = sorted(set(self.ranks))
        dense = places == list(range(1, len(places) + 1))
        _need(dense, "ranks", "must be 1 for the best, then 2 and so on without a gap; equal ranks are ties")
        for name in ("order_seed", "form_version", "seconds"):
            _bounded(name, getattr(self, name))
        _need(len(self.ratings) in (0, k), "ratings", f"has {len(self.ratings)} entries for {k} responses")
        _need(self.split in SPLITS, "split", f"is {self.split!r}; expected one of {', '.join(SPLITS)}")

    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs (better, worse) of all untied comparisons: at most K(K-1)/2 (paper section 3.5; ties dropped)."""
        k = len(self.ranks)
        ordered = [(i, j) if self.ranks[i] < self.ranks[j] else (j, i) for i in range(k) for j in range(i + 1, k)]
        return [(i, j) for i, j in ordered if self.ranks[i] != self.ranks[j]]


Record = Prompt | Demonstration | Response | Rating | Ranking
T = TypeVar("T", Prompt, Demonstration, Response, Rating, Ranking)


class FieldError(ValueError):
    """A record's field is wrong; readers add the file and the line."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"field {name!r} {problem}")


def _need(ok: bool, name: str, problem: str) -> None:
    if not ok:
        raise FieldError(name, problem)


def _bounded(name: str, value: Any) -> None:
    """Raise FieldError where a number within a decoded value is beyond LARGEST, or it is nested beyond DEEPEST."""
    if isinstance(value, dict | list):
        shallow(value, name)
    waiting = [(name, value)]
    while waiting:
        where, found = waiting.pop()
        if isinstance(found, int | float) and not -LARGEST <= found <= LARGEST:
            raise FieldError(where, "is a number beyond 2^53 - 1")
        if isinstance(found, dict):
            waiting += [(f"{where}.{key}", inner) for key, inner in found.items()]
        elif isinstance(found, list | tuple):
            waiting += [(f"{where}[{i}]", inner) for i, inner in enumerate(found)]


def shallow(value: Any, name: str = "") -> None:
    """Raise FieldError where a decoded value is nested beyond DEEPEST, naming the field; `name` is the value's own."""
    parts = value.items() if isinstance(value, dict) and not name else [(name or "(row)", value)]
    for where, part in parts:
        level = [part]
        for _ in range(DEEPEST):
            level = [inner for one in level for inner in _inner(one) if isinstance(inner, dict | list)]
            if not level:
                break
        else:
            raise FieldError(where, f"is nested more than {DEEPEST} levels deep")


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


_NESTED: dict[tuple[type, str], type] = {(Ranking, "responses"): Response, (Ranking, "ratings"): Rating}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def from_dict(kind: type[T], row: Any) -> T:
    """A record from decoded JSON. Raises FieldError naming the field that is missing, unknown or of the wrong type."""
    if not isinstance(row, dict):
        raise FieldError("(row)", f"is {type(row).__name__}, expected an object")
    values: dict[str, Any] = {}
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in row:
        if name not in known:
            raise FieldError(name, f"is unknown; a {kind.__name__} has {', '.join(known)}")
    for name, spec in known.items():
        if name not in row:
            if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                raise FieldError(name, "is missing")
            continue
        values[name] = _value(kind, name, str(spec.type), row[name])
    return kind(**values)


def _value(kind: type, name: str, annotation: str, value: Any) -> Any:
    if annotation.startswith("tuple"):
        if not isinstance(value, list):
            raise FieldError(name, f"is {type(value).__name__}, expected a list")
        nested = _NESTED.get((kind, name))
        if nested is not None:
            return tuple(_nested(nested, name, i, item) for i, item in enumerate(value))
        allowed = (int,) if "int" in annotation else (dict,) if "dict" in annotation else (str,)
        for i, item in enumerate(value):
            if not isinstance(item, allowed) or isinstance(item, bool):
                raise FieldError(f"{name}[{i}]", f"is {type(item).__name__}, expected {allowed[0].__name__}")
        return tuple(value)
    expected = _TYPES.get(annotation, (dict,))
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        raise FieldError(name, f"is {type(value).__name__}, expected {annotation}")
    return value


def _nested(kind: type[Any], name: str, index: int, item: Any) -> Any:
    try:
        return from_dict(kind, item)
    except FieldError as error:
        raise FieldError(f"{name}[{index}]", str(error)) from None


def to_dict(record: Record) -> dict[str, Any]:
    """The record as JSON-ready values, in field order."""
    return dataclasses.asdict(record)


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, decoded JSON) of each non-blank line. Raises UserError naming file and line."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    row = json.loads(raw.rstrip(), parse_constant=_not_a_number)
                    shallow(row)
                    yield number, row
                except FieldError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
                except UnicodeDecodeError:
                    raise UserError(f"{path}, line {number}: not UTF-8 text") from None
                except json.JSONDecodeError as error:
                    problem = f"not valid JSON ({error.msg} at column {error.colno})"
                    hint = "; expected a JSON object on every line" if number == 1 else ""
                    raise UserError(f"{path}, line {number}: {problem}{hint}") from None
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: not readable as JSON ({error})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a JSONL file") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def read_records(kind: type[T], path: Path | str) -> list[T]:
    """All records of a JSONL file. Raises UserError naming file, line and field."""
    return [record for _, record in read_placed(kind, path)]


def read_placed(kind: type[T], path: Path | str) -> list[tuple[str, T]]:
    """All records of a JSONL file, each with where it stands: "file, line 3". Raises UserError naming the field too."""
    path = Path(path)
    records: list[tuple[str, T]] = []
    for number, row in read_rows(path):
        where = f"{path}, line {number}"
        try:
            records.append((where, from_dict(kind, row)))
        except FieldError as error:
            hint = "" if records else f"; if the file has another shape, bring it in first: tutelage add FOLDER {path}"
            raise UserError(f"{where}: {error}{hint}") from None
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, atomically: readers see the old file or the whole new one."""
    write_text(path, "".join(json.dumps(to_dict(r), ensure_ascii=False) + "\n" for r in records))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
