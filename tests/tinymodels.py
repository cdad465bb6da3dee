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


def tiny_tokenizer(
    texts: tuple[str, ...] = TINY_TEXT, vocabulary: int = TINY_VOCABULARY, positions: int = TINY_POSITIONS
) -> Any:
    """A byte-level BPE tokenizer that encodes any text: `<|endoftext|>` is 0, `<|pad|>` 1, no bos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


STAND_IN_VOCABULARY = 3000  # the prompts of the workflows then have about as many tokens as with 49,152


def save_stand_in(cache_home: Path, layers: int = 30, name: str = "smollm2-135m") -> None:
    """Put a tiny random model where the cache below `cache_home` (XDG_CACHE_HOME) keeps an embedded model.

    Architecture and context are those of SmolLM2-135M, and so is the number of layers; the rest is small. Every command
    then takes the model by its name, as for a user, in a hundredth of the time.
    """
    import json

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tutelage import workflows
    from tutelage.embedded import MODELS
    from tutelage.fetch import CONVERSION, MANIFEST

    texts = [text for w in ("support", "instructions") for p in workflows.load(w).prompts for text in [p.text]]
    texts += [d.response for w in ("support", "instructions") for d in workflows.load(w).demonstrations]
    tokenizer = tiny_tokenizer(tuple(texts), STAND_IN_VOCABULARY, positions=8192)
    shape = {"num_hidden_layers": layers, "hidden_size": 24, "intermediate_size": 48, "max_position_embeddings": 8192}
    shape |= {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True}
    special = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape, **special
    )
    folder = cache_home / "tutelage" / "models" / f"{name}-{MODELS[name].version}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
    manifest = {"name": name, "version": MODELS[name].version, "conversion": CONVERSION, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest))
