"""A finished round of a studio on a tiny random model: nothing is learned, but every part is real."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tinyloop

from tutelage import ppo, reward, sft
from tutelage.records import write_json
from tutelage.studio.project import Project


def train_round(factory: pytest.TempPathFactory, model: Path) -> Path:
    """The folder of a trained round, to copy from; made once a session, for all files that ask."""
    folder = factory.getbasetemp() / "trained-round"
    if (folder / "round.json").exists():
        return folder
    data = tinyloop.write_data(folder / "data")
    sft.train(tinyloop.sft_config(model, data, folder / "sft"))
    reward.train(tinyloop.reward_config(folder / "sft", data, folder / "reward"))
    ppo.train(tinyloop.ppo_config(folder / "sft", folder / "reward", data, folder / "ppo_ptx"))
    write_json(folder / "round.json", {"round": 1, "policy": "ppo_ptx", "model": str(model)})
    return folder


def give_round(project: Project, trained: Path, number: int = 1) -> Path:
    """Copy a trained round into a studio; returns its folder."""
    folder = project.runs / f"round-{number}"
    shutil.copytree(trained, folder)
    return folder
