"""Two anonymous surveys, of opt-in: who the labelers are, and how they find the work (the paper's Tables 12 and 13).

An answer is stored with a random id and the day, without account, session or trace in the audit log; the two surveys
are separate rows. Counts are shown from five answers on, since fewer could be guessed at.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tutelage.records import UserError
from tutelage.studio.schema import surveys
from tutelage.studio.store import Store

ENOUGH = 5
LONGEST = 60  # characters of a free answer

SCALE = ("Strongly disagree", "Disagree", "Neither", "Agree", "Strongly agree")


@dataclass(frozen=True, slots=True)
class Question:
    """choices: empty for a free answer. many: more than one may be chosen."""

    name: str
    text: str
    choices: tuple[str, ...] = ()
    many: bool = False


SURVEYS: dict[str, tuple[Question, ...]] = {
    "who": (
        Question("gender", "What gender do you identify as?", ("Female", "Male", "Nonbinary / other")),
        Question(
            "ethnicity",
            "What ethnicities do you identify as?",
            (
                "White / Caucasian",
                "Southeast Asian",
                "Indigenous / Native American / Alaskan Native",
                "East Asian",
                "Middle Eastern",
                "Latinx",
                "Black / of African descent",
                "Another",
            ),
            many=True,
        ),
        Question("nationality", "What is your nationality?"),
        Question("age", "What is your age?", ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")),
        Question(
            "education",
            "What is your highest attained level of education?",
            (
                "Less than high school degree",
                "High school degree",
                "Undergraduate degree",
                "Master's degree",
                "Doctorate degree",
            ),
        ),
    ),
    "work": (
        Question("clear", "It was clear from the instructions what I was supposed to do.", SCALE),
        Question("enjoyable", "I found the task enjoyable and engaging.", SCALE),
        Question("repetitive", "I found the task repetitive.", SCALE),
        Question("paid", "I was paid fairly for doing the task.", SCALE),
        Question("glad", "Overall, I'm glad I did this task.", SCALE),
    ),
}

TITLES = {"who": "About you", "work": "About the work"}


def answer(store: Store, kind: str, given: Mapping[str, Sequence[str]]) -> None:
    """Keep one person's answers to one survey; questions may be left out. Raises UserError for anything unknown."""
    if kind not in SURVEYS:
        raise UserError(f"there is no survey {kind!r}")
    body: dict[str, list[str]] = {}
    for question in SURVEYS[kind]:
        values = [value.strip() for value in given.get(question.name, ()) if value.strip()]
        if len(values) > 1 and not question.many:
            raise UserError(f"{question.text} takes one answer")
        for value in values:
            if (question.choices and value not in question.choices) or len(value) > LONGEST or not value.isprintable():
                raise UserError(f"{question.text} cannot be answered by {value[:LONGEST]!r}")
        if values:
            body[question.name] = values
    if not body:
        raise UserError("nothing was answered; nothing was kept")
    day = dt.datetime.fromtimestamp(store.clock(), dt.UTC).date().isoformat()
    with store.write() as tx:
        tx.execute(surveys.insert().values(id=secrets.token_hex(13), day=day, body={"survey": kind, "answers": body}))


@dataclass(frozen=True, slots=True)
class Result:
    """What was answered to one question, most frequent first (a scale: in its order)."""

    question: Question
    counts: list[tuple[str, int]]
    answered: int


def results(store: Store) -> dict[str, tuple[int, list[Result]]]:
    """{survey: (answers, results)}; no results below ENOUGH answers."""
    with store.read() as tx:
        bodies = [dict(body) for body in tx.execute(sa.select(surveys.c.body).order_by(surveys.c.id)).scalars()]
    found = {}
    for kind, questions in SURVEYS.items():
        own = [body["answers"] for body in bodies if body["survey"] == kind]
        found[kind] = (len(own), [_result(q, own) for q in questions] if len(own) >= ENOUGH else [])
    return found


def _result(question: Question, given: Sequence[Mapping[str, Sequence[str]]]) -> Result:
    counts = Counter(value for answers in given for value in answers.get(question.name, ()))
    answered = sum(question.name in answers for answers in given)
    if question.choices:
        return Result(question, [(choice, counts[choice]) for choice in question.choices], answered)
    return Result(question, sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])), answered)
