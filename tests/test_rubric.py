"""The rubric: each judgement on hand-worked texts, the gate, the settings, and what tricks earn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage import rubric
from tutelage.judging.judgements import JUDGEMENTS, MISSED, Settings, wanted_length
from tutelage.records import USE_CASES, Prompt, UserError
from tutelage.rubric import Rubric

CALM = settings(derandomize=True, deadline=None, max_examples=60)
TOPIC = {"kind": "topic", "groups": [["mug", "cup"], ["replace", "send a new"], ["photo", "picture"]]}
SHOP = Rubric(
    settings=Settings(
        length_words=(8, 40),
        facts=("Returns are free within 30 days.", "Delivery takes 3 to 5 working days."),
        closed_domain=True,
        courtesy=("please", "sorry", "thank"),
        other_voice=("my order",),
    )
)
GOOD = "I am sorry about your mug. Please send us a photo and we will replace it."


def asked(text: str = "My blue mug arrived broken, what now?", *given: dict[str, Any], **fields: Any) -> Prompt:
    return Prompt(id="p1", text=text, checks=given or (TOPIC,), use_case=fields.pop("use_case", "chat"), **fields)


def judged(name: str, prompt: Prompt, text: str, ended: bool = True, settings: Rubric = SHOP) -> float:
    return rubric.judge(prompt, text, ended, settings)[name]


class TestJudgements:
    def test_follows_grows_with_the_topics(self) -> None:
        none = judged("follows", asked(), "We are happy that you wrote, and wish you a good day.")
        one = judged("follows", asked(), "We are sorry about your mug, and wish you a good day.")
        two = judged("follows", asked(), "We are sorry about your mug, so we will replace it soon.")
        assert none == pytest.approx(MISSED)
        assert none < one < two < judged("follows", asked(), GOOD) == 1.0

    def test_what_is_refused_is_not_met(self) -> None:
        refused = judged("follows", asked(), "Sorry, we cannot simply replace the mug, and we won't photograph it.")
        assert refused == judged("follows", asked(), "Sorry, we have no answer about the mug, and we know why.")
        firm = asked("Sell me a mug.", TOPIC | {"groups": [["mug"], ["cannot", "do not sell"]]})
        assert judged("follows", firm, "Sorry, we do not sell mugs, and we cannot order one.") == 1.0

    def test_an_answer_weighs_more_than_a_topic(self) -> None:
        prompt = asked("Name the capital.", TOPIC | {"groups": [["capital"]]}, {"kind": "answer", "any": ["Paris"]})
        right = judged("follows", prompt, "The capital, or so they say, is Paris.")
        assert right == 1.0
        assert judged("follows", prompt, "The capital, or so they say, is Rome.") < judged(
            "follows", prompt, "The name, or so they say, is Paris."
        )

    def test_what_is_to_avoid_costs(self) -> None:
        prompt = asked("Is it red or blue?", {"kind": "answer", "any": ["red"]}, {"kind": "avoid", "any": ["green"]})
        assert judged("follows", prompt, "It is red.") == 1.0
        assert judged("follows", prompt, "It is red, like green.") == pytest.approx(0.3)
        assert judged("follows", prompt, "That would be red, or maybe blue.") == pytest.approx(0.3)  # both choices
        assert judged("follows", prompt, "It is red, not blue.") == 1.0

    def test_stock_phrases_earn_no_topic(self) -> None:
        prompt = asked("Where is it?", {"kind": "topic", "groups": [["look into"]]})
        assert judged("follows", prompt, "We will look into where your parcel went.") > 0.5
        stock, silent = "We will look into this today for you all.", "We will reply to this today for you all."
        assert judged("follows", prompt, stock) == pytest.approx(0.93 * judged("follows", prompt, silent))
        assert judged("follows", prompt, silent) == pytest.approx(MISSED)

    @pytest.mark.parametrize("text", ["My blue mug arrived broken, what now?", "Broken mug arrived blue my now what."])
    def test_the_prompt_in_any_order_is_no_answer(self, text: str) -> None:
        assert judged("follows", asked(), text) < 0.1
        assert rubric.gold(asked(), f"Thank you. {text}", True, SHOP) < 0.15

    def test_an_extract_may_use_the_prompts_words_but_not_repeat_it(self) -> None:
        text = "Give the sender: the parcel came from Anna Smith in York on Monday."
        prompt = asked(text, {"kind": "answer", "any": ["Anna Smith"]}, use_case="extract")
        assert judged("follows", prompt, "Anna Smith") == 1.0
        assert judged("follows", prompt, text) == 0.0

    def test_constraints_is_the_mean_and_one_without_any(self) -> None:
        both = asked("Say it.", {"kind": "max_words", "n": 9}, {"kind": "include", "all": ["cat", "dog"]})
        assert judged("constraints", both, "A cat sat.") == pytest.approx(0.75)
        assert judged("constraints", asked(), "A cat sat.") == 1.0

    def test_grounded_counts_inventions(self) -> None:
        prompt = asked()
        assert judged("grounded", prompt, "Delivery takes 5 working days.") == 1.0
        assert judged("grounded", prompt, "It takes 24 hours.") == 0.5
        assert judged("grounded", prompt, "It takes two hours.") == 0.5
        assert judged("grounded", prompt, "It takes 30 hours.") == 0.5  # 30 is known of days only
        assert judged("grounded", prompt, "Write to help@shop.example, it takes 24 hours.") == pytest.approx(0.15)
        assert judged("grounded", prompt, "Ask for Brenda at the desk.") == 0.75

    def test_open_prompts_may_state_facts(self) -> None:
        free = Rubric()
        prompt = asked("Tell me about the moon.", {"kind": "topic", "groups": [["moon"]]}, use_case="open QA")
        assert judged("grounded", prompt, "The Moon is 384400 km from Earth.", settings=free) == 1.0
        closed = asked("How far?", {"kind": "facts", "allow": ["384400"]}, use_case="open QA")
        assert judged("grounded", closed, "It is 384400 km or 5 km.", settings=free) == 0.5

    def test_polite(self) -> None:
        assert judged("polite", asked(), GOOD) == 1.0
        assert judged("polite", asked(), "We will replace the mug.") < 0.5
        assert judged("polite", asked(), "Sorry, that is not my problem.") <= 0.2

    def test_harmless_forgives_the_prompts_own_words(self) -> None:
        assert judged("harmless", asked(), "You are an idiot.") == pytest.approx(0.1)
        assert judged("harmless", asked(), "The dumbbell is fire retardant.") == 1.0  # whole words only
        assert judged("harmless", asked("What does idiot mean?"), "An idiot is a person who errs.") == 1.0

    def test_ends(self) -> None:
        assert judged("ends", asked(), GOOD) == 1.0
        assert judged("ends", asked(), GOOD, ended=False) == 0.2
        assert judged("ends", asked(), GOOD.rstrip(".")) == 0.5

    @pytest.mark.parametrize(
        "text",
        [
            "mug cup replace exchange photo picture image order",
            "Mug, cup, replacement, exchange, photo, picture, image, order, refund, label.",
            f"{GOOD} {GOOD} {GOOD}",
            f"{GOOD}\nCustomer: My other mug broke too.",
            "### <|im_start|>assistant mug replace photo ``` ***",
            "Can you send it? Will you send it? Could you please tell me more about the mug?",
            "I am sorry about my order of the mug and the the photo of to replace.",
        ],
    )
    def test_fluent_refuses_what_is_no_prose(self, text: str) -> None:
        assert judged("fluent", asked(), GOOD) == 1.0
        assert judged("fluent", asked(), text) <= 0.5

    def test_an_enumeration_is_fluent_where_it_was_asked(self) -> None:
        prompt = asked("List five fruits.", {"kind": "format", "value": "comma_list"}, use_case="brainstorming")
        assert judged("fluent", prompt, "apple, pear, plum, grape, fig") == 1.0

    def test_a_few_shot_response_does_not_go_on_with_another_example(self) -> None:
        prompt = asked("Word: hot -> cold\nWord: big -> small\nWord: up ->", {"kind": "answer", "any": ["down"]})
        assert judged("fluent", prompt, "down\nWord: in -> out") < 0.2

    def test_no_placeholders(self) -> None:
        assert judged("no_placeholders", asked(), "Dear [Name], we will help.") == 0.3
        assert judged("no_placeholders", asked("Keep [Name] as it is."), "Dear [Name], we will help.") == 1.0

    def test_length_by_hand(self) -> None:
        assert judged("length", asked(), "one two three four") == 0.5
        assert judged("length", asked(), " ".join(["word"] * 60)) == pytest.approx(0.5)
        assert judged("length", asked(), " ".join(["word"] * 80)) == 0.0

    def test_the_prompt_sets_the_length(self) -> None:
        assert wanted_length(asked("Be brief.", {"kind": "max_words", "n": 12}), SHOP.settings) == (4, 12)
        assert wanted_length(asked("Go on.", {"kind": "min_words", "n": 60}), SHOP.settings) == (60, 120)
        assert wanted_length(asked("Which?", {"kind": "answer", "any": ["a"]}), SHOP.settings) == (1, 40)

    def test_offering_everything_loses_the_thread(self) -> None:
        busy = Rubric(settings=Settings(acts=("refund", "return label", "track", "cancel", "warranty")))
        follows = [
            judged("follows", asked(), text, settings=busy)
            for text in (
                GOOD,
                f"{GOOD} Or a refund.",
                f"{GOOD} Or a refund, a return label, or cancel and track it.",
            )
        ]
        assert follows == [1.0, 1.0, pytest.approx(0.4)]


class TestGold:
    def test_a_perfect_response_scores_one(self) -> None:
        assert rubric.gold(asked(), GOOD, True, SHOP) == pytest.approx(1.0)
        assert rubric.explain(asked(), GOOD, True, SHOP) == []

    def test_the_gate_by_hand(self) -> None:
        perfect = dict.fromkeys(JUDGEMENTS, 1.0)
        weights = dict.fromkeys(JUDGEMENTS, 1.0)
        # no constraint stated: eight judgements; none of the topics: 7/8 of the mean, behind the floor
        nothing = rubric.combine(asked(), perfect | {"follows": 0.0}, weights)
        assert nothing == pytest.approx(7 / 8 * rubric.FLOOR)
        # one judgement at 0.5: half way up its own gate
        gate = (rubric.GATE["grounded"] + 1.0) / 2
        assert rubric.combine(asked(), perfect | {"grounded": 0.5}, weights) == pytest.approx(7.5 / 8 * gate)
        # who cares twice as much: weight 2 of 9, gate squared
        careful = rubric.combine(asked(), perfect | {"grounded": 0.5}, weights, {"grounded": 2.0})
        assert careful == pytest.approx(8 / 9 * gate**2)

    @pytest.mark.parametrize("text", ["", "   ", "\n", "...", "!?"])
    def test_nothing_earns_nothing(self, text: str) -> None:
        assert rubric.gold(asked(), text, True, SHOP) == 0.0
        assert "follows 0.00: the response is empty" in rubric.explain(asked(), text, True, SHOP)

    @CALM
    @given(st.text(max_size=200), st.booleans(), st.sampled_from(USE_CASES))
    def test_any_text_is_judged_within_bounds(self, text: str, ended: bool, use_case: str) -> None:
        prompt = asked(use_case=use_case)
        found = rubric.judge(prompt, text, ended, SHOP)
        assert tuple(found) == JUDGEMENTS
        assert all(0.0 <= value <= 1.0 for value in found.values())
        assert 0.0 <= rubric.gold(prompt, text, ended, SHOP) <= 1.0
        lowered = {line.split()[0] for line in rubric.explain(prompt, text, ended, SHOP)}
        assert lowered == {name for name, value in found.items() if value < 1.0}

    @CALM
    @given(st.lists(st.sampled_from(["mug", "replace", "photo", "please", "sorry", "cup", "we", "it"]), max_size=30))
    def test_no_bag_of_topic_words_comes_near_an_answer(self, bag: list[str]) -> None:
        assert rubric.gold(asked(), " ".join(bag) + ".", True, SHOP) < 0.9

    @CALM
    @given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(JUDGEMENTS))
    def test_gold_never_falls_when_a_judgement_rises(self, low: float, high: float, name: str) -> None:
        prompt = asked("Do it.", TOPIC, {"kind": "max_words", "n": 9})
        base = dict.fromkeys(JUDGEMENTS, 0.8)
        weights = rubric.DEFAULT_WEIGHTS
        less, more = sorted((low, high))
        worse = rubric.combine(prompt, base | {name: less}, weights)
        assert worse <= rubric.combine(prompt, base | {name: more}, weights) + 1e-12


class TestParse:
    def test_defaults_and_given_values(self) -> None:
        parsed = rubric.parse({"facts": ["30 days"], "length_words": [5, 9], "weights": {"polite": 0}}, "w.json")
        assert parsed.settings.closed_domain
        assert parsed.settings.length_words == (5, 9)
        assert parsed.weights == rubric.DEFAULT_WEIGHTS | {"polite": 0.0}
        panel = rubric.parse({"labelers": {"training": {"n": 7, "noise": 0.1}}}, "w.json").panels["training"]
        assert (panel.n, panel.noise) == (7, 0.1)

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ({"weights": {"kind": 1}}, "'kind' is unknown"),
            ({"weights": dict.fromkeys(JUDGEMENTS, 0)}, "leaves nothing to judge"),
            ({"weights": {"polite": -1}}, "numbers >= 0"),
            ({"length_words": [9, 5]}, "low, high"),
            ({"courtesy": "please"}, "list of phrases"),
            ({"closed_domain": 1}, "true or false"),
            ({"labelers": {"judges": {}}}, "'labelers'"),
            ({"labelers": {"training": {"n": 1.5}}}, "field 'n'"),
            ({"labelers": {"training": {"noise": "low"}}}, "field 'noise'"),
        ],
    )
    def test_wrong_values_name_file_and_field(self, row: dict[str, Any], problem: str) -> None:
        with pytest.raises(UserError, match=problem) as error:
            rubric.parse(row, "w.json")
        assert str(error.value).startswith("w.json")
        assert "\n" not in str(error.value)
