"""The playground: which models stand side by side, what they said, and what people thought of it.

What a model answered is kept here, in memory, until it is voted on: a vote holds what was really said, and in a blind
sitting the page never learns who said it before it has voted. Votes are apart from rankings and train nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tutelage import roundfolder
from tutelage.records import Demonstration, FieldError, UserError, read_records
from tutelage.studio.desk import shorten
from tutelage.studio.ids import new_id
from tutelage.studio.project import Project
from tutelage.studio.schema import prompts, votes
from tutelage.studio.statements import ASIDE_PROMPTS
from tutelage.studio.store import Store

LONGEST = 20_000
"""Characters of a typed prompt, at most."""
KEPT = 500
"""Sittings that are remembered; the oldest go first."""
EXAMPLES = 8
"""Example prompts of each use case, at most."""
SHOTS = 3
"""Worked examples before the prompt of the prompted base model, as `tutelage sample` gives it."""
LONGEST_EXAMPLE = 2_000
"""Characters of an example prompt, at most: all of them are part of the page."""
LONGEST_SHOTS = 2_400
"""Characters of all worked examples together: a small model has little room."""
TIE, ALL_BAD = -1, -2
HOTTEST = 2.0
LETTERS = "ABCDEFGHI"

TITLES = {
    "base": ("Base model", "The model as it was before any training here: it only continues text."),
    "prompted": ("Base, prompted", "The same base model, shown a few demonstrations before the prompt (few-shot)."),
    "sft": ("SFT", "Supervised fine-tuning: the base model, trained to imitate the demonstrations."),
    "ppo_ptx": ("PPO", "The SFT model, trained further towards what the reward model scores highly (PPO-ptx)."),
}


@dataclass(frozen=True, slots=True)
class Model:
    """One column: where the model is, what it is called in votes, and what people read."""

    name: str
    kind: str
    path: str
    shots: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """What stands above its answers."""
        return TITLES[self.kind][0]

    @property
    def about(self) -> str:
        """What that means."""
        return TITLES[self.kind][1]


@dataclass(slots=True)
class Sitting:
    """One prompt and what was answered, by place on the page. `answers` holds a row only for a whole answer."""

    account: str
    prompt: str
    models: tuple[Model, ...]
    blind: bool
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    voted: bool = False
    vote_id: str = ""  # chosen before anything is written, so that two votes at once cannot both be

    def label(self, place: int) -> str:
        """What stands above an answer before the vote."""
        return f"Answer {LETTERS[place]}" if self.blind else self.models[place].title


class Sittings:
    """The sittings of this process, by their key."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._held: OrderedDict[str, Sitting] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, sitting: Sitting) -> str:
        """Remember a sitting; returns its key."""
        key = secrets.token_urlsafe(18)
        sitting.vote_id = new_id(time.time())
        with self._lock:
            self._held[key] = sitting
            while len(self._held) > self._kept:
                self._held.popitem(last=False)
        return key

    def vote(self, store: Store, account: str, key: str, best: int) -> Sitting:
        """Write down which answer was best. The same vote again changes nothing. Raises FieldError."""
        with self._lock:
            sitting = self._held.get(key)
        if sitting is None or sitting.account != account:
            raise FieldError("key", "is of no answers the studio still knows; ask the models again")
        if len(sitting.answers) < 2:
            raise FieldError("best", "needs two whole answers to choose from")
        if best not in (TIE, ALL_BAD, *sitting.answers):
            raise FieldError("best", "is none of the answers")
        if not sitting.voted:
            with contextlib.suppress(IntegrityError):  # the same vote, sent twice at once
                _write(store, sitting, best)
            sitting.voted = True
        return sitting


def _write(store: Store, sitting: Sitting, best: int) -> None:
    places = sorted(sitting.answers)
    row = {
        "id": sitting.vote_id,
        "account_id": sitting.account,
        "prompt": sitting.prompt,
        "answers": [{"model": sitting.models[n].name} | sitting.answers[n] for n in places],
        "best": places.index(best) if best >= 0 else best,
        "created": store.clock(),
    }
    with store.write() as tx:
        tx.execute(votes.insert().values(**row))


# ---- who answers -----------------------------------------------------------------------------------------------


def finished(project: Project) -> list[int]:
    """Numbers of the rounds that were trained to their end, the newest first."""
    folder = project.folder
    whole = (n for n in roundfolder.numbers(folder) if _told(project, n) is not None)
    return sorted(whole, reverse=True)


def in_use(project: Project) -> int | None:
    """The number of the round whose policy is in use: the newest one, unless an older policy was kept. Where that is
    the base model, which stands beside every round's models, the newest; None where there is no round."""
    rounds = finished(project)
    policy = roundfolder.in_use(project.folder, rounds[0] + 1) if rounds else None
    kept = policy[0].split("/")[0].removeprefix("round-") if policy else ""
    return next((n for n in rounds if str(n) == kept), rounds[0] if rounds else None)


def _told(project: Project, number: int) -> dict[str, Any] | None:
    return roundfolder.read_json(roundfolder.round_folder(project.folder, number) / roundfolder.FINISHED)


def models(project: Project, number: int | None) -> list[Model]:
    """The models of a finished round, the base model first; that one alone where there is no round."""
    told = None if number is None else _told(project, number)
    if number is None or told is None:
        return [Model("base", "base", project.settings.model)]
    folder = roundfolder.round_folder(project.folder, number).resolve()
    base = str(told.get("model") or project.settings.model)
    if Path(base).is_absolute() and not Path(base).exists():  # it lay within a studio that was moved
        base = project.settings.model
    found = [Model("base", "base", base)]
    if shots := worked_examples(folder):
        found.append(Model("prompted", "prompted", base, shots))
    kinds = ("sft",) if told.get("policy") == "sft" else ("sft", "ppo_ptx")  # without rankings a round ends with SFT
    return found + [Model(f"round-{number}/{kind}", kind, str(folder / kind)) for kind in kinds]


def worked_examples(folder: Path) -> tuple[tuple[str, str], ...]:
    """A few short demonstrations of the round, evenly spread, to show a base model what is wanted."""
    try:
        shown = read_records(Demonstration, folder / "data" / "demonstrations.jsonl")
    except UserError:
        return ()
    pairs = [(d.prompt, d.response) for d in shown if d.split == "train"]
    short = [p for p in pairs if sum(map(len, p)) <= LONGEST_SHOTS // SHOTS]
    return tuple(short[:: max(1, len(short) // SHOTS)][:SHOTS])


def reward_of(project: Project, number: int | None) -> str | None:
    """The reward run that scores a round's answers; None where it has none."""
    told = None if number is None else _told(project, number)
    if number is None or told is None or told.get("policy") == "sft":
        return None
    return str(roundfolder.round_folder(project.folder, number).resolve() / "reward")


def examples(store: Store) -> dict[str, list[tuple[str, str]]]:
    """{use case: [(prompt, its beginning)]} to choose from: held-out ones first, for no model trained on them."""
    order = sa.case((prompts.c.split == "test", 0), (prompts.c.split == "valid", 1), else_=2)
    place = sa.func.row_number().over(partition_by=prompts.c.use_case, order_by=(order, prompts.c.id)).label("place")
    ranked = sa.select(prompts.c.use_case, prompts.c.text, place).where(
        sa.func.length(prompts.c.text) <= LONGEST_EXAMPLE, prompts.c.id.not_in(ASIDE_PROMPTS)
    )
    inner = ranked.subquery()
    query = sa.select(inner).where(inner.c.place <= EXAMPLES).order_by(inner.c.use_case, inner.c.place)
    found: dict[str, list[tuple[str, str]]] = {}
    with store.read() as tx:
        for row in tx.execute(query):
            found.setdefault(row.use_case, []).append((row.text, shorten(row.text)))
    return found


# ---- a sitting -------------------------------------------------------------------------------------------------


def prepare(project: Project, account: str, sent: dict[str, Any]) -> tuple[Sitting, dict[str, Any]]:
    """A sitting and the model host's request, from what the page sent. Raises FieldError naming what is wrong.

    sent: {"prompt", "round": number or null, "blind", "temperature"}.
    """
    prompt = sent.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise FieldError("prompt", "is empty; type one or choose an example")
    if len(prompt) > LONGEST:
        raise FieldError("prompt", f"has {len(prompt):,} characters; at most {LONGEST:,}")
    if "\0" in prompt:
        raise FieldError("prompt", "holds a character that is no text")
    number, heat = sent.get("round"), sent.get("temperature", 0.7)
    rounds = finished(project)
    if number is None:
        number = in_use(project)
    elif number not in rounds:
        raise FieldError("round", "is no finished round")
    if not isinstance(heat, int | float) or isinstance(heat, bool) or not 0 <= heat <= HOTTEST:
        raise FieldError("temperature", f"must be a number from 0 to {HOTTEST:g}")
    shown = models(project, number)
    blind = sent.get("blind") is True and len(shown) > 1
    if blind:
        secrets.SystemRandom().shuffle(shown)
    sitting = Sitting(account, prompt.strip(), tuple(shown), blind)
    return sitting, _request(project, sitting, number, float(heat))


def _request(project: Project, sitting: Sitting, number: int | None, heat: float) -> dict[str, Any]:
    """Models go by their place on the page, so that what comes back says no name."""
    return {
        "prompt": sitting.prompt,
        "models": [
            {"name": str(n), "path": m.path, "shots": [list(s) for s in m.shots]} for n, m in enumerate(sitting.models)
        ],
        "temperature": heat,
        "seed": secrets.randbelow(2**31),
        "max_tokens": project.settings.max_response_tokens,
        "reward": reward_of(project, number),
    }


def tell(sitting: Sitting, event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A model host's event as the page gets it, (kind, data), booked in the sitting on its way."""
    if "model" not in event:
        if event.get("done"):
            return "done", {"votable": len(sitting.answers) > 1}
        return "problem", {"text": str(event.get("error", ""))}
    place = int(event["model"])
    if event.get("loading"):
        return "loading", {"place": place}
    if "error" in event:
        sitting.problems[place] = str(event["error"])
        hidden = "This model cannot answer; the reason is shown after the vote."
        return "problem", {"place": place, "text": hidden if sitting.blind else str(event["error"])}
    if event.get("done"):
        row = {"text": event["text"], "score": event["score"], "tokens": event["tokens"], "ended": event["ended"]}
        sitting.answers[place] = row
        return "end", {"place": place} | (row | {"score": None} if sitting.blind else row)
    return "piece", {"place": place, "text": event["text"]}


def unveiled(sitting: Sitting) -> dict[str, Any]:
    """What the page may know after the vote."""
    rows = [
        {
            "place": n,
            "title": model.title,
            "name": model.name,
            "score": sitting.answers.get(n, {}).get("score"),
            "problem": sitting.problems.get(n, ""),
        }
        for n, model in enumerate(sitting.models)
    ]
    return {"answers": rows}


# ---- what people thought ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a model was shown in a vote, and how often it was the best."""

    model: str
    shown: int
    best: int


def tally(store: Store) -> tuple[list[Tally], int, int]:
    """Votes by model, the most shown first; how many called a tie, and how many called all bad."""
    with store.read() as tx:
        rows: Sequence[Any] = tx.execute(sa.select(votes.c.answers, votes.c.best)).all()
    shown: dict[str, int] = {}
    best: dict[str, int] = {}
    for row in rows:
        for n, answer in enumerate(row.answers):
            shown[answer["model"]] = shown.get(answer["model"], 0) + 1
            best[answer["model"]] = best.get(answer["model"], 0) + (n == row.best)
    found = sorted((Tally(m, count, best[m]) for m, count in shown.items()), key=lambda t: (-t.shown, t.model))
    return found, sum(r.best == TIE for r in rows), sum(r.best == ALL_BAD for r in rows)
