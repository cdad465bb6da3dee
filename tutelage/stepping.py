"""One token through a Llama-shaped decoder on a CPU, with its small operations merged.

At 64 rows the matrix products of a token take two thirds of its time, and hundreds of small operations the rest.
Here query, key and value are one product, rotation is one complex multiplication, scale and mask ride on the
attention product, and activation, gate and residual sum are written by the products themselves. A layer is twenty
operations instead of fifty. It computes what transformers computes, up to rounding; `fit` returns nothing where a
model is shaped otherwise, and the decode engine proves a step against the model's own before it relies on it.

Shape letters: B rows, d hidden size, H query heads, G key heads, D head size, S keys.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
BASE = {"embed_tokens", "layers", "norm", "rotary_emb"}
Laid = tuple[Tensor, Tensor | None]
"""A weight laid out for oneDNN, and its bias."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, laid out."""

    before_attention: nn.Module
    qkv: Laid
    out: Laid
    before_mlp: nn.Module
    gate: Laid
    up: Laid
    down: Laid


class LlamaStep:
    """A step of one token for every row, behind a cache that `enter` has taken over."""

    def __init__(self, base: Any, layers: list[Layer]) -> None:
        config = base.config
        self.base, self.layers = base, layers
        self.dtype: torch.dtype = base.embed_tokens.weight.dtype
        self.queries, self.heads = config.num_attention_heads, config.num_key_value_heads
        self.size, self.scale = base.layers[0].self_attn.head_dim, base.layers[0].self_attn.scaling

    def enter(self, cache: Any) -> None:
        """Lay the prompts' keys and values (B, G, S, D) out for the steps to come: of the weights' type, keys as
        (B, G, D, S) and in the order in which neighbours, not halves, rotate together."""
        for n, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            paired = keys.unflatten(-1, (2, self.size // 2)).transpose(-1, -2).flatten(-2)
            cache.keys[n] = paired.transpose(2, 3).to(self.dtype, memory_format=torch.contiguous_format)
            cache.values[n] = values.to(self.dtype)

    def __call__(self, token: Tensor, place: Tensor, seen: Tensor, cache: Any) -> Tensor:
        """Token and position (B,) behind the cache, whose S + 1 keys `seen` (B, S + 1) lets through -> state (B, d)."""
        batch, end, turning = len(token), cache.length + 1, self.queries + self.heads
        hidden = self.base.embed_tokens(token)
        cos, sin = (t[..., : self.size // 2].float() for t in self.base.rotary_emb(hidden[:, None], place[:, None]))
        turn = torch.complex(cos, sin)  # (B, 1, D/2)
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, float("-inf"))
        mask = mask[:, None].expand(batch, self.heads, end).reshape(batch * self.heads, 1, end)
        for n, layer in enumerate(self.layers):
            mixed = product(layer.before_attention(hidden), layer.qkv)
            pairs = mixed[:, : turning * self.size].float().view(batch, turning, self.size // 2, 2)
            turned = torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(2).to(self.dtype)
            keys, values = cache.keys[n], cache.values[n]
            keys[:, :, :, end - 1] = turned[:, self.queries :]
            values[:, :, end - 1] = mixed[:, turning * self.size :].view(batch, self.heads, self.size)
            query = turned[:, : self.queries].reshape(batch * self.heads, self.queries // self.heads, self.size)
            keys, values = keys.flatten(0, 1)[:, :, :end], values.flatten(0, 1)[:, :end]
            found = torch.baddbmm(mask, query, keys, alpha=self.scale).softmax(-1)
            read = torch.bmm(found, values).view(batch, self.queries * self.size)
            hidden = product(read, layer.out, plus=hidden)
            inner = layer.before_mlp(hidden)
            inner = product(inner, layer.up, times=product(inner, layer.gate, then="swish"))
            hidden = product(inner, layer.down, plus=hidden)
        cache.length = end
        return self.base.norm(hidden)  # type: ignore[no-any-return]


@functools.cache
def lays_out(dtype: torch.dtype) -> bool:
    """Whether oneDNN can lay out weights of `dtype` on this processor and multiply with them.

    It depends on more than the build of torch: bf16 needs AVX512 or AVX-NE-CONVERT. So the operations are tried once.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x, weight, other = (torch.ones(shape, dtype=dtype) for shape in ((2, 16), (8, 16), (2, 8)))
    try:
        laid: Laid = torch.ops.mkldnn._reorder_linear_weight(weight, 2), None
        return bool((product(x, laid) == 16).all() and (product(x, laid, plus=other) == 17).all())
    except (RuntimeError, AttributeError):  # this processor, or this build of torch, does not have the operation
        return False


def product(
    x: Tensor, laid: Laid, *, then: str = "none", plus: Tensor | None = None, times: Tensor | None = None
) -> Tensor:
    """x W^T + b by oneDNN, with one operation on the way out: an activation, a sum, or a product by element."""
    other = plus if plus is not None else times
    if other is None:
        return torch.ops.mkldnn._linear_pointwise(x, *laid, then, [], "")  # type: ignore[no-any-return]
    name = "add" if plus is not None else "mul"
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, *laid, name)  # type: ignore[no-any-return]


def fit(base: Any, packed: Any, rows: int, frozen: int, kept: dict[int, Laid]) -> LlamaStep | None:
    """A step for the decoder `base`, or None where it is not Llama-shaped or not on a CPU.

    packed: the same decoder with its linear layers laid out for about `rows` rows; kept: what was laid out before
    for the first `frozen` layers, which never change, by layer.
    """
    if not shaped(base):
        return None
    layers = []
    for n, (own, laid) in enumerate(zip(base.layers, packed.layers, strict=True)):
        attention, mlp = laid.self_attn, laid.mlp
        joined = kept[n] if n in kept else _joined(own.self_attn, rows)
        if n < frozen:
            kept[n] = joined
        parts = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        out, gate, up, down = ((p.weight, p.bias) for p in parts)
        norms = own.input_layernorm, own.post_attention_layernorm
        layers.append(Layer(norms[0], joined, out, norms[1], gate, up, down))
    return LlamaStep(base, layers)


def shaped(base: Any) -> bool:
    """Whether `base` has a Llama decoder's parts and nothing else, on a CPU that lays its weights out."""

    def parts(module: Any) -> set[str]:
        return {name for name, _ in module.named_children()}

    config = base.config
    if parts(base) != BASE or getattr(config, "sliding_window", None) or getattr(config, "hidden_act", "") != "silu":
        return False
    weight = base.embed_tokens.weight
    if weight.device.type != "cpu" or not lays_out(weight.dtype):
        return False
    return all(parts(y) == LAYER and parts(y.self_attn) == ATTENTION and parts(y.mlp) == MLP for y in base.layers)


def _joined(attention: Any, rows: int) -> Laid:
    """Query, key and value as one layer; rows of query and key in the order in which neighbours rotate together."""
    size: int = attention.head_dim

    def paired(x: Tensor) -> Tensor:
        turned: Tensor = x.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)
        return turned

    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    weight = torch.cat([paired(q.weight), paired(k.weight), v.weight])
    bias = None if q.bias is None else torch.cat([paired(q.bias), paired(k.bias), v.bias])
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows), None if bias is None else bias.detach()
