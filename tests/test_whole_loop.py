"""The stages learn what they should on a toy task, and the whole loop runs from a base model to its report."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from tinyloop import Data, ppo_config, reward_config, sample_config, sft_config, write_data

from tutelage import cli, ppo, reward, sample, sft, workflows
from tutelage.loop import load_tensors
from tutelage.model import load
from tutelage.records import write_records, write_text
from tutelage.run import Run

TinyModel = Callable[[str], Path]
Captured = pytest.CaptureFixture[str]


# ---- what is learned ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> dict[str, Run]:
    """Three stages that train the whole of a tiny model, long enough to learn one word."""
    folder = tmp_path_factory.mktemp("learned")
    data, whole = write_data(folder, train=24, valid=8), {"trainable_layers": "all"}
    fields: dict[str, Any] = whole | {"epochs": 12, "batch": 8, "lr": 5e-3}
    runs = {"sft": sft.train(sft_config(tiny_model_dir("llama"), data, folder / "sft", **fields))}
    fields = whole | {"epochs": 4, "batch": 6, "lr": 2e-3}
    runs["reward"] = reward.train(reward_config(folder / "sft", data, folder / "reward", **fields))
    fields = whole | {"iterations": 12, "episodes": 32, "minibatch": 16, "lr": 4e-3, "value_lr": 5e-3}
    fields |= {"warmup_iterations": 2, "beta": 0.02, "max_response_tokens": 16, "ptx_coef": 0.0}
    runs["ppo"] = ppo.train(ppo_config(folder / "sft", folder / "reward", data, folder / "ppo", **fields))
    return runs


def column(run: Run, name: str) -> list[float]:
    return [row[name] for row in run.rows("metrics.jsonl") if name in row]


def test_sft_lowers_its_loss_on_demonstrations_it_has_not_seen(learned: dict[str, Run]) -> None:
    train, held = column(learned["sft"], "loss/train"), column(learned["sft"], "loss/heldout")
    assert train[-1] < 0.5 * train[0]
    assert min(held) < 0.5 * train[0]
    kept = learned["sft"].result
    assert kept["heldout_loss"] == min(held)
    assert held[kept["kept_epoch"] - 1] == min(held)


def test_sft_keeps_its_last_epoch_where_that_is_asked(tmp_path: Path, tiny_model_dir: TinyModel) -> None:
    data = write_data(tmp_path, train=8, valid=4)
    fields: dict[str, Any] = {"trainable_layers": "all", "epochs": 40, "batch": 8, "lr": 2e-2}  # it overfits
    runs = {
        keep: sft.train(sft_config(tiny_model_dir("llama"), data, tmp_path / keep, keep=keep, **fields))
        for keep in ("best", "last")
    }
    held = column(runs["last"], "loss/heldout")
    assert held == column(runs["best"], "loss/heldout")
    assert held[-1] != min(held)
    assert (runs["last"].result["kept_epoch"], runs["last"].result["kept_by"]) == (40, "choice (the last)")
    assert (runs["best"].result["heldout_loss"], runs["best"].result["kept_by"]) == (min(held), "held-out loss")


def test_sft_calls_nothing_held_out_that_it_trained_on(tmp_path: Path, tiny_model_dir: TinyModel) -> None:
    data = write_data(tmp_path, train=6, valid=0)
    run = sft.train(sft_config(tiny_model_dir("llama"), data, tmp_path / "sft", epochs=2))
    assert column(run, "loss/heldout") == []
    assert len(column(run, "loss/trained")) == 2
    assert (run.result["kept_by"], run.result["trained_loss"]) == ("training loss", min(column(run, "loss/trained")))
    assert "heldout_loss" not in run.result


def test_the_reward_model_finds_what_the_labelers_like(learned: dict[str, Run]) -> None:
    assert column(learned["reward"], "accuracy/train")[-1] > 0.95
    result = learned["reward"].result
    assert result["accuracy"]["training"] > 0.95
    assert result["accuracy"]["heldout"] > 0.95
    assert result["n_pairs"] == {"training": 32, "heldout": 32}  # 8 prompts, 4 untied pairs of 6 each


def test_ppo_raises_the_score_and_leaves_the_reference(learned: dict[str, Run]) -> None:
    scores, kl = column(learned["ppo"], "score/mean"), column(learned["ppo"], "kl")
    assert kl[0] == 0
    assert min(kl[3:]) > 0.1
    assert fmean(scores[-4:]) > fmean(scores[:2]) + 0.3
    assert fmean(column(learned["ppo"], "ended")[-4:]) > 0.8


def test_both_weights_of_ppo_are_kept_and_differ(learned: dict[str, Run]) -> None:
    raw, average = (learned["ppo"].path / name / "model.safetensors" for name in ("model", "model_ema"))
    assert raw.read_bytes() != average.read_bytes()
    assert raw.stat().st_size == average.stat().st_size


@pytest.mark.parametrize("keep", ["raw", "ema"])
def test_the_last_snapshot_is_the_policy_that_was_kept(learned: dict[str, Run], tmp_path: Path, keep: str) -> None:
    folder = learned["ppo"].path.parent
    data = Data(*(folder / name for name in ("prompts.jsonl", "demonstrations.jsonl", "rankings.jsonl", "text.txt")))
    fields = {"trainable_layers": "all", "snapshot_every": 2, "lr": 1e-3, "keep": keep}
    run = ppo.train(ppo_config(folder / "sft", folder / "reward", data, tmp_path / "ppo", **fields))
    snapshot = load_tensors(run.path / "snapshots" / "iteration-00002.safetensors")
    kept = load(run.model, dtype="fp32").top.parameters()
    assert all(torch.equal(snapshot[f"policy.{n}"], weight) for n, weight in enumerate(kept))


# ---- the whole loop ----------------------------------------------------------------------------------------


def cut_down(folder: Path) -> Path:
    """The support workflow with its shortest prompts only."""
    whole = workflows.load("support")
    kept = [
        p
        for split, count in (("valid", 4), ("train", 10), ("test", 4))
        for p in sorted((p for p in whole.prompts if p.split == split), key=lambda p: len(p.text))[:count]
    ]
    ids = {p.id for p in kept}
    write_records(folder / "prompts.jsonl", kept)
    write_records(folder / "demonstrations.jsonl", [d for d in whole.demonstrations if d.prompt_id in ids])
    write_text(folder / "guidelines.md", whole.guidelines)
    own = json.loads((Path(workflows.__file__).parent / "support" / "workflow.json").read_text())
    own |= {"max_prompt_tokens": 96, "max_response_tokens": 8}  # the tiny tokenizer has short tokens
    write_text(folder / "workflow.json", json.dumps(own))
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: TinyModel) -> tuple[Path, list[str]]:
    """A finished loop on a tiny model, and the command that made it."""
    folder = tmp_path_factory.mktemp("demo")
    out = folder / "out"
    for name in ("pretraining.txt", "pretraining_heldout.txt"):  # instead of reading the standard library
        write_text(out / "data" / name, "\n\n\n".join(["A robot wanted to learn to read about the sea. " * 2] * 60))
    model = shutil.copytree(tiny_model_dir("llama"), folder / "model")
    config = json.loads((model / "config.json").read_text())
    write_text(model / "config.json", json.dumps(config | {"max_position_embeddings": 1024}))  # for few-shot prompts
    words = ["demo", "--preset", "small", "--with-ppo", "--dtype", "fp32", "--model", str(model)]
    words += ["--workflow", str(cut_down(folder / "workflow")), "--out", str(out)]
    assert cli.main(words) == 0
    return out, words


def test_the_summary_has_its_fixed_names(demo: tuple[Path, list[str]]) -> None:
    summary = json.loads((demo[0] / "summary.json").read_text())
    models = {"base", "prompted", "sft", "ppo", "ppo_ptx"}
    for pair in ("ppo_ptx_vs_sft", "ppo_ptx_vs_base", "sft_vs_base", "ppo_ptx_vs_prompted", "ppo_vs_sft"):
        rate = summary["win_rate"][pair]
        assert {"value", "low", "high", "n"} <= set(rate)
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert {"accuracy", "accuracy_heldout_labelers", "n_pairs"} <= set(summary["reward_model"])
    assert {"training", "heldout"} <= set(summary["agreement"])
    along = [json.loads(line) for line in (demo[0] / "evaluation" / "frontier.jsonl").read_text().splitlines()]
    assert summary["kl"] == [point["kl"] for point in along if point["model"] == "ppo_ptx"][-1]
    assert set(summary["pretraining_loss"]) == models - {"prompted"}
    assert set(summary["length"]) == set(summary["ended"]) == models
    assert {"model", "sft", "sample", "reward", "ppo_ptx", "evaluate", "total"} <= set(summary["seconds"])
    assert {"model", "seed"} <= set(summary)


def test_every_stage_left_its_run(demo: tuple[Path, list[str]]) -> None:
    kinds = {"sft": "sft", "samples": "samples", "rankings": "rankings", "reward": "reward", "ppo": "ppo"}
    kinds |= {"ppo_ptx": "ppo", "evaluation": "evaluation", "answers/base": "samples"}
    for name, kind in kinds.items():
        run = Run.open(demo[0] / name, kind)
        assert not (run.path / "checkpoints").exists()


def test_the_report_is_one_page_about_this_loop(demo: tuple[Path, list[str]]) -> None:
    page = (demo[0] / "report.html").read_text()
    prompts = (demo[0] / "data" / "prompts.jsonl").read_text().splitlines()
    held = [row["text"] for row in map(json.loads, prompts) if row["split"] == "test"]
    assert "<script" not in page
    assert any(text in page for text in held)


def test_the_loop_repeated_does_nothing(demo: tuple[Path, list[str]], capsys: Captured) -> None:
    weights = {p: p.stat().st_mtime_ns for p in demo[0].rglob("*.safetensors")}
    before = json.loads((demo[0] / "summary.json").read_text())
    assert cli.main(demo[1]) == 0
    after = json.loads((demo[0] / "summary.json").read_text())
    assert weights == {p: p.stat().st_mtime_ns for p in demo[0].rglob("*.safetensors")}
    assert {k: v for k, v in before.items() if k != "seconds"} == {k: v for k, v in after.items() if k != "seconds"}
    assert "preferred to" in capsys.readouterr().out


def test_compare_answers_side_by_side(demo: tuple[Path, list[str]], capsys: Captured) -> None:
    capsys.readouterr()
    assert cli.main(["compare", str(demo[0]), "--prompt", "Where is my parcel?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[0].strip() for line in lines] == ["base", "sft", "ppo_ptx", "ppo"]
    assert cli.main(["compare", str(demo[0] / "sft"), str(demo[0] / "ppo"), "--prompt", "Hello"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_chat_answers_every_line(
    demo: tuple[Path, list[str]], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("Where is my parcel?\n\nThank you\n"))
    assert cli.main(["chat", str(demo[0] / "ppo_ptx"), "--temperature", "0"]) == 0
    assert capsys.readouterr().out.count("> ") >= 3


@pytest.mark.parametrize("run", ["sft", "reward", "ppo_ptx", "ppo"])
def test_the_doctor_finds_nothing(run: str, demo: tuple[Path, list[str]], capsys: Captured) -> None:
    capsys.readouterr()
    assert cli.main(["doctor", str(demo[0] / run)]) == 0
    assert all(line.startswith("ok   ") for line in capsys.readouterr().out.splitlines())


def test_sample_answers_from_a_run(demo: tuple[Path, list[str]], tmp_path: Path, capsys: Captured) -> None:
    words = ["sample", "--model", str(demo[0] / "ppo"), "--prompts", str(demo[0] / "data" / "prompts.jsonl")]
    assert cli.main([*words, "--out", str(tmp_path / "samples"), "--k", "2", "--split", "valid"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["prompts"], told["responses"]) == ("samples", 4, 8)
    assert len(Run.open(tmp_path / "samples", "samples").rows("samples.jsonl")) == 8


def test_a_response_does_not_depend_on_its_batch(learned: dict[str, Run], tmp_path: Path) -> None:
    data = Data(*(learned["sft"].path.parent / n for n in ("prompts.jsonl", "", "", "")))
    rows = []
    for batch in (2, 16):
        config = sample_config(learned["sft"].path, data, tmp_path / str(batch), batch=batch, split="valid")
        rows.append(sample.sample(config).rows("samples.jsonl"))
    assert rows[0] == rows[1]


# ---- help --------------------------------------------------------------------------------------------------


def test_help_never_loads_torch() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from tutelage import cli\n"
        "for words in [[], *[[name] for name in cli.COMMANDS]]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "        cli.main([*words, '--help'])\n"
        "    print(*words, len(out.getvalue()), *{'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[1:]] == list(cli.COMMANDS)
    assert [line for line in lines[1:] if len(line) != 2 or int(line[1]) < 200] == []
    assert len(lines[0]) == 1
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["demo", "--help"], ["ppo", "--help"]], ids=" ".join)
def test_help_comes_at_once(words: list[str]) -> None:
    """Under half a second of an idle machine. Measured in seconds of the processor, as this one may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "tutelage.cli", *words], capture_output=True, check=True, env=dict(os.environ)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith(b"usage" if len(words) > 1 else b"tutelage")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
