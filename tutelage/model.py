"""Hugging Face causal language models, cut into a frozen trunk and a trainable top.

The policy, the reference, the reward model and the value network share everything below the cut: the trunk runs
once per batch and only the tops differ and train (trlX's "hydra", here for all four networks). With
`trainable_layers = "all"` nothing is shared and each network is whole, embeddings and output head included, as in
the paper. Below a cut the embeddings and the output head are frozen too, since a tied head that moves would move
the reference with it.

This file, `proof.py` and `attention.py` are the only ones that touch the internals of transformers. Any decoder-only
model whose base runs `embed -> layers -> norm` works; `load` proves it by comparing our numbers with the model's own,
and refuses otherwise. Shape letters: B batch, T tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tutelage.attention import attention_mask, positions
from tutelage.fetch import resolve
from tutelage.opening import open_model, open_tokenizer
from tutelage.proof import judged, prove
from tutelage.records import UserError
from tutelage.run import Run
from tutelage.stepping import lays_out

TrainableLayers = int | Literal["all"]


def decoder(model: PreTrainedModel) -> Any:
    """The model without its output head."""
    base = getattr(model, model.base_model_prefix, None)
    if base is None:
        raise UserError(f"{type(model).__name__} keeps its decoder in a way Tutelage does not know; use another model")
    return base


class NoPositions(nn.Module):
    """Stands in for GPT-2's learned positions above the cut, where they are already part of the hidden state."""

    def forward(self, position_ids: Tensor) -> int:
        return _Zero()


class _Zero(int):
    """Zero that survives `.to(device)`, so that `hidden + positions` costs nothing."""

    def to(self, *_: Any) -> int:
        return self


def layer_list(base: Any, count: int) -> str:
    for name, child in base.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return str(name)
    raise UserError(f"{type(base).__name__} keeps its layers in a way Tutelage does not know; use another model")


def norm_name(base: Any) -> str:
    for name in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(base, name):
            return name
    raise UserError(f"{type(base).__name__} has no final norm that Tutelage knows; use another model")


def shell(base: Any, start: int, stop: int, **replaced: nn.Module) -> Any:
    """A view of the base model that runs layers [start, stop) only; modules are shared unless `replaced`."""
    view = copy.copy(base)
    view._modules = dict(base._modules)
    view._parameters = dict(base._parameters)
    config = copy.deepcopy(base.config)
    name = layer_list(base, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[start:stop])
    config.num_hidden_layers = stop - start
    view.config = config
    view._modules[name] = nn.ModuleList(list(getattr(base, name))[start:stop])
    if start > 0 and hasattr(base, "wpe"):
        view._modules["wpe"] = NoPositions()
    for child, module in replaced.items():
        view._modules[child] = module
    return view


class Top(nn.Module):
    """What lies above the cut: layers, final norm, and the output head (shared and frozen below a cut).

    With a cut it reads hidden states (B, T, d); without one it owns the embeddings and reads ids (B, T).
    """

    def __init__(self, base: Any, cut: int, head: Tensor) -> None:
        super().__init__()
        self.cut = cut
        self.base = shell(base, cut, base.config.num_hidden_layers)
        self.head = head if isinstance(head, nn.Parameter) else nn.Parameter(head, requires_grad=False)

    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        """Hidden states after the final norm, (B, T, d), of `x`: (B, T, d) hidden states or (B, T) ids."""
        inputs = {"inputs_embeds": x} if x.is_floating_point() else {"input_ids": x}
        hidden: Tensor = self.base(
            **inputs,
            attention_mask=attention_mask(segments, self.base.config),
            position_ids=positions(segments),
            use_cache=False,
        ).last_hidden_state
        return hidden

    def trained_parts(self) -> list[nn.Module]:
        """The modules that belong to this top alone."""
        layers = getattr(self.base, layer_list(self.base, self.base.config.num_hidden_layers))
        return [layers, getattr(self.base, norm_name(self.base)), *self._embeddings()]

    def _embeddings(self) -> list[nn.Module]:
        if self.cut:
            return []
        own = [getattr(self.base, n) for n in ("embed_tokens", "wte", "embed_in", "wpe") if hasattr(self.base, n)]
        return [m for m in own if isinstance(m, nn.Embedding)]

    def twin(self) -> Top:
        """A copy with its own weights above the cut; what is frozen below stays shared."""
        known = {id(p): p for p in self.parameters()}
        own = {id(p) for part in self.trained_parts() for p in part.parameters()}
        memo: dict[int, Any] = {i: p for i, p in known.items() if i not in own}
        if self.cut == 0:
            memo.pop(id(self.head), None)
        return copy.deepcopy(self, memo)


@dataclass
class Lm:
    """A loaded model: the frozen trunk, the policy's top, and the tokenizer they belong to."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cut: int
    top: Top
    trunk: Any
    name: str

    def lower(self, ids: Tensor, segments: Tensor) -> Tensor:
        """What the tops read: hidden states (B, T, d) at the cut, no gradient; without a cut the ids themselves."""
        if self.trunk is None:
            return ids
        with torch.no_grad():
            hidden: Tensor = self.trunk(
                input_ids=ids,
                attention_mask=attention_mask(segments, self.trunk.config),
                position_ids=positions(segments),
                use_cache=False,
            ).last_hidden_state
        return hidden

    @property
    def eos(self) -> int:
        """The id that ends a response."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """A filler id, never the end token: an end token taken for padding would never be learned."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None and pad != self.eos else (self.eos + 1) % self.vocabulary

    @property
    def vocabulary(self) -> int:
        """Rows of the output head."""
        return int(self.top.head.shape[0])

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text of any length, as pretraining text is read."""
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    @property
    def room(self) -> int:
        """Most tokens of a prompt and its response together."""
        return int(self.model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.top.head.device

    def whole(self, top: Top) -> Any:
        """The base model with `top` in place: trunk layers below the cut, the top's above. Nothing is copied."""
        if self.trunk is None:
            return top.base
        count = self.model.config.num_hidden_layers
        layers = layer_list(self.base, count)
        joined = nn.ModuleList([*getattr(self.trunk, layers), *getattr(top.base, layers)])
        norm = norm_name(self.base)
        return shell(self.base, 0, count, **{layers: joined, norm: getattr(top.base, norm)})

    @property
    def base(self) -> Any:
        """The decoder without the output head."""
        return decoder(self.model)


def choose_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """bf16 where the processor multiplies it natively (several times faster), else fp32."""
    if wanted != "auto":
        if wanted == "bf16" and device.type == "cpu" and not lays_out(torch.bfloat16):
            _warn_of_slow_bf16()
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


@functools.cache
def _warn_of_slow_bf16() -> None:
    """Once a process: the numbers are right, and slower than fp32's."""
    print(
        "tutelage: warning: this processor has no fast bf16 products (AVX512 or AVX-NE-CONVERT); --dtype bf16 takes "
        "several times as long here as fp32, which --dtype auto chooses",
        file=sys.stderr,
    )


def load(
    source: Path | str,
    *,
    trainable_layers: TrainableLayers = "all",
    dtype: str = "auto",
    device: torch.device | None = None,
) -> Lm:
    """Open a causal language model by embedded name, local folder or hub id, cut below its top `trainable_layers`.

    Raises UserError when the model or its tokenizer cannot be opened or is of a kind we do not reproduce exactly.
    """
    device = device or choose_device()
    path = folder_of(source)
    model = open_model(AutoModelForCausalLM, path, choose_dtype(device, dtype), device)
    cut = _cut(model.config.num_hidden_layers, trainable_layers, str(source))
    with judged(str(source), model):
        base, head = decoder(model), model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise UserError("output heads with a bias are not supported; use another model")
        top = Top(base, cut, head.weight)
        trunk = shell(base, 0, cut, **{norm_name(base): nn.Identity()}) if cut else None
    tokenizer = open_tokenizer(path, min(len(head.weight), base.get_input_embeddings().num_embeddings))
    lm = Lm(model, tokenizer, cut, top, trunk, str(source))
    _freeze(lm)
    with judged(str(source), model):
        prove(lm)
    return lm


def folder_of(source: Path | str) -> Path | str:
    """The model folder of a run, or what `fetch.resolve` makes of a name, a folder or a hub id."""
    path = Path(source)
    return Run.open(path).intact("model") if (path / "run.json").exists() else resolve(str(source))


def _cut(layers: int, trainable: TrainableLayers, source: str) -> int:
    if trainable == "all":
        return 0
    if not 1 <= trainable < layers:
        raise UserError(
            f"trainable_layers is {trainable}, but {source} has {layers} layers: give 1 to {layers - 1}, or 'all'"
        )
    return layers - trainable


def _freeze(lm: Lm) -> None:
    for parameter in lm.model.parameters():
        parameter.requires_grad_(lm.cut == 0)
    for part in lm.top.trained_parts():
        part.requires_grad_(True)
    lm.top.head.requires_grad_(lm.cut == 0)


def save_lm(lm: Lm, top: Top, folder: Path) -> None:
    """Write `folder` so that `AutoModelForCausalLM.from_pretrained` opens it: weights, config, tokenizer."""
    model = copy.copy(lm.model)
    model._modules = dict(lm.model._modules)
    model._modules[lm.model.base_model_prefix] = lm.whole(top)
    if not lm.cut:
        head = copy.copy(lm.model.get_output_embeddings())
        head._parameters = {"weight": top.head}
        model.set_output_embeddings(head)
    write_model(model, lm.tokenizer, folder)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # safetensors and tokenizers raise types of their own for a full disk
        if not isinstance(error, OSError | SafetensorError) and "os error" not in str(error):
            raise
        raise UserError(f"{folder}: cannot be written ({error}); the same command resumes") from None
