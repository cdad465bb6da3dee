"""What fits: prompts and responses as token ids, or TooLong, which every stage asks for before it trains anything.

A limit is the smaller of a stage's setting and what the model's context leaves. Nothing is cut to fit, since that would
change the task; `each` leaves out what is too long where the user said so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tutelage.model import Lm
from tutelage.records import TooLong, UserError
from tutelage.template import prompt_ids, response_ids

Row = TypeVar("Row")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Limits:
    """What a model and a stage's settings allow: tokens of a prompt, of a response, and of both (`lm.room`)."""

    lm: Lm
    prompt_tokens: int | None = None
    response_tokens: int | None = None

    def prompt(self, text: str, where: str, *, ahead: int, shots: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Ids of a prompt that leaves room for a response of `ahead` tokens. Raises TooLong naming `where` it stands.

        The setting holds for the prompt itself; worked examples (`shots`) before it come on top.
        """
        bare = prompt_ids(self.lm.tokenizer, text, limit=self.prompt_tokens, where=where)
        ids = prompt_ids(self.lm.tokenizer, text, shots=shots) if shots else bare
        if len(ids) + ahead > self.lm.room:
            examples = f" with {len(shots)} worked examples" if shots else ""
            raise TooLong(
                f"{where} has {len(ids)} tokens{examples} and {ahead} to come, {self.lm.name} has room for"
                f" {self.lm.room} (it begins: {' '.join(text.split()[:8])!r})"
            )
        return ids

    def pair(
        self, prompt: str, response: str, where: str, *, ended: bool = True, cut: bool = False
    ) -> tuple[list[int], list[int]]:
        """Ids of a prompt and of its response, of at least one token. Raises TooLong naming `where` they stand.

        With `cut` a response is read as far as the context goes: one that was sampled within it may have a few more
        tokens when its text is encoded again.
        """
        asked = prompt_ids(self.lm.tokenizer, prompt, limit=self.prompt_tokens, where=where)
        ids = response_ids(self.lm.tokenizer, response, ended=ended) or [self.lm.pad]
        if self.response_tokens is not None and len(ids) > self.response_tokens:
            raise TooLong(f"{where}: a response has {len(ids)} tokens, the limit is {self.response_tokens}")
        if cut and len(asked) < self.lm.room:
            ids = ids[: self.lm.room - len(asked)]
        if (both := len(asked) + len(ids)) > self.lm.room:
            raise TooLong(f"{where} has {both} tokens with its response, {self.lm.name} has room for {self.lm.room}")
        return asked, ids


def each(
    rows: Sequence[Row], encode: Callable[[Row], Encoded], *, drop_long: bool, what: str, needed: bool = True
) -> list[Encoded]:
    """Every row encoded. One that is too long raises TooLong; with `drop_long` such rows are left out, and counted
    aloud under the name `what`. Raises UserError when that leaves nothing of what is `needed`."""
    found, first = [], ""
    for row in rows:
        try:
            found.append(encode(row))
        except TooLong as error:
            if not drop_long:
                raise TooLong(f"{error}; shorten it, or leave out what is too long with --drop-long") from None
            first = first or str(error)
    if dropped := len(rows) - len(found):
        print(f"  {dropped} of {len(rows)} {what} left out as too long (the first: {first})", file=sys.stderr)
        if not found and needed:
            raise UserError(f"all {len(rows)} {what} are too long (the first: {first})")
    return found
