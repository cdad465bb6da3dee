"""Identifiers: ULIDs, 26 characters that sort by the time they were made (as simonw/llm uses them)."""

from __future__ import annotations

import secrets

from ulid import ULID

BITS = 80


def new_id(at: float) -> str:
    """A fresh id for a moment in seconds since 1970."""
    return str(ULID.from_bytes(int(at * 1000).to_bytes(6, "big") + secrets.token_bytes(BITS // 8)))
