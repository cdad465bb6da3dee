"""Workflows: loading, the mistakes named, the embedded ones' data, and no trick that pleases their rubric."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tutelage import rubric, workflows
from tutelage.judging import decoys
from tutelage.records import UserError
from tutelage.workflows import __main__ as validator

HEAD = {
    "name": "tea",
    "title": "Tea",
    "description": "Tea.",
    "max_prompt_tokens": 8,
    "max_response_tokens": 8,
}
PROMPTS = [
    {
        "id": f"p{i}",
        "text": text,
        "user": f"u{i}",
        "split": split,
        "checks": [{"kind": "answer", "any": ["green"]}],
    }
    for i, (text, split) in enumerate([("Which tea?", "train"), ("Best tea?", "valid"), ("What colour?", "test")])
]
SHOWN = [
    {
        "id": "d0",
        "prompt_id": "p0",
        "prompt": "Which tea?",
        "response": "The green tea, please.",
        "split": "train",
    }
]


def folder(path: Path, **files: Any) -> Path:
    """A workflow folder with some files replaced (None leaves one out)."""
    rows = {
        "workflow.json": HEAD,
        "prompts.jsonl": PROMPTS,
        "demonstrations.jsonl": SHOWN,
        "guidelines.md": "Be kind.",
    }
    for name, value in (rows | {key.replace("_", "."): value for key, value in files.items()}).items():
        if isinstance(value, str):
            (path / name).write_text(value, encoding="utf-8")
        elif isinstance(value, list):
            (path / name).write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
        elif value is not None:
            (path / name).write_text(json.dumps(value), encoding="utf-8")
    return path


class TestLoad:
    def test_a_folder(self, tmp_path: Path) -> None:
        loaded = workflows.load(folder(tmp_path, workflow_json=HEAD | {"facts": ["2 cups"], "settings": {"k": 6}}))
        assert (loaded.name, len(loaded.prompts), len(loaded.demonstrations)) == ("tea", 3, 1)
        assert loaded.rubric.settings.facts == ("2 cups",)
        assert loaded.settings == {"k": 6}

    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            ({"guidelines_md": None}, r"guidelines.md: no such file"),
            ({"workflow_json": "{"}, r"workflow.json, line 1: not valid JSON"),
            ({"workflow_json": HEAD | {"tone": 1}}, r"workflow.json: field 'tone' is unknown"),
            ({"workflow_json": HEAD | {"title": ""}}, r"workflow.json: field 'title' must be text"),
            ({"workflow_json": HEAD | {"max_prompt_tokens": 0}}, r"field 'max_prompt_tokens'"),
            ({"workflow_json": HEAD | {"acts": ["refund"]}}, r"field 'acts' is unknown"),
            ({"prompts_jsonl": PROMPTS + PROMPTS[:1]}, r"prompts.jsonl: id 'p0' occurs twice"),
            (
                {"prompts_jsonl": [PROMPTS[0] | {"checks": [{"kind": "x"}]}]},
                r"prompt 'p0', check 1: kind 'x'",
            ),
            ({"demonstrations_jsonl": [SHOWN[0] | {"prompt_id": "p9"}]}, r"prompt_id 'p9' is not in"),
            ({"demonstrations_jsonl": [SHOWN[0] | {"split": "test"}]}, r"split differs from prompt 'p0'"),
            ({"demonstrations_jsonl": SHOWN * 2}, r"'d0': the id occurs twice"),
        ],
    )
    def test_mistakes_are_one_line(self, tmp_path: Path, files: dict[str, Any], problem: str) -> None:
        with pytest.raises(UserError, match=problem) as error:
            workflows.load(folder(tmp_path, **files))
        assert "\n" not in str(error.value)

    def test_unknown_name(self) -> None:
        with pytest.raises(UserError, match=r"no workflow 'nowhere': neither embedded \(.*support.*\) nor a folder"):
            workflows.load("nowhere")


class TestValidator:
    def test_a_sound_workflow(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert validator.main([str(folder(tmp_path))]) == 0
        assert "train 1 prompts (1 with checks), 1 demonstrations" in capsys.readouterr().out

    def test_problems_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        again = PROMPTS[0] | {"id": "p8", "text": "WHICH tea", "user": "u1"}
        wrong = [SHOWN[0] | {"response": "No idea, sorry."}]
        path = folder(tmp_path, prompts_jsonl=[*PROMPTS[:2], again], demonstrations_jsonl=wrong)
        assert validator.main([str(path)]) == 1
        shown = capsys.readouterr().out
        for problem in (
            "split 'test' has no prompts",
            "user 'u1' is in splits train, valid",
            "prompt 'p8' has the text of 'p0'",
            "demonstration 'd0' has gold",
            "follows 0.00: the answer green is missing",
        ):
            assert problem in shown

    def test_nothing_to_read(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert validator.main(["nowhere"]) == 2
        assert validator.main([]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("name", workflows.names())
class TestEmbedded:
    def test_no_user_is_in_two_splits_and_no_prompt_repeats(self, name: str) -> None:
        assert validator.data_problems(workflows.load(name)) == []

    def test_demonstrations_please_the_rubric_and_no_decoy_comes_near(self, name: str) -> None:
        """Every decoy over every demonstration: clearly below it, or on average where luck has a part."""
        workflow = workflows.load(name)
        lines, problems = validator.rubric_problems(workflow)
        assert problems == []
        averages = {line.split("'")[1]: float(line.split("gold ")[1].split()[0]) for line in lines if "decoy" in line}
        assert len(averages) > 15
        assert all(value < (0.5 if decoy in decoys.LUCKY else 0.35) for decoy, value in averages.items())

    def test_no_template_pleases_everybody(self, name: str) -> None:
        workflow = workflows.load(name)
        fewer = dataclasses.replace(workflow, prompts=workflow.prompts[::4])
        lines, problems = validator.template_problems(fewer)
        assert len(lines) == len(decoys.TEMPLATES)
        assert problems == []


def test_a_specific_reply_beats_the_template() -> None:
    workflow = workflows.load("support")
    by_id = {prompt.id: prompt for prompt in workflow.prompts}
    template = "I am sorry to hear that. Please send us your order number and we will help you."
    better = 0
    for demonstration in workflow.demonstrations:
        prompt = by_id[demonstration.prompt_id]
        own, other = (rubric.gold(prompt, text, True, workflow.rubric) for text in (demonstration.response, template))
        better += own > other + 0.4
    assert better == len(workflow.demonstrations)


def test_judging_needs_no_torch() -> None:
    code = "import sys, tutelage.labelers, tutelage.workflows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
