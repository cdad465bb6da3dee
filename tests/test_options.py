"""The options of every command, frozen: a new knob is a line here that somebody must want."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from types import ModuleType
from typing import Any

import pytest

from tutelage import cli, settings
from tutelage.studio import commands

OPTIONS = {
    "SftConfig": """
        model demonstrations out pretraining pretraining_share reward epochs keep batch lr weight_decay
        clip_norm trainable_layers max_prompt_tokens max_response_tokens drop_long dtype seed
    """,
    "SampleConfig": """
        model prompts out split k limit temperatures max_prompt_tokens max_response_tokens drop_long shots
        n_shots name batch dtype seed
    """,
    "RankConfig": "samples workflow out labelers seed",
    "RewardConfig": """
        model rankings out demonstrations epochs batch lr head_lr weight_decay clip_norm mean_share
        trainable_layers unit_scale groups max_prompt_tokens max_response_tokens drop_long dtype seed
    """,
    "PpoConfig": """
        policy reward prompts out pretraining iterations episodes minibatch inner_epochs lr value_lr
        warmup_iterations beta clip value_clip gamma lam temperature whiten_rewards
        missing_eos_score ptx_coef ptx_ratio ptx_tokens ema keep max_kl checkpoint_every
        snapshot_every trainable_layers max_prompt_tokens max_response_tokens drop_long clip_norm
        adam_eps dtype seed
    """,
    "EvaluateConfig": """
        answers workflow policy reward out ppo pretraining text_models frontier_k temperature
        max_response_tokens drop_long dtype seed
    """,
    "LoopConfig": "workflow out model preset with_ppo test_limit drop_long dtype seed",
    "RoundConfig": """
        folder number groups k next_prompts judge_prompts accept_weak_reward collect_more keep dtype seed
    """,
    "FetchWords": "name accept_license",
    "ReportWords": "folder",
    "CompareWords": "runs prompt temperature seed",
    "ChatWords": "run temperature seed",
    "DoctorWords": "run json",
    "AddWords": "folder file ignore",
    "InitWords": "folder source name model",
    "StudioWords": "folder host port no_browser database public_url trusted_proxies",
    "AccountWords": "folder name role team reset database",
    "BackupWords": "folder file database",
    "RestoreWords": "folder file unverified database",
    "CheckWords": "folder database",
    "ExportWords": "folder out labels groups seed database",
}


def kinds(module: ModuleType) -> dict[str, type[Any]]:
    found = inspect.getmembers(module, lambda k: inspect.isclass(k) and dataclasses.is_dataclass(k))
    return {name: kind for name, kind in found if kind.__module__ == module.__name__}


KINDS = kinds(settings) | kinds(cli) | kinds(commands)


def test_no_command_came_or_went_unseen() -> None:
    assert KINDS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_came_or_went_unseen(name: str) -> None:
    assert {f.name for f in dataclasses.fields(KINDS[name])} == set(OPTIONS[name].split())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_is(name: str) -> None:
    """`--help` is made of the sentence under each field."""
    kind = KINDS[name]
    assert kind.__doc__
    body = ast.parse(inspect.getsource(kind)).body[0].body
    silent = [
        field.target.id
        for field, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]
    assert not silent


@pytest.mark.parametrize("name", OPTIONS)
def test_settings_cannot_change_while_a_stage_runs(name: str) -> None:
    assert KINDS[name].__dataclass_params__.frozen
