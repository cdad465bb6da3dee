"""Attention over packed rows: which tokens see each other, at which positions, and the kernel that computes it.

A row holds several sequences, told apart by segment numbers, and a sequence may branch: K responses behind one
prompt, each seeing the prompt and itself. Shape letters: B rows, T tokens, H heads, D head size, S keys.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tutelage.records import UserError

BRANCH = 1 << 20
"""Segments are numbered from 1 to below this; segment + BRANCH * k is the k-th branch behind that segment."""
LAYER_TYPES = {"full_attention", "sliding_attention"}
"""The kinds of layers we have masks for."""
NO_EFFECT = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
    "position_ids",
    "sliding_window",
    "use_cache",
}
"""Arguments that models hand to every attention function and that change nothing where a mask is given."""


def positions(segments: Tensor) -> Tensor:
    """Position ids (B, T) that start at 0 at the first token of each segment, wherever it lies in the row.

    segments (B, T): 0 = padding, else the number of the sequence a token belongs to; a bool mask is one segment.
    segment + BRANCH * k (k = 1, 2, ...) is the k-th branch behind that segment's tokens: positions go on from there.
    """
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    trunk, branch = segments % BRANCH, segments // BRANCH
    ones = torch.ones_like(segments, dtype=torch.bool)

    def since(start: Tensor) -> Tensor:  # the last index, up to each token, at which `start` is True
        return torch.where(start, index, 0).cummax(1).values

    fresh = ones.clone()
    fresh[:, 1:] = trunk[:, 1:] != trunk[:, :-1]
    apart = ones.clone()
    apart[:, 1:] = segments[:, 1:] != segments[:, :-1]
    stem = since(apart & (branch == 1)) - since(fresh)  # tokens before the first branch
    return torch.where(branch == 0, index - since(fresh), index - since(apart) + stem)


def attention_mask(segments: Tensor, config: Any) -> Any:
    """(B, T) segments -> (B, 1, T, T) mask, True = look: causal, inside one segment, a branch also at its stem.

    A dict where layers differ. The diagonal is always on: a padding token sees itself, so no softmax row is empty
    (that would be NaN).
    """
    index = torch.arange(segments.shape[1], device=segments.device)
    trunk, branch = segments % BRANCH, segments // BRANCH
    same = (trunk[:, :, None] == trunk[:, None, :]) & (segments != 0)[:, None, :]
    along = (branch[:, :, None] == branch[:, None, :]) | (branch == 0)[:, None, :]
    causal = index[:, None] >= index[None, :]
    full = (causal & same & along | torch.eye(len(index), dtype=torch.bool, device=index.device))[:, None]
    place = positions(segments)
    return by_layer_type(full, (place[:, :, None] - place[:, None, :])[:, None], config)


def by_layer_type(full: Tensor, distance: Tensor, config: Any) -> Any:
    """`full` where all layers look everywhere; else one mask per layer type, sliding ones cut at the window."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if "sliding_attention" in kinds:
        return {"full_attention": full, "sliding_attention": full & (distance < (window or 1 << 30))}
    return full & (distance < window) if window and not kinds else full


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention without repeating the key and value heads.

    Raises UserError for arguments that would change the result in a way we do not compute: a cap on the scores
    (softcap), attention sinks (s_aux), a bias by position, and whatever else a model thinks of.

    query (B, H, T, D); key, value (B, H/G, S, D); attention_mask (B, 1, T, S) bool, True = look. The G queries that
    share a key head are laid out as further query positions, so nothing is copied G times. Returns (B, T, H, D).
    """
    if unknown := sorted(k for k, v in others.items() if v is not None and k not in NO_EFFECT):
        raise UserError(f"its attention takes {', '.join(unknown)}, which Tutelage does not compute; use another model")
    batch, heads, length, width = query.shape
    group = heads // key.shape[1]
    if attention_mask is None and length > 1:  # transformers leaves the mask out where it is plainly causal
        ones = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = ones.tril(key.shape[2] - length)[None, None]
    if group > 1:
        query = query.reshape(batch, heads // group, group * length, width)
        if attention_mask is not None and length > 1:
            attention_mask = attention_mask.repeat(1, 1, group, 1)
    if key.dtype != query.dtype:  # one token behind an fp32 cache (CPU decoding): plain products beat the fused kernel
        found = torch.matmul(query.float() * (scaling or width**-0.5), key.transpose(2, 3))
        if attention_mask is not None:
            found = found.masked_fill(~attention_mask, float("-inf"))
        out = torch.matmul(found.softmax(-1), value).to(query.dtype)
    else:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
    return out.reshape(batch, heads, length, width).transpose(1, 2), None


AttentionInterface.register("tutelage", grouped_attention)
AttentionMaskInterface.register("tutelage", sdpa_mask)
