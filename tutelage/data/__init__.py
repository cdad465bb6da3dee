"""Data in: collection rules (`prompts`, `pii`) and importers (`sources`), both without torch; then
tensors."""
