"""AdamW on fp32 master weights, the schedules, and the weight average.

What computes may be bf16; what is updated is not: an update smaller than bf16's 8 bits of mantissa would vanish.
Gradients of several backward passes are added in fp32 too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MasterAdamW:
    """AdamW (decoupled decay) with fp32 masters of `parameters`; decay only touches matrices.

    Parameters that are fp32 already are their own masters, so nothing is held twice.

    Use: backward, `collect()` (adds the gradients to the fp32 sum and frees them), more backwards, `step(lr)`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        ema: float = 0.0,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [p.detach().float() for p in self.parameters]  # of fp32 it makes no copy
        self.first = [torch.zeros_like(m) for m in self.masters]
        self.second = [torch.zeros_like(m) for m in self.masters]
        self.sums: list[Tensor | None] = [None] * len(self.masters)
        self.average = [m.clone() for m in self.masters] if ema else []
        self.betas, self.eps, self.weight_decay, self.clip_norm, self.ema = betas, eps, weight_decay, clip_norm, ema
        self.steps = 0

    def collect(self) -> None:
        """Add each parameter's gradient to the fp32 sum of this step and free it."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            held = self.sums[i]
            self.sums[i] = gradient if held is None else held.add_(gradient)
            parameter.grad = None

    def gradient_norm(self) -> float:
        """2-norm of the gradient sum collected so far."""
        norms = [g.norm() for g in self.sums if g is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0

    @torch.no_grad()
    def step(self, lr: float) -> float:
        """One update at learning rate `lr`; returns the gradient norm before clipping."""
        self.collect()
        norm = self.gradient_norm()
        shrink = min(1.0, self.clip_norm / (norm + 1e-6)) if self.clip_norm else 1.0
        self.steps += 1
        b1, b2 = self.betas
        rate = lr * math.sqrt(1 - b2**self.steps) / (1 - b1**self.steps)
        eps = self.eps * math.sqrt(1 - b2**self.steps)
        for i, master in enumerate(self.masters):
            gradient = self.sums[i]
            if gradient is None:
                continue
            gradient.mul_(shrink)
            self.first[i].lerp_(gradient, 1 - b1)
            self.second[i].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            if self.weight_decay and master.ndim > 1:
                master.mul_(1 - lr * self.weight_decay)
            master.addcdiv_(self.first[i], self.second[i].sqrt().add_(eps), value=-rate)
            self._give(i)
            self.sums[i] = None
        for average, master in zip(self.average, self.masters, strict=False):
            average.lerp_(master, 1 - self.ema)
        return norm

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the weight average into the parameters (the masters keep the raw weights)."""
        for i, average in enumerate(self.average):
            if self._own(i):
                self.masters[i] = self.masters[i].clone()
            self.parameters[i].copy_(average)

    @torch.no_grad()
    def use_masters(self) -> None:
        """Put the raw weights back into the parameters."""
        for i in range(len(self.masters)):
            self._give(i)

    def _own(self, i: int) -> bool:
        """Whether a parameter is its own master."""
        return self.masters[i].data_ptr() == self.parameters[i].data_ptr()

    def _give(self, i: int) -> None:
        """Bring a parameter up to its master."""
        if not self._own(i):
            self.parameters[i].copy_(self.masters[i])

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        groups = {"master": self.masters, "first": self.first, "second": self.second, "average": self.average}
        named = {f"{prefix}.{g}.{i}": t for g, tensors in groups.items() for i, t in enumerate(tensors)}
        return {**named, f"{prefix}.steps": torch.tensor(self.steps)}

    def restore(self, tensors: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` wrote; the parameters get the masters."""
        groups = {"master": self.masters, "first": self.first, "second": self.second, "average": self.average}
        for group, held in groups.items():
            for i, tensor in enumerate(held):
                tensor.copy_(tensors[f"{prefix}.{group}.{i}"])
        self.steps = int(tensors[f"{prefix}.steps"])
        self.use_masters()


def cosine(step: int, total: int, peak: float, *, floor: float = 0.1, warmup: int = 0) -> float:
    """Learning rate at `step` (from 0) of `total`: linear warm-up, then cosine to `floor` x `peak` (App. C)."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def warmed(step: int, peak: float, *, steps: int, start: float = 0.1) -> float:
    """Constant `peak` after a linear rise over `steps` from `start` x peak (the paper: 10 iterations from 1/10)."""
    return peak * (start + (1 - start) * min(1.0, step / steps)) if steps else peak
