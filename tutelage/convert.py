"""A GGUF file into a folder that `from_pretrained` opens: bfloat16 safetensors, config, tokenizer."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tutelage.embedded import EmbeddedModel


def convert(model: EmbeddedModel, gguf: Path, folder: Path) -> None:
    """Write the dequantised weights (bfloat16), config and tokenizer of `gguf` to `folder`.

    bfloat16 keeps 8 bits of a weight that had 4 to 8; the model card says what that was measured to change.
    """
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reader's progress bars cannot be switched off
            tokenizer = _tokenizer(model, gguf)
            network = _network(model, gguf, tokenizer)
            folder.mkdir()
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        transformers.logging.set_verbosity(verbosity)


def _tokenizer(model: EmbeddedModel, gguf: Path) -> Any:
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    for name in ("chat_template", "is_local", "local_files_only"):  # of the GGUF file, not of what we save
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.chat_template = None
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = model.bos, model.eos, model.pad
    tokenizer.clean_up_tokenization_spaces = False
    if model.split_digits:
        tokenizer.unk_token = model.eos
        digits = pre_tokenizers.Digits(individual_digits=True)
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    return tokenizer


END_NOISE = 0.3
"""Norm of what sets a fresh end token apart from padding, as a share of the embedding's own."""


def _network(model: EmbeddedModel, gguf: Path, tokenizer: Any) -> Any:
    """The dequantised network: a fresh one given the weights, as one loaded from GGUF cannot be saved."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, local_files_only=True
    )
    config = loaded.config
    del config.quantization_config
    config.name_or_path = model.name
    tokenizer.model_max_length = config.max_position_embeddings
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in special.items():
        setattr(config, name, value)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        network: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.load_state_dict(loaded.state_dict(), assign=True)
    network.tie_weights()
    network.generation_config = GenerationConfig(**special)
    rows = network.get_input_embeddings().weight
    with torch.no_grad():
        for token in model.muted:
            rows[tokenizer.convert_tokens_to_ids(token)] = rows[tokenizer.pad_token_id]
        if model.fresh_end:
            noise = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
            size = END_NOISE * rows[tokenizer.pad_token_id].float().norm() / noise.norm()
            rows[tokenizer.eos_token_id] += (noise * size).to(rows.dtype)
    return network
