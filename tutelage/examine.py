"""`tutelage doctor RUN`: the checks that fit a run, on its own data."""

from __future__ import annotations

from pathlib import Path

from tutelage import doctor, ppo, reward, sft
from tutelage.config import load as load_config
from tutelage.doctor import Check
from tutelage.model import Lm, load, load_scalar
from tutelage.records import Ranking, UserError, read_records
from tutelage.run import Run
from tutelage.settings import PpoConfig, RewardConfig, SftConfig


def examine(path: Path) -> list[Check]:
    """All checks of an sft, reward or ppo run. Raises UserError for other folders."""
    run = Run.open(path, "sft", "reward", "ppo")
    return {"sft": _sft, "reward": _reward, "ppo": _ppo}[run.kind](run)


def _sft(run: Run) -> list[Check]:
    config = load_config(SftConfig, run.path / "config.json")
    lm = load(run.path, dtype=config.dtype)
    return _sequences(lm, sft.encode(lm, config, "train"))


def _sequences(lm: Lm, pairs: list[tuple[list[int], list[int]]]) -> list[Check]:
    few = pairs[:4]
    return [
        doctor.end_token(lm, pairs),
        doctor.response_only(lm, few),
        doctor.padding(lm, few),
        doctor.batch_split(lm, few),
        doctor.one_template(lm),
    ]


def _reward(run: Run) -> list[Check]:
    config = load_config(RewardConfig, run.path / "config.json")
    lm = load(config.model, trainable_layers=config.trainable_layers, dtype=config.dtype)
    rankings = [r for r in read_records(Ranking, config.rankings) if r.split == "train"][:8]
    if not rankings:
        raise UserError(f"{config.rankings}: no rankings in the train split")
    pairs = [(e.prompt, r) for e in reward.elements_of(lm, config, rankings) for r in e.responses]
    network = load_scalar(run.model, lm)
    checks = [doctor.response_only(lm, pairs[:4]), doctor.padding(lm, pairs[:4]), doctor.one_template(lm)]
    return [*checks, doctor.saved_order(lm, network, run.model, pairs)]


def _ppo(run: Run) -> list[Check]:
    config = load_config(PpoConfig, run.path / "config.json")
    nets = ppo.networks(config)
    prompts = [ids for _, ids in ppo.prompts_of(nets.lm, config, "train")]
    return doctor.ppo_checks(nets, config, prompts)
