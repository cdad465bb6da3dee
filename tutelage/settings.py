"""The fields of every stage, one sentence each: unit, meaning, the paper's value.

They stand here and not on top of each page because the command line is made from them, and `--help` must not wait
for torch. The defaults follow the paper where it gives a value that carries over to small models; `presets.py`
holds whole recipes. Checks that need no file are in `__post_init__`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tutelage.records import MAX_RANKED, UserError


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Imitate demonstrations (paper step 1)."""

    model: str = "smollm2-135m"
    """Embedded name, local folder or hub id of the causal language model to start from."""
    demonstrations: Path
    """JSONL of demonstrations; their split field says which are held out."""
    out: Path
    """Run folder to write, or to resume."""
    pretraining: Path | None = None
    """Plain text to mix in; the paper's PPO initialisation mixes 10% pretraining data."""
    pretraining_share: float = 0.1
    """Share of each step's tokens that is pretraining text, where one is given (paper: 0.1)."""
    reward: Path | None = None
    """Reward run that chooses the epoch to keep (as in the paper); without one the held-out loss chooses."""
    epochs: int = 3
    """Passes over the demonstrations (paper: 16 for the baseline, 2 for PPO's initialisation)."""
    keep: Literal["best", "last"] = "best"
    """Which epoch: the best by the reward run's score, else by held-out loss; or the last, as overfitting helps."""
    batch: int = 16
    """Demonstrations per optimiser step (paper: 32)."""
    lr: float = 2e-4
    """Peak learning rate, cosine to a tenth (paper: 9.65e-6 at 1.3B)."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices (paper: not stated)."""
    clip_norm: float = 1.0
    """Largest gradient norm (paper: not stated)."""
    trainable_layers: int | Literal["all"] = 10
    """Layers from the top that train; "all" trains the whole model as the paper does."""
    max_prompt_tokens: int = 1024
    """Longer prompts are an error (paper: 1k, dropped at collection)."""
    max_response_tokens: int = 1024
    """Longer responses are an error (paper: 1k)."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type; auto takes bf16 where the processor multiplies it natively. Masters are always fp32."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "lr", "max_prompt_tokens", "max_response_tokens")
        _share(self, "pretraining_share")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Sample K responses to every prompt from a run or a model."""

    model: str
    """Run folder, embedded name, local folder or hub id."""
    prompts: Path
    """JSONL of prompts."""
    out: Path
    """Run folder to write, or to resume."""
    split: Literal["train", "valid", "test", "all"] = "all"
    """Which prompts."""
    k: int = 6
    """Responses per prompt (paper: 4 to 9 for ranking)."""
    limit: int = 0
    """At most this many prompts, spread over the use cases; 0 is all."""
    temperatures: tuple[float, ...] = (1.0,)
    """Sampling temperatures, taken in turn by the K responses; 0 takes the likeliest token (paper's rollouts: 1)."""
    max_prompt_tokens: int = 1024
    """Longer prompts are an error."""
    max_response_tokens: int = 48
    """A response still open here is cut (paper: 1k)."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    shots: Path | None = None
    """Demonstrations for a few-shot prefix: the paper's "prompted" baseline."""
    n_shots: int = 3
    """How many of them."""
    name: str = ""
    """What the responses call the model; the run folder's name unless given."""
    batch: int = 96
    """Sequences decoded at a time."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        _positive(self, "k", "max_prompt_tokens", "max_response_tokens", "batch", "n_shots")
        if not self.temperatures or min(self.temperatures) < 0:
            raise UserError("temperatures must be 0 or more, at least one")


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Let simulated labelers rank the samples of a run (people rank in the studio)."""

    samples: Path
    """Samples run."""
    workflow: str
    """Embedded workflow, or a folder with one: its rubric is what the simulated labelers apply."""
    out: Path
    """Run folder to write."""
    labelers: int = 1
    """Labelers per training prompt (paper: mostly one)."""
    seed: int = 1
    """Seed of the labelers' tastes and noise."""

    def __post_init__(self) -> None:
        _positive(self, "labelers")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Train a reward model on rankings (paper step 2, eq. 1)."""

    model: str
    """Where its layers start: an SFT run (as in the paper's section 3.5), a folder, a name or a hub id."""
    rankings: Path
    """JSONL of rankings; split says which prompts are held out, group which labelers."""
    out: Path
    """Run folder to write, or to resume."""
    demonstrations: Path | None = None
    """Demonstrations whose mean score becomes 0 (the paper's bias before PPO)."""
    epochs: int = 1
    """Passes over the rankings (paper: 1; more overfits quickly at its size)."""
    batch: int = 8
    """Prompts per optimiser step, each with all its responses and pairs (paper: 64)."""
    lr: float = 5e-5
    """Peak learning rate, cosine to a tenth (paper: 9e-6 at 6B; changes of 50% do not matter)."""
    head_lr: float = 1e-3
    """Peak learning rate of the fresh scalar head."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices (paper: not stated)."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    mean_share: float = 0.0
    """Share of the loss that compares means over a response's tokens instead of the last token's score (paper: 0)."""
    trainable_layers: int | Literal["all"] = 10
    """Layers from the top that train; below them the trunk is shared with the policy."""
    unit_scale: bool = True
    """Scale scores to unit spread over the training responses, so that one beta suits any model (paper: no)."""
    groups: tuple[str, ...] = ("training",)
    """Labeler groups whose rankings train; the others only measure."""
    max_prompt_tokens: int = 1024
    """Longer prompts are an error."""
    max_response_tokens: int = 1024
    """Longer responses are an error."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "lr", "head_lr", "max_prompt_tokens", "max_response_tokens")
        _share(self, "mean_share")


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """Optimise the policy against the reward model, near the reference (paper step 3, eq. 2)."""

    policy: Path
    """SFT run: where the policy starts and what the KL penalty holds it to."""
    reward: Path
    """Reward run: the score, and where the value network starts."""
    prompts: Path
    """JSONL of prompts; those of the train split are answered, a few of the valid split are watched."""
    out: Path
    """Run folder to write, or to resume."""
    pretraining: Path | None = None
    """Plain text of the pretraining mix (PPO-ptx); required unless ptx_coef is 0."""
    iterations: int = 20
    """Rollouts, each followed by its updates (paper: 500)."""
    episodes: int = 64
    """Prompts answered per iteration (paper: 512)."""
    minibatch: int = 32
    """Episodes per optimiser step (paper: 64)."""
    inner_epochs: int = 1
    """Passes over each rollout (paper: 1)."""
    lr: float = 3e-5
    """Policy learning rate, constant after the warm-up (paper: 2.55e-6 to 2.55e-5 swept at 1.3B)."""
    value_lr: float = 1e-4
    """Value network's learning rate, constant (paper: 9e-6)."""
    warmup_iterations: int = 10
    """Iterations over which the policy's rate rises from a tenth of its peak (paper: 10)."""
    beta: float = 0.05
    """Weight of the per-token KL penalty (paper: 0.02; its predecessor: 0.05)."""
    clip: float = 0.2
    """Range of PPO's ratio clip (paper: 0.2)."""
    value_clip: float = 0.2
    """Range of the value clip around the rollout's estimate (lm-human-preferences: 0.2)."""
    gamma: float = 1.0
    """Discount (paper: 1)."""
    lam: float = 0.95
    """GAE's lambda (paper: not stated; its predecessors: 0.95)."""
    temperature: float = 1.0
    """Rollout temperature, applied again when logprobs are recomputed (paper: 1)."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance without moving their mean (lm-human-preferences option)."""
    missing_eos_score: float = -3.0
    """Score of a response that did not end by itself, in place of the model's (lm-human-preferences: -1)."""
    ptx_coef: float = 0.1
    """Weight of the pretraining loss, mean nats per token, in the policy's step (paper: 27.8 of an unstated norm)."""
    ptx_ratio: float = 0.25
    """Pretraining sequences per episode (paper: 8)."""
    ptx_tokens: int = 64
    """Tokens per pretraining sequence."""
    ema: float = 0.992
    """Decay of the weight average per optimiser step (paper: 0.992)."""
    keep: Literal["raw", "ema"] = "raw"
    """Which weights become model/; the other is kept beside it (paper: not stated)."""
    max_kl: float = 60.0
    """Guard: stop when a rollout's mean KL, nats per response, is beyond this."""
    checkpoint_every: int = 5
    """Iterations between resumable checkpoints."""
    snapshot_every: int = 5
    """Iterations between the policies kept for the over-optimisation curve; 0 keeps none."""
    trainable_layers: int | Literal["all"] = 10
    """Layers from the top that train in policy and value; "all" is the paper's four separate networks."""
    max_prompt_tokens: int = 1024
    """Longer prompts are an error."""
    max_response_tokens: int = 48
    """A response still open here is cut and counts as not ended (paper: 1k)."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    clip_norm: float = 1.0
    """Largest gradient norm, policy and value each."""
    adam_eps: float = 1e-5
    """Adam's epsilon (lm-human-preferences: 1e-5, which matters early)."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        _positive(self, "iterations", "episodes", "minibatch", "inner_epochs", "temperature", "max_response_tokens")
        if self.episodes % self.minibatch:
            raise UserError(f"episodes ({self.episodes}) must be a multiple of minibatch ({self.minibatch})")
        _share(self, "ema")
        if self.keep == "ema" and not self.ema:
            raise UserError("keep is ema but ema is 0: there would be no weight average to keep")
        if self.ptx_coef and self.pretraining is None:
            raise UserError(
                "ptx_coef is set but no pretraining text is given: name one, or set ptx_coef to 0 for plain PPO"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Let the held-out labelers compare models on held-out prompts, and measure KL and alignment tax."""

    answers: tuple[Path, ...]
    """Samples runs, one per model, over the same held-out prompts."""
    workflow: str
    """Embedded workflow, or a folder with one."""
    policy: Path
    """SFT run: the reference of the KL."""
    reward: Path
    """Reward run: scores every answer."""
    out: Path
    """Run folder to write."""
    ppo: tuple[Path, ...] = ()
    """PPO runs whose snapshots are followed along the KL."""
    pretraining: Path | None = None
    """Held-out plain text on which the alignment tax is measured."""
    text_models: tuple[str, ...] = ()
    """Models measured on it, as name=run or name=folder."""
    frontier_k: int = 1
    """Responses per validation prompt and snapshot."""
    temperature: float = 1.0
    """Sampling temperature along the KL."""
    max_response_tokens: int = 48
    """A response still open here is cut."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise UserError("evaluate compares models: name at least two samples runs")
        if len(self.answers) > MAX_RANKED:
            raise UserError(f"evaluate ranks a prompt's answers together: name at most {MAX_RANKED} samples runs")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The whole loop with simulated labelers, from base model to report."""

    workflow: str = "support"
    """Embedded workflow (support, instructions), or a folder with one."""
    out: Path = Path("runs/demo")
    """Folder to write, or to resume."""
    model: str = "smollm2-135m"
    """Embedded name, local folder or hub id of the base model."""
    preset: str = "demo"
    """Recipe: demo, small (tests) or paper."""
    with_ppo: bool = False
    """Train PPO without the pretraining mix as well, for the alignment tax; takes longer."""
    test_limit: int = 0
    """At most this many held-out prompts; 0 is all."""
    drop_long: bool = False
    """Leave out what is over the limits, and say how many, instead of stopping."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """Train one round of a studio on what people wrote and ranked, and prepare what they rank next."""

    folder: Path
    """The studio's folder; the round's data must lie in runs/round-N/data (the studio writes it)."""
    number: int = 0
    """Which round; 0 is the latest whose data is there."""
    groups: tuple[str, ...] = ()
    """Labeler groups whose rankings train; none named means all but the held-out labelers."""
    k: int = 0
    """Responses per prompt of the next ranking batch; 0 takes the studio's setting (paper: 4 to 9)."""
    next_prompts: int = 30
    """Prompts of the next ranking batch."""
    judge_prompts: int = 12
    """Held-out prompts that old and new policy answer for a blind comparison."""
    accept_weak_reward: bool = False
    """Go on to PPO with a reward model that is not shown to be better than guessing; else the round stops and asks."""
    collect_more: bool = False
    """With such a reward model, end the round without PPO: its SFT model answers what people rank next."""
    keep: Literal["auto", "old", "new"] = "auto"
    """Which policy of the last finished round stays in use: auto is the new one unless it is worse. Named, a finished
    round itself (--number) answers what is ranked next by it."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type."""
    seed: int = 1
    """Seed of everything random."""

    def __post_init__(self) -> None:
        _positive(self, "next_prompts", "judge_prompts")
        if self.accept_weak_reward and self.collect_more:
            raise UserError("accept_weak_reward goes on to PPO and collect_more ends without it: choose one of them")
        if self.number < 0:
            raise UserError(f"number must be 0 or more, got {self.number}")
        if self.k and not 2 <= self.k <= MAX_RANKED:
            raise UserError(f"k must be 2 to {MAX_RANKED}, got {self.k}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise UserError(f"{name} must be more than 0, got {getattr(config, name)}")


def _share(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 0 and below 1, got {getattr(config, name)}")
