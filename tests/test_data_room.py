"""Files that hold more than they seem to: gzip and Parquet that unpack to much, rows without end, JSON nested deep."""

from __future__ import annotations

import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tutelage.data import room as limits
from tutelage.data.adding import add
from tutelage.data.room import Room
from tutelage.data.sources import load
from tutelage.records import UserError

SMALL = Room(unpacked=200_000, rows=100)


def refused(path: Path, room: Room = SMALL) -> str:
    with pytest.raises(UserError) as caught:
        load(path, room)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.attack("gzip files that unpack to gigabytes")
def test_a_small_file_that_unpacks_to_much_is_given_up_early(tmp_path: Path) -> None:
    path = tmp_path / "p.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * (100 * 2**20) + b"]"))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"more than 200 times its size.*unpack it first"):
            add(tmp_path, path)
        assert tracemalloc.get_traced_memory()[1] < 3 * limits.SMALL
    finally:
        tracemalloc.stop()
    assert [p.name for p in tmp_path.iterdir()] == ["p.json.gz"]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.json.gz", "p.csv.gz"])
def test_a_packed_file_may_hold_so_much(tmp_path: Path, name: str) -> None:
    words = [f"{random.Random(n).random()} {os.urandom(400).hex()}" for n in range(300)]
    lines = {
        "p.csv.gz": "prompt\n" + "\n".join(words),
        "p.json.gz": json.dumps(words),
        "p.jsonl.gz": "\n".join(json.dumps({"prompt": word}) for word in words),
    }[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines.encode()))
    assert "unpacks to more than 0 MB, the most a packed file may hold" in refused(path, Room(200_000, 10**6))
    assert len(load(path, Room(2**20, 10**6)).prompts) == 300


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_may_have_so_many_rows(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": f"number {n}"} for n in range(101)])
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert "has more than 100 rows, the most a file may have; split it" in refused(path)
    assert len(load(path, Room(10**6, 101)).prompts) == 101


def parquet(path: Path, values: list[str], **more: Any) -> Path:
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files.write_table(arrow.table({"prompt": values}), path, compression="zstd", **more)
    return path


@pytest.mark.attack("small Parquet files of many rows")
def test_a_parquet_file_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    many = parquet(tmp_path / "rows.parquet", ["the same words"] * 100_000)
    assert many.stat().st_size < 10_000
    assert "has more than 100 rows" in refused(many)
    long = parquet(tmp_path / "long.parquet", ["x" * 300_000, "y" * 300_000])
    assert "unpacks to more than" in refused(long)
    assert len(load(long, Room(10**6, 100)).prompts) == 2


@pytest.mark.attack("Parquet files of one long text many times")
def test_one_long_text_a_hundred_times_is_weighed_as_it_comes(tmp_path: Path) -> None:
    path = parquet(tmp_path / "twins.parquet", ["x" * 50_000] * 99)
    assert "unpacks to more than" in refused(path)


def test_a_parquet_file_within_a_gzip_file_is_limited_too(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", [os.urandom(1000).hex() for _ in range(99)])
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(load(path, Room(10**6, 100)).prompts) == 99
    assert "unpacks to more than" in refused(path, Room(50_000, 100))


@pytest.mark.attack("rows nested deep")
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv"])
def test_rows_nested_deep_name_their_place_and_field(tmp_path: Path, name: str) -> None:
    deep = "[" * 150 + "]" * 150
    text = {
        "p.jsonl": '{"prompt": "x"}\n{"prompt": "y", "extra": DEEP}',
        "p.json": '[{"prompt": "x"}, {"prompt": "y", "extra": DEEP}]',
        "p.csv": "id,text,checks\np,x,[]\nq,y,DEEP",
    }[name]
    path = tmp_path / name
    path.write_text(text.replace("DEEP", deep), encoding="utf-8")
    where = {"p.jsonl": "line 2", "p.json": "item 2", "p.csv": "line 3"}[name]
    field = "checks" if name == "p.csv" else "extra"
    assert f"{path}, {where}: field {field!r} is nested more than 100 levels deep" in refused(path)


def test_numbers_of_other_columns_are_nobodys_business(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "x", "tweet": 2**62, "user": 2**62}])
    assert load(path).prompts[0].user == str(2**62)


def test_nobody_meets_the_limits_by_working() -> None:
    assert limits.DISK.unpacked >= 2**31 and limits.DISK.rows >= 10**6
    assert limits.UPLOAD.unpacked >= 8 * 32 * 2**20
