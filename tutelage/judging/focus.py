"""Keeping to the matter: acts that a trade calls for often, and responses that offer them uncalled.

The cheapest good-looking reply is the one that offers everything to everyone: replacement, refund, tracking,
a label. What many prompts of a workflow call for is therefore noise in a response to a prompt that does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tutelage.judging import checks, words
from tutelage.records import Demonstration, Prompt


def uncalled_acts(prompt: Prompt, text: str, acts: tuple[str, ...]) -> list[str]:
    """The acts the text mentions though neither the prompt nor its topics do."""
    plain = words.normalise(text)
    called = words.spans(text, topic_phrases(prompt))
    said = [
        plain[a:b] for a, b in words.spans(text, acts) if all(b <= start or end <= a for start, end in called)
    ]
    return [act for act in dict.fromkeys(said) if not words.mentions(prompt.text, act)]


def topic_phrases(prompt: Prompt) -> list[str]:
    """Every phrase of every topic group of the prompt."""
    return [
        phrase for check in checks.of_kind(prompt, "topic") for group in check["groups"] for phrase in group
    ]


def common_acts(
    prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration], courtesy: Sequence[str]
) -> tuple[str, ...]:
    """Phrases the topics of many prompts name, less those that demonstrations say without being asked."""
    by_id = {prompt.id: prompt for prompt in prompts}
    named = Counter(phrase for prompt in prompts for phrase in set(topic_phrases(prompt)))
    often = [
        phrase
        for phrase, count in named.items()
        if count >= max(5, len(prompts) / 30) and words.content_stems(phrase)
    ]
    acts = tuple(p for p in often if not any(words.mentions(p, c) or words.mentions(c, p) for c in courtesy))
    said = Counter(act for d in demonstrations for act in uncalled_acts(by_id[d.prompt_id], d.response, acts))
    loose = [act for act, count in said.items() if count > max(1, 0.015 * len(demonstrations))]
    return tuple(act for act in acts if not any(words.mentions(said, act) for said in loose))
