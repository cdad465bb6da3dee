"""The one template of the house: how a prompt and a response become token ids.

    {prompt}\\n\\nAnswer: {response}<end>

Training, reward model, sampling and evaluation all come through here, so they see byte-identical prompts. It is
plain text and not a chat format, because the base model is one that continues text. Prompt and response are
tokenised apart and joined as ids: the border between them can then never move with the response's first letters.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tutelage.records import TooLong

CUE = "\n\nAnswer:"
SEPARATOR = "\n\n---\n\n"
"""Between the worked examples of the few-shot prefix; a prompted base model's response is cut there."""


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    shots: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
    where: str = "the prompt",
) -> list[int]:
    """Ids of a prompt ready to be answered, with worked (prompt, response) examples before it where given.

    Raises TooLong, naming `where` it stands, for more than `limit` tokens: cutting it would change the task.
    """
    examples = "".join(f"{p}{CUE} {r}{SEPARATOR}" for p, r in shots)
    ids: list[int] = tokenizer(examples + prompt.strip() + CUE, add_special_tokens=False, verbose=False)["input_ids"]
    if limit is not None and len(ids) > limit:
        start = " ".join(prompt.split()[:8])
        raise TooLong(f"{where} has {len(ids)} tokens, the limit is {limit} (it begins: {start!r})")
    return [*_beginning(tokenizer), *ids]


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str, *, ended: bool = True) -> list[int]:
    """Ids of a response, closed with the end token where it ended by itself; a cut response is left open.

    An end token forced onto cut text would teach that the middle of a sentence is a good place to stop. Nothing
    said and ended is the end token alone, the very ids a policy samples when it ends at once.
    """
    text = response.strip()
    ids: list[int] = tokenizer(" " + text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
    return [*ids, int(tokenizer.eos_token_id)] if ended else ids


def response_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of response ids, without the end token."""
    kept = list(ids)
    if kept and kept[-1] == tokenizer.eos_token_id:
        kept = kept[:-1]
    return str(tokenizer.decode(kept, skip_special_tokens=False)).strip()


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The begin token, for tokenizers that put one before every text (Gemma, Llama)."""
    first = tokenizer("a")["input_ids"][:1]
    return list(first) if first and first[0] == tokenizer.bos_token_id else []
