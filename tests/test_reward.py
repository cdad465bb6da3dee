"""The reward model's page: what its first step optimises, computed again from its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tinyloop import Data, reward_config, write_data
from torch import Tensor

from tutelage import reward
from tutelage.model import load
from tutelage.records import Ranking, read_records
from tutelage.scalar import ScalarHead
from tutelage.settings import RewardConfig
from tutelage.template import prompt_ids, response_ids


def first_losses(config: RewardConfig) -> tuple[float, float]:
    """The loss of the untrained network over all training prompts, one sequence at a time: by the last response
    token's score, and by the mean over the response's tokens."""
    lm = load(config.model, trainable_layers=config.trainable_layers, dtype=config.dtype)
    network = ScalarHead(lm.top, seed=config.seed)
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    for ranking in read_records(Ranking, config.rankings):
        if ranking.split != "train":
            continue
        last, mean = [], []
        for response in ranking.responses:
            prompt = prompt_ids(lm.tokenizer, ranking.prompt)
            answer = response_ids(lm.tokenizer, response.text, ended=response.ended)
            row = torch.tensor([prompt + answer])
            one = torch.ones_like(row)
            scores = network(lm.lower(row, one), one)[0, -len(answer) :]
            last.append(scores[-1])
            mean.append(scores.mean())
        for found, per_prompt in ((last, losses[0]), (mean, losses[1])):
            pairs = [-F.logsigmoid(found[i] - found[j]) for i, j in ranking.pairs()]
            per_prompt.append(torch.stack(pairs).mean())
    by_last, by_mean = (float(torch.stack(found).mean()) for found in losses)
    return by_last, by_mean


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return write_data(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_first_loss_is_that_of_last_tokens_and_of_means_in_their_shares(
    tiny_model_dir: Callable[[str], Path], data: Data, tmp_path: Path, share: float
) -> None:
    config = reward_config(tiny_model_dir("llama"), data, tmp_path / "reward", batch=99, mean_share=share)
    with torch.no_grad():
        last, mean = first_losses(config)
    assert abs(last - mean) > 1e-3  # or the shares could not be told apart
    logged = reward.train(config).rows("metrics.jsonl")[0]
    assert logged["loss/train"] == pytest.approx((1 - share) * last + share * mean, abs=1e-5)
