"""Small data and settings for tests that run the pages on tiny models: seconds, not minutes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.records import (
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Response,
    to_dict,
    write_records,
    write_text,
)
from tutelage.settings import PpoConfig, RewardConfig, SampleConfig, SftConfig

LIKED = "red"
"""The labelers of these tests like responses that hold this word, and nothing else about them."""

THINGS = ("parcel", "robot", "poem", "order", "sea", "wind", "fruits", "capital")
OPENINGS = ("Tell me about the", "Where is the", "Write about the", "I would like a new", "Please name the")
TEXT = "Once upon a time there was a small robot who wanted to learn to read about the sea and the wind. "


@dataclass(frozen=True)
class Data:
    """The files a loop starts from."""

    prompts: Path
    demonstrations: Path
    rankings: Path
    text: Path


def prompts(train: int = 12, valid: int = 4) -> list[Prompt]:
    """Prompts of unequal lengths."""
    made = []
    for n in range(train + valid):
        split = "train" if n < train else "valid"
        words = f"{OPENINGS[n % 5]} {THINGS[n % 8]}" + " and the wind" * (n % 3)
        made.append(Prompt(id=f"p{n}", text=words, split=split, user=f"u{n}"))
    return made


def demonstration(prompt: Prompt, n: int) -> Demonstration:
    """What a labeler would have written: short, of unequal lengths."""
    response = f"The {THINGS[(n + 3) % 8]} is {LIKED}." if n % 2 else f"We are sorry about the {THINGS[n % 8]}."
    return Demonstration(id=f"d{n}", prompt=prompt.text, response=response, prompt_id=prompt.id, split=prompt.split)


def ranking(prompt: Prompt, n: int, group: str = "training") -> Ranking:
    """Four responses; two hold the word that is liked and tie, one of the others was cut."""
    things = [THINGS[(n + i) % 8] for i in range(4)]
    texts = [
        f"A {LIKED} {things[0]}",
        f"The {things[1]}",
        f"the {things[2]} is {LIKED}",
        f"It is a {things[3]} and",
    ]
    responses = tuple(
        Response(id=f"{prompt.id}/{i}", text=text, ended=i != 3, tokens=4) for i, text in enumerate(texts)
    )
    return Ranking(
        prompt_id=prompt.id,
        prompt=prompt.text,
        responses=responses,
        ranks=(1, 2, 1, 2),
        split=prompt.split,
        group=group,
        labeler=f"{group}-1",
    )


def write_data(folder: Path, train: int = 12, valid: int = 4) -> Data:
    """Prompts, demonstrations, rankings and plain text as files."""
    shown = prompts(train, valid)
    data = Data(*(folder / name for name in ("prompts.jsonl", "demonstrations.jsonl", "rankings.jsonl", "text.txt")))
    rankings = [ranking(p, n) for n, p in enumerate(shown)]
    rankings += [ranking(p, n, "heldout") for n, p in enumerate(shown) if p.split == "valid"]
    rows: dict[Path, list[Record]] = {
        data.prompts: [*shown],
        data.demonstrations: [demonstration(p, n) for n, p in enumerate(shown)],
        data.rankings: [*rankings],
    }
    for path, records in rows.items():
        write_records(path, records)
    write_text(data.text, "\n\n\n".join(TEXT * (1 + n % 2) for n in range(16)))
    return data


SMALL: dict[str, Any] = {"trainable_layers": 2, "dtype": "fp32"}


def sft_config(model: Path, data: Data, out: Path, **changes: Any) -> SftConfig:
    """SFT in a few steps."""
    fields = {"model": str(model), "demonstrations": data.demonstrations, "out": out, "epochs": 1, "batch": 4}
    return SftConfig(**SMALL | fields | changes)


def reward_config(sft: Path, data: Data, out: Path, **changes: Any) -> RewardConfig:
    """A reward model in a few steps."""
    fields = {"model": str(sft), "rankings": data.rankings, "out": out, "batch": 4}
    return RewardConfig(**SMALL | {"demonstrations": data.demonstrations} | fields | changes)


def ppo_config(sft: Path, reward: Path, data: Data, out: Path, **changes: Any) -> PpoConfig:
    """PPO-ptx in a few steps."""
    fields = {"policy": sft, "reward": reward, "prompts": data.prompts, "pretraining": data.text, "out": out}
    sizes = {"iterations": 2, "episodes": 4, "minibatch": 2, "max_response_tokens": 8, "ptx_tokens": 16}
    return PpoConfig(**SMALL | fields | sizes | {"max_kl": 1e9} | changes)


def sample_config(model: Path, data: Data, out: Path, **changes: Any) -> SampleConfig:
    """A few responses to each prompt."""
    fields = {"model": str(model), "prompts": data.prompts, "out": out, "k": 2, "batch": 8, "dtype": "fp32"}
    return SampleConfig(**fields | {"max_response_tokens": 8} | changes)


def line(record: Record, **changes: Any) -> str:
    """A record as a line of JSON, with some fields changed."""
    import json

    return json.dumps(to_dict(record) | changes)


def without_digests(run: Path, folder: Path) -> Path:
    """A copy whose files may be changed: as an older version wrote it."""
    shutil.copytree(run, folder)
    info = json.loads((folder / "run.json").read_text())
    del info["files"]
    write_text(folder / "run.json", json.dumps(info))
    return folder
