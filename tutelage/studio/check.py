"""Whether a database is sound: its file, its references, and the counters and states that must follow from its rows."""

from __future__ import annotations

import sqlalchemy as sa

from tutelage.studio.store import Store

QUERIES = (
    """
    SELECT 'item ' || i.id || ': its counters say ' || i.held || ' held and ' || i.done || ' done, its rows say '
           || coalesce(a.held, 0) || ' and ' || coalesce(b.done, 0)
    FROM item i
    LEFT JOIN (SELECT item_id, count(*) AS held FROM assignment WHERE state = 'active' GROUP BY item_id) a
           ON a.item_id = i.id
    LEFT JOIN (SELECT item_id, count(*) AS done FROM answer WHERE number = 1 AND NOT extra GROUP BY item_id) b
           ON b.item_id = i.id
    WHERE i.held <> coalesce(a.held, 0) OR i.done <> coalesce(b.done, 0) OR i.free <> (i.held + i.done < i.quota)
    """,
    """
    SELECT 'assignment ' || s.id || ': is submitted, but there is no answer'
    FROM assignment s LEFT JOIN answer a ON a.item_id = s.item_id AND a.account_id = s.account_id
    WHERE s.state = 'submitted' AND a.id IS NULL
    """,
    """
    SELECT 'answer ' || a.id || ': its assignment is not submitted'
    FROM answer a LEFT JOIN assignment s ON a.item_id = s.item_id AND a.account_id = s.account_id
    WHERE s.id IS NULL OR s.state <> 'submitted'
    """,
    """
    SELECT 'item ' || item_id || ': the revisions of one labeler''s answer are not numbered 1 to ' || count(*)
    FROM answer GROUP BY item_id, account_id HAVING max(number) <> count(*) OR min(number) <> 1
    """,
    """
    SELECT 'answer ' || a.id || ': is not in the audit trail'
    FROM answer a LEFT JOIN action t ON t.about = a.id WHERE t.id IS NULL
    """,
    """
    SELECT 'batch ' || id || ': screens labelers, but asks for judging' FROM batch
    WHERE screening AND kind NOT IN ('demonstrate', 'compare')
    """,
    """
    SELECT 'account ' || id || ': its standing is ' || standing || ', which is none there is' FROM account
    WHERE standing NOT IN ('unscreened', 'candidate', 'admitted', 'declined')
    """,
    """
    SELECT 'account ' || c.id || ': was ' || c.standing || ', but the audit trail does not say so'
    FROM account c LEFT JOIN action t
         ON t.about = c.id AND t.what = CASE c.standing WHEN 'admitted' THEN 'admit' ELSE 'decline' END
    WHERE c.standing IN ('admitted', 'declined') AND t.id IS NULL
    """,
    """
    SELECT 'grade ' || g.id || ': is not of a demonstration that was written for screening'
    FROM grade g JOIN answer a ON a.id = g.answer_id JOIN item i ON i.id = a.item_id JOIN batch b ON b.id = i.batch_id
    WHERE NOT b.screening OR b.kind <> 'demonstrate'
    """,
    """
    SELECT 'grade ' || g.id || ': was given by the one who wrote the answer'
    FROM grade g JOIN answer a ON a.id = g.answer_id WHERE g.account_id = a.account_id
    """,
    """
    SELECT 'answer ' || answer_id || ': the revisions of one person''s grade are not numbered 1 to ' || count(*)
    FROM grade GROUP BY answer_id, account_id HAVING max(number) <> count(*) OR min(number) <> 1
    """,
    """
    SELECT 'account ' || account_id || ': the revisions of what it can judge are not numbered 1 to ' || count(*)
    FROM topic GROUP BY account_id HAVING max(number) <> count(*) OR min(number) <> 1
    """,
    """
    SELECT 'grade ' || g.id || ': is not in the audit trail'
    FROM grade g LEFT JOIN action t ON t.about = g.id WHERE t.id IS NULL
    """,
)
"""Each gives a line for every row that is wrong."""


def check(store: Store) -> list[str]:
    """What is wrong with the database, a line each; empty when nothing is."""
    problems: list[str] = []
    with store.read() as tx:
        if store.sqlite:
            problems += [str(r[0]) for r in tx.exec_driver_sql("PRAGMA integrity_check") if r[0] != "ok"]
            problems += [
                f"{r[0]}: row {r[1]} refers to a missing {r[2]}" for r in tx.exec_driver_sql("PRAGMA foreign_key_check")
            ]
        for query in QUERIES:
            problems += tx.execute(sa.text(query)).scalars()
    return problems
