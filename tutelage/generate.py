"""The decode engine: batched sampling on a static cache. Ids in, ids and logprobs out; it never sees text.

What makes it fast on a CPU: keys and values live in one preallocated block (no concatenation per token), the weights
are laid out for the matrix kernels once per phase, a prompt that is answered several times is read once, prompts of
like length are read together, the small operations of a step are merged where the model allows it (`stepping.py`),
finished rows leave the batch, and a token is drawn with one uniform number per row by a two-level search instead of
exponential noise over the vocabulary. Sampling is pure (no top-k, top-p, penalties or minimum length), so the
logprobs are those of the distribution sampled from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.attention import positions
from tutelage.cache import StaticCache, read_behind
from tutelage.model import Lm, Top
from tutelage.records import UserError
from tutelage.stepping import Laid, fit, lays_out

BLOCK = 256  # vocabulary entries per block of the two-level search
SHARED = 16  # tokens at the start of all prompts that are worth reading apart
READ = 512  # tokens of prompts read at a time: prompts of like length together, so that little of it is padding
COMPACT = 0.85  # drop finished rows when fewer than this share of the batch is alive


@dataclass(frozen=True, slots=True)
class Sampled:
    """Responses to B prompts. ids (B, R) filled with pad after the end; mask (B, R) True = counts (the end token
    included); logprobs (B, R) fp32, 0 where the mask is False; ended (B,) True = closed by its own end token."""

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    ended: Tensor


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out for oneDNN once, instead of at every call."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def pack(module: nn.Module, rows: int, kept: dict[int, nn.Module] | None = None) -> nn.Module:
    """A view of `module` whose CPU linears are packed for about `rows` rows; `kept` holds those already done."""
    if kept is not None and id(module) in kept:
        return kept[id(module)]
    if type(module) is nn.Linear:  # a subclass computes something of its own (Phi-MoE's router)
        fits = module.weight.device.type == "cpu" and lays_out(module.weight.dtype)
        return PackedLinear(module, rows) if fits else module
    view = copy.copy(module)
    view._modules = {n: None if m is None else pack(m, rows, kept) for n, m in module._modules.items()}
    return view


def draw(logits: Tensor, uniform: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token per row: logits (B, V), uniform and temperature (B,) -> (token (B,), logprob (B,) fp32).

    Inverse-CDF sampling in two levels, blocks of the vocabulary and then entries of one block, so that the
    cumulative sum never runs over all V. Temperature 0 takes the largest logit; its logprob is at temperature 1.
    """
    peak = logits.amax(1, keepdim=True)
    greedy = temperature == 0
    weights = logits.float()  # fp32 logits are overwritten
    likeliest = weights.argmax(1) if bool(greedy.any()) else None  # fp32: in bf16 it takes longer than all the rest
    weights.sub_(peak)
    if bool((temperature != 1).any()):
        weights.div_(torch.where(greedy, 1.0, temperature)[:, None])
    weights = weights.exp_()
    if spare := -weights.shape[1] % BLOCK:
        weights = F.pad(weights, (0, spare))
    blocks = weights.view(len(weights), -1, BLOCK)
    sums = blocks.sum(2)
    edges = sums.cumsum(1)
    total = edges[:, -1]
    target = uniform.to(total) * total
    block = torch.searchsorted(edges, target[:, None], right=True).clamp_max(sums.shape[1] - 1)
    rest = target[:, None] - F.pad(edges, (1, 0)).gather(1, block)
    inner = blocks[torch.arange(len(blocks), device=logits.device), block.squeeze(1)]
    entry = torch.searchsorted(inner.cumsum(1), rest, right=True)
    # Rounding can push the search past the last entry that has weight: fall back to the block's heaviest.
    safe = inner.gather(1, entry.clamp_max(BLOCK - 1)) > 0
    entry = torch.where((entry < BLOCK) & safe, entry, inner.argmax(1, keepdim=True))
    token = (block * BLOCK + entry).squeeze(1)
    if likeliest is not None:
        token = torch.where(greedy, likeliest, token)
    return token, (weights.gather(1, token[:, None]).squeeze(1) / total).log()


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Ragged prompts -> ids (B, P) padded on the left and mask (B, P), True = real token."""
    width = max(len(r) for r in rows)
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows], device=device)
    return ids, mask


class Decoder:
    """One network made ready to sample: build it once per phase, call `sample` many times.

    The trunk's packed weights are kept on the `Lm` between phases, since they never change.
    """

    def __init__(self, lm: Lm, top: Top, rows: int = 64) -> None:
        self.lm = lm
        self.rows = rows
        kept, joined = _packed_trunk(lm, rows)
        with torch.no_grad():
            whole = lm.whole(top)
            self.base = pack(whole, rows, kept)
            head = nn.Linear(top.head.shape[1], top.head.shape[0], bias=False, device="meta")
            head.weight = nn.Parameter(top.head.detach(), requires_grad=False)
            self.head = kept.setdefault(id(top.head), pack(head, rows)) if lm.cut else pack(head, rows)
            self.one = fit(whole, self.base, rows, lm.cut, joined)
        if self.one is not None and not self._agrees():
            self.one = None

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float | Sequence[float],
        uniforms: Tensor,
        on_token: Callable[[int], None] | None = None,
    ) -> Sampled:
        """Answer B prompts (token ids) with at most `max_tokens` tokens each.

        temperature: one for all, or one per prompt.
        uniforms (R >= max_tokens, B) in [0, 1): the randomness, drawn beforehand, so that a row's draws do not depend
        on when other rows finish. `on_token` gets each token of a single prompt as it is drawn (streaming).
        """
        lm, batch, width = self.lm, len(prompts), max(map(len, prompts))
        if width + max_tokens > lm.room:
            raise UserError(f"{lm.name}: a prompt of {width} tokens and {max_tokens} to come, for {lm.room} positions")
        heat = torch.tensor([temperature] * batch if isinstance(temperature, (int, float)) else list(temperature))
        heat, uniforms = heat.float().to(lm.device), uniforms.to(lm.device)
        out = torch.full((batch, max_tokens), lm.pad, device=lm.device)
        counted = torch.zeros(batch, max_tokens, dtype=torch.bool, device=lm.device)
        logprobs = torch.zeros(batch, max_tokens, device=lm.device)
        ended = torch.zeros(batch, dtype=torch.bool, device=lm.device)
        rows = torch.arange(batch, device=lm.device)  # which prompt each row of the running batch belongs to
        alive = torch.ones(batch, dtype=torch.bool, device=lm.device)
        kept = torch.float32 if lm.device.type == "cpu" else None
        cache = StaticCache(lm.model.config.num_hidden_layers, width + max_tokens, kept)
        logits, mask = self._read(prompts, cache)
        seen, place = torch.cat([mask, mask.new_ones(batch, max_tokens)], 1), mask.sum(1)
        for step in range(max_tokens):
            token, logprob = draw(logits, uniforms[step, rows], heat[rows])
            live = rows[alive]
            out[live, step], logprobs[live, step], counted[live, step] = token[alive], logprob[alive], True
            finished = token == lm.eos
            ended[live] = finished[alive]
            alive = alive & ~finished
            if on_token is not None and batch == 1:
                on_token(int(token[0]))
            if step + 1 == max_tokens or not alive.any():
                break
            if alive.float().mean() < COMPACT:
                keep = alive.nonzero().squeeze(1)
                cache.keep(keep)
                rows, token, place, seen, alive = rows[keep], token[keep], place[keep], seen[keep], alive[keep]
            logits = self._next(token, place, seen[:, : cache.length + 1], cache)
            place = place + 1
        return Sampled(out, counted, logprobs, ended)

    def _read(self, prompts: Sequence[Sequence[int]], cache: StaticCache) -> tuple[Tensor, Tensor]:
        """Fill the cache with the prompts; logits (B, V) of what comes next, and mask (B, P), True = real token.

        A beginning that all prompts share (a few-shot prefix) is read once, and so is each different prompt.
        """
        known: dict[tuple[int, ...], int] = {}
        readers = [known.setdefault(tuple(p), len(known)) for p in prompts]
        rows, device = list(known), self.lm.device
        shared = _common(rows)
        if shared:
            front = torch.tensor([rows[0][:shared]], device=device)
            self._step(
                front, torch.arange(shared, device=device)[None], torch.ones_like(front, dtype=torch.bool), cache
            )
            cache.keep(torch.zeros(len(rows), dtype=torch.long, device=device))
        ids, mask = pad_left([row[shared:] for row in rows], self.lm.pad, device)
        seen, place = torch.cat([mask.new_ones(len(rows), shared), mask], 1), positions(mask) + shared
        if shared:
            logits = self._step(ids, place, seen, cache)
        else:
            logits = self._read_in_groups(ids, place, seen, cache)
        if self.one is not None:
            self.one.enter(cache)
        if len(rows) < len(prompts):
            reader = torch.tensor(readers, device=device)
            cache.keep(reader)
            logits, seen = logits[reader], seen[reader]
        return logits, seen

    def _read_in_groups(self, ids: Tensor, place: Tensor, seen: Tensor, cache: StaticCache) -> Tensor:
        """Fill the cache with ids (B, P) padded on the left, rows of like length together; logits (B, V)."""
        count, width = ids.shape
        lengths = seen.sum(1)
        order = lengths.argsort(stable=True)
        found: Tensor | None = None
        while len(order):
            longest = int(lengths[order[-1]])
            rows, order = order[-max(1, READ // longest) :], order[: -max(1, READ // longest)]
            part = StaticCache(len(cache.keys), longest, cache.dtype)
            first = width - longest
            logits = self._step(ids[rows, first:], place[rows, first:], seen[rows, first:], part)
            cache.take(part, rows, first, count)
            found = logits.new_empty(count, logits.shape[1]) if found is None else found
            found[rows] = logits
        assert found is not None
        return found

    def _next(self, token: Tensor, place: Tensor, seen: Tensor, cache: StaticCache) -> Tensor:
        """Run one token (B,) at its position (B,) behind the cache; logits (B, V)."""
        if self.one is None:
            return self._step(token[:, None], place[:, None], seen, cache)
        logits: Tensor = self.head(self.one(token, place, seen, cache))
        return logits

    def _step(self, ids: Tensor, position_ids: Tensor, seen: Tensor, cache: StaticCache) -> Tensor:
        """Run ids (B, n) behind the cache; logits (B, V) of the last position."""
        hidden = read_behind(self.base, self.lm.model.config, ids, position_ids, seen, cache)
        logits: Tensor = self.head(hidden[:, -1])
        return logits

    @torch.inference_mode()
    def _agrees(self) -> bool:
        """Whether the merged step gives the logits of the plain one: a model may look like Llama and be none."""
        store = self.lm.model.__dict__
        if "_tutelage_agrees" not in store:
            a, b, c, d, e, f, g = torch.linspace(0, self.lm.vocabulary - 1, 9).long().tolist()[1:-1]
            prompts, token, place = [[a, b, c], [d, e]], torch.tensor([f, g]), torch.tensor([3, 2])
            found = []
            for one in (self.one, None):
                whole, self.one = self.one, one
                cache = StaticCache(self.lm.model.config.num_hidden_layers, 4, torch.float32)
                _, mask = self._read(prompts, cache)
                seen = torch.cat([mask, mask.new_ones(2, 1)], 1)
                found.append(self._next(token, place, seen, cache).float())
                self.one = whole
            gap = (found[0] - found[1]).abs().mean().item()
            rounding = 0.1 if self.lm.top.head.dtype == torch.bfloat16 else 1e-3  # bf16: measured .03 of the spread
            store["_tutelage_agrees"] = gap <= rounding * found[1].std().item()
        return bool(store["_tutelage_agrees"])


def _common(rows: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all rows share, each keeping one of its own; 0 where that would save next to nothing."""
    least, most, end = min(rows), max(rows), min(map(len, rows)) - 1
    shared = next((n for n in range(end) if least[n] != most[n]), end)
    return shared if len(rows) > 1 and shared >= SHARED else 0


def _packed_trunk(lm: Lm, rows: int) -> tuple[dict[int, nn.Module], dict[int, Laid]]:
    """What is laid out once for all phases, for it never changes: the trunk's linear layers, by id, and its joined
    projections, by layer."""
    store: dict[int, tuple[dict[int, nn.Module], dict[int, Laid]]]
    store = lm.model.__dict__.setdefault("_tutelage_packed", {})
    if rows not in store:
        with torch.no_grad():
            linears = [m for m in (lm.trunk.modules() if lm.trunk is not None else ()) if isinstance(m, nn.Linear)]
            store[rows] = {id(m): pack(m, rows) for m in linears}, {}
    return store[rows]
