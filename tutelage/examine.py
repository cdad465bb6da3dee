"""`tutelage doctor RUN`: the checks that fit a run, on its own data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from tutelage import doctor, ppo, reward, sft
from tutelage.config import load as load_config
from tutelage.data.batches import pack, slices
from tutelage.doctor import Check, Pair
from tutelage.model import Lm, load
from tutelage.records import UserError
from tutelage.reward import Element
from tutelage.run import Run
from tutelage.scalar import ScalarHead, load_scalar
from tutelage.settings import PpoConfig, RewardConfig, SftConfig

FEW = 8  # ranked prompts, or demonstrations, that a check reads


def examine(path: Path) -> list[Check]:
    """All checks of an sft, reward or ppo run. Raises UserError for other folders."""
    run = Run.open(path, "sft", "reward", "ppo")
    return {"sft": _sft, "reward": _reward, "ppo": _ppo}[run.kind](run)


def _sft(run: Run) -> list[Check]:
    config = load_config(SftConfig, run.path / "config.json")
    lm = load(run.path, trainable_layers=config.trainable_layers, dtype=config.dtype)
    pairs = sft.encode(lm, config, "train")
    return [*doctor.sft_checks(lm, pairs), doctor.end_state(lm, pairs[:FEW])]


def _reward(run: Run) -> list[Check]:
    config = load_config(RewardConfig, run.path / "config.json")
    lm = load(config.model, trainable_layers=config.trainable_layers, dtype=config.dtype)
    network = load_scalar(run.intact("model"), lm)
    shown = reward.elements_of(lm, config, reward.read_rankings(config, train=True)[:FEW])
    if not shown:
        raise UserError(f"{config.rankings}: no rankings in the train split")
    pairs = [(e.prompt, r) for e in shown for r in e.responses]
    few = doctor.ragged(pairs[:4])
    held = reward.elements_of(lm, config, reward.read_rankings(config, train=False), needed=False)
    return [
        doctor.response_only(pack(few, lm.pad, lm.device), few),
        doctor.padding(lm, few),
        doctor.one_template(lm),
        _open_ends(lm, shown),
        doctor.end_state(lm, pairs[:FEW]),
        _shift(run, network),
        _order(run, lm, network, held),
        *_zero(lm, config, network),
    ]


def _ppo(run: Run) -> list[Check]:
    config = load_config(PpoConfig, run.path / "config.json")
    nets = ppo.networks(config)
    prompts = [ids for _, ids in ppo.prompts_of(nets.lm, config, "train")]
    sink = doctor.end_state(nets.lm, [(ids, []) for ids in prompts[:FEW]])
    return [*doctor.ppo_checks(nets, config, prompts), sink]


def _open_ends(lm: Lm, elements: Sequence[Element]) -> Check:
    """A response that was cut has no end token in the reward model's input, one that ended has it."""
    both = [
        (ids[-1] == lm.eos, response.ended)
        for element in elements
        for ids, response in zip(element.responses, element.rankings[0].responses, strict=True)
    ]
    wrong = sum(closed != ended for closed, ended in both)
    return Check(
        "open ends",
        wrong == 0,
        f"{wrong} of {len(both)} responses are closed though cut, or open though ended",
        "an end token was forced onto cut text or left off: the model would score another ending than PPO's",
    )


def _shift(run: Run, network: ScalarHead) -> Check:
    """Shift and scale on disk are those that the run's result names."""
    names = ("bias", "scale")
    found, kept = ([float(values[n]) for n in names] for values in (network.state_dict(), run.result))
    return Check(
        "saved shift",
        all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(found, kept, strict=True)),
        f"bias {found[0]:.4f} and scale {found[1]:.4f}, the run measured {kept[0]:.4f} and {kept[1]:.4f}",
        "scalar.json was lost, changed or written before the shift was set",
    )


def _order(run: Run, lm: Lm, network: ScalarHead, held: Sequence[Element]) -> Check:
    """Held-out pairs score as far apart as pairs.jsonl says they did before the model was saved."""
    kept = [abs(float(row["difference"])) for row in run.rows("pairs.jsonl")]
    found: list[float] = []
    for element in held[:FEW]:
        scores = _scores(lm, network, [(element.prompt, r) for r in element.responses])
        found += [abs(scores[i] - scores[j]) for ranking in element.rankings for i, j in ranking.pairs()]
    gap = max((abs(a - b) for a, b in zip(found, kept, strict=False)), default=0.0)
    return doctor.same_scores(gap, limit=0.25 if lm.top.head.dtype == torch.bfloat16 else 1e-2)


def _zero(lm: Lm, config: RewardConfig, network: ScalarHead) -> list[Check]:
    """Demonstrations score 0 on average, where the run was given some (paper section 3.5)."""
    pairs = [(e.prompt, e.responses[0]) for e in reward.written_by_people(lm, config)]
    if not pairs:
        return []
    mean = statistics.fmean(_scores(lm, network, pairs))
    return [
        Check(
            "demonstrations at 0",
            abs(mean) < (0.05 if lm.top.head.dtype == torch.bfloat16 else 1e-3),
            f"they score {mean:+.4f} on average",
            "the reward model's shift was lost, or its weights are not those that were shifted",
        )
    ]


@torch.no_grad()
def _scores(lm: Lm, network: ScalarHead, pairs: Sequence[Pair]) -> list[float]:
    found: list[float] = []
    for part in slices(len(pairs), 48):
        batch = pack([pairs[i] for i in part], lm.pad, lm.device)
        hidden = network.top(lm.lower(batch.ids, batch.segments), batch.segments)
        found += network.read(batch.at_last(hidden)).tolist()
    return found
