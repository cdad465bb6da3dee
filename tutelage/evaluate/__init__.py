"""Measures of models and of labelers. The statistics modules here read records and numbers only; no torch."""
