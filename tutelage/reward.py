"""Step 2 of the paper: a reward model from rankings (eq. 1).

    loss = - 1/|pairs| * sum over untied pairs of log sigmoid( r(x, y_better) - r(x, y_worse) )

One prompt with its K responses is one element of the batch: K forward passes give all K(K-1)/2 comparisons, ties
dropped, and every prompt weighs the same. (Pairs shuffled as independent rows overfit: each response would take part
in K-1 updates.) The score is a linear head on the state at the last response token. With `mean_share`, that share of
the loss compares means of the head's output over all response tokens (a departure: every token learns then, and the
value network starts from outputs that were meant for all of them). Afterwards the bias is set so that demonstrations
score 0 on average, and the scores are scaled to unit spread, so that one beta suits any reward model (a departure: the
paper shifts only; its predecessor lm-human-preferences did both).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.data.batches import Lowered, Packed, slices
from tutelage.doctor import check_saved_order, warn_end_state
from tutelage.limits import Limits, each
from tutelage.loop import Progress, environment, load_tensors, need_finite, save_tensors, shuffled
from tutelage.losses import ranking_loss
from tutelage.model import Lm, load
from tutelage.optim import MasterAdamW, cosine
from tutelage.records import Demonstration, Ranking, UserError, read_placed
from tutelage.run import Run
from tutelage.scalar import ScalarHead, need_classifier, save_scalar
from tutelage.settings import RewardConfig

Placed = tuple[str, Ranking]
"""Where a ranking stands (file and line), and the ranking."""

SCALED = 100  # prompts, evenly spread, whose responses the unit of the scores is taken from


@dataclass(frozen=True, slots=True)
class Element:
    """One prompt, its K responses, and every ranking of those K: one element of the batch."""

    prompt: list[int]
    responses: list[list[int]]
    rankings: list[Ranking]


def train(config: RewardConfig) -> Run:
    """Run or resume the stage; returns the finished run."""
    run = Run.start(config.out, "reward", config, parents=_parents(config))
    if run.finished:
        return run
    lm = load(config.model, trainable_layers=config.trainable_layers, dtype=config.dtype)
    need_classifier(lm)
    run.computes(**environment(lm))
    elements = elements_of(lm, config, read_rankings(config, train=True))
    held = elements_of(lm, config, read_rankings(config, train=False), needed=False)
    written = written_by_people(lm, config)
    elements = [e for e in elements if any(r.pairs() for r in e.rankings)]
    if not elements:
        raise UserError(
            f"{config.rankings}: no untied comparison by {', '.join(config.groups)} labelers in the train split"
        )
    warn_end_state(lm, [(e.prompt, r) for e in elements[:4] for r in e.responses])
    lowered = _lowered(lm, elements)
    network = ScalarHead(lm.top.twin(), seed=config.seed)
    body = MasterAdamW(network.top.parameters(), weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    head = MasterAdamW([network.score], clip_norm=config.clip_norm)
    per_epoch = len(slices(len(elements), config.batch))
    total = per_epoch * config.epochs
    start = _resume(run, body, head)
    progress = Progress("reward", total, start)

    for step in range(start, total):
        # 1. The step's prompts, each with all its responses.
        epoch, index = divmod(step, per_epoch)
        order = shuffled(len(elements), config.seed, "reward", epoch)
        chosen = order[index * config.batch : (index + 1) * config.batch]
        batch = [elements[i] for i in chosen]

        # 2. K forward passes per prompt, packed into rows; all pairs from those K scores.
        packed, hidden = _states(network, lowered, elements, chosen)
        scores = _by_element(network.read(packed.at_last(hidden)), batch)
        loss = _loss(scores, batch)
        if config.mean_share:
            means = _by_element(packed.mean_of(network.read(hidden)), batch)
            loss = (1 - config.mean_share) * loss + config.mean_share * _loss(means, batch)
        need_finite("reward loss", loss.item(), step)
        loss.backward()

        # 3. One update.
        norm = body.step(cosine(step, total, config.lr))
        head.step(cosine(step, total, config.head_lr))
        right = [
            float(s[i] > s[j]) for s, e in zip(scores, batch, strict=True) for r in e.rankings for i, j in r.pairs()
        ]
        row = {"step": step, "epoch": epoch, "loss/train": loss.item(), "accuracy/train": sum(right) / len(right)}
        run.log("metrics.jsonl", row | {"lr": cosine(step, total, config.lr), "grad_norm": norm})
        if (step + 1) % max(1, total // 8) == 0:
            tensors = body.state("body") | head.state("head")
            run.checkpoint(step + 1, lambda f, t=tensors: save_tensors(f / "state.safetensors", t), {})
        progress.advance(note=f"loss {loss.item():.3f}")

    network.requires_grad_(False)
    _set_bias_and_scale(config, network, lowered, elements, written)
    result = _measure(run, lm, config, network, held)
    save_scalar(lm, network, run.model)
    check_saved_order(lm, network, run.model, [(e.prompt, r) for e in elements[:8] for r in e.responses])
    run.finish(**result, n_prompts=len(elements), bias=float(network.bias), scale=float(network.scale))
    return run


def _parents(config: RewardConfig) -> dict[str, Path]:
    parents = {"model": Path(config.model), "rankings": config.rankings}
    return parents | ({"demonstrations": config.demonstrations} if config.demonstrations else {})


def read_rankings(config: RewardConfig, *, train: bool) -> list[Placed]:
    """The rankings of the chosen groups that train, or all those that measure, each with where it stands."""
    rows = read_placed(Ranking, config.rankings)
    if train:
        return [(where, r) for where, r in rows if r.split == "train" and r.group in config.groups]
    return [(where, r) for where, r in rows if r.split != "train"]


def elements_of(lm: Lm, config: RewardConfig, rankings: Sequence[Placed], *, needed: bool = True) -> list[Element]:
    """Rankings of the same responses to the same prompt become one element, encoded once."""
    limits = Limits(lm, config.max_prompt_tokens, config.max_response_tokens)
    grouped: dict[tuple[str, tuple[str, ...]], list[Placed]] = {}
    for where, ranking in rankings:
        ids = tuple(sorted(r.id for r in ranking.responses))
        grouped.setdefault((ranking.prompt, ids), []).append((where, _in_order(ranking)))

    def one(same: list[Placed]) -> Element:
        where, first = same[0]
        place = f"{where}: prompt {first.prompt_id!r}"
        pairs = [limits.pair(first.prompt, r.text, place, ended=r.ended) for r in first.responses]
        return Element(pairs[0][0], [response for _, response in pairs], [ranking for _, ranking in same])

    return each(list(grouped.values()), one, drop_long=config.drop_long, what="compared prompts", needed=needed)


def written_by_people(lm: Lm, config: RewardConfig) -> list[Element]:
    """The demonstrations whose mean score becomes 0; none where the run was given none."""
    if config.demonstrations is None:
        return []
    limits = Limits(lm, config.max_prompt_tokens, config.max_response_tokens)

    def one(placed: tuple[str, Demonstration]) -> Element:
        where, record = placed
        prompt, response = limits.pair(record.prompt, record.response, f"{where}: demonstration {record.id!r}")
        return Element(prompt, [response], [])

    shown = [placed for placed in read_placed(Demonstration, config.demonstrations) if placed[1].split == "train"]
    if not shown:
        raise UserError(f"{config.demonstrations}: no demonstrations in the train split")
    return each(shown, one, drop_long=config.drop_long, what="demonstrations")


def _in_order(ranking: Ranking) -> Ranking:
    """The ranking with its responses sorted by id, so that rankings shown in different orders line up."""
    order = sorted(range(len(ranking.ranks)), key=lambda i: ranking.responses[i].id)
    return dataclasses.replace(
        ranking,
        responses=tuple(ranking.responses[i] for i in order),
        ranks=tuple(ranking.ranks[i] for i in order),
        ratings=tuple(ranking.ratings[i] for i in order) if ranking.ratings else (),
    )


def _lowered(lm: Lm, elements: Sequence[Element]) -> Lowered:
    return Lowered(lm, [(e.prompt, r) for e in elements for r in e.responses])


def _states(
    network: ScalarHead, lowered: Lowered, elements: Sequence[Element], chosen: Sequence[int]
) -> tuple[Packed, Tensor]:
    """The responses of the chosen elements in their order, packed, and the network's states (N, T, d)."""
    first = [0, *itertools.accumulate(len(e.responses) for e in elements)]
    packed, hidden = lowered.batch([n for i in chosen for n in range(first[i], first[i + 1])])
    return packed, network.top(hidden, packed.segments)


def _by_element(values: Tensor, elements: Sequence[Element]) -> list[Tensor]:
    """One value per response, (K,) for each element."""
    return list(values.split([len(e.responses) for e in elements]))


def _scores(network: ScalarHead, lowered: Lowered, elements: Sequence[Element], chosen: Sequence[int]) -> list[Tensor]:
    """Scores (K,) of the responses of each chosen element."""
    packed, hidden = _states(network, lowered, elements, chosen)
    return _by_element(network.read(packed.at_last(hidden)), [elements[i] for i in chosen])


def _in_parts(
    network: ScalarHead, lowered: Lowered, elements: Sequence[Element], which: Sequence[int], size: int
) -> list[Tensor]:
    """Scores of many elements, `size` of them at a time."""
    return [
        s for part in slices(len(which), size) for s in _scores(network, lowered, elements, [which[i] for i in part])
    ]


def _loss(scores: Sequence[Tensor], batch: Sequence[Element]) -> Tensor:
    """Mean over prompts, and over the rankings of each, of the loss over all its untied pairs."""
    return torch.stack([_element_loss(s, e) for s, e in zip(scores, batch, strict=True)]).mean()


def _element_loss(scores: Tensor, element: Element) -> Tensor:
    losses = [ranking_loss(scores, pairs) for r in element.rankings if (pairs := r.pairs())]
    return torch.stack(losses).mean()


@torch.no_grad()
def _set_bias_and_scale(
    config: RewardConfig, network: ScalarHead, lowered: Lowered, elements: Sequence[Element], written: Sequence[Element]
) -> None:
    """Unit spread over training responses, then demonstrations at 0 on average (paper section 3.5, last lines)."""
    some = list(range(0, len(elements), max(1, len(elements) // SCALED)))
    raw = torch.cat(_in_parts(network, lowered, elements, some, config.batch))
    centre = raw.mean()
    if written:
        own = _lowered(lowered.lm, written)
        centre = torch.cat(_in_parts(network, own, written, range(len(written)), 48)).mean()
    if config.unit_scale:
        network.scale.fill_(1 / float(raw.std(correction=0).clamp_min(1e-6)))
    network.bias.copy_(centre)


@torch.no_grad()
def _measure(run: Run, lm: Lm, config: RewardConfig, network: ScalarHead, held: Sequence[Element]) -> dict[str, Any]:
    """Score every held-out comparison; pairs.jsonl keeps each one, the result the accuracies by labeler group."""
    (run.path / "pairs.jsonl").unlink(missing_ok=True)
    right: dict[str, list[float]] = {}
    spread: list[float] = []
    lowered = _lowered(lm, held)
    for part in slices(len(held), config.batch):
        for scores, element in zip(_scores(network, lowered, held, part), [held[i] for i in part], strict=True):
            spread.extend(scores.tolist())
            for ranking in element.rankings:
                for i, j in ranking.pairs():
                    difference = float(scores[i] - scores[j])
                    group = "training" if ranking.group in config.groups else ranking.group
                    right.setdefault(group, []).append(0.5 if difference == 0 else float(difference > 0))
                    # Either may be named first: the sign is drawn from the ids, so that calibration sees both.
                    flip = ranking.responses[i].id > ranking.responses[j].id
                    pair: dict[str, Any] = {"prompt_id": ranking.prompt_id, "group": group, "labeler": ranking.labeler}
                    pair |= {"difference": -difference if flip else difference, "preferred": 0.0 if flip else 1.0}
                    run.log("pairs.jsonl", pair)
    accuracy = {group: sum(values) / len(values) for group, values in sorted(right.items())}
    counts = {group: len(values) for group, values in sorted(right.items())}
    std = float(torch.tensor(spread).std(correction=0)) if spread else 0.0
    return {"accuracy": accuracy, "n_pairs": counts, "score_std": std}


def _resume(run: Run, body: MasterAdamW, head: MasterAdamW) -> int:
    saved = run.latest()
    if saved is None:
        return 0
    tensors = load_tensors(saved[0] / "state.safetensors")
    body.restore(tensors, "body")
    head.restore(tensors, "head")
    return int(saved[1]["step"])
