"""Records to tensors: sequences packed into rows, with the indices that lead from rows back to responses.

Several sequences share a row, kept apart by segment numbers (attention never crosses them and positions start
anew), so that almost no compute goes to padding. Neighbours with one prompt share it: their responses are branches
behind it that do not see each other (`model.BRANCH`), so the K responses of a ranking cost one prompt, not K.
Response tensors are (B, R), right-padded, in the order given:

    ids       p p p r r e . .        the row (p prompt, r response, e end, . the next sequence or padding)
    first     ^                      (B,)   flat index of the first prompt token
    where         ^ ^ ^              (B, R) flat index of the position that *predicts* each response token
    last                ^            (B,)   flat index of the last response token, where a score is read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.attention import BRANCH
from tutelage.model import Lm

ROWS = (96, 128, 160, 192, 256, 320, 384)  # widths of packed rows to choose from
ATTENTION = 1 / 1000  # what a row's width adds to the cost of its tokens: attention grows with the row (docs/log.md)
CACHE_BYTES = 1 << 30  # hidden states kept between epochs, at most
GROUP = 32  # sequences whose hidden states are computed together

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Packed:
    """B sequences in N rows of T tokens. ids, segments (N, T); where, targets, mask (B, R); first, last (B,)."""

    ids: Tensor
    segments: Tensor
    where: Tensor
    targets: Tensor
    mask: Tensor
    first: Tensor
    last: Tensor

    def at(self, hidden: Tensor) -> Tensor:
        """Of hidden (N, T, d), the states that predict response tokens that count: (number of True in mask, d)."""
        return hidden.flatten(0, 1)[self.where[self.mask]]

    def at_last(self, hidden: Tensor) -> Tensor:
        """Of hidden (N, T, d), the states of each sequence's last response token: (B, d)."""
        return hidden.flatten(0, 1)[self.last]

    def mean_of(self, per_token: Tensor) -> Tensor:
        """Of one number per token (N, T), each sequence's mean over its response tokens: (B,)."""
        flat, inner = per_token.flatten(), self.mask[:, 1:]  # where[:, 1:] are the tokens before the last one
        before = flat.new_zeros(inner.shape).masked_scatter(inner, flat[self.where[:, 1:][inner]])
        return (before.sum(1) + flat[self.last]) / self.mask.sum(1)

    def spread(self, values: Tensor) -> Tensor:
        """One value per counted token back into (B, R), zero elsewhere."""
        return torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device).masked_scatter(self.mask, values)


def pack(
    pairs: Sequence[tuple[Ids, Ids]], pad: int, device: torch.device | None = None, row: int | None = None
) -> Packed:
    """Pack (prompt ids, response ids) pairs, none empty, into rows of `row` tokens, or of the cheapest width."""
    units = _units(pairs)
    longest = max(_size(pairs, unit) for unit in units)
    widths = [max(row, longest)] if row else [w for w in ROWS if w >= longest] or [longest]
    layouts = [_first_fit(pairs, units, width) for width in widths]
    rows, width = min(layouts, key=lambda found: len(found[0]) * _cost(found[1]))
    spots: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)] * len(pairs)
    for n, held in enumerate(rows):
        at = 0
        for segment, unit in enumerate(held, 1):
            start, at = at, at + len(pairs[unit[0]][0])
            for branch, i in enumerate(unit, 1):
                spots[i] = (n, start, at, segment + (BRANCH * branch if len(unit) > 1 else 0))
                at += len(pairs[i][1])
    return _lay_out(pairs, spots, (len(rows), width), pad, device)


def _units(pairs: Sequence[tuple[Ids, Ids]]) -> list[list[int]]:
    """Indices of neighbouring pairs with one prompt, together as long as that is cheaper than the prompt once more."""
    units: list[list[int]] = []
    for i, (prompt, response) in enumerate(pairs):
        if units and list(pairs[units[-1][0]][0]) == list(prompt):
            held = _size(pairs, units[-1])
            if _cost(held + len(response)) <= _cost(held) + _cost(len(prompt) + len(response)):
                units[-1].append(i)
                continue
        units.append([i])
    return units


def _cost(tokens: int) -> float:
    """Of reading so many tokens that may see each other."""
    return tokens * (1 + ATTENTION * tokens)


def _size(pairs: Sequence[tuple[Ids, Ids]], unit: Sequence[int]) -> int:
    return len(pairs[unit[0]][0]) + sum(len(pairs[i][1]) for i in unit)


def _first_fit(
    pairs: Sequence[tuple[Ids, Ids]], units: Sequence[list[int]], width: int
) -> tuple[list[list[list[int]]], int]:
    """Units into rows of at most `width` tokens, first-fit by falling size; the rows, and the widest one's width."""
    rows: list[list[list[int]]] = []
    filled: list[int] = []
    for unit in sorted(units, key=lambda u: -_size(pairs, u)):
        size = _size(pairs, unit)
        target = next((n for n, used in enumerate(filled) if used + size <= width), len(rows))
        if target == len(rows):
            rows.append([])
            filled.append(0)
        rows[target].append(unit)
        filled[target] += size
    return rows, max(filled)


def _lay_out(
    pairs: Sequence[tuple[Ids, Ids]],
    spots: Sequence[tuple[int, int, int, int]],
    shape: tuple[int, int],
    pad: int,
    device: torch.device | None,
) -> Packed:
    """Tensors of pairs whose spots are (row, start of the prompt, start of the response, segment of the response)."""
    ids = torch.full(shape, pad)
    segments = torch.zeros(shape, dtype=torch.long)
    longest = max(len(r) for _, r in pairs)
    where = torch.zeros(len(pairs), longest, dtype=torch.long)
    targets = torch.full((len(pairs), longest), pad)
    mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    first, last = torch.zeros(2, len(pairs), dtype=torch.long)
    for i, (prompt, response) in enumerate(pairs):
        n, start, border, segment = spots[i]
        stop, end = start + len(prompt), border + len(response)
        ids[n, start:stop], ids[n, border:end] = torch.tensor(prompt), torch.tensor(response)
        segments[n, start:stop], segments[n, border:end] = segment % BRANCH, segment
        flat = n * shape[1]
        where[i, 0] = flat + stop - 1
        where[i, 1 : len(response)] = torch.arange(flat + border, flat + end - 1)
        targets[i, : len(response)] = torch.tensor(response)
        mask[i, : len(response)] = True
        first[i], last[i] = flat + start, flat + end - 1
    tensors = (ids, segments, where, targets, mask, first, last)
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
            hidden[self._places(packed, n, i)] = self.kept[i]
        return packed, hidden.view(*packed.ids.shape, -1)

    def _keep(self, group: range, kept: dict[int, Tensor]) -> None:
        """Compute a group's states where they are missing; who else is in the batch changes their last bits."""
        if group[0] in kept:
            return
        fresh = pack([self.pairs[i] for i in group], self.lm.pad, self.lm.device)
        flat = self.lm.lower(fresh.ids, fresh.segments).flatten(0, 1)
        for n, i in enumerate(group):
            kept[i] = flat[self._places(fresh, n, i)]

    def _places(self, packed: Packed, n: int, i: int) -> Tensor:
        """Flat indices of the tokens of pair `i`, the n-th of a batch: its prompt's, then its response's."""
        prompt, response = self.pairs[i]
        first, end = int(packed.first[n]), int(packed.last[n]) + 1
        places = [*range(first, first + len(prompt)), *range(end - len(response), end)]
        return torch.tensor(places, device=packed.ids.device)


def text_rows(rows: Sequence[Ids], device: torch.device | None = None) -> Packed:
    """Plain text of one length per row: every token but the first is a target."""
    pairs = [(r[:1], r[1:]) for r in rows]
    spots = [(i, 0, 1, 1) for i in range(len(rows))]
    return _lay_out(pairs, spots, (len(rows), max(map(len, rows))), 0, device)


def slices(count: int, size: int) -> list[range]:
    """Ranges of at most `size` that cover 0..count-1."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]
