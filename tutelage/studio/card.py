"""The dataset card: what is in an export, whose judgements they are, and what they are not."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from tutelage.studio.outfolder import MANIFEST

FILES = (
    ("prompts", "prompts.jsonl", "one prompt a row; `user` says whom it came from, `split` goes by user"),
    ("demonstrations", "demonstrations.jsonl", "responses written by people, edited best responses among them"),
    ("rankings", "rankings.jsonl", "one labeler's order over 2 to 9 responses; rank 1 is best, equal ranks are ties"),
    ("preferences", "preferences.jsonl", "the untied pairs of the rankings, as TRL's reward trainer reads them"),
)

TEXT = """# Human feedback

{counts}

| File | What is in it |
|---|---|
{files}

`group_id` in preferences is the same for all pairs of one prompt's responses: keep them in one batch, or a reward
model overfits (InstructGPT, section 3.5). `form_version` and `instruction_mode` in rankings say on which form and
under which instruction an answer was given. `ratings` has one entry for each response, in their order, or none:
`likert` from 1 (worst) to 7, `flags` that are true of it (what is not named was not ticked), and `note`, free text of
the labeler for whoever reads the answer: not for training, and it may name people.

## Whose judgements

By {labelers}, in the groups {groups}, under pseudonyms that are the same in every export of this database. Batches of
these kinds went into the rankings: {kinds}. What people vote in the playground is not among them.

## What this is not

The preferences of these people, under their guidelines; not those of people in general. Prompts and responses are
unedited and can offend. Personal data was looked for by patterns in training prompts, and what patterns miss is there.
"""


def card(counts: dict[str, int], *, groups: Sequence[str], kinds: Sequence[str], parquet: bool) -> str:
    """README.md of an export; no date in it, so that the same database gives the same bytes."""
    configs = "".join(f"- config_name: {name}\n  data_files: {file}\n" for name, file, _ in FILES)
    rows = [(file, what) for _, file, what in FILES]
    if parquet:
        rows += [(f"{name}.parquet", f"the rows of {name}.jsonl") for name in ("demonstrations", "preferences")]
    if "votes" in counts:
        rows.append(
            ("votes.jsonl", "votes of the playground: which of the models' answers people liked; not for training")
        )
    rows.append((MANIFEST, "the names and SHA-256 of these files; the next export replaces them and nothing else"))
    told = (
        f"{counts['prompts']:,} prompts, {counts['demonstrations']:,} demonstrations ({counts['edited']:,} of them "
        f"edited best responses), {counts['rankings']:,} rankings with {counts['comparisons']:,} untied comparisons "
        f"and {counts['ties']:,} ties."
    )
    body = TEXT.format(
        counts=told,
        files="\n".join(f"| {file} | {what} |" for file, what in rows),
        labelers=f"{counts['labelers']:,} labeler{'s'[: counts['labelers'] != 1]}",
        groups=", ".join(map(_plain, groups)) or "(none yet)",
        kinds=", ".join(kinds) or "none",
    )
    return f"---\nconfigs:\n{configs}tags:\n- human-feedback\n- rlhf\n---\n\n{body}"


def _plain(name: str) -> str:
    """A name that somebody gave, as text: neither HTML nor Markdown."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(name, quote=False))
