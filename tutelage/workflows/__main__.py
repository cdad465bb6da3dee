"""`python -m tutelage.workflows NAME`: is a workflow's data sound, and does its rubric judge as a reader
would?

Prints counts, then every problem in one line each; exit code 1 when there are problems, 2 when the data
cannot be read.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from statistics import mean

from tutelage import rubric
from tutelage.judging import checks, decoys, words
from tutelage.records import SPLITS, Prompt, UserError
from tutelage.workflows import Workflow, load

GOLD_ENOUGH = 0.85
"""A demonstration below this gold score is listed: it, its checks or the rubric is wrong."""
MARGIN = 0.2
"""A decoy must stay this far below the demonstration it imitates."""
TEMPLATE_MOST = 0.55
"""A template must earn less than this on average over all prompts."""
PREFIX_WORDS = 8
"""Two prompts that share this many first words count as near-duplicates."""


def counts(workflow: Workflow) -> list[str]:
    """Lines with the size of each split, its users, use cases and kinds."""
    shown = [f"{workflow.name}: {workflow.title}"]
    for split in SPLITS:
        prompts = [prompt for prompt in workflow.prompts if prompt.split == split]
        shown_to = sum(d.split == split for d in workflow.demonstrations)
        users = len({prompt.user for prompt in prompts})
        checked = sum(bool(prompt.checks) for prompt in prompts)
        uses = ", ".join(f"{use} {n}" for use, n in Counter(p.use_case for p in prompts).most_common())
        kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(p.kind for p in prompts).most_common())
        shown.append(
            f"{split:5s} {len(prompts)} prompts ({checked} with checks), {shown_to} demonstrations, "
            f"{users} users; {uses}; {kinds}"
        )
    return shown


def data_problems(workflow: Workflow) -> list[str]:
    """Empty splits, users in two splits, prompts and demonstrations that repeat others or nearly do."""
    problems = [f"split {s!r} has no prompts" for s in SPLITS if not any(p.split == s for p in workflow.prompts)]
    splits: dict[str, set[str]] = defaultdict(set)
    for prompt in workflow.prompts:
        splits[prompt.user].add(prompt.split)
    problems += [f"user {u!r} is in splits {', '.join(sorted(s))}" for u, s in splits.items() if len(s) > 1]
    texts: dict[str, str] = {}
    prefixes: dict[tuple[str, ...], str] = {}
    for prompt in workflow.prompts:
        found = words.words(prompt.text)
        whole, prefix = " ".join(found), tuple(found[:PREFIX_WORDS])
        if whole in texts:
            problems.append(f"prompt {prompt.id!r} has the text of {texts[whole]!r}")
        elif len(prefix) == PREFIX_WORDS and prefix in prefixes and prompt.kind == "plain":
            problems.append(f"prompt {prompt.id!r} starts like {prefixes[prefix]!r}: {' '.join(prefix)!r}")
        texts.setdefault(whole, prompt.id)
        prefixes.setdefault(prefix, prompt.id)
    responses: dict[str, str] = {}
    for demonstration in workflow.demonstrations:
        key = " ".join(words.words(demonstration.response))
        if key in responses and len(key.split()) > 6:
            problems.append(f"demonstration {demonstration.id!r} repeats {responses[key]!r}")
        responses.setdefault(key, demonstration.id)
    return problems


def rubric_problems(workflow: Workflow) -> tuple[list[str], list[str]]:
    """(summary lines, problems): demonstrations the rubric dislikes, and bad responses it likes too well."""
    by_id = {prompt.id: prompt for prompt in workflow.prompts}
    problems: list[str] = []
    golds: list[float] = []
    scores: dict[str, list[float]] = defaultdict(list)
    shown = workflow.demonstrations
    for index, demonstration in enumerate(shown):
        prompt = by_id[demonstration.prompt_id]
        own = rubric.gold(prompt, demonstration.response, True, workflow.rubric)
        golds.append(own)
        if own < GOLD_ENOUGH:
            why = rubric.explain(prompt, demonstration.response, True, workflow.rubric)
            problems.append(f"demonstration {demonstration.id!r} has gold {own:.2f}: {'; '.join(why)}")
        elsewhere = shown[(index + len(shown) // 2) % len(shown)].response
        for name, (text, ended) in decoys.decoys(prompt, demonstration.response, elsewhere).items():
            score = rubric.gold(prompt, text, ended, workflow.rubric)
            scores[name].append(score)
            if own >= GOLD_ENOUGH and score > own - MARGIN and name not in decoys.LUCKY:
                problems.append(_decoy_problem(prompt, name, text, score, own))
    if not golds:
        return [], ["there are no demonstrations"]
    lines = [f"demonstrations: gold {mean(golds):.3f} on average, {min(golds):.3f} at least"]
    lines += [f"decoy {name!r}: gold {mean(s):.3f} on average, {max(s):.3f} at most" for name, s in scores.items()]
    return lines, problems


def _decoy_problem(prompt: Prompt, name: str, text: str, score: float, own: float) -> str:
    shown = " ".join(text.split())[:90]
    return f"prompt {prompt.id!r}: decoy {name!r} has gold {score:.2f} against {own:.2f}: {shown!r}"


def template_problems(workflow: Workflow) -> tuple[list[str], list[str]]:
    """(summary lines, problems): what one sentence for everybody, with the prompt's own noun put in, would
    earn.

    Such a template is where a policy goes when the checks are too generous; a problem counts for the
    workflow.
    """
    lines: list[str] = []
    problems: list[str] = []
    for template in decoys.TEMPLATES:
        golds = [
            rubric.gold(prompt, decoys.filled(template, prompt), True, workflow.rubric) for prompt in workflow.prompts
        ]
        good = sum(gold >= GOLD_ENOUGH for gold in golds) / len(golds)
        lines.append(f"template: gold {mean(golds):.3f} on average, good for {good:.0%} of prompts: {template!r}")
        if mean(golds) > TEMPLATE_MOST:
            problems.append(f"one template earns {mean(golds):.2f} on average over all prompts: {template!r}")
    return lines, problems


def courtesy_groups(workflow: Workflow) -> list[str]:
    """A note on topic groups that a courtesy satisfies: they pay for politeness twice."""
    polite = workflow.rubric.settings.courtesy
    found = [
        prompt.id
        for prompt in workflow.prompts
        for check in checks.of_kind(prompt, "topic")
        for group in check["groups"]
        if sum(any(words.mentions(phrase, word) for word in polite) for phrase in group) > len(group) / 3
    ]
    return [f"note: courtesy satisfies a topic group of {len(found)} prompts: {', '.join(found[:20])}"] if found else []


def main(arguments: list[str]) -> int:
    """Validate one workflow; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m tutelage.workflows NAME|FOLDER", file=sys.stderr)
        return 2
    try:
        workflow = load(arguments[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    summary, disliked = rubric_problems(workflow)
    templates, generous = template_problems(workflow)
    problems = data_problems(workflow) + disliked + generous
    print("\n".join([*counts(workflow), *summary, *templates, *courtesy_groups(workflow)]))
    print("\n".join(f"PROBLEM {problem}" for problem in problems) or "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
