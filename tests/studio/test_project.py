"""A studio's folder: made whole or not at all, opened with one clear line when something in it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.records import Demonstration, Prompt, UserError, read_records
from tutelage.studio.project import FILE, GUIDELINES, init, open_project


def test_an_empty_studio_has_its_settings_and_guidelines(tmp_path: Path) -> None:
    made = init(tmp_path / "harbour")
    assert open_project(tmp_path / "harbour") == made
    assert (made.settings.name, made.guidelines) == ("harbour", GUIDELINES)
    assert sorted(p.name for p in (tmp_path / "harbour").iterdir()) == ["guidelines.md", "project.json"]


@pytest.mark.parametrize("source", ["support", "instructions"])
def test_a_studio_from_a_workflow_has_its_prompts_without_what_only_machines_check(tmp_path: Path, source: str) -> None:
    made = init(tmp_path / "s", source=source, name="Ours", model="gemma-3-270m")
    assert (made.settings.name, made.settings.model) == ("Ours", "gemma-3-270m")
    prompts = list(read_records(Prompt, tmp_path / "s" / "prompts.jsonl"))
    assert prompts and all(p.checks == () for p in prompts)
    ids = {p.id for p in prompts}
    written = list(read_records(Demonstration, tmp_path / "s" / "demonstrations.jsonl"))
    assert written and all(d.prompt_id in ids for d in written)
    assert open_project(tmp_path / "s") == made


def test_a_studio_is_made_once(tmp_path: Path) -> None:
    init(tmp_path)
    with pytest.raises(UserError, match="is a studio already; open it with"):
        init(tmp_path)


@pytest.mark.parametrize("name", ["prompts.jsonl", "demonstrations.jsonl", "guidelines.md", "studio.db"])
def test_nothing_of_the_users_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds a {name}"):
        init(tmp_path, source="support")
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("words", "said"), [({"name": "   "}, "'name' is empty"), ({"source": "nowhere"}, "nowhere")])
def test_words_that_make_no_studio_leave_nothing_behind(tmp_path: Path, words: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        init(tmp_path / "s", **words)
    assert not (tmp_path / "s" / "project.json").exists()


def test_a_model_within_the_studio_goes_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s" / "base").mkdir(parents=True), (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    init(Path("s"), model="s/base")
    assert json.loads((tmp_path / "s" / FILE).read_text())["model"] == "base"
    (tmp_path / "s").rename(tmp_path / "t")
    assert open_project(tmp_path / "t").settings.model == str(tmp_path / "t" / "base")
    init(Path("u"), model="other")
    monkeypatch.chdir("/")
    assert open_project(tmp_path / "u").settings.model == str(tmp_path / "other")


GOOD: dict[str, Any] = {"name": "Harbour"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: not valid JSON"),
        ('{"name": "a",\n oops}', "line 2: not valid JSON"),
        ("[]", "is no object"),
        ('"words"', "is no object"),
        ("{}", "field 'name' is missing"),
        (json.dumps(GOOD | {"colour": "red"}), "field 'colour' is unknown"),
        (json.dumps(GOOD | {"k": "4"}), "field 'k' is str, expected int"),
        (json.dumps(GOOD | {"k": True}), "field 'k' is bool"),
        (json.dumps(GOOD | {"k": 1}), "expected 2 to 9"),
        (json.dumps(GOOD | {"k": 10}), "expected 2 to 9"),
        (json.dumps(GOOD | {"name": " "}), "'name' is empty"),
        (json.dumps(GOOD | {"max_prompt_tokens": 0}), "a token limit is below 1"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, said: str) -> None:
    init(tmp_path / "s")
    (tmp_path / "s" / "project.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        open_project(tmp_path / "s")
    assert "project.json" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"project\.json: no such file; `tutelage init"):
        open_project(tmp_path)
    init(tmp_path / "s")
    (tmp_path / "s" / "guidelines.md").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read"):
        open_project(tmp_path / "s")
    (tmp_path / "s" / "guidelines.md").unlink()
    with pytest.raises(UserError, match=r"guidelines\.md: no such file"):
        open_project(tmp_path / "s")
