"""A finding: a factor in [0, 1] and its reason. A judgement is the product of its findings' factors."""

from __future__ import annotations

Finding = tuple[float, str]


def ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, straight between and flat beyond; either may be the larger."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))
