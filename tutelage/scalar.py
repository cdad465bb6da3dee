"""A top with one number per token: the reward model's score, the value network's estimate, and their folder on disk.

The folder is one that `AutoModelForSequenceClassification` opens; shift and scale stand beside it in `scalar.json`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
)

from tutelage.model import Lm, Top, decoder, layer_list, norm_name, shell, write_model
from tutelage.opening import open_model, open_tokenizer
from tutelage.proof import judged, prove_top
from tutelage.records import UserError, write_json


class ScalarHead(nn.Module):
    """A top with one linear output per token: the reward model's score or the value network's estimate."""

    def __init__(self, top: Top, seed: int = 0) -> None:
        super().__init__()
        self.top = top
        width = top.head.shape[1]
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5  # Stiennon et al.: N(0, 1/(d+1))
        self.score = nn.Parameter(weight.to(top.head.device))
        self.bias = nn.Buffer(torch.zeros((), device=top.head.device))
        self.scale = nn.Buffer(torch.ones((), device=top.head.device))

    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        """One number per token, (B, T) fp32."""
        return self.read(self.top(x, segments))

    def read(self, hidden: Tensor) -> Tensor:
        """The head alone: hidden (..., d) -> (...) fp32, shifted and scaled (the paper shifts only: docs/paper.md)."""
        raw = F.linear(hidden.float(), self.score.float()).squeeze(-1)
        return (raw - self.bias) * self.scale

    def rescale(self, slope: Tensor, shift: Tensor) -> None:
        """From now on give slope * output + shift."""
        self.scale.mul_(slope)
        self.bias.sub_(shift / self.scale)

    def twin(self) -> ScalarHead:
        """A copy with its own weights above the cut."""
        other = ScalarHead(self.top.twin())
        other.score = nn.Parameter(self.score.detach().clone())
        other.bias.copy_(self.bias)
        other.scale.copy_(self.scale)
        return other


def need_classifier(lm: Lm) -> None:
    """Raise UserError for an architecture that transformers has no sequence classifier of: it could not be saved."""
    if type(lm.model.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{lm.name}: transformers has no sequence classifier for {type(lm.model).__name__}, as which a reward "
            "model is saved; use another model"
        )


def save_scalar(lm: Lm, network: ScalarHead, folder: Path) -> None:
    """Write a reward model that `AutoModelForSequenceClassification` opens; shift and scale go to `scalar.json`."""
    config = copy.deepcopy(lm.model.config)
    config.num_labels = 1
    config.pad_token_id = lm.pad
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    with torch.device("meta"):
        model = kind(config)
    model._modules[model.base_model_prefix] = lm.whole(network.top)
    head = nn.Linear(network.score.shape[1], 1, bias=False)
    head.weight = nn.Parameter(network.score.detach().float())
    model._modules["score"] = head
    write_model(model, lm.tokenizer, folder)
    write_json(folder / "scalar.json", {"bias": float(network.bias), "scale": float(network.scale)})


def load_scalar(folder: Path, lm: Lm) -> ScalarHead:
    """Open a saved reward model onto the trunk of `lm`.

    Raises UserError when it does not share tokenizer and trunk with `lm`: scores would then be of another model.
    """
    dtype = lm.top.head.dtype
    model = open_model(AutoModelForSequenceClassification, folder, dtype, lm.device)
    with judged(str(folder), model):
        base = decoder(model)
        embedding = base.get_input_embeddings().weight
    if open_tokenizer(folder, len(embedding)).get_vocab() != lm.tokenizer.get_vocab():
        raise UserError(
            f"{folder}: the reward model's tokenizer differs from the policy's ({lm.name}); train both from one base"
        )
    _same_trunk(base, lm, folder)
    network = ScalarHead(Top(base, lm.cut, lm.top.head if lm.cut else nn.Parameter(embedding.detach())))
    with judged(str(folder), model):
        prove_top(base, network.top, lm.lower, lm.trunk)
    if lm.trunk is not None:
        _let_go(network.top, lm)
    network.score = nn.Parameter(_score_weight(folder).to(lm.device))
    shift = _scalar_json(folder)
    network.bias.fill_(shift["bias"])
    network.scale.fill_(shift["scale"])
    network.requires_grad_(False)
    return network


def _let_go(top: Top, lm: Lm) -> None:
    """Copy the top's layers and take the trunk's embedding: one weight of a file keeps all of its mapping in memory."""
    top.base.set_input_embeddings(lm.base.get_input_embeddings())
    for part in top.trained_parts():
        for parameter in part.parameters():
            parameter.data = parameter.data.clone()


def _score_weight(folder: Path) -> Tensor:
    """The head as it was saved: opened in bf16 with the rest it would lose what its bias was set for."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if "score.weight" in tensors.keys():  # noqa: SIM118  not a dictionary
                weight: Tensor = tensors.get_tensor("score.weight")
                return weight.float()
    raise UserError(f"{folder}: holds no reward model (no score.weight in it)")


def _scalar_json(folder: Path) -> dict[str, float]:
    try:
        raw = json.loads((folder / "scalar.json").read_text())
        return {"bias": float(raw["bias"]), "scale": float(raw["scale"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / 'scalar.json'}: missing or damaged; it must hold numbers 'bias' and 'scale'"
        ) from None


def _same_trunk(base: Any, lm: Lm, folder: Path) -> None:
    if lm.trunk is None:
        return
    name = layer_list(base, base.config.num_hidden_layers)
    if len(getattr(base, name)) != lm.model.config.num_hidden_layers:
        raise UserError(f"{folder}: has another number of layers than {lm.name}; train both from one base")
    theirs = shell(base, 0, lm.cut, **{norm_name(base): nn.Identity()}).state_dict()
    for key, ours in lm.trunk.state_dict().items():
        if key not in theirs or not torch.equal(ours, theirs[key]):
            raise UserError(
                f"{folder}: differs from {lm.name} below the top {lm.model.config.num_hidden_layers - lm.cut} layers"
                f" (first at {key}), so they cannot share a trunk; use --trainable-layers all"
            )
