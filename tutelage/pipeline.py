"""The contents page: the paper as one function, stage after stage.

    demonstrations -> sft -> sample -> rank -> reward -> ppo -> answers -> evaluate -> report

Stages meet by run folders only, so each can be rerun, replaced, or done by a person. Running the loop again resumes
where it stopped: finished stages are skipped, a killed one continues from its checkpoint.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import workflows
from tutelage.loop import clock
from tutelage.presets import Recipe
from tutelage.records import UserError, write_json, write_records, write_text
from tutelage.settings import EvaluateConfig, LoopConfig, PpoConfig, RankConfig, RewardConfig, SampleConfig, SftConfig
from tutelage.workflows import Workflow

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


def loop(config: LoopConfig, recipe: Recipe) -> dict[str, Any]:
    """Run the whole loop with simulated labelers; returns the summary that `summary.json` holds."""
    from tutelage import ppo, rank, reward, sample, sft
    from tutelage.evaluate.judge import evaluate
    from tutelage.evaluate.summary import summarise
    from tutelage.report import write_report

    out, workflow = config.out, workflows.load(config.workflow)
    stages = Stages(out, {}, total=7 + config.with_ppo)
    data = write_data(out / "data", workflow)
    caps = {"max_prompt_tokens": workflow.max_prompt_tokens + 8, "dtype": config.dtype, "seed": config.seed}
    longest = {"max_response_tokens": workflow.max_response_tokens}

    stages.enter("model", f"the base model: {config.model}")
    before(config, workflow)
    stages.leave()

    stages.enter("sft", f"imitate {len(workflow.demonstrations)} demonstrations (SFT)")
    fields = {"model": config.model, "demonstrations": data["demonstrations"], "out": out / "sft"}
    imitated = sft.train(SftConfig(**fields | caps | recipe.sft))
    stages.leave(imitated.info["seconds"])

    stages.enter("sample", f"sample {recipe.sample.get('k', 6)} responses to every prompt")
    common = {"model": str(imitated.path), "prompts": data["prompts"]} | caps | longest | recipe.sample
    samples = sample.sample(SampleConfig(**common | {"prompts": data["ranked"], "out": out / "samples"}))
    ranked = rank.rank(
        RankConfig(samples=samples.path, workflow=config.workflow, out=out / "rankings", seed=config.seed, **recipe.rank)
    )
    stages.leave(samples.info["seconds"])

    stages.enter("reward", f"train the reward model on {ranked.result['comparisons']} comparisons")
    fields = {"model": str(imitated.path), "rankings": ranked.path / rank.FILE, "out": out / "reward"}
    fields |= {"demonstrations": data["demonstrations"]}
    judged = reward.train(RewardConfig(**fields | caps | recipe.reward))
    stages.leave(judged.info["seconds"])

    trained = {"ppo_ptx": recipe.ppo} | ({"ppo": recipe.ppo | {"ptx_coef": 0.0}} if config.with_ppo else {})
    for name, fields in trained.items():
        stages.enter(name, f"optimise the policy against the reward model ({NAMES[name]})")
        known = {"policy": imitated.path, "reward": judged.path, "prompts": data["prompts"], "out": out / name}
        known |= {"pretraining": data["pretraining"]}
        stages.leave(ppo.train(PpoConfig(**known | caps | longest | fields)).info["seconds"])

    stages.enter("answers", f"all models answer {sum(p.split == 'test' for p in workflow.prompts)} held-out prompts")
    sources = {"base": config.model, "prompted": config.model, "sft": str(out / "sft")}
    sources |= {name: str(out / name) for name in trained}
    answers = []
    for name, source in sources.items():
        shots = {"shots": data["demonstrations"]} if name == "prompted" else {}
        fields = {"model": source, "split": "test", "k": 1, "temperatures": (1.0,), "limit": config.test_limit, "name": name, "out": out / "answers" / name}
        answers.append(sample.sample(SampleConfig(**common | fields | shots)).path)
    stages.leave()

    stages.enter("evaluate", "held-out labelers rank the answers, blind")
    texts = tuple(f"{name}={source}" for name, source in sources.items() if name != "prompted")
    evaluated = evaluate(
        EvaluateConfig(
            answers=tuple(answers),
            workflow=config.workflow,
            policy=imitated.path,
            reward=judged.path,
            out=out / "evaluation",
            ppo=tuple(out / name for name in trained),
            pretraining=data["heldout"],
            text_models=texts,
            dtype=config.dtype,
            seed=config.seed,
            **longest,
        )
    )
    stages.leave(evaluated.info["seconds"])

    stages.seconds["total"] = round(sum(stages.seconds.values()), 1)
    write_json(out / "loop.json", describe(config, recipe, workflow, list(sources), stages.seconds))
    summary = summarise(out)
    write_report(out)
    return summary


def before(config: LoopConfig, workflow: Workflow) -> None:
    """Fetch the base model and show what it makes of a prompt today: the first thing on the screen."""
    from tutelage.fetch import resolve
    from tutelage.talk import answer

    resolve(config.model)
    prompt = next(p for p in workflow.prompts if p.split == "test")
    print(f"\n  {prompt.text}\n  base model: {answer(config.model, prompt.text, seed=config.seed)}\n", file=sys.stderr)


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


def describe(
    config: LoopConfig, recipe: Recipe, workflow: Workflow, models: list[str], seconds: dict[str, float]
) -> dict[str, Any]:
    """loop.json: what the report says about the loop as a whole."""
    panels = workflow.rubric.panels
    note = (
        "The embedded SmolLM2-135M was instruction-tuned by its makers and is stored in 4 bits; it is used here without "
        "its chat format, as a model that continues text."
        if config.model == "smollm2-135m"
        else ""
    )
    return {
        "workflow": {"name": workflow.name, "title": workflow.title, "description": workflow.description},
        "model": config.model,
        "model_note": note,
        "seed": config.seed,
        "preset": recipe.name,
        "models": models,
        "labelers": {
            "training": panels["training"].n,
            "heldout": panels["heldout"].n,
            "note": "Simulated labelers: programs that apply a written rubric with tastes and noise of their own. Not people.",
        },
        "seconds": seconds,
    }


def recipe_of(config: LoopConfig) -> Recipe:
    """The preset a loop was asked for."""
    from tutelage import presets

    known = {"demo": lambda: presets.demo(config.workflow), "small": presets.small, "paper": presets.paper}
    if config.preset not in known:
        raise UserError(f"no preset {config.preset!r}; expected one of {', '.join(known)}")
    return known[config.preset]()
