"""Seconds and peak memory of one PPO iteration: ours against TRL 1.12's trainer, its last release with PPO.

    .venv/bin/python benchmarks/ppo_iteration.py                ours and TRL's, in turns
    .venv/bin/python benchmarks/ppo_iteration.py --side ours    ours alone, in this process

Both sides: the same model folder in bf16, 64 episodes of exactly 32 prompt and 32 response tokens (no end
token can be drawn), temperature 1, four networks (reward model and value with a random scalar head), one
inner epoch in minibatches of 32, no pretraining mix, no logging, nothing saved. Ours calls the functions of
the PPO page, the top 10 layers of policy and value trained on the shared trunk, with fp32 masters (`--layers
all`: four whole networks). TRL trains whole networks, with bf16 weights and optimiser, its fastest form.

Each turn is a process of its own; its first iteration is left out where there are more. The ratio is that of
the two medians; that of the processor seconds holds on a busy machine too, best with OMP_NUM_THREADS=1, which
leaves no thread waiting in a loop. TRL is a requirement of this script alone, in none of our extras: it is
installed, once, into .venv-trl, beside the versions of torch and transformers that run here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import MODEL, ROW, arguments, endless, peak_bytes, prompts, seconds, show, spread

HERE = Path(__file__).parent
TRL = "trl==1.12.*"
TOKENS, MINIBATCH = 32, 32
CLOCKS = ("seconds", "cpu_seconds")


def ours(model: str, layers: str, iterations: int) -> dict[str, Any]:
    """Seconds of each iteration of the PPO page's five verbs, and the peak memory."""
    import torch

    from tutelage import ppo
    from tutelage.loop import shuffled
    from tutelage.optim import MasterAdamW

    config = _config(ppo.PpoConfig)
    nets = _networks(model, layers)
    actor = MasterAdamW(nets.lm.top.parameters(), eps=config.adam_eps, ema=config.ema)
    critic = MasterAdamW(nets.value.parameters(), eps=config.adam_eps)
    chosen = prompts(ROW, TOKENS, TOKENS, nets.lm.vocabulary)
    ended = torch.ones(MINIBATCH, dtype=torch.bool)  # so that the scores count, as in TRL

    def iterate(n: int) -> None:
        sampled = ppo.rollout(nets.lm, config, chosen, "rollout", n)
        assert bool(sampled.mask.all())
        episodes = list(zip(chosen, sampled.ids.tolist(), strict=True))
        order = shuffled(ROW, config.seed, "minibatch", n)
        parts = [order[i : i + MINIBATCH] for i in range(0, ROW, MINIBATCH)]
        scored = [ppo.score(nets, config, [episodes[i] for i in part], ended) for part in parts]
        rollouts, _ = ppo.shape(scored, config)
        for r in rollouts:
            ppo.update(nets, config, r, None, actor, critic, config.lr)

    wall, cpu = [], []
    for n in range(iterations):
        busy = time.process_time()
        wall.append(seconds(lambda n=n: iterate(n))[0])
        cpu.append(time.process_time() - busy)
    return {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak_bytes()}


def _config(kind: Any) -> Any:
    unused = dict.fromkeys(("policy", "reward", "prompts", "out"), Path("unused"))
    return kind(**unused, episodes=ROW, minibatch=MINIBATCH, max_response_tokens=TOKENS, ptx_coef=0.0)


def _networks(model: str, layers: str) -> Any:
    """The page's four networks, the reward model fresh instead of from a run."""
    from tutelage.model import load
    from tutelage.ppo import Networks
    from tutelage.scalar import ScalarHead

    lm = endless(load(model, trainable_layers="all" if layers == "all" else int(layers), dtype="bf16"))
    reward = ScalarHead(lm.top.twin()).requires_grad_(False)
    value = reward.twin()
    for part in value.top.trained_parts():
        part.requires_grad_(True)
    value.score.requires_grad_(True)
    return Networks(lm, lm.top.twin().requires_grad_(False), reward, value)


def trl_python() -> Path:
    """The interpreter of .venv-trl, made first where it is missing or unfinished."""
    folder = HERE.parent / ".venv-trl"
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        print(f"making {folder.name} with {TRL}, once", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        (folder / ".gitignore").write_text("*\n")
        same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", TRL, *same], check=True)
        done.touch()
    return python


def compare(words: Namespace) -> dict[str, Any]:
    """Both sides in turns, `words.turns` of each."""
    from tutelage.fetch import resolve

    own = ["--side", "ours", "--model", words.model, "--layers", words.layers]
    sides: dict[str, list[Any]] = {
        "ours": [sys.executable, __file__, *own],
        "trl": [trl_python(), HERE / "trl_ppo_iteration.py", "--model", resolve(words.model)],
    }
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(words.turns):
        for side, line in sides.items():
            line = [*line, "--iterations", str(words.iterations)]
            done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
            turns[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{side}: {turns[side][-1]}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {side: _over(found) for side, found in turns.items()}
    one, other = result["ours"], result["trl"]
    ratio = {k: other[k]["median"] / one[k]["median"] for k in CLOCKS}
    return result | {"ratio": ratio | {"peak_bytes": other["peak_bytes"] / one["peak_bytes"]}}


def _over(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the iterations of all turns, without each turn's first; the largest peak."""
    found: dict[str, Any] = {k: spread([t for turn in turns for t in turn[k][1:] or turn[k]]) for k in CLOCKS}
    return found | {"peak_bytes": max(turn["peak_bytes"] for turn in turns)}


def main() -> None:
    """Measure and print."""
    words = arguments(
        __doc__,
        model=(MODEL, "embedded name, folder or hub id"),
        layers=("10", "layers we train, or all"),
        iterations=(3, "iterations per turn; the first is left out where there are more"),
        turns=(2, "turns of each side"),
        side=("both", "both; or ours: one turn of ours alone, as JSON"),
    )
    if words.side == "ours":
        print(json.dumps(ours(words.model, words.layers, words.iterations)))
        return
    result = compare(words)
    table = [["one PPO iteration", "seconds", "CPU seconds", "peak GB"]]
    for side in ("ours", "trl"):
        times = ["{median:.1f} ({min:.1f} to {max:.1f})".format(**result[side][k]) for k in CLOCKS]
        table.append([side, *times, f"{result[side]['peak_bytes'] / 1e9:.1f}"])
    table.append(["trl / ours", *(f"{value:.2f}" for value in result["ratio"].values())])
    show(result, table, as_json=words.json)


if __name__ == "__main__":
    main()
