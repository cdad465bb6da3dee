"""Tiny random models of four architectures, and the tokenizer they share: seconds instead of minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def save_tiny(architecture: str, folder: Path) -> None:
    """Write a tiny random model of an architecture, with its tokenizer; the same weights every time."""
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
