"""What the rubric is made of: text measures, the checks of a prompt, and the matter of a trade, by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.judging import checks, focus, grounding, words
from tutelage.judging.finding import ramp
from tutelage.records import Demonstration, Prompt, UserError

CALM = settings(derandomize=True, deadline=None, max_examples=60)
TOPIC = {"kind": "topic", "groups": [["mug", "cup"], ["replace", "send a new"], ["photo", "picture"]]}


def asked(text: str = "My blue mug arrived broken, what now?", *given: dict[str, Any]) -> Prompt:
    return Prompt(id="p1", text=text, checks=given or (TOPIC,), use_case="chat")


class TestWords:
    def test_a_phrase_is_found_at_word_starts(self) -> None:
        assert words.mentions("We refunded you.", "refund")
        assert words.mentions("Send a new one", "send a new")
        assert words.mentions("an E mail", "e-mail")
        assert words.mentions("an email", "e-mail")
        assert not words.mentions("The prefund", "refund")

    def test_short_words_and_numbers_must_be_whole(self) -> None:
        assert words.mentions("two teas", "tea")
        assert not words.mentions("a team", "tea")
        assert words.mentions("in 7 days", "7")
        assert not words.mentions("in 70 days or 7.5", "7")
        assert words.mentions("f-r-i", "f-r-i")
        assert not words.mentions("fri", "f-r-i")

    def test_sentences_survive_abbreviations_and_lists(self) -> None:
        assert words.sentences("Ask Dr. Hall. No. Then wait!") == ["Ask Dr. Hall.", "No.", "Then wait!"]
        assert words.sentences("1. Red\n2. Blue") == ["Red", "Blue"]

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            ("en", "The cat is on the table and it does not want to move."),
            ("fr", "Le chat est sur la table et il ne veut pas bouger."),
            ("es", "El gato está en la mesa y no se quiere mover."),
            ("de", "Die Katze ist auf dem Tisch und will sich nicht bewegen."),
            ("it", "Il gatto è sul tavolo e non si vuole muovere."),
            ("pt", "O gato está na mesa e não quer se mexer."),
        ],
    )
    def test_language(self, code: str, text: str) -> None:
        assert words.language(text) == code
        assert checks.keep({"kind": "language", "code": code}, text) == 1.0
        assert all(checks.keep({"kind": "language", "code": c}, text) <= 0.5 for c in words.LANGUAGES if c != code)

    def test_repeated_share_by_hand(self) -> None:
        # a b c a b c: triples abc bca cab abc, one of four seen before
        assert words.repeated_share("a b c a b c", 3) == pytest.approx(0.25)
        assert words.repeated_share("a b c", 3) == 0.0

    def test_longest_shared_run(self) -> None:
        assert words.longest_shared_run("the red fox ran", "a red fox ran home") == 3

    @CALM
    @given(st.text(max_size=80), st.lists(st.text(min_size=1, max_size=8), max_size=4))
    def test_spans_never_overlap(self, text: str, phrases: list[str]) -> None:
        found = words.spans(text, [phrase for phrase in phrases if phrase.strip()])
        assert all(a < b for a, b in found)
        assert all(left[1] <= right[0] for left, right in pairwise(found))


class TestChecks:
    @pytest.mark.parametrize(
        ("check", "kept", "broken"),
        [
            ({"kind": "max_words", "n": 3}, "one two three", "one two three four"),
            ({"kind": "min_words", "n": 3}, "one two three", "one two"),
            ({"kind": "sentences", "n": 2}, "One. Two.", "One. Two. Three."),
            ({"kind": "list_items", "n": 2}, "- a\n- b", "- a\n- b\n- c"),
            ({"kind": "include", "all": ["cat", "dog"]}, "Cats and dogs.", "Only cats."),
            ({"kind": "exclude", "any": ["sad"]}, "A happy day.", "A sad day."),
            ({"kind": "starts_with", "text": "Dear"}, "Dear Ann, hello.", "Hello, dear."),
            ({"kind": "ends_with", "text": "the end."}, "That is the end", "The end is near."),
            ({"kind": "format", "value": "bullets"}, "- a\n- b", "a, b"),
            ({"kind": "format", "value": "numbered"}, "1. a\n2. b", "- a\n- b"),
            ({"kind": "format", "value": "one_line"}, "a", "a\nb"),
            ({"kind": "format", "value": "uppercase"}, "STOP NOW", "Stop now"),
            ({"kind": "format", "value": "lowercase"}, "stop now", "Stop now"),
            ({"kind": "format", "value": "question"}, "Is it late?", "It is late."),
            ({"kind": "format", "value": "json"}, '{"a": 1}', "{a: 1}"),
            ({"kind": "format", "value": "comma_list"}, "red, blue, green", "red\nblue"),
            ({"kind": "language", "code": "fr"}, "Je ne suis pas là.", "I am not there."),
        ],
    )
    def test_each_constraint_kept_and_broken(self, check: dict[str, Any], kept: str, broken: str) -> None:
        checks.validate(asked("Do it.", check))
        assert checks.keep(check, kept) == 1.0
        assert checks.keep(check, broken) < 1.0

    def test_a_near_miss_beats_a_far_one(self) -> None:
        check = {"kind": "max_words", "n": 4}
        # five words: 0.5 * (1 - 1/4); eight or more: nothing
        assert checks.keep(check, "a b c d e") == pytest.approx(0.375)
        assert checks.keep(check, "a b c d e f g h") == 0.0

    def test_every_kind_is_covered_here(self) -> None:
        assert set(checks.CONSTRAINTS) | {"topic", "answer", "avoid", "facts"} == set(checks.FIELDS)

    @pytest.mark.parametrize(
        ("check", "problem"),
        [
            ({"kind": "rhyme"}, "kind 'rhyme' is unknown"),
            ({"kind": "answer"}, "field 'any' is missing"),
            ({"kind": "answer", "any": []}, "field 'any' must be a list of phrases"),
            ({"kind": "answer", "any": ["a"], "all": ["b"]}, "field 'all' is unknown"),
            ({"kind": "max_words", "n": True}, "field 'n' must be a number"),
            ({"kind": "topic", "groups": [[]]}, "field 'groups' must be a list of lists"),
            ({"kind": "language", "code": "xx"}, "field 'code' must be one of"),
            ({"kind": "format", "value": "table"}, "field 'value' must be one of"),
        ],
    )
    def test_a_wrong_check_names_the_prompt(self, check: dict[str, Any], problem: str) -> None:
        with pytest.raises(UserError, match=f"prompt 'p1', check 1: {problem}"):
            checks.validate(asked("Do it.", check))


class TestNumbers:
    def test_list_markers_are_not_numbers(self) -> None:
        assert grounding.numbers("1. Red\n2. Blue", "") == []


class TestFocus:
    def test_common_acts_are_what_many_prompts_call_for(self) -> None:
        prompts = [
            Prompt(
                id=str(i),
                text=f"Thing {i}",
                checks=({"kind": "topic", "groups": [["refund", "please"], [f"t{i}"]]},),
            )
            for i in range(6)
        ]
        said = [Demonstration(id="d", prompt_id="0", prompt="Thing 0", response="Here is a refund.")]
        assert focus.common_acts(prompts, said, ("please",)) == ("refund",)

    def test_an_act_is_called_for_by_topic_or_prompt(self) -> None:
        acts = ("refund", "photo", "cancel")
        assert focus.uncalled_acts(asked(), "A photo, a refund, or cancel it.", acts) == ["refund", "cancel"]
        assert focus.uncalled_acts(asked("Refund me"), "A photo, a refund.", acts) == []

    def trade(self, count: int) -> list[Demonstration]:
        said = "Please send us a photo of the cup."
        return [Demonstration(id=f"d{i}", prompt_id="p1", prompt="My mug", response=said) for i in range(count)]

    def test_words_of_the_trade_come_from_enough_demonstrations(self) -> None:
        assert focus.trade_words([asked()], self.trade(99)) == frozenset()
        assert focus.trade_words([asked()], self.trade(100)) == {"send", "photo", "cup"}

    def test_stray_words_by_hand(self) -> None:
        trade = frozenset({"send", "photo"})
        said = "Send a photo of the blue cup to the pizza team in 2 days, tomorrow."
        assert focus.stray_words(asked(), said, trade, "blue tomorrow") == ["pizza", "team", "days"]

    def test_oddness_by_hand(self) -> None:
        prompt = asked("A mug", {"kind": "topic", "groups": [["cup"]]})
        known = focus.trade_pairs([prompt], self.trade(100))
        # start-please please-send send-us us-a a-photo photo-of of-the the-MATTER MATTER-end
        assert len(known) == 9
        assert focus.oddness(prompt, "Please send us a photo of the mug.", known) == 0.0
        # start-please, us-a known; please-us a-team team-end not
        assert focus.oddness(prompt, "Please us a team.", known) == pytest.approx(3 / 5)


def test_ramp() -> None:
    assert [ramp(x, 0.0, 2.0) for x in (-1.0, 1.0, 3.0)] == [0.0, 0.5, 1.0]
    assert ramp(0.25, 1.0, 0.0) == 0.75
