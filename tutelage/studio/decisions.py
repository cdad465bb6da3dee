"""Which policy stays in use after a round: the rule's choice, by the best verdict there is, or a person's.

It stands in policy.json of the round's folder, where the next round and the playground read it, and every change is in
the audit log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage import roundfolder
from tutelage.evaluate.winrate import WinRate
from tutelage.records import UserError
from tutelage.roundresult import Verdict, verdict
from tutelage.studio import rounds
from tutelage.studio.accounts import Account
from tutelage.studio.places import log
from tutelage.studio.rounds import Round
from tutelage.studio.store import Store

PERSON, RULE = "a person", "the rule"


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict on a finished round, which of its policies is in use ("new" or "old"), and whether a person chose."""

    verdict: Verdict
    keep: str
    chosen: bool


def standing(store: Store, found: Round, told: dict[str, Any], wins: WinRate | None) -> Standing:
    """How a finished round stands now. Until a person chooses, the choice follows the verdict, which labelers'
    judgements may change."""
    now = verdict(told, wins)
    choice = roundfolder.read_json(found.folder / roundfolder.CHOICE) or {}
    keep = str(choice.get("keep", "new"))
    if choice.get("by") == PERSON:
        return Standing(now, keep, chosen=True)
    if keep != now.keep:
        roundfolder.choose(found.folder, now.keep, RULE, now.sentence)
        with store.write() as tx:
            log(tx, store.clock(), None, "round", str(found.number), step=f"keep-{now.keep}", verdict=now.word)
    return Standing(now, now.keep, chosen=False)


def keep(store: Store, number: int, by: Account, which: str) -> None:
    """Keep the "old" or the "new" policy of the latest round. Where what waits to be ranked is the other one's, the
    round's process answers those prompts anew. Raises UserError for any other round, or while one trains."""
    found = rounds.one(store, number)
    told = roundfolder.read_json(found.folder / roundfolder.FINISHED)
    if which not in ("old", "new"):
        raise UserError(f"no policy {which!r}; old or new")
    if found.state != "finished" or told is None or number != rounds.all_rounds(store)[0].number:
        raise UserError(f"round {number} is {found.state}; the policy of the latest round, finished, can be chosen")
    step = f"keep-{which}"
    wanted = told["newest"] if which == "new" else told.get("previous") or "base"
    if told.get("next", {}).get("policy", told["newest"]) == wanted:
        with store.write() as tx:
            log(tx, store.clock(), by.id, "round", str(number), step=step)
    else:
        rounds.again(store, number, by, ("finished",), step, {"keep": which})
    roundfolder.choose(found.folder, which, PERSON, f"chosen by {by.name}")
