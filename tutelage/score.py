"""Scores of a reward model on all compared responses of a file.

    python -m tutelage.score --reward runs/values/x/reward --rankings rankings.jsonl --out scores.json

writes {"scores": {response id: score}}. The studio runs it as a child process, for it imports no torch itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tutelage import config
from tutelage.evaluate.judge import Answers, score_answers
from tutelage.limits import Limits, each
from tutelage.model import Lm, load
from tutelage.records import Prompt, Ranking, Response, UserError, read_placed, write_json
from tutelage.run import Run
from tutelage.scalar import ScalarHead, load_scalar


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score every compared response with a reward model."""

    reward: Path
    """Reward run."""
    rankings: Path
    """JSONL of rankings: their responses are scored."""
    out: Path
    """JSON file to write: {"scores": {response id: score}}."""


def open_reward(path: Path, lm: Lm | None = None) -> tuple[Lm, ScalarHead]:
    """A finished reward run, on an open model of the same tokenizer, or on the one it was trained from."""
    run = Run.open(path, "reward")
    held = run.config()
    opened = lm if lm is not None else load(run.located(held["model"]), dtype=held["dtype"])
    return opened, load_scalar(run.intact("model"), opened)


def score_file(settings: ScoreConfig) -> dict[str, float]:
    """Score the responses of all rankings, each once; writes the file and returns {response id: score}.

    A response that the model has no room for gets none.
    """
    rows = [
        (where, ranking.prompt, r)
        for where, ranking in read_placed(Ranking, settings.rankings)
        for r in ranking.responses
    ]
    lm, network = open_reward(settings.reward)

    def one(row: tuple[str, str, Response]) -> tuple[str, Response]:
        where, prompt, response = row
        Limits(lm).pair(prompt, response.text, f"{where}: response {response.id!r}", ended=response.ended)
        return prompt, response

    asked: Answers = {}
    for prompt, response in each(rows, one, drop_long=True, what="compared responses"):
        asked.setdefault(prompt, {})[response.id] = response
    found = score_answers(lm, network, [Prompt(id=text, text=text) for text in asked], asked)
    scores = {response: round(score, 4) for (_, response), score in found.items()}
    write_json(settings.out, {"scores": scores})
    return scores


def main(words: list[str] | None = None) -> int:
    """Run from the command line; exit code 2 and one line for a mistake."""
    try:
        score_file(config.parse(ScoreConfig, sys.argv[1:] if words is None else words, "tutelage.score"))
    except UserError as error:
        return config.fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
