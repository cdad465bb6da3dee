"""Proof at the door: a model runs here as it runs by itself, or it is refused in one line.

Its own forward pass, with its own ("eager") attention, reads three short sequences. Ours must give the same hidden
states for them packed into one row: two answers behind one prompt, another sequence, padding. So must the decode
engine's cache, and our product with the output head must be the model's own logits.

Three things keep the proof cheap and sharp. The attention is switched on the same modules, so no second copy of the
weights is needed. Weights of a smaller type than fp32 are widened a layer at a time, so that what is left of a
difference is no rounding. A sliding window is narrowed for the time of the proof, so that seven tokens are longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.attention import BRANCH
from tutelage.cache import StaticCache, read_behind
from tutelage.records import UserError

if TYPE_CHECKING:
    from tutelage.model import Lm, Top

PROMPT, ANSWER, WINDOW = 4, 3, 2
LENGTH = PROMPT + ANSWER
TOLERANCE = 1e-3
"""Largest difference of a token's hidden states, as a share of their norm. Measured: 1e-6 to 3e-5 in fp32."""
TRIES = 3
"""Inputs tried before a model is refused: two experts of like weight may change places by rounding alone."""
LOGITS, HEAD_TOLERANCE = 20.0, 0.02
"""Spread of the logits at which the output head is compared, wide enough for a cap to show; the largest difference
as a share of it (bf16 rounds to 0.004)."""

Lower = Callable[[Tensor, Tensor], Tensor]


@contextlib.contextmanager
def judged(source: str, model: Any) -> Iterator[None]:
    """Turn whatever a model's own code raises into a refusal that names the model."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{source}: {type(model).__name__} cannot be run by Tutelage"
            f" ({type(error).__name__}: {lines[0][:200]}); use another model"
        ) from error


@torch.no_grad()
def prove(lm: Lm) -> None:
    """Raise UserError unless packed rows, the decode engine and the output head reproduce the model's own numbers."""
    views = [lm.base, lm.top.base, lm.trunk]
    windowed = _windowed(views)

    def agree(ids: Tensor) -> None:
        theirs = _own_states(lm, ids, windowed)
        _compare(lm.model, _packed_states(lm.top, lm.lower, ids), _packed(theirs))
        _compare(lm.model, *_decoded_states(lm, ids, theirs))

    with _in_fp32(views):
        _with_windows(windowed, lambda: _try(agree, lm.vocabulary, lm.device))


@torch.no_grad()
def prove_top(base: Any, top: Top, lower: Lower, trunk: Any) -> None:
    """The same for a top of another model, as a reward model is: raise UserError unless packed rows give the hidden
    states of `base`, the whole decoder that the top belongs to."""
    views = [base, top.base, trunk]
    windowed = _windowed(views)

    def agree(ids: Tensor) -> None:
        with _own_settings(views, windowed):
            theirs = base(input_ids=ids, use_cache=False).last_hidden_state
        _compare(base, _packed_states(top, lower, ids), _packed(theirs))

    with _in_fp32(views):
        _with_windows(windowed, lambda: _try(agree, base.get_input_embeddings().num_embeddings, top.head.device))


def _with_windows(windowed: Sequence[Any], run: Callable[[], None]) -> None:
    """Run the proof with narrow windows. A window in the configuration of a model whose code does not read it is set
    aside for good: ours must then have none, while the model's own pass still finds it in its configuration."""
    with _set(windowed, sliding_window=WINDOW):
        try:
            run()
            return
        except UserError as error:
            refusal = error
    with _set(windowed, sliding_window=None):
        try:
            if not windowed:
                raise refusal
            run()
        except UserError:
            raise refusal from None
    for config in windowed:
        config.sliding_window = None


def _try(agree: Callable[[Tensor], None], vocabulary: int, device: torch.device) -> None:
    for left in reversed(range(TRIES)):
        ids = torch.randint(vocabulary, (3, LENGTH), generator=torch.Generator().manual_seed(left))
        ids[1, :PROMPT] = ids[0, :PROMPT]
        try:
            agree(ids.to(device))
            return
        except UserError:
            if not left:
                raise


def _own_states(lm: Lm, ids: Tensor, windowed: Sequence[Any]) -> Tensor:
    """Hidden states (3, T, d) of the model's own pass; on the way, its output head is compared with ours.

    The head is given states so large that a cap or a scale on the logits shows, whatever the weights' size.
    """
    head = lm.top.head
    large = torch.randn(1, 2, head.shape[1], generator=torch.Generator().manual_seed(0)).to(head)
    spread = F.linear(large, head).float().std().clamp_min(1e-20)
    large = (large * (LOGITS / spread)).to(head.dtype)
    kept: list[Tensor] = []

    def exchange(_module: nn.Module, _args: Any, out: Any) -> Any:
        kept.append(out.last_hidden_state)
        out.last_hidden_state = large
        return out

    hook = lm.base.register_forward_hook(exchange)
    try:
        with _own_settings([lm.base], windowed):
            theirs = lm.model(input_ids=ids, use_cache=False).logits.float()
    finally:
        hook.remove()
    ours = F.linear(large, head).float()
    if theirs.shape != ours.shape or not (theirs - ours).abs().max().item() <= HEAD_TOLERANCE * LOGITS:
        raise _unlike(lm.model)
    return kept[0]


def _packed(theirs: Tensor) -> Tensor:
    """The states (N, d) of our packed row's tokens: prompt, answer, other answer, other sequence."""
    return torch.cat([theirs[0], theirs[1, PROMPT:], theirs[2]])


def _packed_states(top: Top, lower: Lower, ids: Tensor) -> Tensor:
    row = torch.cat([ids[0], ids[1, PROMPT:], ids[2], ids[2, :1]])[None]
    numbers = [1] * PROMPT + [1 + BRANCH] * ANSWER + [1 + 2 * BRANCH] * ANSWER + [2] * LENGTH + [0]
    segments = torch.tensor([numbers], device=ids.device)
    hidden: Tensor = top(lower(row, segments), segments)
    return hidden[0, :-1]


def _decoded_states(lm: Lm, ids: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """States of two prompts' last tokens, padded on the left, and of a token behind each: the engine's, the model's."""
    whole, config = lm.whole(lm.top), lm.model.config
    width, lengths = LENGTH - 2, torch.tensor([LENGTH - 2, PROMPT - 1], device=ids.device)
    rows = torch.stack([ids[0], ids[2].roll(LENGTH - 2 - (PROMPT - 1))])[:, : width + 1]
    seen = torch.arange(width + 1, device=ids.device) >= width - lengths[:, None]
    place = (seen.long().cumsum(1) - 1).clamp_min(0)
    cache = StaticCache(config.num_hidden_layers, width + 1)
    ours = [read_behind(whole, config, rows[:, :width], place[:, :width], seen[:, :width], cache)[:, -1]]
    ours.append(read_behind(whole, config, rows[:, width:], place[:, width:], seen, cache)[:, -1])
    own, pair = torch.stack([theirs[0], theirs[2]]), torch.arange(2, device=ids.device)
    return torch.cat(ours), torch.cat([own[pair, lengths - 1], own[pair, lengths]])


def _compare(model: Any, ours: Tensor, theirs: Tensor) -> None:
    if not bool(theirs.isfinite().all()):
        raise UserError("its weights give values that are no numbers (NaN or infinity); use another model")
    near = ours.shape == theirs.shape and bool(((ours - theirs).norm(dim=-1) <= TOLERANCE * theirs.norm(dim=-1)).all())
    if not near:
        raise _unlike(model)


def _unlike(model: Any) -> UserError:
    kind = type(model).__name__
    return UserError(f"{kind} computes its logits in a way Tutelage does not reproduce; use another model")


# ---- settings and weights, changed for the time of the proof ------------------------------------------------


def _configs(views: Sequence[Any]) -> list[Any]:
    """The configurations that the views and all of their modules read from, each once."""
    modules = (m for view in views if view is not None for m in view.modules())
    return list({id(m.config): m.config for m in modules if hasattr(m, "config")}.values())


def _windowed(views: Sequence[Any]) -> list[Any]:
    return [config for config in _configs(views) if getattr(config, "sliding_window", None)]


@contextlib.contextmanager
def _own_settings(views: Sequence[Any], windowed: Sequence[Any]) -> Iterator[None]:
    """The model's own attention, and a narrow window where its configuration has one."""
    with _set(_configs(views), _attn_implementation="eager"), _set(windowed, sliding_window=WINDOW):
        yield


@contextlib.contextmanager
def _set(configs: Sequence[Any], **values: Any) -> Iterator[None]:
    before = [(config, name, getattr(config, name)) for config in configs for name in values]
    for config, name, _ in before:
        setattr(config, name, values[name])
    try:
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


@contextlib.contextmanager
def _in_fp32(views: Sequence[Any]) -> Iterator[None]:
    """Run the views' layers in fp32: the weights of one layer at a time are widened while it runs.

    Embedding tables stay as they are, only what they give is widened.
    """
    parts: dict[int, nn.Module] = {}
    for view in views:
        for child in view.children() if view is not None else ():
            for module in child if isinstance(child, nn.ModuleList) else [child]:
                parts[id(module)] = module
    kept: list[tuple[Tensor, Tensor]] = []

    def widen(module: nn.Module, _args: Any) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                kept.append((tensor, tensor.data))
                tensor.data = tensor.data.float()

    def restore(*_: Any) -> None:
        while kept:
            tensor, data = kept.pop()
            tensor.data = data

    def widen_output(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return out.float()

    hooks: list[Any] = []
    for module in parts.values():
        if isinstance(module, nn.Embedding):
            hooks.append(module.register_forward_hook(widen_output))
        else:
            hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(restore)]
    try:
        yield
    finally:
        restore()
        for hook in hooks:
            hook.remove()
