"""Tutelage: from a model that continues text to one that follows instructions, by human feedback."""

__version__ = "0.1.0"
