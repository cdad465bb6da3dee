"""Simulated labelers: what they prefer, that order does not matter, ties, ratings, flags, agreement."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage import labelers as panel
from tutelage.judging import decoys
from tutelage.judging.judgements import Settings
from tutelage.labelers import SimulatedLabeler, calibrate_noise, labelers, likert, rank, rank_by, ranks
from tutelage.records import Prompt, Ranking, Response, UserError, to_dict
from tutelage.rubric import Panel, Rubric
from tutelage.workflows import load

CALM = settings(derandomize=True, deadline=None, max_examples=60)
PROMPT = Prompt(
    id="p1",
    text="My blue mug arrived broken, what now?",
    split="valid",
    checks=(
        {"kind": "topic", "groups": [["mug", "cup"], ["replace", "send a new"], ["photo", "picture"]]},
        {"kind": "max_words", "n": 25},
    ),
)
SHOP = Rubric(settings=Settings(length_words=(8, 40), closed_domain=True, courtesy=("please", "sorry")))
GOOD = "I am sorry about your mug. Please send us a photo and we will replace it."
VAGUE = "I am sorry about your mug. Please tell us what you want us to do about it."
BAD = "Thank you for contacting us, we are sorry for the inconvenience."
RUDE = "You idiot, I will kill your mug in 24 hours."
TEXTS = (GOOD, VAGUE, BAD, RUDE)
EXACT = SimulatedLabeler(name="exact")
NOISY = SimulatedLabeler(name="noisy", noise=0.3, tie_width=0.05)


def responses(*texts: str) -> list[Response]:
    return [Response(id=f"r{i}", text=text) for i, text in enumerate(texts)]


def by_text(labeler: SimulatedLabeler, shown: list[Response], seed: int = 0) -> dict[str, tuple[int, int]]:
    """(rank, Likert) of each text."""
    ranking = rank(labeler, PROMPT, shown, rubric=SHOP, seed=seed)
    rows = zip(ranking.responses, ranking.ranks, ranking.ratings, strict=True)
    return {response.text: (place, rating.likert) for response, place, rating in rows}


class TestRanks:
    def test_by_hand(self) -> None:
        assert ranks([0.9, 0.5, 0.88, 0.1], 0.05) == (1, 2, 1, 3)
        assert ranks([0.1, 0.2, 0.3], 0.0) == (3, 2, 1)
        # 0.80 is near 0.84 and 0.84 near 0.88, yet only what lies near the best shares its rank
        assert ranks([0.88, 0.84, 0.80], 0.05) == (1, 1, 2)
        assert ranks([0.5, 0.5], 0.0) == (1, 1)

    @CALM
    @given(st.lists(st.floats(-1, 2), min_size=2, max_size=9), st.floats(0, 0.5))
    def test_dense_and_in_order(self, utilities: list[float], width: float) -> None:
        found = ranks(utilities, width)
        assert set(found) == set(range(1, max(found) + 1))
        for (u, r), (v, s) in zip(
            zip(utilities, found, strict=True), zip(utilities[1:], found[1:], strict=True), strict=False
        ):
            assert (r <= s) if u > v else (r >= s) if u < v else r == s

    def test_likert_by_hand(self) -> None:
        assert [likert(u) for u in (-1.0, 0.0, 0.5, 0.9, 1.0, 2.0)] == [1, 1, 4, 6, 7, 7]
        assert likert(0.5, bias=-0.6) == 3


class TestRank:
    def test_without_noise_the_rubric_speaks(self) -> None:
        found = by_text(EXACT, responses(*TEXTS))
        assert [found[text][0] for text in TEXTS] == [1, 2, 3, 4]
        assert found[GOOD][1] == 7
        assert found[RUDE][1] == 1

    @CALM
    @given(st.permutations(range(4)), st.integers(0, 5))
    def test_the_order_given_does_not_matter(self, order: list[int], seed: int) -> None:
        given_order = responses(*TEXTS)
        shuffled = [given_order[i] for i in order]
        assert rank(NOISY, PROMPT, shuffled, rubric=SHOP, seed=seed) == rank(
            NOISY, PROMPT, given_order, rubric=SHOP, seed=seed
        )

    def test_the_verdict_on_a_response_does_not_depend_on_the_others(self) -> None:
        both = by_text(NOISY, responses(GOOD, BAD))
        more = by_text(NOISY, responses(BAD, VAGUE, GOOD))
        assert both[GOOD][1] == more[GOOD][1]
        assert both[BAD][1] == more[BAD][1]

    def test_seed_and_labeler_change_the_noise(self) -> None:
        other = dataclasses.replace(NOISY, name="other")
        seen = {
            tuple(by_text(labeler, responses(*TEXTS), seed).values()) for labeler in (NOISY, other) for seed in range(5)
        }
        assert len(seen) > 3

    def test_equal_texts_tie(self) -> None:
        ranking = rank(NOISY, PROMPT, responses(GOOD, BAD, GOOD), rubric=SHOP, seed=3)
        same = [
            place for response, place in zip(ranking.responses, ranking.ranks, strict=True) if response.text == GOOD
        ]
        assert same[0] == same[1]

    def test_the_record_tells_the_order_shown(self) -> None:
        rankings = [rank(NOISY, PROMPT, responses(*TEXTS), rubric=SHOP, seed=seed) for seed in range(6)]
        assert len({tuple(r.id for r in ranking.responses) for ranking in rankings}) > 1
        assert len({ranking.order_seed for ranking in rankings}) == 6
        first = rankings[0]
        assert (first.prompt_id, first.split, first.labeler, first.group) == (
            "p1",
            "valid",
            "noisy",
            "training",
        )

    def test_cut_off_responses_are_worth_less(self) -> None:
        whole, cut = Response(id="a", text=GOOD), Response(id="b", text=GOOD, ended=False)
        ranking = rank(EXACT, PROMPT, [whole, cut], rubric=SHOP)
        assert {r.id: place for r, place in zip(ranking.responses, ranking.ranks, strict=True)} == {
            "a": 1,
            "b": 2,
        }


class TestFlags:
    @pytest.fixture(autouse=True)
    def steady(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(panel, "FLIP", 0.0)

    def flags(self, text: str, prompt: Prompt = PROMPT) -> set[str]:
        ranking = rank(EXACT, prompt, responses(text, "x"), rubric=SHOP)
        place = [r.text for r in ranking.responses].index(text)
        return {name for name, on in ranking.ratings[place].flags.items() if on}

    def test_by_hand(self) -> None:
        assert self.flags(GOOD) == {"satisfies_constraint"}
        assert self.flags(BAD) == {"satisfies_constraint", "fails_instruction"}
        assert self.flags(
            f"{GOOD} We promise that this takes 24 hours and not a single hour more than that, ever."
        ) == {"hallucination"}
        assert self.flags(RUDE) >= {
            "inappropriate",
            "violent_content",
            "encourages_harm",
            "fails_instruction",
        }

    def test_no_constraint_none_kept(self) -> None:
        assert self.flags(GOOD, dataclasses.replace(PROMPT, checks=PROMPT.checks[:1])) == set()


class TestGroups:
    def test_the_same_seed_gives_the_same_people(self) -> None:
        assert labelers(SHOP, "training", seed=1) == labelers(SHOP, "training", seed=1)
        assert labelers(SHOP, "training", seed=1) != labelers(SHOP, "training", seed=2)
        assert labelers(SHOP, "training", 2) == labelers(SHOP, "training", 5)[:2]

    def test_names_say_that_they_are_simulated(self) -> None:
        everyone = [one for group in SHOP.panels for one in labelers(SHOP, group)]
        assert all(one.name.startswith("simulated-") for one in everyone)
        assert len({one.name for one in everyone}) == len(everyone)

    def test_heldout_labelers_care_for_truth(self) -> None:
        calm = Rubric(panels={name: dataclasses.replace(p, spread=0.0) for name, p in SHOP.panels.items()})
        assert labelers(calm, "training")[0].taste["grounded"] == 1.0
        assert labelers(calm, "heldout")[0].taste["grounded"] > 1.0

    def test_unknown_group(self) -> None:
        with pytest.raises(UserError, match="no group of labelers 'judges'"):
            labelers(SHOP, "judges")


def corrupted(count: int) -> list[tuple[Prompt, list[Response]]]:
    """Six attempts at each of some prompts of the embedded support workflow, from right to plainly wrong."""
    workflow = load("support")
    rng = random.Random(7)
    known = {d.prompt_id for d in workflow.demonstrations}
    prompts = [prompt for prompt in workflow.prompts if prompt.id in known][:count]
    return [
        (prompt, [Response(id=f"r{i}", text=text, ended=ended) for i, (text, ended) in enumerate(attempts)])
        for prompt in prompts
        for attempts in [decoys.corruptions(prompt, list(workflow.demonstrations), rng)]
    ]


class TestAgreement:
    def test_by_hand(self) -> None:
        def order(*places: int) -> Ranking:
            return Ranking(prompt_id="p", prompt="p", responses=tuple(responses(*"abc")), ranks=places)

        # pairs untied by both: ab, ac, bc against ab, ac (bc tied): they agree on ab, not on ac
        assert panel.agreement([[order(1, 2, 3), order(2, 3, 1)]]) == (1, 3)
        assert panel.agreement([[order(1, 2, 3), order(1, 2, 2)]]) == (2, 2)
        assert panel.agreement([[order(1, 2, 3)]], [[order(1, 2, 3), order(3, 2, 1)]]) == (3, 6)

    def test_without_noise_and_taste_all_agree(self) -> None:
        rubric = load("support").rubric
        twins = [dataclasses.replace(EXACT, name=name) for name in ("a", "b")]
        agreed, pairs = panel.agreement([rank_by(twins, p, r, rubric=rubric) for p, r in corrupted(10)])
        assert agreed == pairs > 100

    def test_calibrated_noise_meets_its_target(self) -> None:
        rubric, sets = load("support").rubric, corrupted(30)
        noise = calibrate_noise(rubric, "training", sets, 0.73)
        assert 0.05 < noise < 0.6
        panels = {"training": dataclasses.replace(rubric.panels["training"], noise=noise)}
        people = labelers(dataclasses.replace(rubric, panels=panels), "training")
        agreed, pairs = panel.agreement([rank_by(people, p, r, rubric=rubric) for p, r in sets])
        assert agreed / pairs == pytest.approx(0.73, abs=0.02)

    def test_calibration_needs_pairs(self) -> None:
        same = [(PROMPT, responses(GOOD, GOOD))]
        with pytest.raises(UserError, match="needs at least one pair"):
            calibrate_noise(SHOP, "training", same, 0.73)


class TestReport:
    def write(self, path: Path, sets: list[tuple[Prompt, list[Response]]]) -> Path:
        rows = [
            {"prompt_id": prompt.id, "prompt": prompt.text, "k": k, "response": to_dict(response)}
            for prompt, answers in sets
            for k, response in enumerate(answers)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def test_prints_agreement_of_all_groups(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        samples = self.write(tmp_path / "samples.jsonl", corrupted(6))
        assert panel.main(["support", str(samples)]) == 0
        shown = capsys.readouterr().out
        assert "6 prompts, 36 responses" in shown
        assert all(word in shown for word in ("training: agreement", "heldout: agreement", "across the groups"))

    def test_mistakes_are_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        samples = tmp_path / "samples.jsonl"
        samples.write_text('{"prompt_id": "nobody"}\n', encoding="utf-8")
        assert panel.main(["support", str(samples)]) == 2
        assert panel.main(["support"]) == 2
        assert panel.main(["nowhere", str(samples)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert "line 1: field 'prompt_id'" in lines[0]


def test_a_panel_is_what_the_workflow_says() -> None:
    rubric = Rubric(panels={"training": Panel(n=2, noise=0.5, tie_width=0.1, spread=0.0)})
    people = labelers(rubric, "training")
    assert [(one.noise, one.tie_width, set(one.taste.values())) for one in people] == [(0.5, 0.1, {1.0})] * 2
