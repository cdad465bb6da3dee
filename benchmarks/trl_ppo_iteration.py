"""TRL's side of ppo_iteration.py: its PPO trainer for some iterations, timed. Run by .venv-trl, not by ours.

Nothing of tutelage is imported here. 64 episodes of 32 prompt and 32 response tokens. Minibatches of 32 come
from `num_mini_batches=2`: through `gradient_accumulation_steps` TRL would take one optimiser step, not two.
Gradient checkpointing, sample tables, saving and reports are off. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    logging,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

EPISODES, TOKENS = 64, 32


class Clock(TrainerCallback):
    """When training began and when each iteration ended."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def read(self) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.read()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.read()


def train(model: str, iterations: int, clock: Clock, folder: str) -> None:
    """Make the four networks and let the trainer run."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.bfloat16) for _ in range(2)
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, len(tokenizer), (EPISODES, TOKENS), generator=generator).tolist()
    config = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,  # the weights are bf16 themselves; this flag would add autocast on top
        per_device_train_batch_size=EPISODES,
        num_mini_batches=2,
        num_ppo_epochs=1,
        total_episodes=iterations * EPISODES,
        local_rollout_forward_batch_size=EPISODES,
        response_length=TOKENS,
        temperature=1.0,
        learning_rate=3e-5,
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        callbacks=[clock],
    )
    trainer.train()


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--iterations", type=int, default=3, help="PPO iterations")
    words = parser.parse_args()
    logging.set_verbosity_error()
    clock = Clock()
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        train(words.model, words.iterations, clock, folder)
    wall, cpu = ([b - a for a, b in itertools.pairwise(times)] for times in (clock.wall, clock.cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
