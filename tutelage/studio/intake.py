"""What comes in: files and forms become prompts, demonstrations and rankings, by the paper's collection rules.

What was dropped and why is kept in the table `import`, a row for each file, and shown on the page of that import. A
file comes in whole or not at all: the first row that is wrong is named, and nothing of the file is kept.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.data.adding import admit
from tutelage.data.intake import digest
from tutelage.data.pii import find_pii
from tutelage.data.prompts import MAX_PROMPT_TOKENS, UNKNOWN_USER, Collected, collect, split_of, split_unit
from tutelage.data.room import DISK, UPLOAD
from tutelage.data.sources import Imported, load
from tutelage.records import FieldError, Prompt, UserError
from tutelage.studio import filing
from tutelage.studio.accounts import Account
from tutelage.studio.desk import shorten
from tutelage.studio.ids import new_id
from tutelage.studio.places import log, one_at_a_time
from tutelage.studio.project import Project
from tutelage.studio.schema import imports, prompts
from tutelage.studio.store import Store

FILLS = ("prompts.jsonl", "demonstrations.jsonl", "rankings.jsonl")
"""Files of a studio's folder that fill an empty database."""

PROMPT_FLAGS = (
    "ambiguous",
    "sensitive content",
    "identity dependent",
    "closed domain",
    "continuation style",
    "requests opinionated content",
    "requests advice",
    "requests moral judgment",
    "contains explicit safety constraints",
    "contains other explicit constraints",
    "intent unclear",
)
"""What may be said of a prompt: the paper's Table 7."""

WRITTEN = "written in the studio"
"""Source of a prompt that was written by hand: who wrote it is in the audit trail, and goes into no export."""
SHOWN = 200  # characters of a dropped prompt that are kept, to recognise it by
BYTES_PER_TOKEN = 4
"""The studio loads no tokenizer; English text has about four bytes to a token. Training counts exactly."""


@dataclass(frozen=True, slots=True)
class Brought:
    """One import, as it is kept and shown."""

    id: str
    file: str
    kept: int
    dropped: list[dict[str, str]]  # {"text", "reason"}
    notes: list[str]


def first_fill(store: Store, project: Project) -> list[Brought]:
    """Fill a database that holds no prompt from the files of the studio's folder; else do nothing.

    The files went through the collection rules when they were made, so their prompts are taken as they are. Raises
    UserError naming file, line and field.
    """
    with store.read() as tx:
        if tx.execute(sa.select(prompts.c.id).limit(1)).first() is not None:
            return []
    done = []
    for path in (project.folder / name for name in FILLS):
        if path.exists():
            found = load(path, DISK)
            done.append(_bring(store, None, path, found, rules=False, max_tokens=MAX_PROMPT_TOKENS))
    return done


def bring_in(
    store: Store,
    account: Account,
    filename: str,
    content: bytes,
    *,
    ignore: Sequence[str] = (),
    max_tokens: int = MAX_PROMPT_TOKENS,
) -> Brought:
    """Import a file as it was uploaded. Raises UserError naming file, line and field of the first row that is wrong.

    A prompt is dropped when it is about longer than `max_tokens`, repeats another, holds personal data (in the
    training split) or goes beyond what one user may give; what belongs to it goes with it. The file is read as if it
    had no columns `ignore`.
    """
    name = Path(filename.replace("\\", "/")).name.strip(".") or "upload"
    if not name.isprintable():
        raise UserError("the file's name holds characters that cannot be shown; rename it")
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        path = Path(folder) / name.encode()[-128:].decode(errors="ignore")  # systems allow 255 bytes
        path.write_bytes(content)
        try:
            found = load(path, UPLOAD, ignore=ignore)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None
    return _bring(store, account, Path(name), found, rules=True, max_tokens=max_tokens)


def _bring(
    store: Store, account: Account | None, path: Path, found: Imported, *, rules: bool, max_tokens: int
) -> Brought:
    for prompt in found.prompts:
        filing.fits(path.name, prompt)
    while True:
        with store.read() as tx:
            known = _known(tx)
        try:
            admitted = admit(found, known, rules=rules, count_tokens=about_tokens, max_tokens=max_tokens)
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from None
        collected = admitted.collected
        with store.write() as tx:
            one_at_a_time(tx)
            if _count(tx) != len(known):
                continue  # somebody else brought prompts in meanwhile: judge again beside theirs
            filing.file_prompts(tx, store.clock(), collected.kept)
            filed = filing.file_answers(tx, store.clock(), path.name, admitted.fresh)
            dropped = [{"text": _shown(p.text), "reason": str(why)} for p, why in collected.dropped]
            counts = f"{found.shape}: {collected.summary()}".splitlines()
            notes = [*counts, *_lengths(collected), *admitted.notes, *found.notes, *filed]
            return _keep(tx, store.clock(), account, path.name, len(collected.kept), dropped, notes)


def _shown(text: str) -> str:
    """The beginning of a dropped prompt; what was dropped for its personal data must not be kept for it."""
    start = text[: 4 * SHOWN]
    for found in find_pii(start):
        start = start[: found.start] + "#" * (found.end - found.start) + start[found.end :]
    return shorten(start, SHOWN)


def _known(tx: Connection) -> list[Prompt]:
    return [prompt_of(row) for row in tx.execute(sa.select(prompts).order_by(prompts.c.created, prompts.c.id))]


def _count(tx: Connection) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(prompts)).scalar_one())


def prompt_of(row: Row[Any]) -> Prompt:
    """A row of the table as the record."""
    return Prompt(
        id=row.id,
        text=row.text,
        user=row.writer,
        use_case=row.use_case,
        kind=row.kind,
        split=row.split,
        flags=tuple(row.flags),
        source=row.source,
    )


def about_tokens(text: str) -> int:
    """How many tokens a text has, about."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _lengths(collected: Collected) -> list[str]:
    if any(reason.rule == "too long" for _, reason in collected.dropped):
        return [f"lengths are estimates, at {BYTES_PER_TOKEN} bytes a token"]
    return []


def _keep(
    tx: Connection,
    now: float,
    account: Account | None,
    file: str,
    kept: int,
    dropped: list[dict[str, str]],
    notes: list[str],
) -> Brought:
    made = Brought(new_id(now), file, kept, dropped, notes)
    by = account.id if account else None
    tx.execute(
        imports.insert().values(
            id=made.id, file=file, account_id=by, kept=kept, dropped=dropped, notes=notes, created=now
        )
    )
    log(tx, now, by, "import", made.id, file=file, kept=kept, dropped=len(dropped))
    return made


# ---- by hand ---------------------------------------------------------------------------------------------------


def write_prompt(
    store: Store,
    account: Account,
    text: str,
    *,
    use_case: str = "other",
    kind: str = "plain",
    flags: Sequence[str] = (),
    user: str = "",
    max_tokens: int = MAX_PROMPT_TOKENS,
) -> str:
    """Add one prompt by hand; returns its id. Raises UserError with the rule that keeps it out.

    user: whom the prompt came from; all prompts of one user are in one split. Left empty, the text decides the split.
    """
    prompt = _written(text.strip(), use_case=use_case, kind=kind, flags=flags, user=user)
    with store.write() as tx:
        one_at_a_time(tx)
        collected = collect([prompt], existing=_known(tx), count_tokens=about_tokens, max_tokens=max_tokens)
        if collected.here:
            raise UserError("not added, duplicate: this prompt is here already")
        if collected.dropped:
            raise UserError(f"not added, {collected.dropped[0][1]}")
        filing.file_prompts(tx, store.clock(), collected.kept)
        log(tx, store.clock(), account.id, "prompt", prompt.id)
    return prompt.id


def write_few_shot(
    store: Store,
    account: Account,
    instruction: str,
    shots: Sequence[tuple[str, str]],
    *,
    use_case: str = "other",
    flags: Sequence[str] = (),
) -> list[str]:
    """Add a few-shot prompt: an instruction and K >= 2 (query, response) pairs; returns the ids of K prompts.

    Each pair in turn is the one to answer, the others are shown before it (paper appendix A.1), and its response is
    the labeler's demonstration. All K share their instruction, and so their split. Raises UserError.
    """
    instruction = instruction.strip()
    pairs = [(query.strip(), response.strip()) for query, response in shots if query.strip() or response.strip()]
    if not instruction or len(pairs) < 2 or any(not query or not response for query, response in pairs):
        raise UserError("a few-shot prompt needs an instruction and at least two examples, each with both sides")
    if len(set(pairs)) < len(pairs):
        raise UserError("a few-shot prompt must not hold the same example twice")
    split = split_of(split_unit(Prompt(id="-", text=instruction)))
    rows = []
    for query, response in pairs:
        before = "".join(f"Query: {q}\nResponse: {r}\n\n" for q, r in pairs if (q, r) != (query, response))
        text = f"{instruction}\n\n{before}Query: {query}\nResponse:"
        made = _written(text, use_case=use_case, kind="few-shot", flags=flags, user="")
        if about_tokens(text) > MAX_PROMPT_TOKENS:
            raise UserError(f"not added, too long: with its examples about {about_tokens(text):,} tokens")
        rows.append((replace(made, split=split), response))
    with store.write() as tx:
        one_at_a_time(tx)
        known = {prompt.id for prompt in _known(tx)}
        if any(prompt.id in known for prompt, _ in rows):
            raise UserError("not added, duplicate: this few-shot prompt is here already")
        filing.file_prompts(tx, store.clock(), [prompt for prompt, _ in rows])
        filing.file_own(tx, store.clock(), account, [(prompt.id, response) for prompt, response in rows])
        log(tx, store.clock(), account.id, "prompt", rows[0][0].id, shots=len(rows))
    return [prompt.id for prompt, _ in rows]


def _written(text: str, *, use_case: str, kind: str, flags: Sequence[str], user: str) -> Prompt:
    if "\0" in text or "\0" in user:
        raise UserError("not added, the text holds a NUL character")
    unknown = [flag for flag in flags if flag not in PROMPT_FLAGS]
    if unknown:
        raise UserError(f"no prompt flag {unknown[0]!r}; one of {', '.join(PROMPT_FLAGS)}")
    try:
        made = Prompt(
            id=f"p-{digest(text)}",
            text=text,
            user=user.strip() or UNKNOWN_USER,
            use_case=use_case,
            kind=kind,
            flags=tuple(flags),
            source=WRITTEN,
        )
    except FieldError as error:
        raise UserError(f"not added, {error}") from None
    filing.fits("not added", made)
    return made
