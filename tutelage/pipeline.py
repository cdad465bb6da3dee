"""The contents page: the paper as one function, stage after stage.

    demonstrations -> sft -> sample -> rank -> reward -> ppo -> answers -> evaluate -> report

Stages meet by run folders only, so each can be rerun, replaced, or done by a person. Running the loop again resumes
where it stopped: finished stages are skipped, a killed one continues from its checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import roundresult, workflows
from tutelage.lock import exclusive
from tutelage.loop import clock, release_memory
from tutelage.presets import Recipe
from tutelage.records import TooLong, UserError, write_json, write_records, write_text
from tutelage.run import Run
from tutelage.settings import EvaluateConfig, LoopConfig, PpoConfig, RankConfig, RewardConfig, SampleConfig, SftConfig
from tutelage.workflows import Workflow

CUE_TOKENS = 8  # at most, for what the template puts behind a prompt
NAMES = {"base": "Base", "prompted": "Base, prompted", "sft": "SFT", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}


@dataclass
class Stages:
    """Where the loop's folders are, and how long each stage took."""

    out: Path
    seconds: dict[str, float]
    total: int
    done: int = 0

    def enter(self, name: str, line: str) -> None:
        """Announce a stage."""
        self.done += 1
        self._started, self._name = time.monotonic(), name
        spent = clock(sum(self.seconds.values()))
        print(f"[{self.done}/{self.total}] {line}   ({spent} so far)", file=sys.stderr, flush=True)

    def leave(self, seconds: float | None = None) -> None:
        """Book the stage's time."""
        self.seconds[self._name] = round(seconds or time.monotonic() - self._started, 1)
        release_memory()


Fields = dict[str, Any]


@dataclass
class Loop:
    """What the stages of one loop share: its settings, its files, and the clock."""

    config: LoopConfig
    recipe: Recipe
    workflow: Workflow
    data: dict[str, Path]
    stages: Stages

    @property
    def out(self) -> Path:
        """The loop's folder."""
        return self.config.out

    def common(self, **fields: Any) -> Fields:
        """Fields that every stage gets, and `fields` over them."""
        limit = self.workflow.max_prompt_tokens + CUE_TOKENS
        every = {"max_prompt_tokens": limit, "drop_long": self.config.drop_long}
        return every | {"dtype": self.config.dtype, "seed": self.config.seed} | fields

    @property
    def longest(self) -> int:
        """Tokens after which a response is cut."""
        return self.workflow.max_response_tokens

    @property
    def trained(self) -> dict[str, Fields]:
        """The PPO runs of this loop: with the pretraining mix, and without where that was asked for."""
        plain = {"ppo": self.recipe.ppo | {"ptx_coef": 0.0}} if self.config.with_ppo else {}
        return {"ppo_ptx": self.recipe.ppo} | plain


def loop(config: LoopConfig, recipe: Recipe) -> dict[str, Any]:
    """Run the whole loop with simulated labelers; returns the summary that `summary.json` holds."""
    from tutelage.evaluate.summary import summarise
    from tutelage.report import write_report

    workflow = workflows.load(config.workflow)
    with exclusive(config.out):
        stages = Stages(config.out, {}, total=7 + config.with_ppo)
        one = Loop(config, recipe, workflow, write_data(config.out / "data", workflow), stages)

        before(one)
        imitated = imitate(one)
        ranked = rank_samples(one, imitated)
        judged = learn_reward(one, imitated, ranked)
        optimise(one, imitated, judged)
        answers = answer_held_out(one)
        judge(one, imitated, judged, answers)

        stages.seconds["total"] = round(sum(stages.seconds.values()), 1)
        write_json(config.out / "loop.json", describe(one))
        summary = summarise(config.out)
        write_report(config.out)
    return summary


def before(one: Loop) -> None:
    """Fetch the base model and show what it makes of a prompt today: the first thing on the screen."""
    from tutelage.fetch import resolve
    from tutelage.model import load
    from tutelage.talk import reply

    one.stages.enter("model", f"the base model: {one.config.model}")
    resolve(one.config.model)
    lm = load(one.config.model)
    for prompt in (p for p in one.workflow.prompts if p.split == "test"):
        with contextlib.suppress(TooLong):  # the stage that needs it says so, or leaves it out
            text = reply(lm, prompt.text, seed=one.config.seed)
            print(f"\n  {prompt.text}\n  base model: {text}\n", file=sys.stderr, flush=True)
            break
    one.stages.leave()


def imitate(one: Loop) -> Run:
    """Step 1: SFT on the demonstrations."""
    from tutelage import sft

    one.stages.enter("sft", f"imitate {len(one.workflow.demonstrations)} demonstrations (SFT)")
    fields = one.common(model=one.config.model, demonstrations=one.data["demonstrations"], out=one.out / "sft")
    run = sft.train(SftConfig(**fields | one.recipe.sft))
    one.stages.leave(run.info["seconds"])
    return run


def rank_samples(one: Loop, imitated: Run) -> Run:
    """Step 2, first half: sample K responses to every prompt but the test prompts, and rank them."""
    from tutelage import rank, sample

    one.stages.enter("sample", f"sample {one.recipe.sample.get('k', 6)} responses to every prompt, and rank them")
    fields = one.common(model=str(imitated.path), prompts=one.data["ranked"], out=one.out / "samples")
    samples = sample.sample(SampleConfig(**fields | {"max_response_tokens": one.longest} | one.recipe.sample))
    fields = {"samples": samples.path, "workflow": one.config.workflow, "out": one.out / "rankings"}
    ranked = rank.rank(RankConfig(**fields | {"seed": one.config.seed} | one.recipe.rank))
    one.stages.leave(samples.info["seconds"] + ranked.info["seconds"])
    return ranked


def learn_reward(one: Loop, imitated: Run, ranked: Run) -> Run:
    """Step 2, second half: the reward model."""
    from tutelage import rank, reward

    one.stages.enter("reward", f"train the reward model on {ranked.result['comparisons']} comparisons")
    fields = one.common(model=str(imitated.path), rankings=ranked.path / rank.FILE, out=one.out / "reward")
    fields |= {"demonstrations": one.data["demonstrations"]}
    run = reward.train(RewardConfig(**fields | one.recipe.reward))
    learned = {"comparisons": ranked.result["comparisons"], "prompts": run.result["n_prompts"]}
    if weak := roundresult.weakness(roundresult.on_unseen([run]) | learned):
        print(f"\n  {weak} {roundresult.ADVICE}\n", file=sys.stderr, flush=True)
    one.stages.leave(run.info["seconds"])
    return run


def optimise(one: Loop, imitated: Run, judged: Run) -> None:
    """Step 3: PPO-ptx, and PPO without the mix where that was asked for."""
    from tutelage import ppo

    for name, recipe in one.trained.items():
        one.stages.enter(name, f"optimise the policy against the reward model ({NAMES[name]})")
        fields = one.common(policy=imitated.path, reward=judged.path, prompts=one.data["prompts"], out=one.out / name)
        fields |= {"pretraining": one.data["pretraining"], "max_response_tokens": one.longest}
        run = ppo.train(PpoConfig(**fields | recipe))
        one.stages.leave(run.info["seconds"])


def sources(one: Loop) -> dict[str, str]:
    """Every model that is compared, and where it is."""
    base = one.config.model
    return {"base": base, "prompted": base, "sft": str(one.out / "sft")} | {n: str(one.out / n) for n in one.trained}


def answer_held_out(one: Loop) -> list[Path]:
    """Every model answers the held-out prompts, once, at temperature 1."""
    from tutelage import sample

    count = sum(p.split == "test" for p in one.workflow.prompts)
    one.stages.enter("answers", f"all models answer {min(count, one.config.test_limit or count)} held-out prompts")
    answers = []
    for name, source in sources(one).items():
        release_memory()
        fields = one.common(model=source, prompts=one.data["prompts"], out=one.out / "answers" / name, name=name)
        fields |= {"split": "test", "k": 1, "limit": one.config.test_limit, "max_response_tokens": one.longest}
        if name == "prompted":
            fields |= {"shots": one.data["demonstrations"]}
        answers.append(sample.sample(SampleConfig(**fields)).path)
    one.stages.leave()
    return answers


def judge(one: Loop, imitated: Run, judged: Run, answers: list[Path]) -> None:
    """Step 4: the held-out labelers rank the answers; gold against KL; the alignment tax."""
    from tutelage.evaluate.judge import evaluate

    one.stages.enter("evaluate", "held-out labelers rank the answers, blind")
    texts = tuple(f"{name}={source}" for name, source in sources(one).items() if name != "prompted")
    run = evaluate(
        EvaluateConfig(
            answers=tuple(answers),
            workflow=one.config.workflow,
            policy=imitated.path,
            reward=judged.path,
            out=one.out / "evaluation",
            ppo=tuple(one.out / name for name in one.trained),
            pretraining=one.data["heldout"],
            text_models=texts,
            max_response_tokens=one.longest,
            drop_long=one.config.drop_long,
            dtype=one.config.dtype,
            seed=one.config.seed,
        )
    )
    one.stages.leave(run.info["seconds"])


def write_data(folder: Path, workflow: Workflow) -> dict[str, Path]:
    """The loop's inputs as files of its own, so that the folder can be read and repeated by itself."""
    from tutelage.data.text import write_documentation

    prompts, ranked = folder / "prompts.jsonl", folder / "ranked_prompts.jsonl"
    demonstrations = folder / "demonstrations.jsonl"
    if not demonstrations.exists():
        write_records(prompts, workflow.prompts)
        write_records(ranked, [p for p in workflow.prompts if p.split != "test"])
        write_text(folder / "guidelines.md", workflow.guidelines)
        write_records(demonstrations, workflow.demonstrations)
    train, held = write_documentation(folder)
    paths = {"prompts": prompts, "ranked": ranked, "demonstrations": demonstrations}
    return paths | {"pretraining": train, "heldout": held}


def describe(one: Loop) -> dict[str, Any]:
    """loop.json: what the report says about the loop as a whole."""
    panels = one.workflow.rubric.panels
    note = (
        "The embedded SmolLM2-135M was instruction-tuned by its makers and is stored in 4 bits; it is used here "
        "without its chat format, as a model that continues text."
    )
    return {
        "workflow": {n: getattr(one.workflow, n) for n in ("name", "title", "description")},
        "model": one.config.model,
        "model_note": note if one.config.model == "smollm2-135m" else "",
        "seed": one.config.seed,
        "preset": one.recipe.name,
        "models": list(sources(one)),
        "labelers": {
            "training": panels["training"].n,
            "heldout": panels["heldout"].n,
            "note": "Simulated labelers: programs that apply a rubric with tastes and noise of their own. Not people.",
        },
        "seconds": one.stages.seconds,
    }


def recipe_of(config: LoopConfig) -> Recipe:
    """The preset a loop was asked for."""
    from tutelage import presets

    if config.preset == "demo":
        return presets.demo(config.workflow)
    others = {"small": presets.small, "paper": presets.paper}
    if config.preset not in others:
        raise UserError(f"no preset {config.preset!r}; expected one of demo, {', '.join(others)}")
    return others[config.preset]()
