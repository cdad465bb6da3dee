"""What the rubric is made of: text measures, checks, the nine judgements, and decoys to try them on."""
