"""The one template: byte-identical prompts everywhere, honest ends, no re-encoding surprises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodels import tiny_tokenizer

from tutelage.records import UserError
from tutelage.template import CUE, SEPARATOR, prompt_ids, response_ids, response_text

END = 0  # `<|endoftext|>` of the tiny tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def beginning() -> Any:
    """A tokenizer that puts a begin token before every text, as those of Gemma and Llama do."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    first = ("<|begin|>", tokenizer.bos_token_id)
    core = tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[first])
    return tokenizer


def test_the_template_by_hand(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, "What is the capital of France?") + response_ids(tokenizer, "Paris.")
    assert tokenizer.decode(ids) == "What is the capital of France?\n\nAnswer: Paris.<|endoftext|>"


def test_worked_examples_stand_before_the_prompt(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, "c?", shots=[("a?", "A."), ("b?", "B.")])
    assert tokenizer.decode(ids) == f"a?{CUE} A.{SEPARATOR}b?{CUE} B.{SEPARATOR}c?{CUE}"


def test_space_around_prompt_and_response_changes_nothing(tokenizer: Any) -> None:
    assert prompt_ids(tokenizer, "\n Hello? \n") == prompt_ids(tokenizer, "Hello?")
    assert response_ids(tokenizer, "  Hi. \n") == response_ids(tokenizer, "Hi.")


@given(response=st.text(min_size=1, max_size=30).filter(lambda t: t.strip()))
@settings(max_examples=60)
def test_a_prompts_ids_never_depend_on_the_response_and_text_survives(tokenizer: Any, response: str) -> None:
    ids = response_ids(tokenizer, response)
    assert ids[-1] == END
    assert response_text(tokenizer, ids) == response.strip()
    # even with text that names the end token: only the last one is taken off
    assert response_text(tokenizer, ids[:-1]) == response.strip() or "<|endoftext|>" in response


def test_a_cut_response_is_left_open(tokenizer: Any) -> None:
    closed, cut = response_ids(tokenizer, "We will"), response_ids(tokenizer, "We will", ended=False)
    assert closed == [*cut, END]
    assert END not in cut
    assert response_text(tokenizer, cut) == "We will"


def test_an_empty_response_is_the_end_token_alone(tokenizer: Any) -> None:
    # what a policy samples when it ends at once; the reward model must be trained on the very same ids
    for text in ("", "  \n"):
        assert response_ids(tokenizer, text) == [END]
        assert response_ids(tokenizer, text, ended=False) == []
    assert response_text(tokenizer, [END]) == ""
    assert response_text(tokenizer, []) == ""


def test_only_the_last_end_token_is_taken_off(tokenizer: Any) -> None:
    inner = [*response_ids(tokenizer, "one"), *response_ids(tokenizer, "two")]
    assert response_text(tokenizer, inner) == "one<|endoftext|> two"


def test_too_long_is_one_line_and_never_cut(tokenizer: Any) -> None:
    prompt = "many words " * 40
    length = len(prompt_ids(tokenizer, prompt))
    assert len(prompt_ids(tokenizer, prompt, limit=length)) == length
    with pytest.raises(
        UserError, match=rf"{length} tokens, the limit is {length - 1} \(it begins: 'many words"
    ) as caught:
        prompt_ids(tokenizer, prompt, limit=length - 1)
    assert "\n" not in str(caught.value)


def test_a_begin_token_stands_once_at_the_front_and_never_in_a_response(beginning: Any) -> None:
    bos = beginning.bos_token_id
    ids = prompt_ids(beginning, "c?", shots=[("a?", "A.")])
    assert ids[0] == bos
    assert ids.count(bos) == 1
    assert bos not in response_ids(beginning, "Hi.")


def test_no_begin_token_where_the_tokenizer_sets_none(tokenizer: Any) -> None:
    assert END not in prompt_ids(tokenizer, "Hello?")
