"""Step 2, first half, without people: simulated labelers rank the samples of a run (paper section 3.4).

A training prompt is ranked by a few labelers of the training group; held-out prompts by every labeler of every group,
so that agreement and the reward model's accuracy can be measured on both. People rank in the studio instead, which
writes the same records.
"""

from __future__ import annotations

import random

from tutelage import labelers, workflows
from tutelage.records import MAX_RANKED, Prompt, Ranking, Response, UserError, from_dict, write_records
from tutelage.run import Run
from tutelage.settings import RankConfig

FILE = "rankings.jsonl"


def rank(config: RankConfig) -> Run:
    """Run the stage. Writes rankings.jsonl."""
    run = Run.start(config.out, "rankings", config, parents={"samples": config.samples})
    if run.finished:
        return run
    workflow = workflows.load(config.workflow)
    groups = {g: labelers.labelers(workflow.rubric, g, seed=config.seed) for g in ("training", "heldout")}
    rankings: list[Ranking] = []
    for prompt, responses in sampled(config.samples, workflow.prompts):
        if not 2 <= len(responses) <= MAX_RANKED:
            raise UserError(
                f"{config.samples}: prompt {prompt.id!r} has {len(responses)} responses; a ranking needs 2 to"
                f" {MAX_RANKED}, so sample with another --k"
            )
        panel = groups["training"]
        if prompt.split == "train":
            chosen = random.Random(f"{config.seed}/{prompt.id}").sample(panel, min(config.labelers, len(panel)))
        else:
            chosen = [*panel, *groups["heldout"]]
        rankings += labelers.rank_by(chosen, prompt, responses, rubric=workflow.rubric, seed=config.seed)
    write_records(run.path / FILE, rankings)
    run.finish(rankings=len(rankings), comparisons=sum(len(r.pairs()) for r in rankings))
    return run


def sampled(samples: str | object, prompts: tuple[Prompt, ...]) -> list[tuple[Prompt, list[Response]]]:
    """Each prompt of a samples run with its responses. Raises UserError for a prompt the workflow does not have."""
    source = Run.open(str(samples), "samples")
    known = {p.id: p for p in prompts}
    grouped: dict[str, list[Response]] = {}
    for row in source.rows("samples.jsonl"):
        if row["prompt_id"] not in known:
            raise UserError(
                f"{source.path / 'samples.jsonl'}: prompt {row['prompt_id']!r} is not one of the workflow's"
            )
        grouped.setdefault(row["prompt_id"], []).append(from_dict(Response, row["response"]))
    return [(known[i], responses) for i, responses in grouped.items()]
