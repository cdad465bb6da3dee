"""Accounts, sessions, invitations. Passwords are Argon2id; sessions and invitations are kept as hashes of their tokens.

There is no default password and no way around the login: the first admin is made at the command line, or by whoever
opens the address that `tutelage studio` prints, which holds a token good once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from tutelage.records import UserError
from tutelage.studio.ids import new_id
from tutelage.studio.places import log, one_at_a_time, release
from tutelage.studio.schema import ROLES, accounts, invitations, login_of, sessions, settings
from tutelage.studio.store import Store, Unavailable
from tutelage.studio.turns import Turns

DAY = 86_400.0
SESSION = 14 * DAY
"""Seconds a session lives after it was last used."""
INVITATION = 7 * DAY
SEEN_EVERY = 300.0
"""Seconds after which a use of a session is written down again: not every page view is a write."""
SHORTEST, LONGEST = 10, 1000
"""Characters of a password."""
VARIETY = 5
"""Different characters in a password, at least: neither aaaaaaaaaa nor 1212121212."""
SCREENED_FIRST = "screened-first"
"""The setting that says whether labelers who join are candidates first."""
USELESS = "this invitation was used already, was withdrawn, or ran out; ask for a new one"
"""What is said of an invitation that nobody can use, whatever the reason."""

HASHES_WAITING, HASH_SECONDS = 16, 4.0
"""How many may wait to have a password hashed, and how long."""

_hasher = PasswordHasher()
_hashing = Turns(2, waiting=HASHES_WAITING, seconds=HASH_SECONDS)  # each hash takes 64 MB


@functools.cache
def _nobody() -> str:
    """Verified for unknown names, so that they take as long."""
    return _hasher.hash(secrets.token_hex(16))


def _hash(password: str) -> str:
    """A password as it is kept. Raises Busy."""
    with _hashing:
        return _hasher.hash(password)


@dataclass(frozen=True, slots=True)
class Account:
    """Who is asking. standing: one of STANDINGS, for labelers who are screened."""

    id: str
    name: str
    role: str
    team: str
    standing: str = "unscreened"

    @property
    def admin(self) -> bool:
        """Whether this account runs the studio."""
        return self.role == "admin"

    @property
    def labels(self) -> bool:
        """Whether this account gives feedback."""
        return self.role in ("labeler", "heldout")

    @property
    def candidate(self) -> bool:
        """Whether this labeler is being screened."""
        return self.role == "labeler" and self.standing == "candidate"

    @property
    def declined(self) -> bool:
        """Whether this labeler was screened, and is given no work."""
        return self.role == "labeler" and self.standing == "declined"


def _account(row: Row[Any]) -> Account:
    return Account(row.id, row.name, row.role, row.team, row.standing)


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def create(store: Store, name: str, password: str, role: str, team: str = "") -> Account:
    """Make an account. team defaults to "training", for held-out labelers to "heldout". Raises UserError."""
    made, values = _fresh(store, name, password, role, team)
    with store.write() as tx:
        _insert(tx, made, values)
    return made


def set_up(store: Store, name: str, password: str) -> Account:
    """Make the first admin. Raises UserError when there is one, or the name or password will not do."""
    made, values = _fresh(store, name, password, "admin", "")
    with store.write() as tx:
        one_at_a_time(tx)
        if tx.execute(_ADMIN).first() is not None:
            raise UserError("this studio is set up already; log in, or ask its admin for an invitation")
        _insert(tx, made, values)
    return made


def _fresh(store: Store, name: str, password: str, role: str, team: str) -> tuple[Account, dict[str, Any]]:
    """An account as it will be, checked, and its row. Hashing takes long: it is done outside of any transaction."""
    name = name.strip()
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UserError("the name must have 1 to 64 characters, none of them invisible")
    hashed = _hash(_good(password, name))
    made = Account(new_id(store.clock()), name, role, team_for(role, team))
    row = {"id": made.id, "name": name, "login": as_login(name), "password": hashed, "role": role, "team": made.team}
    return made, row | {"active": True, "created": store.clock()}


def _insert(tx: Connection, made: Account, values: dict[str, Any]) -> None:
    taken = UserError(f"the name {made.name!r} is taken")
    if tx.execute(sa.select(accounts.c.id).where(accounts.c.login == values["login"])).first():
        raise taken
    try:
        tx.execute(accounts.insert().values(**values))
    except IntegrityError:  # by somebody else, this very moment
        raise taken from None
    log(tx, values["created"], made.id, "account", made.id, role=made.role, team=made.team)


def _good(password: str, name: str) -> str:
    """The password as it is hashed, if it is one. Raises UserError."""
    password = unicodedata.normalize("NFC", password)  # keyboards differ in how they send é
    if len(password) < SHORTEST:
        raise UserError(f"the password must have at least {SHORTEST} characters")
    if len(password) > LONGEST:
        raise UserError(f"the password must have at most {LONGEST:,} characters")
    if len(set(password)) < VARIETY or login_of(password) == login_of(name):
        raise UserError("this password is too easy to guess; take another")
    return password


def team_for(role: str, team: str) -> str:
    """The group of an account. Raises UserError for a role that is none, or a name of a group that is too long."""
    if role not in ROLES:
        raise UserError(f"no role {role!r}; one of {', '.join(ROLES)}")
    team = team.strip() or ("heldout" if role == "heldout" else "training")
    if len(team) > 64 or not team.isprintable():
        raise UserError("a group's name must have at most 64 characters, none of them invisible")
    return team


_ADMIN = sa.select(accounts.c.id).where(accounts.c.role == "admin", accounts.c.active).limit(1)


def has_admin(store: Store) -> bool:
    """Whether somebody runs this studio. Closed accounts, which imports make for those who wrote elsewhere, do not."""
    return store.first(_ADMIN) is not None


def named(store: Store, name: str) -> Account | None:
    """The account of a name, however its letters are cased."""
    with store.read() as tx:
        row = tx.execute(sa.select(accounts).where(accounts.c.login == as_login(name))).first()
    return None if row is None else _account(row)


def as_login(name: str) -> str:
    """A name as it is compared."""
    return login_of(name.strip())


def credentials(store: Store, *, login: str = "", account: str = "") -> Row[Any] | None:
    """Id and password hash of an open account, by the name it logs in with or by its id."""
    which = accounts.c.id == account if account else accounts.c.login == as_login(login)
    return store.first(sa.select(accounts.c.id, accounts.c.password).where(which, accounts.c.active))


def login(store: Store, name: str, password: str) -> str | None:
    """Open a session; returns the cookie's token, None for a wrong name or password."""
    if len(name) > 200 or len(password) > LONGEST:
        return None
    row = credentials(store, login=name)
    if not _verified(row.password if row is not None else _nobody(), password) or row is None:
        return None
    try:
        return open_session(store, row.id, row.password)
    except Changed:
        return None


def _verified(hashed: str, password: str) -> bool:
    try:
        with _hashing:
            return _hasher.verify(hashed, unicodedata.normalize("NFC", password))
    except (VerificationError, InvalidHashError):
        return False


class Changed(Exception):
    """The account was closed, or has another password than the one that was verified."""


def open_session(store: Store, account: str, verified: str = "") -> str:
    """A fresh session's token: what the cookie holds. verified: the password hash it was opened with, if with one."""
    token = secrets.token_urlsafe(32)
    with store.write() as tx:
        if verified:  # hashing took long: a new password, which ends all sessions, may have come meanwhile
            same = accounts.c.id == account, accounts.c.password == verified, accounts.c.active
            if tx.execute(sa.select(accounts.c.id).where(*same).with_for_update(read=True)).first() is None:
                raise Changed
        now = store.clock()
        tx.execute(sessions.delete().where(sessions.c.expires < now))
        tx.execute(
            sessions.insert().values(
                token=digest(token), account_id=account, created=now, seen=now, expires=now + SESSION
            )
        )
    return token


_SESSION = (  # built once: every request asks
    sa.select(accounts.c.id, accounts.c.name, accounts.c.role, accounts.c.team, accounts.c.standing, sessions.c.seen)
    .join(sessions, sessions.c.account_id == accounts.c.id)
    .where(sessions.c.token == sa.bindparam("token"), sessions.c.expires > sa.bindparam("now"), accounts.c.active)
)


def account_of(store: Store, token: str) -> Account | None:
    """Whose session this is; None when it is unknown, ran out, or the account was closed."""
    row = store.first(_SESSION, token=digest(token), now=store.clock())
    if row is None:
        return None
    now = store.clock()
    if now - row.seen > SEEN_EVERY:
        # Reading a page must not wait for a database that is busy, nor fail with a full disk: the next one tries again.
        with contextlib.suppress(Unavailable), store.write(wait=0.1) as tx:
            mine = sessions.c.token == digest(token)
            tx.execute(sessions.update().where(mine).values(seen=now, expires=now + SESSION))
    return _account(row)


def logout(store: Store, token: str) -> None:
    """End one session."""
    with store.write() as tx:
        tx.execute(sessions.delete().where(sessions.c.token == digest(token)))


def invite(store: Store, by: Account, role: str, team: str = "") -> str:
    """An invitation's token, good once, for a week. Raises UserError for an unknown role."""
    token, team = secrets.token_urlsafe(24), team_for(role, team)
    with store.write() as tx:
        now = store.clock()
        tx.execute(
            invitations.insert().values(
                token=digest(token),
                role=role,
                team=team,
                made_by=by.id,
                created=now,
                expires=now + INVITATION,
                used=None,
                used_by=None,
            )
        )
        log(tx, now, by.id, "invite", role, team=team)
    return token


def open_invitations(now: float) -> sa.Select[Any]:
    """Invitations that can still be used, with `by`, who made them: nobody's who is no admin any more."""
    return (
        sa.select(invitations, accounts.c.name.label("by"))
        .join(accounts, accounts.c.id == invitations.c.made_by)
        .where(invitations.c.used.is_(None), invitations.c.expires > now)
        .where(accounts.c.active, accounts.c.role == "admin")
    )


def invitation(store: Store, token: str) -> Row[Any] | None:
    """An invitation that can still be used."""
    return store.first(open_invitations(store.clock()).where(invitations.c.token == digest(token)))


def withdraw(store: Store, by: Account, handle: str) -> None:
    """Make an invitation useless before its time. handle: what is kept of its token. Raises UserError."""
    with store.write() as tx:
        if not _withdraw(tx, store.clock(), by, invitations.c.token == handle):
            raise UserError("this invitation was used already, was withdrawn, or ran out")


def _withdraw(tx: Connection, now: float, by: Account, which: sa.ColumnElement[bool]) -> int:
    waiting = which, invitations.c.used.is_(None), invitations.c.expires > now
    ended = invitations.update().where(*waiting).values(expires=now)
    roles = tx.execute(ended.returning(invitations.c.role, invitations.c.team)).all()
    for row in roles:
        log(tx, now, by.id, "withdraw", row.role, team=row.team)
    return len(roles)


def join(store: Store, token: str, name: str, password: str) -> Account:
    """Use an invitation. Raises UserError when it can be used no more, or the name is taken.

    A labeler is a candidate first where new ones are screened; held-out labelers never are (paper B.1).
    """
    found = invitation(store, token)
    if found is None:
        raise UserError(USELESS)
    made, values = _fresh(store, name, password, found.role, found.team)
    with store.write() as tx:
        # Hashing took long: another tab may have used it since, or its maker may have been closed.
        mine = open_invitations(store.clock()).where(invitations.c.token == found.token)
        if tx.execute(mine.with_for_update(of=invitations)).first() is None:
            raise UserError(USELESS)
        if found.role == "labeler" and screened_first(tx):
            values["standing"] = "candidate"
        _insert(tx, made, values)
        used = invitations.update().where(invitations.c.token == found.token)
        tx.execute(used.values(used=store.clock(), used_by=made.id))
    return made


def screened_first(tx: Connection) -> bool:
    """Whether labelers who join are candidates first."""
    query = sa.select(settings.c.value).where(settings.c.name == SCREENED_FIRST)
    return bool(tx.execute(query).scalar_one_or_none())


def change(store: Store, by: Account, account: str, *, role: str, team: str, active: bool) -> None:
    """An admin changes an account. A closed one loses its sessions, and who changes roles the tasks in hand, at once.

    The invitations of who is no admin any more are withdrawn. Raises UserError for the last admin, and where there is
    no such account.
    """
    team = team_for(role, team)
    with store.write() as tx:
        everybody = sa.select(accounts.c.id, accounts.c.role, accounts.c.active).order_by(accounts.c.id)
        held = tx.execute(everybody.with_for_update(key_share=True)).all()  # two admins may not remove each other
        before = next((row for row in held if row.id == account), None)
        if before is None:
            raise UserError("there is no such account")
        others = [row for row in held if row.role == "admin" and row.active and row.id != account]
        if not others and (role != "admin" or not active):
            raise UserError("the studio needs at least one admin")
        tx.execute(accounts.update().where(accounts.c.id == account).values(role=role, team=team, active=active))
        if not active:
            tx.execute(sessions.delete().where(sessions.c.account_id == account))
        if not active or role != "admin":
            _withdraw(tx, store.clock(), by, invitations.c.made_by == account)
        if not active or role != before.role:
            release(tx, store.clock(), account)
        log(tx, store.clock(), by.id, "account", account, role=role, team=team, active=active)


def change_password(store: Store, me: Account, present: str, password: str, session: str) -> None:
    """Somebody changes their own password; all their sessions end but this one, whose token is given.

    Raises WrongPassword when the present one is another, UserError for a bad new one.
    """
    row = credentials(store, account=me.id)
    if row is None or len(present) > LONGEST or not _verified(row.password, present):
        raise WrongPassword
    set_password(store, me.id, password, me, keep=session)


class WrongPassword(UserError):
    """The present password was not the one typed."""

    def __init__(self) -> None:
        super().__init__("the present password is another; nothing was changed")


def set_password(store: Store, account: str, password: str, by: Account | None = None, *, keep: str = "") -> None:
    """A new password; all sessions of the account end. by: who gave it, none at the command line.

    keep: the token of a session that goes on. Raises UserError for a bad password.
    """
    with store.read() as tx:
        name = tx.execute(sa.select(accounts.c.name).where(accounts.c.id == account)).scalar_one()
    hashed = _hash(_good(password, name))
    with store.write() as tx:
        tx.execute(accounts.update().where(accounts.c.id == account).values(password=hashed))
        ended = sessions.c.account_id == account, sessions.c.token != digest(keep)
        tx.execute(sessions.delete().where(*ended))
        log(tx, store.clock(), by.id if by else None, "password", account)
