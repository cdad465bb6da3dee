"""What stands in a model's folder, opened or refused: one line that says why and what to do.

transformers is lenient: it makes missing weights up, leaves out those it does not know, and passes an adapter over.
Trained on, such a model is not the one that was asked for. Pickled weights are never opened, for they can run code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils import logging as quiet

from tutelage.attention import LAYER_TYPES
from tutelage.records import UserError

MEDIA = ("image_token", "audio_token", "video_token")
"""Tokens of a multimodal sister that a text model's tokenizer may carry without a row for them (Gemma 3)."""


def open_model(kind: Any, path: Path | str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model of a folder or hub id, whole, on the device, ready to be read.

    kind: the Auto class. Raises UserError for a model that cannot be opened, is of a sort we cannot train, or whose
    weights do not fit its configuration.
    """
    quiet.disable_progress_bar()
    _refuse_adapter(path)
    _refuse_pickles(path)
    with _opening(path), _without_warnings():
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _refuse_kind(config, path)
        _refuse_depth(config, path)
        model, report = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation="tutelage",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported, and refused below
            output_loading_info=True,
        )
    _refuse_report(report, path)
    model.to(device).eval()  # eval: dropout would make ratios and KL noise
    _refuse_not_finite(model, path)
    return model  # type: ignore[no-any-return]


def open_tokenizer(path: Path | str, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, for a model with `rows` rows of embeddings."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as many types as there are tokenizers
        raise UserError(f"{path}: has no tokenizer that opens ({_first_line(error)})") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokenizer names no end token (eos_token); a response could never end")
    beyond = {token: n for token, n in tokenizer.get_vocab().items() if n >= rows}
    media = {str(token) for name, token in tokenizer.special_tokens_map.items() if name in MEDIA}
    if beyond.keys() <= media:
        return _without(tokenizer, set(beyond)) if beyond else tokenizer
    raise UserError(
        f"{path}: {len(beyond)} tokens of the tokenizer have no row in the model's {rows} embeddings (first:"
        f" {min(beyond, key=lambda t: beyond[t])!r}); open both in transformers, call"
        " model.resize_token_embeddings(len(tokenizer)), save both and train from that folder"
    )


def _without(tokenizer: PreTrainedTokenizerBase, tokens: set[str]) -> PreTrainedTokenizerBase:
    """The tokenizer, which from now on reads `tokens` as plain text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in tokens]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


@contextlib.contextmanager
def _opening(path: Path | str) -> Iterator[None]:
    """Whatever opening a model raises is the model's fault: settings of any sort, a library that is not there."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        if error.args != ("tutelage",):
            raise UserError(f"{path}: cannot be opened as a model ({_first_line(error)})") from None
        raise UserError(f"{path}: its attention cannot be replaced by Tutelage's; use another model") from None
    except Exception as error:
        hint = f"; {_converting(path)}" if isinstance(error, OSError) and "safetensors" in str(error) else ""
        raise UserError(f"{path}: cannot be opened as a model ({_first_line(error)}){hint}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, OSError | ValueError) and lines else f"{type(error).__name__}: "
    return f"{kind}{lines[0] if lines else ''}".removesuffix(": ")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """transformers reports at length what we say in one line."""
    verbosity = quiet.get_verbosity()
    quiet.set_verbosity_error()
    try:
        yield
    finally:
        quiet.set_verbosity(verbosity)


# ---- refusals ------------------------------------------------------------------------------------------------


def _refuse_adapter(path: Path | str) -> None:
    if isinstance(path, Path):
        names = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
        found = next((name for name in names if (path / name).exists()), None)
    else:
        found = "adapter_config.json" if _on_hub(path, "adapter_config.json") else None
    if found:
        raise UserError(
            f"{path}: holds an adapter (LoRA: {found}), which is not part of the weights; merge it first, with peft:"
            f" AutoPeftModelForCausalLM.from_pretrained('{path}').merge_and_unload().save_pretrained(FOLDER), save the"
            " tokenizer there too and give that folder (or remove the adapter's files if it is merged already)"
        )


def _on_hub(name: str, file: str) -> bool:
    try:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None
    except Exception:  # no such model, no network: opening it says so
        return False


def _refuse_pickles(path: Path | str) -> None:
    if not isinstance(path, Path) or any(path.glob("*.safetensors")):
        return
    if pickles := sorted(path.glob("pytorch_model*.bin")):
        raise UserError(f"{path}: has its weights as a pickle only ({pickles[0].name}); {_converting(path)}")


def _converting(path: Path | str) -> str:
    return (
        "Tutelage opens safetensors alone, for a pickle can run code; if you trust its maker, convert it once:"
        f' python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;'
        f" [k.from_pretrained('{path}').save_pretrained('FOLDER') for k in (M, T)]\" and give FOLDER"
    )


def _refuse_kind(config: Any, path: Path | str) -> None:
    """Sorts of models that we know from their configuration to be of no use here."""
    kind, why = config.model_type, ""
    others = sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if config.is_encoder_decoder:
        why = f"{kind} is an encoder-decoder; use a decoder-only model, such as a Llama or GPT-2"
    elif config.get_text_config() is not config:
        why = f"{kind} is a model of more than text; use a text-only model"
    elif others:
        why = f"{kind} has layers that Tutelage cannot run ({', '.join(map(str, others))}); use another model"
    elif getattr(config, "quantization_config", None):
        why = "its weights are quantised, which cannot be trained; use the model it was quantised from"
    for name in ("num_hidden_layers", "max_position_embeddings"):
        if not why and not isinstance(getattr(config, name, None), int):
            why = f"{kind} names no {name} in its configuration, which Tutelage needs; use another model"
    if why:
        raise UserError(f"{path}: {why}")


def _refuse_depth(config: Any, path: Path | str) -> None:
    """A model of ten million layers takes hours to make before anybody notices that the file has four."""
    if not isinstance(path, Path):
        return
    count = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            count += len(tensors.keys())
    if count < config.num_hidden_layers:
        raise UserError(f"{path}: config.json says {config.num_hidden_layers} layers, the files hold {count} weights")


def _refuse_report(report: dict[str, Any], path: Path | str) -> None:
    shapes = [row[0] for row in report["mismatched_keys"]]
    parts = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, what in (
            (set(report["missing_keys"]) - set(shapes), "are missing"),
            (report["unexpected_keys"], "belong to another model"),
            (shapes, "have another shape"),
        )
        if keys
    ]
    if parts:
        raise UserError(
            f"{path}: of its weights {', '.join(parts)}; config.json and the weights do not belong together:"
            " download the model again, or save it whole with save_pretrained"
        )


def _refuse_not_finite(model: Any, path: Path | str) -> None:
    named = [(name, weight) for name, weight in model.named_parameters() if weight.numel()]
    sums = torch.stack([_sum(weight) for _, weight in named])
    if not bool(sums.isfinite().all()):
        wrong = [name for (name, _), total in zip(named, sums.tolist(), strict=True) if total - total != 0]
        raise UserError(f"{path}: holds weights that are no numbers (NaN or infinity, in {wrong[0]}); use another copy")


def _sum(weight: Tensor) -> Tensor:
    return weight.detach().sum(dtype=torch.float32)
