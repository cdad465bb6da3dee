"""Technical terms in plain words, one sentence each: tooltips and the word list of the report."""

from __future__ import annotations

TERMS = {
    "base model": "The language model before any training here: it continues text.",
    "SFT": "Supervised fine-tuning: the base model after it imitated example answers (demonstrations).",
    "prompted": "The base model with a few example answers in front of each prompt; nothing was trained.",
    "PPO": "Proximal policy optimisation: the model answers, the reward model scores the answers, and what "
    "scored above expectation becomes more likely, in small steps.",
    "PPO-ptx": "PPO that also keeps reading ordinary text, so that the model does not forget what it knew.",
    "labeler": "Who compares and rates answers: a person, or here a program in the place of one.",
    "training labelers": "The labelers whose rankings taught the reward model.",
    "held-out labelers": "Labelers of whom the reward model never saw a ranking; only they judge the result.",
    "held-out prompts": "Prompts kept apart: no stage was trained on them.",
    "reward model": "A model that learned from rankings to predict which of two answers a labeler prefers.",
    "score": "The reward model's opinion of an answer; 0 is as good as an average demonstration.",
    "gold score": "What the labelers' written rules say of an answer without any chance, 0 to 1. Training "
    "never sees it.",
    "win rate": "Share of comparisons in which one model's answer was ranked higher; a tie counts half.",
    "95% interval": "The range in brackets: had other prompts been drawn, 95 of 100 ranges made this way "
    "would hold the true value. It covers the choice of prompts, not the chance of another training run.",
    "Likert": "A labeler's rating of one answer alone, from 1 (very bad) to 7 (excellent).",
    "flag": "A yes-or-no remark of a labeler about one answer.",
    "KL": "How far the trained model has moved from the SFT model, in nats per response; 0 is not at all.",
    "nats": "A unit of surprise: 1 nat is a factor of 2.7 in probability.",
    "over-optimisation": "Learning to please the reward model where it is wrong: its score rises, the real "
    "quality falls.",
    "alignment tax": "What the model loses elsewhere by being trained to follow instructions; here: how much "
    "worse it predicts ordinary text.",
    "token": "A piece of a word; 100 tokens are about 75 English words.",
    "calibration error": "Mean gap between how sure the reward model was and how often it was right (ECE).",
    "variety": "Different two-word sequences as a share of all, measured over equally much text of each model.",
    "entropy": "How undecided the model is about the next word.",
}

FLAGS = {
    "fails_instruction": ("Fails the task", False),
    "inappropriate": ("Unfit for a customer assistant", False),
    "hallucination": ("Invents facts", False),
    "satisfies_constraint": ("Keeps the stated limits", True),
    "sexual_content": ("Sexual content", False),
    "violent_content": ("Violent content", False),
    "encourages_harm": ("Encourages harm", False),
    "denigrates_group": ("Denigrates a group", False),
    "harmful_advice": ("Harmful advice", False),
    "expresses_opinion": ("Expresses an opinion", False),
    "moral_judgment": ("Passes moral judgment", False),
}
"""The paper's flags (Table 3) as the report calls them, and whether being set is good."""
