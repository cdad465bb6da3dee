"""The group belongs to the answer: a labeler who joins another one does not take earlier answers along.

Answers that are there get the group their labeler is in now, which is what exports said of them so far. For that the
trigger that forbids changes is away for a moment. The views show the answer's group. A migration stands by itself: what
it does may not change when the code does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

LATEST = """
    SELECT a.* FROM answer a
    WHERE a.number = (SELECT max(b.number) FROM answer b WHERE b.item_id = a.item_id AND b.account_id = a.account_id)
"""


def kept(column: str, value: str) -> str:
    """SQL: a prompt or an answer is not set aside."""
    return f"""NOT EXISTS (SELECT 1 FROM aside s WHERE s.{column} = {value} AND s.aside AND NOT EXISTS (
        SELECT 1 FROM aside n WHERE n.{column} = s.{column} AND n.number > s.number))"""


KEPT = f"{kept('answer_id', 'a.id')} AND {kept('prompt_id', 'p.id')}"

VIEWS = {
    "demonstrations": f"""
        SELECT a.id, p.id AS prompt_id, p.text AS prompt, a.body AS body, c.name AS labeler, a.team AS team, p.split,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind = 'demonstrate' AND NOT t.screening AND {KEPT}
    """,
    "rankings": f"""
        SELECT a.id, t.name AS batch, t.kind, p.id AS prompt_id, p.text AS prompt, i.responses AS responses,
               a.body AS body, c.name AS labeler, a.team AS team, p.split, a.mode, a.form, a.order_seed, a.extra,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind IN ('compare', 'judge') AND NOT t.screening AND {KEPT}
    """,
}

FORBID = (
    'CREATE TRIGGER answer_no_update BEFORE UPDATE ON "answer" '
    "BEGIN SELECT RAISE(ABORT, 'answer is append-only'); END"
)


def upgrade() -> None:
    op.add_column("answer", sa.Column("team", sa.String(length=64), server_default="training", nullable=False))
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(sa.text("DROP TRIGGER answer_no_update" if sqlite else "ALTER TABLE answer DISABLE TRIGGER USER"))
    op.execute(sa.text("UPDATE answer SET team = (SELECT c.team FROM account c WHERE c.id = answer.account_id)"))
    op.execute(sa.text(FORBID if sqlite else "ALTER TABLE answer ENABLE TRIGGER USER"))
    for name, query in VIEWS.items():
        op.execute(sa.text(f"DROP VIEW {name}"))
        op.execute(sa.text(f"CREATE VIEW {name} AS {query}"))


def downgrade() -> None:
    raise NotImplementedError("a studio's database only goes forward; restore a backup to go back")
