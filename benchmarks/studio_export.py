"""How long the studio's export takes, and how much memory: 50,000 comparisons in under 10 s and 200 MB.

    .venv/bin/python benchmarks/studio_export.py

Every comparison is a ranking of its own (K = 2, one labeler), which is the dearest way to have that many; --k 4 has
six in each. The database is made first, by the code that files imports; the export then runs in a fresh process, whose
peak memory is what is shown. --twice exports again and compares the bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, peak_bytes, seconds, show

from tutelage.data.sources import Imported
from tutelage.records import Prompt, Ranking, Rating, Response
from tutelage.studio import filing
from tutelage.studio.export import export
from tutelage.studio.store import Store, open_store, url_of

WORDS = ("the", "sea", "is", "wide", "and", "a", "small", "boat", "goes", "out", "before", "dawn", "on", "the", "tide")


def fill(store: Store, comparisons: int, k: int, *, words: int = 60, first: int = 0) -> int:
    """Put in as many rankings of K responses as hold so many comparisons; returns the number of rankings.

    words: of a response. first: the number of the first prompt, where others are there already.
    """
    draw = random.Random(first)
    count = math.ceil(comparisons / math.comb(k, 2))

    def text(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    prompts = tuple(
        Prompt(id=f"p{n:06d}", text=f"{n}: {text(30)}", user=f"u{n % 997}") for n in range(first, first + count)
    )
    rankings = []
    for n, prompt in enumerate(prompts):
        shown = tuple(Response(id=f"{prompt.id}/{i}", text=text(words), model="sft", tokens=80) for i in range(k))
        ranks = tuple(draw.sample(range(1, k + 1), k))
        ratings = tuple(Rating(likert=1 + n % 7, flags={"hallucination": n % 5 == 0}) for _ in range(k))
        more = {"labeler": f"l{n % 40}", "split": prompt.split, "seconds": 40.0}
        rankings.append(
            Ranking(prompt_id=prompt.id, prompt=prompt.text, responses=shown, ranks=ranks, ratings=ratings, **more)
        )
    with store.write() as tx:
        filing.file_prompts(tx, time.time(), prompts)
        filing.file_answers(tx, time.time(), "benchmark", Imported(prompts, (), tuple(rankings), "own", ()))
    return count


def worker(words: list[str]) -> dict[str, object]:
    """One half of the measurement, in a process of its own: ["fill", URL, N, K] or ["export", URL, FOLDER]."""
    store = open_store(words[1])
    if words[0] == "fill":
        took, counts = seconds(lambda: fill(store, int(words[2]), int(words[3])))
    else:
        took, counts = seconds(lambda: export(store, Path(words[2])))
    return {"seconds": took, "processor": time.process_time(), "peak_bytes": peak_bytes(), "counts": counts}


def run(*words: str) -> dict[str, Any]:
    """A worker's result. Raises CalledProcessError when it fails."""
    done = subprocess.run([sys.executable, __file__, "worker", *words], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(worker(sys.argv[2:])))
        return
    given = arguments(__doc__, comparisons=(50_000, "how many"), k=(2, "responses ranked"), twice=(0, "1: compare"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = str(url_of(folder))
        filled = run("fill", url, str(given.comparisons), str(given.k))
        outs = [folder / "one", folder / "two"][: 1 + bool(given.twice)]
        results = [run("export", url, str(out)) for out in outs]
        digests = [{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())} for out in outs]
        size = sum(p.stat().st_size for p in outs[0].iterdir())
    found = results[0] | {"filled": filled, "bytes": size, "same_bytes": all(d == digests[0] for d in digests)}
    table = [
        ["", "value"],
        ["comparisons", f"{found['counts']['comparisons']:,}"],
        ["rankings", f"{found['counts']['rankings']:,}"],
        ["import, s", f"{filled['seconds']:.1f}"],
        ["export, s", f"{found['seconds']:.1f}"],
        ["of a processor, s", f"{found['processor']:.1f}"],
        ["peak memory, MB", f"{found['peak_bytes'] / 2**20:.0f}"],
        ["written, MB", f"{size / 2**20:.0f}"],
    ]
    show(found, table, as_json=given.json)


if __name__ == "__main__":
    main()
