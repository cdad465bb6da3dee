"""Records to tensors: sequences packed into rows, with the indices that lead from rows back to responses.

Several sequences share a row, kept apart by segment numbers (attention never crosses them and positions start
anew), so that almost no compute goes to padding. Response tensors are (B, R), right-padded, in the order given:

    ids       p p p r r e . .        the row (p prompt, r response, e end, . the next sequence or padding)
    where         ^ ^ ^              (B, R) flat index of the position that *predicts* each response token
    last                ^            (B,)   flat index of the last response token, where a score is read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.model import Lm

ROW = 128  # tokens in a packed row, unless one sequence needs more: attention costs grow with the row
CACHE_BYTES = 1 << 30  # hidden states kept between epochs, at most
GROUP = 32  # sequences whose hidden states are computed together

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Packed:
    """B sequences in N rows of T tokens. ids, segments (N, T); where, targets, mask (B, R); last (B,)."""

    ids: Tensor
    segments: Tensor
    where: Tensor
    targets: Tensor
    mask: Tensor
    last: Tensor

    def at(self, hidden: Tensor) -> Tensor:
        """Of hidden (N, T, d), the states that predict response tokens that count: (number of True in mask, d)."""
        return hidden.flatten(0, 1)[self.where[self.mask]]

    def at_last(self, hidden: Tensor) -> Tensor:
        """Of hidden (N, T, d), the states of each sequence's last response token: (B, d)."""
        return hidden.flatten(0, 1)[self.last]

    def spread(self, values: Tensor) -> Tensor:
        """One value per counted token back into (B, R), zero elsewhere."""
        return torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device).masked_scatter(self.mask, values)


def pack(pairs: Sequence[tuple[Ids, Ids]], pad: int, device: torch.device | None = None, row: int = ROW) -> Packed:
    """Pack (prompt ids, response ids) pairs, none empty, first-fit by falling length into rows of `row` tokens."""
    row = max(row, max(len(p) + len(r) for p, r in pairs))
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    filled: list[int] = []
    spots: dict[int, tuple[int, int, int]] = {}
    counts: list[int] = []
    for i in order:
        size = len(pairs[i][0]) + len(pairs[i][1])
        target = next((n for n, used in enumerate(filled) if used + size <= row), len(filled))
        if target == len(filled):
            filled.append(0)
            counts.append(0)
        counts[target] += 1
        spots[i] = (target, filled[target], counts[target])
        filled[target] += size
    width = max(filled)
    return _lay_out(pairs, spots, (len(filled), width), pad, device)


def _lay_out(
    pairs: Sequence[tuple[Ids, Ids]],
    spots: dict[int, tuple[int, int, int]],
    shape: tuple[int, int],
    pad: int,
    device: torch.device | None,
) -> Packed:
    ids = torch.full(shape, pad)
    segments = torch.zeros(shape, dtype=torch.long)
    longest = max(len(r) for _, r in pairs)
    where = torch.zeros(len(pairs), longest, dtype=torch.long)
    targets = torch.full((len(pairs), longest), pad)
    mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    last = torch.zeros(len(pairs), dtype=torch.long)
    for i, (prompt, response) in enumerate(pairs):
        n, start, segment = spots[i]
        border, end = start + len(prompt), start + len(prompt) + len(response)
        ids[n, start:end] = torch.tensor([*prompt, *response])
        segments[n, start:end] = segment
        flat = n * shape[1]
        where[i, : len(response)] = torch.arange(flat + border - 1, flat + end - 1)
        targets[i, : len(response)] = torch.tensor(list(response))
        mask[i, : len(response)] = True
        last[i] = flat + end - 1
    tensors = (ids, segments, where, targets, mask, last)
    return Packed(*(t.to(device) if device is not None else t for t in tensors))


class Lowered:
    """Packed batches of (prompt, response) pairs with what the tops read, the trunk run once per sequence.

    Below the cut nothing trains, so a sequence's hidden states at the cut are the same in every epoch: they are kept
    after the first, as long as all of them fit in CACHE_BYTES. They are computed in groups that do not depend on
    the order of the batches, so that a resumed run has the same ones to the last bit.
    """

    def __init__(self, lm: Lm, pairs: Sequence[tuple[Ids, Ids]]) -> None:
        self.lm, self.pairs = lm, pairs
        tokens = sum(len(p) + len(r) for p, r in pairs)
        bytes_needed = tokens * lm.top.head.shape[1] * lm.top.head.element_size()
        self.kept: dict[int, Tensor] | None = {} if lm.cut and bytes_needed < CACHE_BYTES else None

    def batch(self, indices: Sequence[int]) -> tuple[Packed, Tensor]:
        """The pairs at `indices` packed, and what the tops read: hidden (N, T, d), or ids (N, T) without a trunk."""
        packed = pack([self.pairs[i] for i in indices], self.lm.pad, self.lm.device)
        if self.kept is None:
            return packed, self.lm.lower(packed.ids, packed.segments)
        for group in sorted({i // GROUP for i in indices}):
            self._keep(range(group * GROUP, min((group + 1) * GROUP, len(self.pairs))), self.kept)
        hidden = self.kept[indices[0]].new_zeros(packed.ids.numel(), self.kept[indices[0]].shape[1])
        for n, i in enumerate(indices):
            hidden[_span(packed, n, len(self.kept[i]))] = self.kept[i]
        return packed, hidden.view(*packed.ids.shape, -1)

    def _keep(self, group: range, kept: dict[int, Tensor]) -> None:
        """Compute a group's states where they are missing; who else is in the batch changes their last bits."""
        if group[0] in kept:
            return
        fresh = pack([self.pairs[i] for i in group], self.lm.pad, self.lm.device)
        flat = self.lm.lower(fresh.ids, fresh.segments).flatten(0, 1)
        for n, i in enumerate(group):
            kept[i] = flat[_span(fresh, n, len(self.pairs[i][0]) + len(self.pairs[i][1]))].clone()


def _span(packed: Packed, n: int, length: int) -> slice:
    end = int(packed.last[n]) + 1
    return slice(end - length, end)


def text_rows(rows: Sequence[Ids], device: torch.device | None = None) -> Packed:
    """Plain text of one length per row: every token but the first is a target."""
    pairs = [(r[:1], r[1:]) for r in rows]
    spots = {i: (i, 0, 1) for i in range(len(rows))}
    return _lay_out(pairs, spots, (len(rows), max(map(len, rows))), 0, device)


def slices(count: int, size: int) -> list[range]:
    """Ranges of at most `size` that cover 0..count-1."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]
