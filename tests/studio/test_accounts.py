"""Accounts, sessions, invitations: what is asked of passwords, what is stored, what ends when."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from made_studio import PASSWORD, Clock, Made, together

from tutelage.records import UserError
from tutelage.studio import accounts, people
from tutelage.studio.accounts import DAY, INVITATION, SEEN_EVERY, SESSION, Account
from tutelage.studio.backup import dump
from tutelage.studio.schema import accounts as account_table
from tutelage.studio.schema import actions, sessions
from tutelage.studio.store import Store

# ---- names and passwords ---------------------------------------------------------------------------------------


@pytest.mark.attack("names with control and invisible characters")
@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\x00b", "a\nb", "zero\u200bwidth"])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(UserError, match="1 to 64 characters"):
        accounts.create(store, name, PASSWORD, "labeler")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "at least 10"),
        ("short", "at least 10"),
        ("x" * 1001, "at most 1,000"),
        ("aaaaaaaaaaaa", "too easy"),
        ("1212121212", "too easy"),
        ("Margarethe", "too easy"),
        ("MARGARETHE", "too easy"),
    ],
)
def test_passwords_that_are_none(store: Store, password: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        accounts.create(store, "margarethe", password, "labeler")
    made = accounts.create(store, "margarethe", PASSWORD, "labeler")
    with pytest.raises(UserError, match=said):
        accounts.set_password(store, made.id, password)
    assert accounts.login(store, "margarethe", PASSWORD) is not None


@pytest.mark.parametrize(
    ("made_as", "typed"),
    [("Ärger", "ärger"), ("Ärger", "ÄRGER"), ("Ömer", "O\u0308mer"), ("anna", "  Anna "), ("Straße", "STRASSE")],
)
def test_a_name_is_found_however_it_is_typed(store: Store, made_as: str, typed: str) -> None:
    accounts.create(store, made_as, PASSWORD, "labeler")
    assert accounts.login(store, typed, PASSWORD) is not None
    with pytest.raises(UserError, match="is taken"):
        accounts.create(store, typed, PASSWORD, "labeler")


def test_a_password_is_the_same_whichever_keyboard_typed_it(store: Store) -> None:
    accounts.create(store, "anna", "caf\u00e9 au lait", "labeler")
    assert accounts.login(store, "anna", "cafe\u0301 au lait") is not None


@pytest.mark.parametrize("name", ["anna", "nobody", "x" * 10_000])
@pytest.mark.parametrize("password", ["wrong password", "", "y" * 100_000])
def test_a_wrong_name_or_password_opens_nothing(store: Store, name: str, password: str) -> None:
    accounts.create(store, "anna", PASSWORD, "labeler")
    assert accounts.login(store, name, password) is None


@pytest.mark.attack("logging in as an account that an import made")
def test_an_account_of_an_import_has_no_password_to_guess(store: Store, made: Made) -> None:
    made.crowd(1)
    assert accounts.login(store, "labeler-1", "") is None


def test_roles_and_groups(store: Store) -> None:
    assert accounts.create(store, "a", PASSWORD, "labeler").team == "training"
    assert accounts.create(store, "b", PASSWORD, "heldout").team == "heldout"
    assert accounts.create(store, "c", PASSWORD, "labeler", " nurses ").team == "nurses"
    with pytest.raises(UserError, match="no role 'king'"):
        accounts.create(store, "d", PASSWORD, "king")
    with pytest.raises(UserError, match="at most 64"):
        accounts.create(store, "d", PASSWORD, "labeler", "x" * 65)


@pytest.mark.attack("two people taking one name at once")
def test_two_at_once_cannot_take_one_name(store: Store) -> None:
    results = together(4, lambda: accounts.create(store, "Anna", PASSWORD, "labeler"))
    assert sum(isinstance(r, Account) for r in results) == 1
    assert sum(isinstance(r, UserError) for r in results) == 3  # the name is taken, or too many hash at once


# ---- at rest ---------------------------------------------------------------------------------------------------


@pytest.mark.attack("reading passwords and tokens from the database")
def test_neither_passwords_nor_tokens_are_in_the_database(store: Store, made: Made) -> None:
    admin = made.account("admin")
    secrets = [PASSWORD, accounts.login(store, admin.name, PASSWORD), accounts.invite(store, admin, "labeler")]
    text = "\n".join(dump(store))
    for secret in secrets:
        assert secret is not None and secret not in text
    with store.read() as tx:
        hashed = tx.execute(sa.select(account_table.c.password)).scalar_one()
        tokens = tx.execute(sa.select(sessions.c.token)).scalars().all()
    assert hashed.startswith("$argon2id$")
    assert [len(t) for t in tokens] == [64]


@pytest.mark.attack("finding equal passwords by their hashes")
def test_equal_passwords_do_not_look_equal(store: Store) -> None:
    accounts.create(store, "a", PASSWORD, "labeler")
    accounts.create(store, "b", PASSWORD, "labeler")
    with store.read() as tx:
        one, two = tx.execute(sa.select(account_table.c.password)).scalars()
    assert one != two


# ---- sessions --------------------------------------------------------------------------------------------------


def test_a_session_lives_while_it_is_used(store: Store, made: Made, clock: Clock) -> None:
    me = made.account()
    token = accounts.open_session(store, me.id)
    for _ in range(3):
        clock.move(SESSION - DAY)
        assert accounts.account_of(store, token) == me
    clock.move(SESSION + 1)
    assert accounts.account_of(store, token) is None


def test_looking_is_not_writing(store: Store, made: Made, clock: Clock) -> None:
    token = accounts.open_session(store, made.account().id)
    before = list(dump(store))
    clock.move(SEEN_EVERY - 1)
    accounts.account_of(store, token)
    assert list(dump(store)) == before
    clock.move(2)
    accounts.account_of(store, token)
    assert list(dump(store)) != before


def test_logging_out_ends_this_session_only(store: Store, made: Made) -> None:
    me = made.account()
    one, two = accounts.open_session(store, me.id), accounts.open_session(store, me.id)
    accounts.logout(store, one)
    assert (accounts.account_of(store, one), accounts.account_of(store, two)) == (None, me)


@pytest.mark.attack("using a stolen session after a new password")
def test_a_new_password_ends_all_sessions(store: Store, made: Made) -> None:
    me = made.account()
    token = accounts.open_session(store, me.id)
    accounts.set_password(store, me.id, "another good one")
    assert accounts.account_of(store, token) is None
    assert accounts.login(store, me.name, PASSWORD) is None
    assert accounts.login(store, me.name, "another good one") is not None


@pytest.mark.attack("logging in again with a closed account")
def test_a_closed_account_is_out_at_once_and_stays_out(store: Store, made: Made) -> None:
    admin, me = made.account("admin"), made.account()
    token = accounts.open_session(store, me.id)
    accounts.change(store, admin, me.id, role="labeler", team="training", active=False)
    assert accounts.account_of(store, token) is None
    assert accounts.login(store, me.name, PASSWORD) is None


@pytest.mark.attack("malformed session tokens")
@pytest.mark.parametrize("token", ["", "x", "x" * 10_000, "' OR 1=1 --"])
def test_tokens_that_are_none(store: Store, token: str) -> None:
    assert accounts.account_of(store, token) is None


def test_sessions_that_ran_out_are_cleared_away(store: Store, made: Made, clock: Clock) -> None:
    me = made.account()
    accounts.open_session(store, me.id)
    clock.move(SESSION + 1)
    accounts.open_session(store, me.id)
    with store.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(sessions)).scalar_one() == 1


# ---- invitations -----------------------------------------------------------------------------------------------


@pytest.mark.attack("using an invitation twice")
def test_an_invitation_is_good_once(store: Store, made: Made) -> None:
    token = accounts.invite(store, made.account("admin"), "heldout")
    joined = accounts.join(store, token, "hanna", PASSWORD)
    assert (joined.role, joined.team) == ("heldout", "heldout")
    with pytest.raises(UserError, match="used already"):
        accounts.join(store, token, "otto", PASSWORD)


@pytest.mark.attack("using an invitation after a week")
def test_an_invitation_runs_out(store: Store, made: Made, clock: Clock) -> None:
    token = accounts.invite(store, made.account("admin"), "labeler")
    clock.move(INVITATION + 1)
    with pytest.raises(UserError, match="ran out"):
        accounts.join(store, token, "hanna", PASSWORD)


@pytest.mark.attack("using an invitation twice at the same moment")
def test_of_two_who_use_an_invitation_at_once_one_gets_in_and_leaves_the_names_free(store: Store, made: Made) -> None:
    token = accounts.invite(store, made.account("admin"), "labeler")
    names = iter(["hanna", "otto", "ida"])
    results = together(3, lambda: accounts.join(store, token, next(names), PASSWORD))
    assert sorted(type(r).__name__ for r in results) == ["Account", "UserError", "UserError"]
    with store.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(account_table)).scalar_one() == 2


def test_a_bad_password_does_not_use_up_an_invitation(store: Store, made: Made) -> None:
    token = accounts.invite(store, made.account("admin"), "labeler")
    with pytest.raises(UserError, match="at least 10"):
        accounts.join(store, token, "hanna", "short")
    assert accounts.join(store, token, "hanna", PASSWORD).name == "hanna"


def issued(store: Store, admin: Account, role: str = "admin") -> tuple[str, str]:
    """An invitation: (token, handle)."""
    token = accounts.invite(store, admin, role)
    return token, accounts.digest(token)


@pytest.mark.attack("using an invitation of an admin who was closed or demoted")
@pytest.mark.parametrize(("role", "active"), [("admin", False), ("labeler", True), ("reviewer", True)])
def test_invitations_end_with_the_rights_of_who_made_them(store: Store, made: Made, role: str, active: bool) -> None:
    boss, second = made.account("admin"), made.account("admin")
    token, kept = issued(store, second)[0], issued(store, boss)[0]
    accounts.change(store, boss, second.id, role=role, team="", active=active)
    assert accounts.invitation(store, token) is None
    with pytest.raises(UserError, match="withdrawn"):
        accounts.join(store, token, "backdoor", PASSWORD)
    accounts.change(store, boss, second.id, role="admin", team="", active=True)
    assert accounts.invitation(store, token) is None, "not even when they are an admin again"
    assert accounts.join(store, kept, "hanna", PASSWORD).role == "admin"


def test_an_invitation_is_void_however_its_maker_was_closed(store: Store, made: Made) -> None:
    """Another version, a restore or a person at the database closes accounts without `change`."""
    second = made.account("admin")
    token = issued(store, second)[0]
    with store.write() as tx:
        tx.execute(account_table.update().where(account_table.c.id == second.id).values(active=False))
    assert accounts.invitation(store, token) is None
    assert people.invited(store) == []
    with pytest.raises(UserError, match="withdrawn"):
        accounts.join(store, token, "backdoor", PASSWORD)


def test_a_change_of_group_keeps_the_invitations_of_an_admin(store: Store, made: Made) -> None:
    boss = made.account("admin")
    token = issued(store, boss)[0]
    accounts.change(store, boss, boss.id, role="admin", team="nurses", active=True)
    assert accounts.invitation(store, token) is not None


@pytest.mark.attack("joining while the invitation is withdrawn")
def test_an_invitation_that_is_withdrawn_while_somebody_joins_makes_no_account(
    store: Store, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss, second = made.account("admin"), made.account("admin")
    token = issued(store, second)[0]
    fresh = accounts._fresh

    def slow(*words: str) -> object:  # hashing the password takes long
        accounts.change(store, boss, second.id, role="labeler", team="", active=True)
        return fresh(*words)

    monkeypatch.setattr(accounts, "_fresh", slow)
    with pytest.raises(UserError, match="withdrawn"):
        accounts.join(store, token, "backdoor", PASSWORD)
    assert accounts.named(store, "backdoor") is None


def test_an_admin_withdraws_an_invitation(store: Store, made: Made) -> None:
    boss = made.account("admin")
    (token, handle), (other, _) = issued(store, boss), issued(store, boss, "labeler")
    assert {one.handle for one in people.invited(store)} == {handle, accounts.digest(other)}
    accounts.withdraw(store, boss, handle)
    assert [one.role for one in people.invited(store)] == ["labeler"]
    assert accounts.invitation(store, token) is None and accounts.invitation(store, other) is not None
    for wrong in (handle, "nothing", token):
        with pytest.raises(UserError, match="withdrawn"):
            accounts.withdraw(store, boss, wrong)
    with store.read() as tx:
        assert tx.execute(sa.select(actions.c.about).where(actions.c.what == "withdraw")).scalars().all() == ["admin"]


# ---- changing accounts -----------------------------------------------------------------------------------------


@pytest.mark.attack("removing the last admin")
def test_the_last_admin_stays(store: Store, made: Made) -> None:
    admin = made.account("admin")
    for role, active in (("labeler", True), ("admin", False)):
        with pytest.raises(UserError, match="at least one admin"):
            accounts.change(store, admin, admin.id, role=role, team="", active=active)


@pytest.mark.attack("two admins removing each other at the same moment")
def test_two_admins_cannot_remove_each_other(store: Store, made: Made) -> None:
    one, two = made.account("admin"), made.account("admin")
    targets = iter([(one, two), (two, one)])

    def remove() -> Account:
        by, whom = next(targets)
        accounts.change(store, by, whom.id, role="labeler", team="", active=True)
        return whom

    together(2, remove)
    assert accounts.has_admin(store)


def test_nobody_is_changed_who_is_not_there(store: Store, made: Made) -> None:
    with pytest.raises(UserError, match="no such account"):
        accounts.change(store, made.account("admin"), "nobody", role="labeler", team="", active=True)


def test_what_is_done_to_accounts_is_written_down(store: Store, made: Made) -> None:
    admin, me = made.account("admin"), made.account()
    accounts.change(store, admin, me.id, role="reviewer", team="nurses", active=True)
    accounts.set_password(store, me.id, "another good one", admin)
    with store.read() as tx:
        found = tx.execute(sa.select(actions.c.what, actions.c.account_id).where(actions.c.about == me.id)).all()
    assert sorted(map(tuple, found)) == sorted([("account", me.id), ("account", admin.id), ("password", admin.id)])


# ---- one's own password ----------------------------------------------------------------------------------------

NEW = "another good one"


def test_a_new_password_of_ones_own_ends_the_other_sessions(store: Store, made: Made) -> None:
    me, other = made.account(), made.account()
    here, there, others = (accounts.open_session(store, who.id) for who in (me, me, other))
    accounts.change_password(store, me, PASSWORD, NEW, here)
    assert accounts.account_of(store, here) == me and accounts.account_of(store, others) == other
    assert accounts.account_of(store, there) is None
    assert accounts.login(store, me.name, PASSWORD) is None and accounts.login(store, me.name, NEW) is not None


@pytest.mark.attack("changing a password without knowing it")
@pytest.mark.parametrize("present", ["", "wrong password", "x" * 5000])
def test_it_needs_the_present_one(store: Store, made: Made, present: str) -> None:
    me = made.account()
    here, there = (accounts.open_session(store, me.id) for _ in range(2))
    with pytest.raises(accounts.WrongPassword):
        accounts.change_password(store, me, present, NEW, here)
    assert accounts.account_of(store, there) == me and accounts.login(store, me.name, PASSWORD) is not None


def test_a_bad_new_one_changes_nothing(store: Store, made: Made) -> None:
    me = made.account()
    with pytest.raises(UserError, match="at least 10"):
        accounts.change_password(store, me, PASSWORD, "short", accounts.open_session(store, me.id))
    assert accounts.login(store, me.name, PASSWORD) is not None


@pytest.mark.attack("logging in while the password changes")
def test_a_login_with_a_password_that_changes_meanwhile_opens_no_session(store: Store, made: Made) -> None:
    me = made.account()
    row = accounts.credentials(store, account=me.id)
    assert row is not None
    accounts.set_password(store, me.id, NEW)
    with pytest.raises(accounts.Changed):
        accounts.open_session(store, me.id, row.password)
