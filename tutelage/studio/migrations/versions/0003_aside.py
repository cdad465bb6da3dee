"""Prompts and answers can be set aside. The views show what training is made of: they leave out what is.

A migration stands by itself: what it does may not change when the code does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

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
        SELECT a.id, p.id AS prompt_id, p.text AS prompt, a.body AS body, c.name AS labeler, c.team AS team, p.split,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind = 'demonstrate' AND NOT t.screening AND {KEPT}
    """,
    "rankings": f"""
        SELECT a.id, t.name AS batch, t.kind, p.id AS prompt_id, p.text AS prompt, i.responses AS responses,
               a.body AS body, c.name AS labeler, c.team AS team, p.split, a.mode, a.form, a.order_seed, a.extra,
               a.number AS revision, a.seconds, a.created
        FROM ({LATEST}) a JOIN item i ON i.id = a.item_id JOIN batch t ON t.id = i.batch_id
             JOIN prompt p ON p.id = i.prompt_id JOIN account c ON c.id = a.account_id
        WHERE t.kind IN ('compare', 'judge') AND NOT t.screening AND {KEPT}
    """,
}


def upgrade() -> None:
    op.create_table(
        "aside",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("prompt_id", sa.String(length=128), nullable=True),
        sa.Column("answer_id", sa.String(length=26), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("aside", sa.Boolean(), nullable=False),
        sa.Column("account_id", sa.String(length=26), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("(prompt_id IS NULL) <> (answer_id IS NULL)", name=op.f("ck_aside_about")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_aside_account_id")),
        sa.ForeignKeyConstraint(["answer_id"], ["answer.id"], name=op.f("fk_aside_answer_id")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name=op.f("fk_aside_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aside")),
        sa.UniqueConstraint("answer_id", "number", name=op.f("uq_aside_answer_id")),
        sa.UniqueConstraint("prompt_id", "number", name=op.f("uq_aside_prompt_id")),
    )
    for statement in triggers(op.get_bind().dialect.name):
        op.execute(sa.text(statement))
    for name, query in VIEWS.items():
        op.execute(sa.text(f"DROP VIEW {name}"))
        op.execute(sa.text(f"CREATE VIEW {name} AS {query}"))


def triggers(dialect: str) -> list[str]:
    """The statements that make the table refuse UPDATE and DELETE; the function is the first schema's."""
    if dialect == "sqlite":
        return [
            f'CREATE TRIGGER aside_no_{verb.lower()} BEFORE {verb} ON "aside" '
            "BEGIN SELECT RAISE(ABORT, 'aside is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        'CREATE TRIGGER aside_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON "aside" '
        "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
    ]


def downgrade() -> None:
    raise NotImplementedError("a studio's database only goes forward; restore a backup to go back")
