"""Bad responses made on purpose: what a policy might try instead of answering, and ways a good response goes
wrong.

`decoys` are tricks that no labeler should like; the rubric is tested on them for every demonstration of every
embedded workflow. `corruptions` damage a demonstration by degrees; they stand in for the samples of a model
where none is at hand, for calibrating the noise of simulated labelers.
"""

from __future__ import annotations

import random

from tutelage.judging import checks, words
from tutelage.judging.fluency import LOOSE_USES, asks_title
from tutelage.records import Demonstration, Prompt

STOCK_SENTENCES = (
    "Thank you for contacting us, we are sorry for the inconvenience.",
    "I am sorry to hear that. Please send us your order number and we will help you.",
    "Thank you for your message. We will look into this for you as soon as possible and get back to you.",
    "Please contact our support team and they will be happy to help you with your question.",
    "Sure, I would be happy to help you with that! Please let me know what you need.",
    "That is a great question. There are many things to think about, and it depends on what you want.",
)
"""What a reply to anything could say."""

TEMPLATES = (
    "I am sorry about your {noun}. Please send us your order number and a photo, and we will send a new one "
    "free of charge.",
    "I am sorry about your {noun}. Please send us your order number and we will look into it and refund you.",
    "Sorry about the {noun}. Please send us your order number, and we will check, track, replace or refund "
    "it, or you can print a free return label on your account page.",
    "Thank you for asking about the {noun}. You can find it on your account page; we will check your order.",
    "The {noun} is very important and useful, and many people like it.",
    "You can try the {noun}, take your time and enjoy it with your friends and family.",
)
"""One reply for everybody, with the prompt's noun put in: where a policy that learns a trick ends."""
LUCKY = ("answers another prompt", "shuffled response")
"""Decoys that may be right by luck: judged by their average only."""

Attempt = tuple[str, bool]
"""The text of a response, and whether it ended by itself."""


def decoys(prompt: Prompt, response: str, elsewhere: str, seed: int = 0) -> dict[str, Attempt]:
    """Tricks by name; `response` is the prompt's demonstration, `elsewhere` one for another prompt."""
    rng = random.Random(f"{seed}:{prompt.id}")
    asked = prompt.text.split()
    keywords = _keywords(prompt)
    found: dict[str, Attempt] = {
        "empty": ("", True),
        "one word": ("Thanks.", True),
        "copied prompt": (prompt.text, True),
        "first half of the prompt": (" ".join(asked[: (len(asked) + 1) // 2]) + ".", True),
        "second half of the prompt": (" ".join(asked[len(asked) // 2 :]), True),
        "shuffled prompt": (" ".join(rng.sample(asked, len(asked))) + ".", True),
        "polite copy of the prompt": (f"Thank you. {prompt.text} Sorry.", True),
        "stock sentence and keywords": (f"{STOCK_SENTENCES[0]} {' '.join(keywords)}.", True),
        "endless": (" ".join([response] * 4), False),
        "repeated sentence": (" ".join([STOCK_SENTENCES[1]] * 4), True),
        "another turn": (f"{elsewhere}\nCustomer: {prompt.text}\nAgent: {STOCK_SENTENCES[0]}", False),
        "question loop": (
            "Can you tell me more? Could you please help me? What should I do now? Can you help?",
            True,
        ),
        "markup": (f"### <|im_start|>assistant ```{' '.join(asked[:3])}``` ***", True),
        "answers another prompt": (elsewhere, True),
        "shuffled response": (" ".join(rng.sample(response.split(), len(response.split()))), True),
    }
    if len(keywords) >= 5 and prompt.use_case not in LOOSE_USES and not asks_title(prompt):
        found["keywords"] = (" ".join(keywords) + ".", True)
        found["keywords with commas"] = (", ".join(keywords) + ".", True)
    found |= {f"stock: {sentence[:24]}": (sentence, True) for sentence in STOCK_SENTENCES}
    return found


def filled(template: str, prompt: Prompt) -> str:
    """A template with the prompt's noun: the first topic phrase, or its longest word."""
    topics = [group[0] for check in checks.of_kind(prompt, "topic") for group in check["groups"]]
    return template.format(noun=topics[0] if topics else max(words.words(prompt.text), key=len))


def _keywords(prompt: Prompt) -> list[str]:
    """Every phrase the prompt's topics look for, or its own content words when it has none."""
    groups = [group for check in checks.of_kind(prompt, "topic") for group in check["groups"]]
    return [phrase for group in groups for phrase in group[:3]] or list(words.content_stems(prompt.text))


def corruptions(prompt: Prompt, demonstrations: list[Demonstration], rng: random.Random) -> list[Attempt]:
    """Six attempts at the prompt, from right to plainly wrong, in random order."""
    own = [d.response for d in demonstrations if d.prompt_id == prompt.id]
    response = rng.choice(own or [d.response for d in demonstrations])
    foreign = rng.choice(demonstrations).response
    said = words.sentences(response)
    part = response.split()
    damage = [
        (response, True),
        (said[-1], True),
        (" ".join(said[:-1]) or said[0], True),
        (" ".join(part[: max(3, int(len(part) * rng.uniform(0.4, 0.9)))]), False),
        (foreign, True),
        (f"{said[0]} {words.sentences(foreign)[-1]}", True),
        (f"{response} This takes {rng.randint(40, 90)} hours.", True),
        (f"{response} {said[-1]}", True),
        (f"{response} {foreign}", False),
        (rng.choice(STOCK_SENTENCES), True),
        (f"{rng.choice(STOCK_SENTENCES)} {said[-1]}", True),
        (prompt.text, True),
    ]
    return rng.sample(damage, 6)
