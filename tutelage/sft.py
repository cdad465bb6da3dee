"""Step 1 of the paper: imitate demonstrations.

    L_SFT = - mean over response tokens of log pi(y_t | x, y_<t)

The loss counts response tokens only (the paper does not say; docs/paper.md). Demonstrations are packed into rows.
With pretraining text, each step also takes its share of plain next-token loss (the paper mixes 10% into PPO's
starting model). Cosine schedule to a tenth, no warm-up (appendix C). After each epoch the held-out loss is measured
and, where a reward run is named, the mean score of sampled responses: the epoch kept is the one with the best score,
as in the paper, else the one with the lowest held-out loss. Where there is no reward model yet, `keep = "last"` stands
for what the paper saw: responses go on improving for epochs after the held-out loss has begun to rise. Without a valid
split both are measured on the demonstrations themselves, and are named so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.data.batches import Lowered, Packed, pack, slices, text_rows
from tutelage.data.text import TextBlocks
from tutelage.doctor import check_policy
from tutelage.generate import Decoder
from tutelage.limits import Limits, each
from tutelage.loop import Progress, environment, generator, load_tensors, need_finite, save_tensors, shuffled
from tutelage.losses import lm_loss, token_logprobs
from tutelage.model import Lm, Top, load, save_lm
from tutelage.optim import MasterAdamW, cosine
from tutelage.records import Demonstration, UserError, read_placed
from tutelage.run import Run
from tutelage.scalar import load_scalar
from tutelage.settings import SftConfig

TEXT_TOKENS = 128  # tokens per row of pretraining text

Pair = tuple[list[int], list[int]]


def train(config: SftConfig) -> Run:
    """Run or resume the stage; returns the finished run."""
    run = Run.start(config.out, "sft", config, parents=_parents(config))
    if run.finished:
        return run
    lm = load(config.model, trainable_layers=config.trainable_layers, dtype=config.dtype)
    run.computes(**environment(lm))
    if config.reward is not None:  # opened again at the end of every epoch: a mismatch must show before the first
        load_scalar(Run.open(config.reward, "reward").intact("model"), lm)
    shown, held = (encode(lm, config, split) for split in ("train", "valid"))
    if not shown:
        raise UserError(f"{config.demonstrations}: no demonstrations in the train split")
    check_policy(lm, shown)
    text = _text(lm, config)
    measured_on = "heldout" if held else "trained"  # six demonstrations have none to spare
    lowered, measured = Lowered(lm, shown), Lowered(lm, held or shown)
    optimiser = MasterAdamW(
        lm.top.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay, clip_norm=config.clip_norm
    )
    per_epoch = len(slices(len(shown), config.batch))
    total = per_epoch * config.epochs
    best, start = _resume(run, optimiser)
    progress = Progress("sft", total, start)

    for step in range(start, total):
        # 1. The step's demonstrations: every one once per epoch, in a fresh order.
        epoch, index = divmod(step, per_epoch)
        order = shuffled(len(shown), config.seed, "sft", epoch)
        rows = order[index * config.batch : (index + 1) * config.batch]
        batch, hidden = lowered.batch(rows)

        # 2. Next-token loss on the responses, and on the pretraining text's share of tokens.
        loss = lm_loss(_logprobs(lm.top, batch, hidden), batch.mask)
        need_finite("sft loss", loss.item(), step)
        row: dict[str, Any] = {"step": step, "epoch": epoch, "loss/train": loss.item()}
        loss.backward()
        if text is not None:
            share = config.pretraining_share / (1 - config.pretraining_share)
            blocks = text_rows(text.draw(step, max(1, round(share * batch.mask.sum().item() / text.tokens))), lm.device)
            plain = lm_loss(_logprobs(lm.top, blocks, lm.lower(blocks.ids, blocks.segments)), blocks.mask)
            row["loss/pretraining"] = plain.item()
            (plain * share).backward()

        # 3. One update of the fp32 masters.
        row["lr"] = cosine(step, total, config.lr)
        row["grad_norm"] = optimiser.step(row["lr"])

        # 4. At the end of an epoch: measure, keep the best, checkpoint.
        if index + 1 == per_epoch:
            row |= _measure(lm, config, measured, measured_on)
            if not best or config.keep == "last" or _better(row, best["row"], measured_on):
                best.clear()  # the old weights go before the new ones are copied
                # Where the last epoch is kept its weights are in place at the end, and a copy would only take memory.
                weights = [] if config.keep == "last" else [p.detach().clone() for p in optimiser.parameters]
                best |= {"row": row, "weights": weights}
        run.log("metrics.jsonl", row)
        if index + 1 == per_epoch:
            _checkpoint(run, step + 1, optimiser, best)
        progress.advance(note=f"loss {row['loss/train']:.3f}")

    if best["weights"]:
        _keep(optimiser, best["weights"])
    save_lm(lm, lm.top, run.model)
    chosen = "reward-model score" if config.reward is not None else "held-out loss" if held else "training loss"
    chosen = "choice (the last)" if config.keep == "last" else chosen
    own = {f"{measured_on}_loss": best["row"][f"loss/{measured_on}"]}
    run.finish(kept_epoch=best["row"]["epoch"] + 1, kept_by=chosen, **own, n=len(shown))
    return run


def _parents(config: SftConfig) -> dict[str, Path]:
    parents = {"model": Path(config.model), "demonstrations": config.demonstrations}
    return parents | ({"reward": config.reward} if config.reward else {})


def encode(lm: Lm, config: SftConfig, split: str) -> list[Pair]:
    """(prompt ids, response ids) of a split's demonstrations. Raises TooLong for one that is, unless dropped."""
    limits = Limits(lm, config.max_prompt_tokens, config.max_response_tokens)

    def one(placed: tuple[str, Demonstration]) -> Pair:
        where, record = placed
        return limits.pair(record.prompt, record.response, f"{where}: demonstration {record.id!r}")

    records = [placed for placed in read_placed(Demonstration, config.demonstrations) if placed[1].split == split]
    what, needed = f"{split} demonstrations", split == "train"
    return each(records, one, drop_long=config.drop_long, what=what, needed=needed)


def _text(lm: Lm, config: SftConfig) -> TextBlocks | None:
    if config.pretraining is None or not config.pretraining_share:
        return None
    return TextBlocks(config.pretraining, lm.text_ids, min(TEXT_TOKENS, lm.room), config.seed)


def _logprobs(top: Top, batch: Packed, hidden: Tensor) -> Tensor:
    """(B, R) logprobs of the targets, zero where nothing counts."""
    logprobs, _ = token_logprobs(batch.at(top(hidden, batch.segments)), top.head, batch.targets[batch.mask])
    return batch.spread(logprobs)


@torch.no_grad()
def _measure(lm: Lm, config: SftConfig, held: Lowered, name: str) -> dict[str, float]:
    total, count = 0.0, 0
    for part in slices(len(held.pairs), 32):
        batch, hidden = held.batch(part)
        total -= float(_logprobs(lm.top, batch, hidden).sum())
        count += int(batch.mask.sum())
    measured = {f"loss/{name}": total / count}
    if config.reward is not None:
        measured[f"score/{name}"] = _mean_score(lm, config, config.reward, [p for p, _ in held.pairs])
    return measured


def _mean_score(lm: Lm, config: SftConfig, reward: Path, prompts: Sequence[Sequence[int]]) -> float:
    network = load_scalar(Run.open(reward, "reward").intact("model"), lm)
    limit = min(config.max_response_tokens, 64, lm.room - max(map(len, prompts)))
    uniforms = torch.rand(limit, len(prompts), generator=generator(config.seed, "sft-score"))
    sampled = Decoder(lm, lm.top).sample(prompts, max_tokens=limit, temperature=1.0, uniforms=uniforms)
    pairs = [(p, ids[m].tolist()) for p, ids, m in zip(prompts, sampled.ids, sampled.mask, strict=True)]
    batch = pack(pairs, lm.pad, lm.device)
    hidden = network.top(lm.lower(batch.ids, batch.segments), batch.segments)
    return float(network.read(batch.at_last(hidden)).mean())


def _better(row: dict[str, Any], best: dict[str, Any], name: str) -> bool:
    if f"score/{name}" in row:
        return bool(row[f"score/{name}"] > best[f"score/{name}"])
    return bool(row[f"loss/{name}"] < best[f"loss/{name}"])


def _checkpoint(run: Run, step: int, optimiser: MasterAdamW, best: dict[str, Any]) -> None:
    tensors = optimiser.state("policy") | {f"best.{i}": t for i, t in enumerate(best["weights"])}
    run.checkpoint(step, lambda folder: save_tensors(folder / "state.safetensors", tensors), {"best": best["row"]})


def _resume(run: Run, optimiser: MasterAdamW) -> tuple[dict[str, Any], int]:
    saved = run.latest()
    if saved is None:
        return {}, 0
    folder, state = saved
    tensors = load_tensors(folder / "state.safetensors")
    optimiser.restore(tensors, "policy")
    weights = [tensors[name] for i in range(len(optimiser.masters)) if (name := f"best.{i}") in tensors]
    return {"row": state["best"], "weights": weights}, state["step"]


@torch.no_grad()
def _keep(optimiser: MasterAdamW, weights: Sequence[Tensor]) -> None:
    for parameter, weight in zip(optimiser.parameters, weights, strict=True):
        parameter.copy_(weight)
