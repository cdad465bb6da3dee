"""Keeping to the matter of a trade, learned from a workflow's own prompts and demonstrations.

The cheapest good-looking reply is the one that offers everything to everyone: replacement, refund, tracking,
a label. What many prompts of a workflow call for is therefore noise in a response to a prompt that does not.
The next cheapest has the right words and makes no sense. A reader sees that at once and a program does not,
so words and word pairs that neither the prompt nor anyone in the trade ever uses stand in for nonsense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tutelage.judging import checks, words
from tutelage.records import Demonstration, Prompt


def uncalled_acts(prompt: Prompt, text: str, acts: tuple[str, ...]) -> list[str]:
    """The acts the text mentions though neither the prompt nor its topics do."""
    plain = words.normalise(text)
    called = words.spans(text, topic_phrases(prompt))
    said = [plain[a:b] for a, b in words.spans(text, acts) if all(b <= start or end <= a for start, end in called)]
    return [act for act in dict.fromkeys(said) if not words.mentions(prompt.text, act)]


def topic_phrases(prompt: Prompt) -> list[str]:
    """Every phrase of every topic group of the prompt."""
    return [phrase for check in checks.of_kind(prompt, "topic") for group in check["groups"] for phrase in group]


def common_acts(
    prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration], courtesy: Sequence[str]
) -> tuple[str, ...]:
    """Phrases the topics of many prompts name, less those that demonstrations say without being asked."""
    by_id = {prompt.id: prompt for prompt in prompts}
    named = Counter(phrase for prompt in prompts for phrase in set(topic_phrases(prompt)))
    often = [
        phrase for phrase, count in named.items() if count >= max(5, len(prompts) / 30) and words.content_stems(phrase)
    ]
    acts = tuple(p for p in often if not any(words.mentions(p, c) or words.mentions(c, p) for c in courtesy))
    said = Counter(act for d in demonstrations for act in uncalled_acts(by_id[d.prompt_id], d.response, acts))
    loose = [act for act, count in said.items() if count > max(1, 0.015 * len(demonstrations))]
    return tuple(act for act in acts if not any(words.mentions(said, act) for said in loose))


def trade_words(prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration]) -> frozenset[str]:
    """Content stems of several demonstrations or many prompts: what one says in this trade.

    Empty for fewer than a hundred demonstrations, which show too little of a trade.
    """
    if len(demonstrations) < 100:
        return frozenset()
    answered = Counter(s for d in demonstrations for s in set(words.content_stems(d.response)))
    asked = Counter(s for p in prompts for s in set(words.content_stems(p.text)))
    return frozenset(
        [s for s, count in answered.items() if count >= max(2, round(len(demonstrations) / 80))]
        + [s for s, count in asked.items() if count >= max(4, round(len(prompts) / 100))]
    )


def stray_words(prompt: Prompt, text: str, trade: frozenset[str], known: str) -> list[str]:
    """Content words of the text that come from nowhere: not trade, prompt, topics or what is known."""
    topics = topic_phrases(prompt)
    told = trade.union(words.content_stems(known), *(words.content_stems(phrase) for phrase in topics))
    said = [word for word in dict.fromkeys(words.words(text)) if word not in words.STOP_WORDS["en"]]
    return [
        word
        for word in said
        if not word[0].isdigit() and words.stem(word) not in told and not words.mentions_any(word, topics)
    ]


Pair = tuple[str, str]
"""Two neighbouring words: stems, MATTER for content words of the prompt, START and END of a sentence."""
MATTER, START, END = "<matter>", "<start>", "<end>"


def pairs(prompt: Prompt, text: str) -> list[Pair]:
    """The neighbouring words of each sentence of a response to the prompt."""
    matter = {s for one in (prompt.text, *topic_phrases(prompt)) for s in words.content_stems(one)}
    found: list[Pair] = []
    for sentence in words.sentences(text):
        stems = [w if w in words.STOP_WORDS["en"] else words.stem(w) for w in words.words(sentence)]
        found += pairwise([START, *(MATTER if s in matter else s for s in stems), END])
    return found


def trade_pairs(prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration]) -> frozenset[Pair]:
    """The pairs of all demonstrations; empty for fewer than a hundred, as with `trade_words`."""
    by_id = {prompt.id: prompt for prompt in prompts}
    enough = demonstrations if len(demonstrations) >= 100 else ()
    return frozenset(pair for d in enough for pair in pairs(by_id[d.prompt_id], d.response))


def oddness(prompt: Prompt, text: str, known: frozenset[Pair]) -> float:
    """Share of the pairs of a response that nobody in the trade has used, 0 to 1."""
    found = pairs(prompt, text)
    return sum(pair not in known for pair in found) / len(found)
