"""Screening (the paper's appendix B.1): candidates, batches that screen them, grades, what they say of themselves.

Accounts that are there were never screened, batches that are there screen nobody. The views leave screening out: what
they show is what training is made of, column by column as before. Forms learn which of their flags mean sensitive
content; what they ask stays as it was. A migration stands by itself: what it does may not change when the code does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("grade", "topic")

SENSITIVE = (
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_group",
    "harmful_advice",
    "moral_judgment",
)

LATEST = """
    SELECT a.* FROM answer a
    WHERE a.number = (SELECT max(b.number) FROM answer b WHERE b.item_id = a.item_id AND b.account_id = a.account_id)
"""

VIEWS = {
    "demonstrations": f"""
        SELECT a.id, p.id AS prompt_id, p.text AS prompt, a.body AS body, c.name AS labeler, c.team AS team, p.split,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind = 'demonstrate' AND NOT t.screening
    """,
    "rankings": f"""
        SELECT a.id, t.name AS batch, t.kind, p.id AS prompt_id, p.text AS prompt, i.responses AS responses,
               a.body AS body, c.name AS labeler, c.team AS team, p.split, a.mode, a.form, a.order_seed, a.extra,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind IN ('compare', 'judge') AND NOT t.screening
    """,
    "progress": """
        SELECT t.name AS batch, t.kind, t.overlap, count(i.id) AS items, sum(i.done) AS done, sum(i.held) AS held,
               sum(i.quota) AS wanted
        FROM batch t LEFT JOIN item i ON i.batch_id = t.id
        WHERE NOT t.screening GROUP BY t.id, t.name, t.kind, t.overlap
    """,
}


def upgrade() -> None:
    # Columns are added and no table is made anew: SQLite would not drop one that others refer to.
    op.add_column("account", sa.Column("standing", sa.String(length=16), server_default="unscreened", nullable=False))
    op.add_column("batch", sa.Column("screening", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "grade",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("answer_id", sa.String(length=26), nullable=False),
        sa.Column("account_id", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("grade >= 1 AND grade <= 7", name=op.f("ck_grade_grade")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_grade_account_id")),
        sa.ForeignKeyConstraint(["answer_id"], ["answer.id"], name=op.f("fk_grade_answer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grade")),
        sa.UniqueConstraint("answer_id", "account_id", "number", name=op.f("uq_grade_answer_id")),
    )
    op.create_table(
        "topic",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("account_id", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_topic_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_topic")),
        sa.UniqueConstraint("account_id", "number", name=op.f("uq_topic_account_id")),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    for statement in triggers(op.get_bind().dialect.name):
        op.execute(sa.text(statement))
    for name, query in VIEWS.items():
        op.execute(sa.text(f"DROP VIEW {name}"))
        op.execute(sa.text(f"CREATE VIEW {name} AS {query}"))
    mark_sensitive()


def triggers(dialect: str) -> list[str]:
    """The statements that make grades and topics refuse UPDATE and DELETE; the function is the first schema's."""
    if dialect == "sqlite":
        return [
            f'CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON "{table}" '
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        f'CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON "{table}" '
        "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        for table in APPEND_ONLY
    ]


def mark_sensitive() -> None:
    """Say in every form which of its flags mean sensitive content."""
    form = sa.table("form", sa.column("number", sa.Integer), sa.column("body", sa.JSON))
    tx = op.get_bind()
    for number, body in tx.execute(sa.select(form.c.number, form.c.body)).all():
        flags = [row | {"sensitive": row["name"] in SENSITIVE} for row in body.get("flags", [])]
        tx.execute(form.update().where(form.c.number == number).values(body=body | {"flags": flags}))


def downgrade() -> None:
    raise NotImplementedError("a studio's database only goes forward; restore a backup to go back")
