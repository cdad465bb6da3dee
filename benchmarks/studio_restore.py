"""How long a gigabyte takes to back up and to restore: back in under 60 s, sound and the same.

    .venv/bin/python benchmarks/studio_restore.py

The database is made first: rankings of nine long responses, until the file is as large as asked. Restoring copies,
brings the copy to today's schema, checks it, and puts it in place; then the rows of both are compared.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from common import arguments, peak_bytes, seconds, show
from studio_export import fill

from tutelage.studio.backup import backup, dump, restore
from tutelage.studio.store import Store, open_store, url_of

COMPARISONS, K, WORDS = 18_000, 9, 3_000  # 500 rankings at a time: some 60 MB


def digest(store: Store) -> str:
    """Of every row of every table."""
    found = hashlib.sha256()
    for line in dump(store):
        found.update(line.encode())
    return found.hexdigest()


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__, megabytes=(1024, "size of the database"))
    with tempfile.TemporaryDirectory() as name:
        there, back, copy = Path(name) / "there", Path(name) / "back", Path(name) / "copy.db"
        for folder in (there, back):
            folder.mkdir()
        store = open_store(url_of(there))
        made = 0
        while (there / "studio.db").stat().st_size < given.megabytes * 2**20:
            made += fill(store, COMPARISONS, K, words=WORDS, first=made)
        size = (there / "studio.db").stat().st_size
        took_backup, rows = seconds(lambda: backup(store, copy))
        took_restore, restored = seconds(lambda: restore(url_of(back), copy))
        other = open_store(url_of(back))
        same = rows == restored and digest(store) == digest(other)
        store.close()
        other.close()
    found = {
        "bytes": size,
        "rows": rows,
        "backup_seconds": took_backup,
        "restore_seconds": took_restore,
        "peak_bytes": peak_bytes(),
        "same": same,
    }
    table = [
        ["", "value"],
        ["database, MB", f"{size / 2**20:,.0f}"],
        ["rows", f"{rows:,}"],
        ["backup, s", f"{took_backup:.1f}"],
        ["restore, s", f"{took_restore:.1f}"],
        ["peak memory, MB", f"{peak_bytes() / 2**20:.0f}"],
        ["the same rows", "yes" if same else "NO"],
    ]
    show(found, table, as_json=given.json)


if __name__ == "__main__":
    main()
