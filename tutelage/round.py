"""One turn of a studio's loop: from what people wrote and ranked to a new policy, and to what they rank next.

    demonstrations -> sft -> reward (rankings) -> ppo -> answers to judge blind, responses to rank next -> report

Every round starts from the base model again, with all demonstrations and rankings so far. Without rankings the policy
is the SFT model. Each stage is a page with a run folder of its own, so a stopped round goes on where it was; only
round.json, written last, says that the round is whole.

A reward model that is not shown to be better than guessing stops the round before PPO: question.json says why, and the
round goes on when a person has decided (`accept_weak_reward`, `collect_more`).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tutelage import presets, roundfolder, roundtime
from tutelage.data.text import write_documentation
from tutelage.pipeline import Fields, Stages
from tutelage.presets import Recipe
from tutelage.records import Prompt, UserError, read_records, write_json, write_text
from tutelage.roundfolder import Plan
from tutelage.roundtime import Work
from tutelage.run import Run
from tutelage.settings import PpoConfig, RewardConfig, RoundConfig, SampleConfig, SftConfig
from tutelage.studio.project import Settings, open_project

OVERSAMPLED = 2
"""Prompts answered for each that is chosen for the next ranking, where a reward model can choose."""


@dataclass
class Round:
    """What the stages of one round share."""

    config: RoundConfig
    number: int
    out: Path
    settings: Settings
    recipe: Recipe
    plan: Plan
    stages: Stages
    work: Work
    optimises: bool
    """Whether PPO trains: with rankings, and a reward model that is good enough or was accepted all the same."""

    def common(self, **fields: Any) -> Fields:
        """Fields that every stage gets, and `fields` over them."""
        # What somebody wrote too long must not stop the round of all others.
        return {"dtype": self.config.dtype, "seed": self.config.seed, "drop_long": True} | fields

    def enter(self, name: str, line: str) -> None:
        """Announce a stage, in the log and to whoever watches the folder."""
        self.stages.enter(name, line)
        found = {"stage": name, "line": line, "place": self.stages.done, "of": self.stages.total}
        found |= {"at": time.time(), "done": roundtime.done(self.out, name, self.work[name]["steps"])}
        write_json(self.out / roundfolder.STAGE, found | {"spent": self.stages.seconds, "plan": self.work})

    @property
    def policy(self) -> str:
        """The run folder of the newest policy."""
        return "ppo_ptx" if self.optimises else "sft"

    @property
    def before(self) -> tuple[str, Path] | None:
        """The policy in use before this round: its name in answers, and where it is; None for the base model."""
        return roundfolder.in_use(self.config.folder, self.number)

    @property
    def newest(self) -> str:
        """The new policy's name in answers."""
        return f"round-{self.number}/{self.policy}"


def train(config: RoundConfig) -> dict[str, Any]:
    """Train a round, or go on with one; returns what round.json holds, or question.json where it stopped to ask.
    Raises UserError."""
    settings = open_project(config.folder).settings
    number = config.number or _latest(config.folder)
    try:
        with FileLock(config.folder / "runs" / ".lock", blocking=False):
            return _train(config, settings, number)
    except Timeout:
        raise UserError(f"{config.folder}: another round of this studio is training") from None


def _train(config: RoundConfig, settings: Settings, number: int) -> dict[str, Any]:
    out = roundfolder.round_folder(config.folder, number)
    done = roundfolder.read_json(out / roundfolder.FINISHED)
    if done is None:
        _keep(config, number)
        return _turn(_opened(config, settings, number))
    if config.keep == "auto":
        return done
    roundfolder.choose(out, config.keep, "a person", f"--keep {config.keep}")
    if done["next"].get("policy") == str(done["newest"] if config.keep == "new" else done["previous"] or "base"):
        return done
    return ask_again(_opened(config, settings, number), done)


def _keep(config: RoundConfig, number: int) -> None:
    """Record which policy of the round before stays in use, where that was said."""
    if config.keep != "auto" and (found := roundfolder.previous(config.folder, number)):
        out = roundfolder.round_folder(config.folder, found[0])
        roundfolder.choose(out, config.keep, "a person", f"--keep {config.keep}")


def _opened(config: RoundConfig, settings: Settings, number: int) -> Round:
    out = roundfolder.round_folder(config.folder, number)
    plan = roundfolder.plan(out, config.groups, OVERSAMPLED * config.next_prompts)
    total = 4 + (2 + bool(plan.folds) if plan.rankings else 0)
    recipe, stages = recipe_of(settings.preset, plan), Stages(out, {}, total)
    before = roundfolder.in_use(config.folder, number)
    work = roundtime.work(
        plan,
        recipe,
        k=config.k or settings.k,
        judged=min(config.judge_prompts, len(read_records(Prompt, plan.heldout))),
        models=2 + (before is not None) + (plan.rankings is not None),
        response_tokens=settings.max_response_tokens,
    )
    return Round(config, number, out, settings, recipe, plan, stages, work, optimises=plan.rankings is not None)


def _turn(one: Round) -> dict[str, Any]:
    config, plan = one.config, one.plan
    (one.out / roundfolder.QUESTION).unlink(missing_ok=True)
    imitated = imitate(one)
    judged = learn_reward(one, imitated) if plan.rankings else None
    folds = check_reward(one, imitated) if plan.folds else []
    trust = trust_in(one, judged, folds) if judged is not None else None
    if trust is not None and trust["weak"] and not config.accept_weak_reward:
        if not config.collect_more:
            return ask(one, trust)
        one.optimises = False
        one.stages.total -= 1
        del one.work["ppo_ptx"]
    if judged is not None and one.optimises:
        optimise(one, imitated, judged)
    answers = answer_held_out(one)
    scores = score(one, answers, one.plan.heldout) if judged is not None else None
    told = tell(one, trust, answers, scores)
    pool = answer_pool(one, told["verdict"]["keep"])
    if scores is not None:
        scores |= score(one, [pool], one.plan.pool)
    return conclude(one, told, answers, pool, scores)


def _latest(folder: Path) -> int:
    found = [n for n in roundfolder.numbers(folder) if (roundfolder.round_folder(folder, n) / "data").is_dir()]
    if not found:
        raise UserError(f"{folder}: no round has data yet (runs/round-1/data); start one in the studio")
    return found[-1]


def recipe_of(preset: str, plan: Plan) -> Recipe:
    """The recipe a studio's settings name. Raises UserError for an unknown one."""
    if preset == "studio":
        return presets.studio(plan.n_demonstrations, plan.n_ranked)
    others = {"small": presets.small, "paper": presets.paper}
    if preset not in others:
        raise UserError(f"project.json: no preset {preset!r}; one of studio, {', '.join(others)}")
    return others[preset]()


# ---- the stages ------------------------------------------------------------------------------------------------


def imitate(one: Round) -> Run:
    """Step 1: SFT from the base model, on all demonstrations."""
    from tutelage import sft

    one.enter("sft", f"imitate {one.plan.n_demonstrations} demonstrations (SFT)")
    fields = one.common(model=one.settings.model, demonstrations=one.plan.demonstrations, out=one.out / "sft")
    run = sft.train(SftConfig(**fields | one.recipe.sft))
    one.stages.leave(run.info["seconds"])
    return run


def learn_reward(one: Round, imitated: Run) -> Run:
    """Step 2: the reward model, on the rankings of the chosen groups."""
    from tutelage import reward

    comparisons = one.plan.trained_on["rankings"]["comparisons"]
    one.enter("reward", f"train the reward model on {comparisons} comparisons")
    run = reward.train(_reward_config(one, imitated, one.plan.rankings, one.out / "reward"))
    one.stages.leave(run.info["seconds"])
    return run


def check_reward(one: Round, imitated: Run) -> list[Run]:
    """Reward models that each left out a part of the prompts: how right they are there. Only the pairs are kept."""
    from tutelage import reward

    one.enter("folds", f"check the reward model: {len(one.plan.folds)} others, each without a part of the prompts")
    runs, seconds = [], 0.0
    for rankings in one.plan.folds:
        run = reward.train(_reward_config(one, imitated, rankings, one.out / "folds" / rankings.stem))
        shutil.rmtree(run.model, ignore_errors=True)
        runs.append(run)
        seconds += run.info["seconds"]
    one.stages.leave(seconds)
    return runs


def _reward_config(one: Round, imitated: Run, rankings: Path | None, out: Path) -> RewardConfig:
    fields = one.common(model=str(imitated.path), rankings=rankings, out=out, groups=one.plan.groups)
    return RewardConfig(**fields | {"demonstrations": one.plan.demonstrations} | one.recipe.reward)


def trust_in(one: Round, judged: Run, folds: list[Run]) -> dict[str, Any]:
    """What is known of the reward model's accuracy, and, as "weak", why it should not be optimised against ("" where it
    may be)."""
    from tutelage import roundresult

    found = roundresult.accuracy(judged, folds, one.plan)
    return found | {"weak": roundresult.weakness(found)}


def ask(one: Round, trust: dict[str, Any]) -> dict[str, Any]:
    """Write question.json and stop: whether to go on with this reward model is a person's decision."""
    from tutelage.roundresult import ADVICE

    question = {"round": one.number, "question": f"{trust['weak']} {ADVICE}", "reward_model": trust}
    write_json(one.out / roundfolder.QUESTION, question)
    return question


def optimise(one: Round, imitated: Run, judged: Run) -> None:
    """Step 3: PPO-ptx from the SFT model against the reward model."""
    from tutelage import ppo

    one.enter("ppo_ptx", "optimise the policy against the reward model (PPO-ptx)")
    text, _ = write_documentation(one.config.folder / "runs" / "text")
    fields = one.common(policy=imitated.path, reward=judged.path, prompts=one.plan.prompts, out=one.out / "ppo_ptx")
    fields |= {"pretraining": text, "max_response_tokens": one.settings.max_response_tokens}
    run = ppo.train(PpoConfig(**fields | one.recipe.ppo))
    one.stages.leave(run.info["seconds"])


def sources(one: Round) -> dict[str, str]:
    """Every model that is compared, by its name in answers, oldest first, and where it is."""
    found = {"base": one.settings.model}
    if one.before is not None:
        found[one.before[0]] = str(one.before[1])
    names = dict.fromkeys(("sft", one.policy))
    return found | {f"round-{one.number}/{name}": str(one.out / name) for name in names}


def answer_held_out(one: Round) -> list[Run]:
    """Base, old policy, SFT and new policy answer held-out prompts, once each, at temperature 1."""
    prompts = read_records(Prompt, one.plan.heldout)
    count = min(len(prompts), one.config.judge_prompts)
    one.enter("answers", f"old and new policy answer {count} held-out prompts")
    runs = []
    for name, source in sources(one).items() if prompts else ():
        out = one.out / "answers" / name.replace("/", "-")
        runs.append(_sample(one, source, one.plan.heldout, out, name, k=1, limit=count, temperatures=(1.0,)))
    one.stages.leave(sum(run.info["seconds"] for run in runs))
    return runs


def answer_pool(one: Round, keep: str) -> Run:
    """The policy that stays in use answers the prompts of which the next ones to rank are chosen, K responses each."""
    prompts = len(read_records(Prompt, one.plan.pool))
    count = prompts if one.plan.rankings else min(prompts, one.config.next_prompts)
    k = one.config.k or one.settings.k
    one.enter("next", f"the {keep} policy gives {k} responses to {count} prompts, to be ranked next")
    name = one.newest if keep == "new" else one.before[0] if one.before else "base"
    source = sources(one)[name]
    # Another seed each round: a prompt that comes back gets other responses.
    seed = one.config.seed + 1000 * one.number
    out = one.out / ("samples" if keep == "new" else "samples-old")
    run = _sample(one, source, one.plan.pool, out, name, k=k, limit=count, seed=seed)
    one.stages.leave(run.info["seconds"])
    return run


def _sample(one: Round, model: str, prompts: Path, out: Path, name: str, **changes: Any) -> Run:
    from tutelage import sample

    fields = one.common(model=model, prompts=prompts, out=out, name=name, split="all")
    fields |= {"max_response_tokens": one.settings.max_response_tokens}
    return sample.sample(SampleConfig(**fields | one.recipe.sample | changes))


# ---- what came of it -------------------------------------------------------------------------------------------


def score(one: Round, runs: list[Run], path: Path) -> dict[tuple[str, str], float]:
    """The reward model's scores of what samples runs answered to the prompts of a file, by (prompt id, name)."""
    from tutelage import roundresult
    from tutelage.evaluate.judge import score_answers
    from tutelage.model import load
    from tutelage.scalar import load_scalar

    judged = Run.open(one.out / "reward", "reward")
    lm = load(str(one.out / "sft"), trainable_layers=judged.config()["trainable_layers"], dtype=one.config.dtype)
    network = load_scalar(judged.intact("model"), lm)
    said = roundresult.given(runs)
    prompts = [p for p in read_records(Prompt, path) if p.id in said]
    return score_answers(lm, network, prompts, said, cut=True)


def offer(one: Round, pool: Run, scores: dict[tuple[str, str], float] | None) -> dict[str, Any]:
    """Choose what people rank next and write next.jsonl; returns how it was chosen."""
    from tutelage import roundresult

    offered = roundresult.given([pool])
    asked = [p for p in read_records(Prompt, one.plan.pool) if p.id in offered]
    spread = roundresult.spreads(asked, offered, scores)
    chosen = roundfolder.most_spread(asked, spread, one.config.next_prompts) if spread else asked
    roundresult.write_items(one.out / roundfolder.NEXT, chosen, offered, spread)
    how = roundresult.chosen(chosen, len(asked), spread, one.config.k or one.settings.k)
    return how | {"policy": pool.config()["name"]}


def ask_again(one: Round, told: dict[str, Any]) -> dict[str, Any]:
    """The other policy of a finished round stays in use: it answers what is ranked next in place of the first one."""
    one.optimises = told["policy"] == "ppo_ptx"
    pool = answer_pool(one, one.config.keep)
    scores = score(one, [pool], one.plan.pool) if told["reward_model"] else None
    told |= {"next": offer(one, pool, scores)}
    write_json(one.out / roundfolder.FINISHED, told)
    return told


def tell(
    one: Round, trust: dict[str, Any] | None, answers: list[Run], scores: dict[tuple[str, str], float] | None
) -> dict[str, Any]:
    """What round.json holds, as far as it is known before the next prompts are chosen."""
    from tutelage import roundresult

    said = roundresult.given(answers)
    heldout = [p for p in read_records(Prompt, one.plan.heldout) if p.id in said]
    roundresult.write_items(one.out / roundfolder.JUDGE, heldout, said, {})
    before = one.before
    found: dict[str, Any] = {
        "round": one.number,
        "policy": one.policy,
        "newest": one.newest,
        "previous": before[0] if before else None,
        "model": one.settings.model,
        "preset": one.recipe.name,
        "seed": one.config.seed,
        "trained_on": roundresult.trained_on(one.plan, Run.open(one.out / "sft", "sft")),
        "reward_model": trust,
        "ppo": Run.open(one.out / "ppo_ptx", "ppo").result if one.optimises else None,
        "answers": roundresult.answers(heldout, said, scores),
        "score_change": roundresult.change(heldout, scores, one.newest, before[0] if before else "base"),
    }
    return found | {"verdict": asdict(roundresult.verdict(found))}


def conclude(
    one: Round, told: dict[str, Any], answers: list[Run], pool: Run, scores: dict[tuple[str, str], float] | None
) -> dict[str, Any]:
    """Write next.jsonl, policy.json, the report and, last, round.json."""
    from tutelage.roundreport import render_round

    one.enter("report", "write down what it was trained on and what changed")
    found = told | {"next": offer(one, pool, scores)}
    one.stages.leave()
    one.stages.seconds["total"] = round(sum(one.stages.seconds.values()), 1)
    found |= {"seconds": one.stages.seconds, "plan": one.work}
    roundfolder.choose(one.out, told["verdict"]["keep"], "the rule", told["verdict"]["sentence"])
    write_text(one.out / "report.html", render_round(one.out, found))
    write_json(one.out / roundfolder.FINISHED, found)
    return found
