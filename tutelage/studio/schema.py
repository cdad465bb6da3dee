"""The studio's tables. What people did is in append-only rows; counters beside it make the queue fast.

Times are seconds since 1970 in UTC, ids are ULIDs (sortable by when they were made), JSON columns hold lists and
objects. The same tables stand in SQLite and PostgreSQL; `migrations/` makes them, and a test holds the two equal.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

ROLES = ("labeler", "heldout", "reviewer", "admin")
"""heldout: a labeler who is never screened and whose work only evaluates (the paper's held-out labelers)."""

RESEARCHERS = ("reviewer", "admin")
"""Those whose answers to screening tasks are the key."""

KINDS = ("demonstrate", "compare", "judge")
"""What a batch asks for: write a response; rank K responses; rank old and new policy, blind, for evaluation only."""

STANDINGS = ("unscreened", "candidate", "admitted", "declined")
"""Of a labeler (paper B.1): never screened; being screened, who gets screening tasks alone; and how that ended."""

EVERYONE = 1_000_000
"""Places of an item of a screening batch, which everyone answers: more than there will ever be people."""

MODES = ("helpful-first", "truthful-first")
"""What weighs most (paper section 3.4): helpfulness while training data is collected, truth in the final evaluation."""

STATES = ("active", "postponed", "expired", "skipped", "submitted")
"""Of an assignment. Active ones hold a place in their item's overlap until `expires`, submitted ones for good."""

naming = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=naming)


def _id() -> Column[str]:
    return Column("id", String(26), primary_key=True)


def _of(table: str, name: str = "", **more: bool) -> Column[str]:
    return Column(name or f"{table}_id", String(26), ForeignKey(f"{table}.id"), nullable=more.get("nullable", False))


def login_of(name: str) -> str:
    """A name as logging in compares it: databases know no more than ASCII of upper and lower case."""
    return unicodedata.normalize("NFKC", name).casefold()


def _login(context: Any) -> str:
    return login_of(context.get_current_parameters()["name"])


accounts = Table(
    "account",
    metadata,
    _id(),
    Column("name", String(64), nullable=False),
    Column("login", String(1200), nullable=False, unique=True, default=_login),  # NFKC lengthens by up to 18
    Column("password", Text, nullable=False),  # Argon2id
    Column("role", String(16), nullable=False),
    Column("team", String(64), nullable=False),  # whose values: the group of its answers from now on
    Column("active", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("standing", String(16), nullable=False, server_default="unscreened"),
    CheckConstraint("role IN ('labeler', 'heldout', 'reviewer', 'admin')", name="role"),
)

sessions = Table(
    "session",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256 of the cookie: a stolen database opens no session
    _of("account"),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

invitations = Table(
    "invitation",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("team", String(64), nullable=False),
    _of("account", "made_by"),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
    _of("account", "used_by", nullable=True),
)

prompts = Table(
    "prompt",
    metadata,
    Column("id", String(128), primary_key=True),  # the prompt's own id, as it was imported
    Column("text", Text, nullable=False),
    Column("writer", String(128), nullable=False),  # the user it came from; the split goes by user
    Column("use_case", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("split", String(8), nullable=False),
    Column("flags", JSON, nullable=False),
    Column("source", Text, nullable=False),
    Column("created", Float, nullable=False),
)

responses = Table(
    "response",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("prompt_id", String(128), ForeignKey("prompt.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("model", String(128), nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("sampling", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

batches = Table(
    "batch",
    metadata,
    _id(),
    Column("name", String(128), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("overlap", Integer, nullable=False),  # labelers per item
    Column("team", String(64), nullable=False),  # who may work on it; "" = everyone who labels
    Column("form", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("screening", Boolean, nullable=False, server_default=false()),  # its answers screen, and train nothing
    CheckConstraint("kind IN ('demonstrate', 'compare', 'judge')", name="kind"),
    CheckConstraint("overlap >= 1", name="overlap"),
)

items = Table(
    "item",
    metadata,
    _id(),
    _of("batch"),
    Column("prompt_id", String(128), ForeignKey("prompt.id"), nullable=False, index=True),
    Column("place", Integer, nullable=False),  # order within the batch
    Column("quota", Integer, nullable=False),
    Column("held", Integer, nullable=False),  # places taken by active assignments
    Column("done", Integer, nullable=False),  # places filled by counted submissions
    Column("free", Boolean, nullable=False),  # held + done < quota
    Column("responses", JSON, nullable=False),  # ids, in the order they were sampled
    UniqueConstraint("batch_id", "place"),
    CheckConstraint("held >= 0 AND done >= 0", name="counters"),
    Index("ix_item_queue", "batch_id", "free", "place"),
)

assignments = Table(
    "assignment",
    metadata,
    _id(),
    _of("item"),
    _of("account"),
    Column("state", String(16), nullable=False),
    Column("fence", Integer, nullable=False),  # counts up with every claim: an old page's writes are told apart
    Column("expires", Float, nullable=False),
    Column("claimed", Float, nullable=False),
    Column("order_seed", Integer, nullable=False),
    Column("draft", JSON(none_as_null=True)),
    Column("draft_no", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    UniqueConstraint("item_id", "account_id"),
    Index("ix_assignment_expiry", "state", "expires"),
    Index("ix_assignment_account", "account_id", "state"),
)

answers = Table(
    "answer",
    metadata,
    _id(),
    _of("item"),
    _of("account"),
    Column("number", Integer, nullable=False),  # revision of this labeler's answer to this item, from 1
    Column("key", String(64), nullable=False, unique=True),  # chosen by the page: the same submit twice is one answer
    Column("body", JSON, nullable=False),
    Column("form", Integer, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("order_seed", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("extra", Boolean, nullable=False),  # came after its place was given away: kept, but beyond the overlap
    Column("team", String(64), nullable=False, server_default="training"),  # the account's group when it was given
    Column("created", Float, nullable=False),
    UniqueConstraint("item_id", "account_id", "number"),
)

actions = Table(
    "action",
    metadata,
    _id(),
    Column("at", Float, nullable=False),
    _of("account", nullable=True),
    Column("what", String(32), nullable=False),
    Column("about", String(256), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("ix_action_about", "about"),
)

forms = Table(
    "form",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

imports = Table(
    "import",
    metadata,
    _id(),
    Column("file", Text, nullable=False),
    _of("account", nullable=True),
    Column("kept", Integer, nullable=False),
    Column("dropped", JSON, nullable=False),  # [{"text", "reason"}]
    Column("notes", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

votes = Table(
    "vote",
    metadata,
    _id(),
    _of("account", nullable=True),
    Column("prompt", Text, nullable=False),
    Column("answers", JSON, nullable=False),  # [{"model", "text", "score", "tokens"}], as they stood on the page
    Column("best", Integer, nullable=False),  # index into answers, -1 = tie, -2 = all bad
    Column("created", Float, nullable=False),
)

rounds = Table(
    "round",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("state", String(16), nullable=False),  # running, stopping, stopped, waiting, failed, finished
    Column("folder", Text, nullable=False),  # for people: within the studio's folder; nothing reads it
    Column("pid", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("message", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
)

surveys = Table(
    "survey",
    metadata,
    _id(),  # random, not a ULID: no link to who wrote it or when within the day
    Column("day", String(10), nullable=False),
    Column("body", JSON, nullable=False),
)

grades = Table(
    "grade",
    metadata,
    _id(),
    _of("answer"),  # a demonstration that a candidate wrote
    _of("account"),  # who graded it
    Column("number", Integer, nullable=False),  # revision of this person's grade of this answer, from 1
    Column("grade", Integer, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("answer_id", "account_id", "number"),
    CheckConstraint("grade >= 1 AND grade <= 7", name="grade"),
)

topics = Table(
    "topic",
    metadata,
    _id(),
    _of("account"),
    Column("number", Integer, nullable=False),  # revision of what this candidate says, from 1
    Column("text", Text, nullable=False),  # what they can judge well, in their own words
    Column("created", Float, nullable=False),
    UniqueConstraint("account_id", "number"),
)

asides = Table(
    "aside",
    metadata,
    _id(),
    Column("prompt_id", String(128), ForeignKey("prompt.id")),  # one of the two
    _of("answer", nullable=True),
    Column("number", Integer, nullable=False),  # from 1 for this prompt or answer; the latest row decides
    Column("aside", Boolean, nullable=False),  # false: taken back
    _of("account"),
    Column("reason", Text, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("prompt_id", "number"),
    UniqueConstraint("answer_id", "number"),
    CheckConstraint("(prompt_id IS NULL) <> (answer_id IS NULL)", name="about"),
)

settings = Table(
    "setting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
)

APPEND_ONLY = ("answer", "action", "vote", "grade", "topic", "aside")
"""Tables whose rows triggers protect from change and deletion."""

HEAD = "0004"
"""Today's revision of the schema: the last one of `migrations/versions`."""

VERSIONS = "studio_schema"
"""Where the schema's revision stands: a name of our own, so that no other program's revisions are taken for ours."""
