"""Numbers and times in words, for pages."""

from __future__ import annotations

import datetime as dt

from tutelage.evaluate.intervals import Interval


def when(seconds: float) -> str:
    """A moment, in UTC: people of one studio may sit in several time zones."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%d %b %Y, %H:%M UTC")


def spent(seconds: float) -> str:
    """A length of time, as coarse as it is long."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(interval: Interval | None) -> str:
    """A share with its 95% interval, in percent."""
    if interval is None:
        return "–"
    return f"{100 * interval.value:.0f}% ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 prompt", "2,000 prompts"."""
    return f"{number:,} {noun}{'s'[: number != 1]}"
