"""Classic mistakes, planted one at a time in what the pages call: the doctor must name each by its check.

Sources: docs/paper.md and the trackers of public RLHF systems. Every row was seen in the wild.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyloop import Data, ppo_config, reward_config, sft_config, without_digests, write_data
from torch import Tensor

from tutelage import cli, doctor, generate, limits, model, ppo, reward, sft
from tutelage.data import batches
from tutelage.data.batches import Packed
from tutelage.examine import examine
from tutelage.model import Lm
from tutelage.ppo import Networks, Rollout
from tutelage.records import UserError
from tutelage.scalar import ScalarHead
from tutelage.settings import PpoConfig

Patch = pytest.MonkeyPatch
TinyModel = Callable[[str], Path]


@dataclasses.dataclass(frozen=True)
class Runs:
    """What PPO starts from."""

    data: Data
    base: Path
    sft: Path
    reward: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> Callable[[str], Runs]:
    """SFT and reward runs of an architecture, made once."""
    made: dict[str, Runs] = {}

    def make(architecture: str) -> Runs:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            data, base = write_data(folder), tiny_model_dir(architecture)
            sft.train(sft_config(base, data, folder / "sft"))
            reward.train(reward_config(folder / "sft", data, folder / "reward"))
            made[architecture] = Runs(data, base, folder / "sft", folder / "reward")
        return made[architecture]

    return make


@dataclasses.dataclass(frozen=True)
class Bug:
    """A mistake, how it is planted, and the check that must name it."""

    name: str
    check: str
    plant: Callable[..., None]
    architecture: str = "llama"
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def arange_positions(segments: Tensor) -> Tensor:
    return torch.arange(segments.shape[1], device=segments.device).expand_as(segments)


def everywhere(real: Callable[..., Any], **fields: Callable[[Packed], Tensor]) -> Callable[..., Packed]:
    """A layout with some fields of every batch changed."""

    def laid_out(*arguments: Any) -> Packed:
        made: Packed = real(*arguments)
        return dataclasses.replace(made, **{name: change(made) for name, change in fields.items()})

    return laid_out


def jolt(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)


# ---- batches: seen by SFT's checks and by PPO's ----------------------------------------------------------


def padding_counted(patch: Patch, *_: Any) -> None:
    change = everywhere(batches._lay_out, mask=lambda b: torch.ones_like(b.mask))
    patch.setattr(batches, "_lay_out", change)


def prompt_in_loss(patch: Patch, *_: Any) -> None:
    real = batches._lay_out

    def shown(pairs: Any, spots: Any, *rest: Any) -> Packed:
        return real([(p[:1], p[1:] + r) for p, r in pairs], [(n, at, at + 1, s) for n, at, _, s in spots], *rest)  # type: ignore[no-any-return]

    patch.setattr(batches, "_lay_out", shown)


def targets_not_shifted(patch: Patch, *_: Any) -> None:
    patch.setattr(batches, "_lay_out", everywhere(batches._lay_out, where=lambda b: b.where + 1 * b.mask))


def attention_across(patch: Patch, *_: Any) -> None:
    real = model.attention_mask
    patch.setattr(model, "attention_mask", lambda segments, config: real((segments > 0).long(), config))


def row_positions(patch: Patch, *_: Any) -> None:
    patch.setattr(model, "positions", arange_positions)


# ---- SFT -------------------------------------------------------------------------------------------------


def end_dropped(patch: Patch, lm: Lm) -> None:
    real = limits.response_ids
    patch.setattr(limits, "response_ids", lambda tokenizer, text, ended=True: real(tokenizer, text, ended=False))


def end_masked(patch: Patch, lm: Lm) -> None:
    change = everywhere(batches._lay_out, mask=lambda b: b.mask & (b.targets != lm.eos))
    patch.setattr(batches, "_lay_out", change)


def end_is_padding(patch: Patch, lm: Lm) -> None:
    patch.setattr(Lm, "pad", property(lambda self: self.eos))


def end_forced(patch: Patch, lm: Lm) -> None:
    real = doctor.response_ids
    patch.setattr(doctor, "response_ids", lambda tokenizer, text, ended=True: real(tokenizer, text))


def mean_of_rows(logprobs: Tensor, mask: Tensor) -> Tensor:
    return -((logprobs * mask).sum(1) / mask.sum(1)).mean()


def row_loss(patch: Patch, lm: Lm) -> None:
    patch.setattr(sft, "lm_loss", mean_of_rows)


def padded_loss(patch: Patch, lm: Lm) -> None:
    patch.setattr(sft, "lm_loss", lambda logprobs, mask: -(logprobs * mask).mean())


SFT_BUGS = [
    Bug("padding counted in the mask", "response only", padding_counted),
    Bug("prompt tokens in the loss", "response only", prompt_in_loss),
    Bug("targets not shifted", "response only", targets_not_shifted),
    Bug("attention across packed sequences", "padding", attention_across),
    Bug("positions do not restart in a packed row", "padding", row_positions, "gpt2"),
    Bug("end token dropped from responses", "end token", end_dropped),
    Bug("end token masked away", "end token", end_masked),
    Bug("end token is the padding", "end token", end_is_padding),
    Bug("end token forced onto cut text", "template", end_forced),
    Bug("loss is a mean of row means", "batch split", row_loss),
    Bug("loss divides by padding", "batch split", padded_loss),
]


@pytest.mark.parametrize("bug", SFT_BUGS, ids=str)
def test_sft_names_a_planted_bug(bug: Bug, runs: Callable[[str], Runs], monkeypatch: Patch, tmp_path: Path) -> None:
    found = runs(bug.architecture)
    config = sft_config(found.base, found.data, tmp_path / "sft")
    bug.plant(monkeypatch, model.load(found.base, trainable_layers=2))
    monkeypatch.setattr(model, "prove", lambda lm: None)  # it would find some of them before the doctor does
    with pytest.raises(UserError, match=f"FAIL {bug.check}: "):
        sft.train(config)
    assert not (tmp_path / "sft" / "metrics.jsonl").exists()


# ---- PPO -------------------------------------------------------------------------------------------------


def score_moved(patch: Patch, by: int) -> None:
    def at_last(batch: Packed, hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, 1)
        return flat[(batch.last + by).clamp_max(len(flat) - 1)]

    patch.setattr(Packed, "at_last", at_last)


def score_late(patch: Patch, *_: Any) -> None:
    score_moved(patch, 1)


def score_early(patch: Patch, *_: Any) -> None:
    score_moved(patch, -1)


def score_at_row_end(patch: Patch, *_: Any) -> None:
    def at_last(batch: Packed, hidden: Tensor) -> Tensor:
        return hidden[batch.last // hidden.shape[1], -1]

    patch.setattr(Packed, "at_last", at_last)


def engine_positions(patch: Patch, *_: Any) -> None:
    patch.setattr(generate, "positions", arange_positions)


def temperature_forgotten(patch: Patch, *_: Any) -> None:
    real = ppo.policy_logprobs
    patch.setattr(ppo, "policy_logprobs", lambda top, hidden, batch, t, **more: real(top, hidden, batch, 1.0, **more))


def reference_temperature(patch: Patch, nets: Networks) -> None:
    real = ppo.policy_logprobs

    def logprobs(top: Any, hidden: Tensor, batch: Packed, t: float, **more: Any) -> Any:
        return real(top, hidden, batch, 1.0 if top is nets.reference else t, **more)

    patch.setattr(ppo, "policy_logprobs", logprobs)


def rollout_temperature(patch: Patch, *_: Any) -> None:
    real = ppo.rollout
    hotter = dataclasses.replace
    patch.setattr(ppo, "rollout", lambda lm, config, *a: real(lm, hotter(config, temperature=1.3), *a))


def reference_is_policy(patch: Patch, nets: Networks) -> None:
    nets.reference = nets.lm.top


def reference_elsewhere(patch: Patch, nets: Networks) -> None:
    jolt(torch.nn.ModuleList(nets.reference.trained_parts()))


def head_trains(patch: Patch, nets: Networks) -> None:
    nets.lm.top.head.requires_grad_(True)


def reward_shares(patch: Patch, nets: Networks) -> None:
    nets.reward.top = nets.lm.top


def value_shares(patch: Patch, nets: Networks) -> None:
    nets.value.top = nets.lm.top


def nothing_trains(patch: Patch, nets: Networks) -> None:
    nets.lm.top.requires_grad_(False)


def kl_gap(change: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def plant(patch: Patch, *_: Any) -> None:
        real = ppo.kl_rewards

        def rewards(logprobs: Tensor, reference: Tensor, *rest: Any) -> Tensor:
            return real(change(logprobs - reference), torch.zeros_like(reference), *rest)

        patch.setattr(ppo, "kl_rewards", rewards)

    return plant


def reward_moved(by: int) -> Callable[..., None]:
    def plant(patch: Patch, *_: Any) -> None:
        real = ppo.kl_rewards

        def rewards(logprobs: Tensor, reference: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
            penalty = real(logprobs, reference, torch.zeros_like(scores), mask, beta)
            place = (mask.long().sum(1) - 1 + by).clamp(0, mask.shape[1] - 1)
            return penalty.scatter_add(1, place[:, None], scores[:, None])

        patch.setattr(ppo, "kl_rewards", rewards)

    return plant


def padding_bootstraps(patch: Patch, *_: Any) -> None:
    real = ppo.gae
    patch.setattr(ppo, "gae", lambda r, v, mask, *a: real(r, v, torch.ones_like(mask), *a))


def stale_values(patch: Patch, nets: Networks) -> None:
    old, real = copy.deepcopy(nets.value), ppo.score
    jolt(nets.value)
    patch.setattr(ppo, "score", lambda nets, *a: real(dataclasses.replace(nets, value=old), *a))


def values_shifted(patch: Patch, *_: Any) -> None:
    real = ppo.score

    def score(*arguments: Any) -> Rollout:
        r = real(*arguments)
        return dataclasses.replace(r, values=r.values.roll(1, 1) * r.batch.mask)

    patch.setattr(ppo, "score", score)


def stale_logprobs(patch: Patch, nets: Networks) -> None:
    old, real = nets.lm.top.twin(), ppo.score
    jolt(torch.nn.ModuleList(nets.lm.top.trained_parts()))
    before = dataclasses.replace(nets.lm, top=old)
    patch.setattr(ppo, "score", lambda nets, *a: real(dataclasses.replace(nets, lm=before), *a))


def dropout_on(patch: Patch, nets: Networks) -> None:
    for module in nets.lm.top.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
            module.train()


def whitened_apart(patch: Patch, *_: Any) -> None:
    real = ppo.shape

    def shape(rollouts: Sequence[Rollout], config: PpoConfig) -> tuple[list[Rollout], dict[str, float]]:
        parts = [real([r], config) for r in rollouts]
        return [p[0][0] for p in parts], parts[0][1]

    patch.setattr(ppo, "shape", shape)


def whitened_padding(patch: Patch, *_: Any) -> None:
    real = ppo.whiten
    patch.setattr(ppo, "whiten", lambda x, mask, **more: real(x, torch.ones_like(mask), **more))


def cut_scored(patch: Patch, *_: Any) -> None:
    real = ppo.score
    patch.setattr(ppo, "score", lambda n, c, episodes, ended: real(n, c, episodes, torch.ones_like(ended)))


def rows_of_policy_loss(patch: Patch, *_: Any) -> None:
    real = ppo.policy_loss

    def loss(new: Tensor, old: Tensor, gains: Tensor, mask: Tensor, clip: float, count: Tensor) -> Tensor:
        rows = [real(*(t[n : n + 1] for t in (new, old, gains, mask)), clip, mask[n].sum()) for n in range(len(mask))]
        return torch.stack(rows).mean()

    patch.setattr(ppo, "policy_loss", loss)


def own_count_of_value_loss(patch: Patch, *_: Any) -> None:
    real = ppo.value_loss
    patch.setattr(ppo, "value_loss", lambda v, old, g, mask, clip, count: real(v, old, g, mask, clip, mask.sum()))


PPO_BUGS = [
    Bug("padding counted in the mask", "response only", padding_counted),
    Bug("prompt tokens in the loss", "response only", prompt_in_loss),
    Bug("attention across packed sequences", "engine", attention_across),
    Bug("position ids missing in the engine", "engine", engine_positions),
    Bug("positions do not restart in a packed row", "engine", row_positions, "gpt2"),
    Bug("temperature not applied when scoring", "engine", temperature_forgotten, changes={"temperature": 0.7}),
    Bug("rollout at another temperature", "engine", rollout_temperature),
    Bug(
        "reference scored at temperature 1",
        "kl at step 0",
        reference_temperature,
        changes={"temperature": 0.7},
    ),
    Bug("reference is another model", "kl at step 0", reference_elsewhere),
    Bug("reference is the policy itself", "reference frozen", reference_is_policy),
    Bug("shared output head trains", "reference frozen", head_trains),
    Bug("shared tied head trains", "reference frozen", head_trains, "gpt2"),
    Bug("reward model shares the policy's layers", "reference frozen", reward_shares),
    Bug("value network shares the policy's layers", "reference frozen", value_shares),
    Bug("nothing of the policy trains", "reference frozen", nothing_trains),
    Bug("KL penalty with the wrong sign", "reward", kl_gap(lambda gap: -gap)),
    Bug("KL penalty clamped at 0", "reward", kl_gap(lambda gap: gap.clamp_min(0))),
    Bug("KL penalty made absolute", "reward", kl_gap(torch.abs)),
    Bug("reward before the last token", "reward", reward_moved(-1)),
    Bug("reward behind the last token", "reward", reward_moved(1)),
    Bug("advantages bootstrap from padding", "reward", padding_bootstraps),
    Bug("score one token late", "score and value place", score_late),
    Bug("score one token early", "score and value place", score_early),
    Bug("score at the end of the row", "score and value place", score_at_row_end),
    Bug("stale values", "score and value place", stale_values),
    Bug("values of the token before", "score and value place", values_shifted),
    Bug("stale logprobs", "ratio at lr 0", stale_logprobs),
    Bug("dropout left on", "ratio at lr 0", dropout_on),
    Bug("whitening per minibatch", "whitening", whitened_apart),
    Bug("whitening over padding", "whitening", whitened_padding),
    Bug("cut responses keep their score", "cut responses", cut_scored),
    Bug("policy loss is a mean of row means", "batch split", rows_of_policy_loss),
    Bug("value loss divides by its own count", "batch split", own_count_of_value_loss),
]


def ppo_start(found: Runs, out: Path, **changes: Any) -> tuple[Networks, PpoConfig, list[list[int]]]:
    config = ppo_config(found.sft, found.reward, found.data, out, **changes)
    nets = ppo.networks(config)
    return nets, config, [ids for _, ids in ppo.prompts_of(nets.lm, config, "train")]


@pytest.mark.parametrize("bug", PPO_BUGS, ids=str)
def test_ppo_names_a_planted_bug(bug: Bug, runs: Callable[[str], Runs], monkeypatch: Patch, tmp_path: Path) -> None:
    nets, config, prompts = ppo_start(runs(bug.architecture), tmp_path, **bug.changes)
    bug.plant(monkeypatch, nets)
    with pytest.raises(UserError, match=f"FAIL {bug.check}: "):
        doctor.check_start(nets, config, prompts)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7}, {"trainable_layers": "all"}], ids=str)
def test_ppo_without_a_bug_passes(
    architecture: str, changes: dict[str, Any], runs: Callable[[str], Runs], tmp_path: Path
) -> None:
    nets, config, prompts = ppo_start(runs(architecture), tmp_path, **changes)
    checks = doctor.ppo_checks(nets, config, prompts)
    assert [c.line() for c in checks if not c.ok] == []
    assert {bug.check for bug in PPO_BUGS} == {c.name for c in checks}


def test_the_page_stops_before_its_first_step(runs: Callable[[str], Runs], monkeypatch: Patch, tmp_path: Path) -> None:
    found = runs("llama")
    kl_gap(lambda gap: -gap)(monkeypatch)
    with pytest.raises(UserError, match=r"FAIL reward: .*wrong sign"):
        ppo.train(ppo_config(found.sft, found.reward, found.data, tmp_path / "ppo"))
    assert not (tmp_path / "ppo" / "metrics.jsonl").exists()


@pytest.mark.parametrize("lam", [0.95, 1.0])
def test_minibatches_that_lie_apart_already_are_no_failure(
    lam: float, runs: Callable[[str], Runs], tmp_path: Path
) -> None:
    """The check lifts one minibatch above the other: where it began as far below, a small lift would cancel out."""
    nets, config, _ = ppo_start(runs("llama"), tmp_path, lam=lam)
    first = ppo.score(nets, config, [([5, 6, 7], [8]), ([5, 6], [7])], torch.tensor([True, True]))
    for gap in (-5.0, 0.0, 5.0):
        check = doctor.whitened(config, [first, dataclasses.replace(first, scores=first.scores + gap)])
        assert check.ok, check.line()


# ---- the reward model ------------------------------------------------------------------------------------


def test_a_bias_lost_on_the_way_to_disk(runs: Callable[[str], Runs], monkeypatch: Patch, tmp_path: Path) -> None:
    found, real = runs("llama"), reward.save_scalar

    def lossy(lm: Lm, network: ScalarHead, folder: Path) -> None:
        real(lm, network, folder)
        held = json.loads((folder / "scalar.json").read_text())
        (folder / "scalar.json").write_text(json.dumps(held | {"bias": 0.0}))

    monkeypatch.setattr(reward, "save_scalar", lossy)
    with pytest.raises(UserError, match="FAIL saved order: "):
        reward.train(reward_config(found.sft, found.data, tmp_path / "reward"))


def forget(name: str, value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model" / "scalar.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model" / "model.safetensors"
    weights = load_file(path)
    weights["score.weight"] = weights["score.weight"].flip(1)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (forget("bias", 0.0), {"saved shift", "demonstrations at 0"}),
        (forget("scale", 1.0), {"saved shift", "saved order"}),
        (other_weights, {"saved order"}),
    ],
    ids=["bias lost", "scale lost", "other weights"],
)
def test_a_damaged_reward_run(
    damage: Callable[[Path], None], names: set[str], runs: Callable[[str], Runs], tmp_path: Path
) -> None:
    without_digests(runs("llama").reward, tmp_path / "reward")
    damage(tmp_path / "reward")
    assert names <= {c.name for c in examine(tmp_path / "reward") if not c.ok}


def test_end_tokens_forced_onto_cut_responses(runs: Callable[[str], Runs], monkeypatch: Patch) -> None:
    real = limits.response_ids
    monkeypatch.setattr(limits, "response_ids", lambda tokenizer, text, ended=True: real(tokenizer, text))
    assert "open ends" in {c.name for c in examine(runs("llama").reward) if not c.ok}


def test_examined_runs_without_a_bug_pass(runs: Callable[[str], Runs], tmp_path: Path) -> None:
    found = runs("llama")
    ppo.train(ppo_config(found.sft, found.reward, found.data, tmp_path / "ppo"))
    for path, also in ((found.sft, "end token"), (found.reward, "saved order"), (tmp_path / "ppo", "engine")):
        checks = examine(path)
        assert [c.line() for c in checks if not c.ok] == []
        assert {"end state", also} <= {c.name for c in checks}


# ---- the end token as an attention sink ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> Path:
    """A model whose end token has a state far off, like SmolLM2's <|endoftext|> (norm 14,386 to 218)."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("sink") / "model"
    shutil.copytree(tiny_model_dir("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][0] *= 200
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_sink_is_a_warning_for_the_page_and_a_failure_for_the_doctor(
    sink: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path)
    sft.train(sft_config(sink, data, tmp_path / "sft"))
    assert "sink" not in capsys.readouterr().err
    reward.train(reward_config(tmp_path / "sft", data, tmp_path / "reward"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tutelage: ")]
    assert len(warnings) == 1
    assert warnings[0].startswith("tutelage: warning: end state: ")
    assert "choose another end token" in warnings[0]
    for run in ("sft", "reward"):
        assert cli.main(["doctor", str(tmp_path / run)]) == 1
        failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
        assert len(failed) == 1
        assert failed[0].startswith("FAIL end state: ")


def test_no_frozen_state_is_no_sink(sink: Path) -> None:
    check = doctor.end_state(model.load(sink, dtype="fp32"), [([5, 6, 7], [8, 9])])
    assert check.ok


@pytest.mark.slow
def test_the_embedded_model_ends_with_a_token_that_is_no_sink(embedded_model: Path) -> None:
    lm = model.load(embedded_model, trainable_layers=10)
    prompts = ["Where is my order?", "I would like my money back for the broken lamp, please."]
    pairs = [(doctor.prompt_ids(lm.tokenizer, p), doctor.response_ids(lm.tokenizer, "We are sorry.")) for p in prompts]
    assert doctor.end_state(lm, pairs).ok
    lm.tokenizer.eos_token = "<|endoftext|>"  # the one its makers chose
    check = doctor.end_state(lm, [(p, [*r[:-1], lm.eos]) for p, r in pairs])
    assert not check.ok
    assert "choose another end token" in check.line()
