"""Files in: `load(path)` reads prompts, demonstrations and rankings of any known shape into our records.

JSONL, a JSON array, CSV, TSV and Parquet, each also gzipped. The first row decides the shape (`shapes.py`),
and every row must have it: a row that does not is an error naming file, line and field, never skipped. What a
file holds beyond our records, or what had to be decided in reading it, is told in `Imported.notes`.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tutelage import extras
from tutelage.data.intake import Intake, kind_of, nul, remove
from tutelage.data.room import DISK, Room, declared, unpacked, weighed, within
from tutelage.data.shapes import Shape, shape_of
from tutelage.records import SPLITS, Demonstration, FieldError, Prompt, Ranking, UserError, shallow

Filed = TypeVar("Filed", Demonstration, Ranking)


@dataclass(frozen=True, slots=True)
class Imported:
    """The records of one file; `prompts` holds the prompt of each, and both have the same split."""

    prompts: tuple[Prompt, ...]
    demonstrations: tuple[Demonstration, ...]
    rankings: tuple[Ranking, ...]
    shape: str
    notes: tuple[str, ...]
    marked: frozenset[str] = frozenset()
    """Ids of the prompts whose rows name their split."""

    def summary(self) -> str:
        """What came in, for a person: one line, and one for each note."""
        parts = [f"{len(self.prompts):,} prompts"]
        if self.demonstrations:
            parts.append(f"{len(self.demonstrations):,} demonstrations")
        if self.rankings:
            pairs = sum(len(ranking.pairs()) for ranking in self.rankings)
            parts.append(f"{len(self.rankings):,} rankings ({pairs:,} untied pairs)")
        splits = Counter(prompt.split for prompt in self.prompts)
        spread = ", ".join(f"{split} {splits[split]:,}" for split in SPLITS)
        return "\n".join([f"{self.shape}: {', '.join(parts)}; prompts by split: {spread}", *self.notes])

    def restricted_to(self, prompts: Iterable[Prompt]) -> Imported:
        """Only what belongs to `prompts` (by id, else by equal text), with their ids and splits.

        For after `collect`: give it the prompts kept and those that were there before.
        """
        chosen = tuple(prompts)
        by_id = {prompt.id: prompt for prompt in chosen}
        by_text = {prompt.text: prompt for prompt in chosen}
        own = [by_id.get(prompt.id) or by_text.get(prompt.text) for prompt in self.prompts]
        target = {old.id: new for old, new in zip(self.prompts, own, strict=True) if new is not None}

        def moved(records: tuple[Filed, ...]) -> tuple[Filed, ...]:
            found = ((record, target.get(record.prompt_id)) for record in records)
            return tuple(replace(r, prompt_id=p.id, split=p.split) for r, p in found if p is not None)

        return replace(
            self,
            prompts=tuple({prompt.id: prompt for prompt in target.values()}.values()),
            demonstrations=moved(self.demonstrations),
            rankings=moved(self.rankings),
        )


def sniff(path: Path | str) -> str:
    """The name of a file's shape by its first row. Raises UserError when unreadable or unknown."""
    path = Path(path)
    for where, row in read_table(path):
        return _shape(path, where, row).name
    raise UserError(f"{path}: has no rows")


def load(path: Path | str, room: Room = DISK, *, ignore: Sequence[str] = ()) -> Imported:
    """All records of a file, read as if it had no columns `ignore` ("meta.score" is a field within one).

    room: how much the file may hold. Raises UserError naming file, line and field of the first row that is wrong, or a
    column that is not there.
    """
    path = Path(path)
    intake = Intake(source=path.name)
    shape: Shape | None = None
    flat = _is_flat(path)
    rows = 0
    missing = set(ignore)
    for where, row in read_table(path, room):
        rows += 1
        missing -= {name for name in ignore if remove(row, name)}
        shape = shape or _shape(path, where, row)
        try:
            if (name := nul(row)) is not None:
                raise FieldError(name, "holds a NUL character, which no database keeps")
            if not isinstance(row, str if shape.bare else dict):
                raise FieldError("(row)", f"is {kind_of(row)}, unlike the rows before")
            shape.read(_typed(row, shape) if flat else row, intake)
        except FieldError as error:
            raise UserError(f"{path}, {where}: {error}") from None
    if shape is None:
        raise UserError(f"{path}: has no rows")
    if missing:
        raise UserError(f"{path}: no row has a column {sorted(missing)[0]!r} to ignore")
    repeated = rows - len(intake.prompts)
    if repeated > 0 and not intake.demonstrations and not intake.rankings:
        intake.notes["the words of another prompt: taken once"] = repeated
    intake.finish()
    return Imported(
        prompts=tuple(intake.prompts.values()),
        demonstrations=tuple(intake.demonstrations),
        rankings=tuple(intake.rankings),
        shape=shape.name,
        notes=tuple(f"{count:,} row{'s'[: count > 1]}: {note}" for note, count in intake.notes.items()),
        marked=frozenset(intake.marked),
    )


def _shape(path: Path, where: str, row: Any) -> Shape:
    try:
        return shape_of(row)
    except FieldError as error:
        raise UserError(f"{path}, {where}: {error}") from None


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _is_flat(path: Path) -> bool:
    return _suffix(path) in (".csv", ".tsv")


def _typed(row: Any, shape: Shape) -> Any:
    """Text cells as one of our own records: empty ones are absent, those of other types hold JSON."""
    if shape.record is None:
        return row
    kinds = {spec.name: str(spec.type) for spec in fields(shape.record)}
    typed = {}
    for name, cell in row.items():
        if cell == "":
            continue
        typed[name] = cell
        if kinds.get(name, "str") != "str":
            try:
                typed[name] = json.loads(cell)
                shallow(typed[name], name)
            except FieldError:
                raise
            except (ValueError, RecursionError):
                raise FieldError(name, f"holds {cell[:40]!r}, expected JSON") from None
    return typed


def read_table(path: Path, room: Room = DISK) -> Iterator[tuple[str, Any]]:
    """(where, decoded row) of each row; `where` is "line 3", "row 3" or "item 3". Raises UserError."""
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            for where, row in within(path, room, _rows(path, unpacked(path, file, room) if packed else file, room)):
                try:
                    shallow(row)
                except FieldError as error:
                    raise UserError(f"{path}, {where}: {error}") from None
                yield where, row
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: damaged gzip file") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None


def _rows(path: Path, file: io.BufferedReader, room: Room) -> Iterator[tuple[str, Any]]:
    start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1") or _suffix(path) == ".parquet":
        return _parquet_rows(path, file, room)
    if _is_flat(path):
        return _csv_rows(path, file, "\t" if _suffix(path) == ".tsv" else ",")
    if _suffix(path) not in (".jsonl", ".json", ".ndjson", ""):
        raise UserError(f"{path}: unknown kind of file; expected .jsonl, .json, .csv, .tsv or .parquet, gzipped or not")
    return _array_items(path, file) if start.startswith(b"[") else _json_lines(path, file)


def _json_lines(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield f"line {number}", _decoded(f"{path}, line {number}", raw)


def _array_items(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    for number, item in enumerate(_decoded(str(path), file.read()), start=1):
        yield f"item {number}", item


_MAY_BE_NO_NUMBER = re.compile(r"NaN|Infinity|\d[eE]\+?\d{3}")
"""In JSON's text: what Python would read as NaN or infinite, and some texts that merely look so."""


def _decoded(where: str, raw: bytes) -> Any:
    """JSON from bytes. Half a surrogate pair and NaN are refused here, since no file could hold them later."""
    try:
        text = raw.decode("utf-8-sig")
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        if _MAY_BE_NO_NUMBER.search(text) and not _finite(value):
            raise UserError(f"{where}: holds NaN or a number without end, which JSON has not")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: holds half a character (a lone surrogate)") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if error.lineno > 1 else "column"
        raise UserError(f"{where}: not valid JSON ({error.msg} at {place} {error.colno})") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise UserError(f"{where}: holds a number that is too long") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deep") from None
    return value


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _csv_rows(path: Path, file: io.BufferedReader, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Rows as {column: cell}, all text. The line named is the one on which a row begins."""
    reader = csv.reader(_text_lines(path, file), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _header(f"{path}, {where}", cells)
            elif len(cells) != len(header):
                raise UserError(f"{path}, {where}: has {len(cells)} cells, the header has {len(header)}")
            else:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _text_lines(path: Path, file: io.BufferedReader) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: not UTF-8 text") from None


def _header(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names:
        raise UserError(f"{where}: the header has a column without a name")
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{where}: the header has column {name!r} twice")
    return names


def _parquet_rows(path: Path, file: io.BufferedReader, room: Room) -> Iterator[tuple[str, Any]]:
    """Rows of a Parquet file; null values count as absent."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError:
        raise extras.missing(f"{path}: reading Parquet", "parquet") from None
    number = 0
    try:
        opened = parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        declared(path, opened.metadata, room)
        batches = opened.iter_batches(batch_size=64)  # a row can be a megabyte long
        for row in weighed(path, room, (row for batch in batches for row in batch.to_pylist())):
            number += 1
            yield f"row {number}", _present(row)
    except arrow.ArrowException as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _present(value: Any) -> Any:
    """Without the nulls that Parquet puts where a row lacks a field."""
    if isinstance(value, dict):
        return {name: _present(inner) for name, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value
