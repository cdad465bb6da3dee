"""Keys and values of what has been read, and a forward pass that continues behind them.

Shape letters: B rows, n new tokens, S all tokens so far with the new ones, H key heads, D head size, d hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.attention import by_layer_type


class StaticCache:
    """Keys and values of all layers, (B, H, S, D) each, allocated once; `length` positions are filled.

    On a CPU they are kept in fp32: a token's products with a bf16 cache would convert it anew each time.
    """

    def __init__(self, layers: int, size: int, dtype: torch.dtype | None = None) -> None:
        self.size = size
        self.dtype = dtype
        self.length = 0
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store (B, H, n, D) behind what is filled; return views of everything up to there."""
        end = self.length + key.shape[2]
        stored_k, stored_v = self.keys[layer_idx], self.values[layer_idx]
        if stored_k is None or stored_v is None:
            shape = (*key.shape[:2], self.size)
            stored_k = self.keys[layer_idx] = key.new_empty(*shape, key.shape[3], dtype=self.dtype)
            stored_v = self.values[layer_idx] = value.new_empty(*shape, value.shape[3], dtype=self.dtype)
        stored_k[:, :, self.length : end] = key
        stored_v[:, :, self.length : end] = value
        if self.length == 0:
            return key, value
        return stored_k[:, :, :end], stored_v[:, :, :end]

    def take(self, other: StaticCache, rows: Tensor, start: int, count: int) -> None:
        """Copy what `other` holds into `rows` (of `count`) of this cache, from position `start` on."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for n, t in enumerate(theirs):
                if t is None:
                    continue
                held = mine[n]
                if held is None:
                    held = mine[n] = t.new_zeros(count, t.shape[1], self.size, t.shape[3])
                held[rows, :, start : start + other.length] = t[:, :, : other.length]
        self.length = start + other.length

    def get_seq_length(self, *_: Any) -> int:
        """Filled positions; part of the interface transformers expects."""
        return self.length

    def keep(self, rows: Tensor) -> None:
        """Keep `rows` (indices, in this order, repeats allowed) and drop all others.

        Fewer rows than before move to the front of the block they are in: new blocks, each a little smaller than
        the last, would leave the memory in pieces.
        """
        for held in (self.keys, self.values):
            for n, t in enumerate(held):
                if t is None:
                    continue
                if len(rows) > len(t):
                    held[n] = t[rows]
                    continue
                t[: len(rows)] = t[rows]
                held[n] = t[: len(rows)]


def read_behind(base: Any, config: Any, ids: Tensor, position_ids: Tensor, seen: Tensor, cache: StaticCache) -> Tensor:
    """Run ids (B, n) behind the cache, which grows by them; hidden states (B, n, d).

    seen (B, S): True = a token, of those before and the new ones; False = padding on the left.
    """
    start, count = cache.length, ids.shape[1]
    query = torch.arange(start, start + count, device=ids.device)
    behind = query[:, None] - torch.arange(start + count, device=ids.device)[None, :]
    full = (behind >= 0) & seen[:, None, None, :] | (behind == 0)
    distance = position_ids[:, :, None] - (seen.long().cumsum(1) - 1)[:, None, :]  # in tokens: padding is none
    hidden: Tensor = base(
        input_ids=ids,
        attention_mask=by_layer_type(full, distance[:, None], config),
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    cache.length += count
    return hidden
