"""One turn of a studio's loop, on tiny random models: nothing is learned here, but every stage runs for real."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tinyloop
from filelock import FileLock

from tutelage import labelers, presets, roundfolder, workflows
from tutelage.cli import main
from tutelage.evaluate.winrate import WinRate, win_rate
from tutelage.records import (
    Demonstration,
    Prompt,
    Ranking,
    Response,
    UserError,
    from_dict,
    read_records,
    write_json,
    write_records,
)
from tutelage.round import train
from tutelage.roundfolder import divided, most_spread, next_pool, plan, quotas, round_folder, spread_out
from tutelage.roundreport import render_round
from tutelage.roundresult import verdict, weakness
from tutelage.settings import PpoConfig, RewardConfig, RoundConfig, SampleConfig, SftConfig
from tutelage.studio.project import init

TinyModel = Callable[[str], Path]
CASES = ("chat", "rewrite")


def make_studio(
    folder: Path, model: Path, *, ranked: int = 0, train_prompts: int = 14, held: int = 3, preset: str = "small"
) -> Path:
    """A studio's folder with round 1's data, as the studio or a person would have written it."""
    settings = {"name": "Tiny", "model": str(model), "preset": preset, "k": 3, "max_response_tokens": 8}
    write_json(folder / "project.json", settings)
    (folder / "guidelines.md").write_text("Be kind.")
    for name in ("pretraining.txt", "pretraining_heldout.txt"):  # else the Python documentation: seconds to read
        path = folder / "runs" / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n\n".join([tinyloop.TEXT] * 16))
    write_round(folder, 1, ranked=ranked, train_prompts=train_prompts, held=held)
    return folder


def write_round(folder: Path, number: int, *, ranked: int, train_prompts: int = 14, held: int = 3) -> None:
    """The data of one round: prompts, six demonstrations, rankings by two labelers of two groups in turn."""
    prompts = [
        replace(p, split="train" if n < train_prompts else "test", use_case=CASES[n % 3 == 0])
        for n, p in enumerate(tinyloop.prompts(train_prompts + held, 0))
    ]
    data = round_folder(folder, number) / "data"
    write_records(data / "prompts.jsonl", prompts)
    write_records(data / "demonstrations.jsonl", [demonstration(p, n) for n, p in enumerate(prompts[:6])])
    groups = ("training", "night shift")
    rankings = [
        replace(tinyloop.ranking(prompts[n % train_prompts], n, groups[n % 2]), labeler=f"labeler-{n % 2}")
        for n in range(ranked)
    ]
    if ranked:
        write_records(data / "rankings.jsonl", rankings)


def demonstration(prompt: Prompt, n: int) -> Demonstration:
    """By two labelers in turn."""
    return replace(tinyloop.demonstration(prompt, n), labeler=f"labeler-{n % 2}")


def config(folder: Path, **changes: Any) -> RoundConfig:
    fields: dict[str, Any] = {"folder": folder, "dtype": "fp32", "next_prompts": 5, "judge_prompts": 3}
    return RoundConfig(**fields | changes)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def first(tiny_model_dir: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio whose first round, without rankings, is done."""
    folder = make_studio(tmp_path_factory.mktemp("first") / "studio", tiny_model_dir("llama"))
    train(config(folder))
    return folder


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a second round, with rankings of twelve prompts."""
    folder = tmp_path_factory.mktemp("second") / "studio"
    shutil.copytree(first, folder)
    write_round(folder, 2, ranked=12)
    train(config(folder, accept_weak_reward=True))
    return folder


# ---- whole rounds ----------------------------------------------------------------------------------------------


def test_without_rankings_the_policy_imitates(first: Path) -> None:
    out = round_folder(first, 1)
    found = json.loads((out / "round.json").read_text())
    assert (found["policy"], found["newest"], found["previous"]) == ("sft", "round-1/sft", None)
    assert found["reward_model"] is None and found["ppo"] is None and found["score_change"] is None
    words = {"n": 6, "labelers": {"labeler-0": 3, "labeler-1": 3}, "left_out": 0}
    assert found["trained_on"]["demonstrations"] == words
    offered = rows(out / "next.jsonl")
    assert len(offered) == 5 and {len(row["responses"]) for row in offered} == {3}
    assert {row["use_case"] for row in offered} == set(CASES)
    judged = rows(out / "judge.jsonl")
    assert [r["model"] for r in judged[0]["responses"]] == ["base", "round-1/sft"] and len(judged) == 3
    page = (out / "report.html").read_text()
    assert "Round 1 learned from 6 demonstrations by 2 labelers." in page and "No rankings yet" in page


def test_what_is_too_long_is_left_out_and_counted(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = make_studio(tmp_path / "studio", tiny_model_dir("llama"))
    path = round_folder(folder, 1) / "data" / "demonstrations.jsonl"
    written = read_records(Demonstration, path)
    write_records(path, [*written[:-1], replace(written[-1], prompt="word " * 3000)])
    train(config(folder))
    words = json.loads((round_folder(folder, 1) / "round.json").read_text())["trained_on"]["demonstrations"]
    assert (words["n"], words["left_out"]) == (5, 1)


def test_with_rankings_a_reward_model_and_ppo_follow(second: Path) -> None:
    out = round_folder(second, 2)
    found = json.loads((out / "round.json").read_text())
    assert (found["policy"], found["newest"], found["previous"]) == ("ppo_ptx", "round-2/ppo_ptx", "round-1/sft")
    learned = found["trained_on"]["rankings"]
    assert (learned["n"], learned["prompts"], learned["not_trained_on"]) == (12, 12, 0)
    assert learned["groups"] == {
        "night shift": {"labelers": 1, "rankings": 6},
        "training": {"labelers": 1, "rankings": 6},
    }
    assert (learned["comparisons"], learned["ties"]) == (12 * 4, 12 * 2)
    assert set(found["answers"]) == {"base", "round-1/sft", "round-2/sft", "round-2/ppo_ptx"}
    assert (found["score_change"]["new"], found["score_change"]["old"]) == ("round-2/ppo_ptx", "round-1/sft")
    assert found["next"]["by"].startswith("spread")
    page = (out / "report.html").read_text()
    assert "12 rankings (48 comparisons) by 2 labelers of 2 groups" in page and "night shift" in page


def test_a_small_reward_model_is_checked_by_cross_validation(second: Path) -> None:
    out = round_folder(second, 2)
    found = json.loads((out / "round.json").read_text())["reward_model"]
    assert found["measured"] == "cross-validation" and found["accuracy"]["n"] == 12 and found["pairs"] == 48
    held = [{r["prompt_id"] for r in rows(f / "pairs.jsonl")} for f in sorted((out / "folds").iterdir())]
    assert len(held) == 3 and set.union(*held) == {f"p{n}" for n in range(12)}
    assert sum(map(len, held)) == 12, "no prompt measures twice"
    assert not list((out / "folds").glob("*/model")), "only the pairs are kept"


def test_the_next_prompts_are_those_the_reward_model_is_least_sure_of(second: Path) -> None:
    offered = rows(round_folder(second, 2) / "next.jsonl")
    spread = [row["spread"] for row in offered]
    assert spread == sorted(spread, reverse=True) and min(spread) > 0
    pooled = {r["prompt_id"] for r in rows(round_folder(second, 2) / "samples" / "samples.jsonl")}
    assert len(pooled) == 10 and {row["prompt_id"] for row in offered} < pooled


def test_the_report_escapes_what_people_and_models_say(first: Path, tmp_path: Path) -> None:
    out = tmp_path / "round-1"
    shutil.copytree(round_folder(first, 1), out)
    hostile = "<script>alert('x')</script>\ud800"
    judged = rows(out / "judge.jsonl")
    judged[0]["prompt"] = judged[0]["responses"][0]["text"] = hostile
    (out / "judge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
    found = json.loads((out / "round.json").read_text())
    found["trained_on"]["demonstrations"]["labelers"] = {hostile: 6}
    page = render_round(out, found)
    assert "<script" not in page and page.count("&lt;script&gt;") == 3
    page.encode()  # the lone surrogate is gone


def test_a_finished_round_is_left_alone(first: Path) -> None:
    before = (round_folder(first, 1) / "round.json").stat().st_mtime_ns
    assert train(config(first))["round"] == 1
    assert (round_folder(first, 1) / "round.json").stat().st_mtime_ns == before


def test_going_on_after_an_interruption_ends_the_same(second: Path, tmp_path: Path) -> None:
    """What a stop after the reward model leaves behind, taken up where it lies."""
    out, whole = round_folder(second, 2), tmp_path / "whole"
    shutil.copytree(out, whole)
    for name in ("ppo_ptx", "answers", "samples"):
        shutil.rmtree(out / name)
    for name in ("round.json", "next.jsonl", "judge.jsonl", "report.html"):
        (out / name).unlink()
    train(config(second, accept_weak_reward=True))
    same_end(out, whole)


def same_end(out: Path, whole: Path) -> None:
    for name in ("next.jsonl", "judge.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (json.loads((f / "round.json").read_text()) for f in (out, whole))
    assert ours | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.mark.slow
def test_killed_anywhere_and_resumed_it_ends_the_same(second: Path, tmp_path: Path) -> None:
    """Kill the child when a stage's folder appears, for several stages; the end is that of the unbroken round."""
    folder = tmp_path / "studio"
    shutil.copytree(second, folder)
    out, whole = round_folder(folder, 2), round_folder(second, 2)
    for path in out.iterdir():
        if path.name != "data":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = [str(w) for w in (sys.executable, "-m", "tutelage.cli", "round", folder, "--dtype", "fp32")]
    words += ["--next-prompts", "5", "--judge-prompts", "3", "--accept-weak-reward"]
    for stage, sign, code in (
        ("reward", signal.SIGKILL, -signal.SIGKILL),
        ("ppo_ptx/metrics.jsonl", signal.SIGINT, 130),
        ("samples", signal.SIGTERM, -signal.SIGTERM),
    ):
        child = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not (out / stage).exists() and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(sign)
        _, said = child.communicate()
        assert child.returncode == code and not (out / "round.json").exists(), said
        assert (out / stage).exists() and "Traceback" not in said
    assert main(words[3:]) == 0
    same_end(out, whole)


# ---- a reward model that cannot be trusted ---------------------------------------------------------------------


def test_a_weak_reward_model_stops_the_round_until_somebody_decides(
    second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "studio"
    shutil.copytree(second, folder)
    out, whole = round_folder(folder, 2), round_folder(second, 2)
    for path in out.iterdir():
        if path.name != "data":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = ["round", str(folder), "--dtype", "fp32", "--next-prompts", "5", "--judge-prompts", "3"]
    assert main(words) == 1
    said = capsys.readouterr().err
    asked = json.loads((out / "question.json").read_text())
    right = asked["reward_model"]["accuracy"]
    assert right["low"] <= 0.5
    for expected in ("stopped before PPO", "48 comparisons of 12 prompts", "Rank more prompts", "--accept-weak-reward"):
        assert expected in said
    assert f"{right['value']:.0%}" in said and f"{right['low']:.0%} to {right['high']:.0%}" in said
    assert not (out / "ppo_ptx").exists() and not (out / "round.json").exists()
    learned = (out / "reward" / "run.json").read_bytes()
    assert main(words) == 1, "it asks again, and trains nothing again"
    assert main([*words, "--accept-weak-reward"]) == 0
    assert (out / "reward" / "run.json").read_bytes() == learned
    assert not (out / "question.json").exists()
    same_end(out, whole)
    told = json.loads((out / "round.json").read_text())
    assert told["policy"] == "ppo_ptx" and told["reward_model"]["weak"] == asked["reward_model"]["weak"]
    assert "because somebody decided so" in (out / "report.html").read_text()


def test_more_can_be_collected_instead(first: Path, tmp_path: Path) -> None:
    """Four rankings: nothing can be measured, which is asked about too; the round ends without PPO."""
    folder = tmp_path / "studio"
    shutil.copytree(first, folder)
    write_round(folder, 2, ranked=4)
    asked = train(config(folder))
    assert "could not be measured: it learned from 16 comparisons of 4 prompts" in asked["question"]
    told = train(config(folder, collect_more=True))
    assert (told["policy"], told["newest"], told["ppo"]) == ("sft", "round-2/sft", None)
    out = round_folder(folder, 2)
    assert len(rows(out / "next.jsonl")) == 5 and not (out / "ppo_ptx").exists()
    assert told["reward_model"]["weak"] and set(told["answers"]) == {"base", "round-1/sft", "round-2/sft"}
    assert "So nothing was optimised against it" in (out / "report.html").read_text()
    with pytest.raises(UserError, match="choose one of them"):
        config(folder, collect_more=True, accept_weak_reward=True)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.51, 0.7, ""),
        (0.5, 0.7, "not shown to be better"),
        (0.3, 0.49, "worse than guessing"),
        (0.3, 0.6, "not shown"),
    ],
)
def test_better_than_guessing_is_what_the_interval_says(low: float, high: float, words: str) -> None:
    trust = {"accuracy": {"value": 0.5, "low": low, "high": high, "n": 12}, "pairs": 60}
    said = weakness(trust)
    assert (words in said) if words else said == ""


# ---- whether it is better, and which policy stays in use --------------------------------------------------------


def told(low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    change = {"value": 0.1, "low": low, "high": high, "n": 12}
    trust = {"accuracy": {"value": 0.6, "low": 0.55, "high": 0.7, "n": 12}, "weak": ""}
    return {
        "newest": "round-2/ppo_ptx",
        "previous": "round-1/sft",
        "score_change": change,
        "reward_model": trust,
    } | more


def won(outcomes: str) -> WinRate:
    """What labelers said of the new policy, a letter a prompt: w for a win, l for a loss."""
    new, old = Response(id="n", text="n", model="round-2/ppo_ptx"), Response(id="o", text="o", model="round-1/sft")
    rows = [
        Ranking(
            prompt_id=str(n), prompt=str(n), responses=(new, old), ranks=(1, 2) if o == "w" else (2, 1), labeler="a"
        )
        for n, o in enumerate(outcomes)
    ]
    return win_rate(rows, new.model, old.model)


@pytest.mark.parametrize(
    ("found", "wins", "word", "keep", "by"),
    [
        (told(0.02, 0.2), None, "better", "new", "by the reward model: +0.10 in score on 12 held-out prompts"),
        (told(-0.3, -0.1), None, "worse", "old", "round-1/sft stays in use unless somebody decides otherwise"),
        (told(-0.1, 0.3), None, "not told apart", "new", "round-1/sft can be kept instead"),
        (told(None, None), None, "not told apart", "new", "nobody has judged them blind yet"),
        (told(0.02, 0.2, reward_model={"weak": "x"}), None, "not told apart", "new", "is not shown to know better"),
        (told(None, None, reward_model=None, previous=None), None, "not told apart", "new", "from base"),
        (
            told(-0.3, -0.1),
            won("w" * 20),
            "better",
            "new",
            "by labelers who judged blind: preferred in 100% of 20 comp",
        ),
        (told(0.02, 0.2), won("l" * 18 + "ww"), "worse", "old", "preferred in 10% of 20 comparisons of 20 prompts"),
        (told(0.02, 0.2), won("wl" * 6), "not told apart", "new", "50% is no difference"),
        (told(-0.3, -0.1), won("www"), "not told apart", "new", "of 3 prompts"),
    ],
)
def test_better_worse_or_not_told_apart_and_by_whom(
    found: dict[str, Any], wins: WinRate | None, word: str, keep: str, by: str
) -> None:
    said = verdict(found, wins)
    assert (said.word, said.keep) == (word, keep) and by in f"{said.sentence} {said.follows}"


def test_the_old_policy_can_be_kept(second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers what is ranked next in place of the new one, and is what the next round is compared with."""
    folder = tmp_path / "studio"
    shutil.copytree(second, folder)
    out = round_folder(folder, 2)
    assert json.loads((out / "policy.json").read_text())["by"] == "the rule"
    assert {r["model"] for row in rows(out / "next.jsonl") for r in row["responses"]} == {"round-2/ppo_ptx"}
    assert roundfolder.in_use(folder, 3) == ("round-2/ppo_ptx", out / "ppo_ptx")
    judged = (out / "judge.jsonl").read_bytes()
    words = ["round", str(folder), "--dtype", "fp32", "--next-prompts", "5", "--judge-prompts", "3", "--number", "2"]
    assert main([*words, "--keep", "old"]) == 0
    offered = rows(out / "next.jsonl")
    assert {r["model"] for row in offered for r in row["responses"]} == {"round-1/sft"} and len(offered) == 5
    assert json.loads((out / "round.json").read_text())["next"]["policy"] == "round-1/sft"
    assert (out / "judge.jsonl").read_bytes() == judged
    assert roundfolder.in_use(folder, 3) == ("round-1/sft", round_folder(folder, 1) / "sft")
    assert "round-2/ppo_ptx is" in capsys.readouterr().out
    write_round(folder, 3, ranked=0)
    found = train(config(folder))
    assert found["previous"] == "round-1/sft" and "round-1/sft" in found["answers"]
    shutil.rmtree(out / "samples")  # of the studio this one was copied from: they name its policy
    assert main([*words, "--keep", "new"]) == 0
    assert {r["model"] for row in rows(out / "next.jsonl") for r in row["responses"]} == {"round-2/ppo_ptx"}


# ---- mistakes --------------------------------------------------------------------------------------------------


def test_two_rounds_do_not_train_at_once(first: Path) -> None:
    with FileLock(first / "runs" / ".lock"), pytest.raises(UserError, match="another round of this studio is training"):
        train(config(first))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f / "runs"), "no round has data yet"),
        (lambda f: (f / "project.json").unlink(), "no such file"),
        (lambda f: write_records(round_folder(f, 1) / "data" / "demonstrations.jsonl", []), "write some first"),
        (
            lambda f: (round_folder(f, 1) / "data" / "demonstrations.jsonl").unlink(),
            "demonstrations.jsonl: no such file",
        ),
        (lambda f: write_records(round_folder(f, 1) / "data" / "prompts.jsonl", []), "no prompt in the train split"),
    ],
)
def test_a_mistake_is_one_line(
    tiny_model_dir: TinyModel,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_studio(tmp_path / "studio", tiny_model_dir("llama"))
    spoil(folder)
    assert main(["round", str(folder)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_groups_that_cannot_train_are_named(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = make_studio(tmp_path / "studio", tiny_model_dir("llama"), ranked=4)
    with pytest.raises(UserError, match="no ranking by group 'nobody'; there are night shift, training"):
        train(config(folder, groups=("nobody",)))
    with pytest.raises(UserError, match="held-out labelers only evaluate"):
        train(config(folder, groups=("heldout",)))
    write_json(folder / "project.json", {"name": "x", "preset": "loud"})
    with pytest.raises(UserError, match="no preset 'loud'; one of studio, small, paper"):
        train(config(folder))


# ---- who trains, who measures ----------------------------------------------------------------------------------


def ranked(count: int, split: str = "train", group: str = "training", start: int = 0) -> list[Ranking]:
    prompts = tinyloop.prompts(start + count, 0)[start:]
    return [replace(tinyloop.ranking(p, n, group), split=split) for n, p in enumerate(prompts)]


def test_few_rankings_all_train_and_many_are_divided() -> None:
    few = ranked(20) + ranked(6, "valid", start=20)
    learned, measured = divided(few, {"training"})
    assert {r.split for r in learned} == {"train"} and len(learned) == 26 and measured == "cross-validation"
    many = ranked(50) + ranked(10, "valid", start=50)
    assert divided(many, {"training"}) == (many, "held-out prompts")
    assert divided(ranked(5), {"training"})[1] == "not"


def test_test_prompts_and_other_groups_never_train() -> None:
    some = ranked(20) + ranked(5, "test", start=20) + ranked(4, "train", "heldout", start=30)
    learned, _ = divided(some, {"training"})
    assert len(learned) == 20 and {r.group for r in learned} == {"training"}


def test_rankings_of_ties_only_teach_nothing() -> None:
    tied = [replace(r, ranks=(1, 1, 1, 1)) for r in ranked(12)]
    assert divided(tied, {"training"}) == ([], "not")


def test_use_cases_get_their_share() -> None:
    assert quotas({"chat": 30, "rewrite": 9, "extract": 1}, 10) == {"chat": 7, "rewrite": 2, "extract": 1}
    assert quotas({"chat": 2, "rewrite": 1}, 10) == {"chat": 2, "rewrite": 1}
    assert quotas({}, 3) == {}
    assert sum(quotas({c: n for n, c in enumerate("abcdefg", 1)}, 11).values()) == 11


def test_the_most_spread_within_each_use_case() -> None:
    pool = [replace(p, use_case=CASES[n % 2]) for n, p in enumerate(tinyloop.prompts(8, 0))]
    spread = {p.id: float(n if n % 2 else 0.1 * n) for n, p in enumerate(pool)}  # rewrite spreads far more than chat
    assert [p.id for p in most_spread(pool, spread, 4)] == ["p7", "p5", "p6", "p4"]


def test_the_pool_begins_with_what_nobody_ranked() -> None:
    prompts = tinyloop.prompts(6, 2)
    again = [tinyloop.ranking(p, n) for n, p in enumerate(prompts[:3])]
    assert {p.id for p in next_pool(prompts, again, [], 3)} == {"p3", "p4", "p5"}
    assert len(next_pool(prompts, again, [], 10)) == 6, "held-out prompts are never offered for training"
    shown = [demonstration(p, n) for n, p in enumerate(prompts[3:6])]
    assert {p.id for p in next_pool(prompts, again, shown, 3)} == {"p0", "p1", "p2"}, (
        "what it knows by heart comes last"
    )
    assert spread_out([], 3) == []


def test_nothing_of_the_test_split_reaches_training(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = make_studio(tmp_path / "studio", tiny_model_dir("llama"), ranked=12)
    out = round_folder(folder, 1)
    made = plan(out, (), 20)
    tests = {p.id for p in read_records(Prompt, out / "data" / "prompts.jsonl") if p.split == "test"}
    trained = {p.id for p in read_records(Prompt, made.prompts) if p.split == "train"}
    assert tests and not tests & trained and not tests & {p.id for p in read_records(Prompt, made.pool)}
    assert {p.id for p in read_records(Prompt, made.heldout)} == tests
    assert {d.split for d in read_records(Demonstration, made.demonstrations)} == {"train"}


def test_a_round_that_was_not_finished_is_no_previous_one(first: Path) -> None:
    assert roundfolder.previous(first, 1) is None
    found = roundfolder.previous(first, 5)
    assert found is not None and found[0] == 1


@pytest.mark.parametrize(("count", "sft_passes", "reward_passes"), [(1, 5, 4), (6, 5, 4), (30, 2, 3), (500, 2, 2)])
def test_the_studios_recipe_suits_few_data_and_many(
    count: int, sft_passes: int, reward_passes: int, tmp_path: Path
) -> None:
    recipe = presets.studio(count, count)
    assert (recipe.sft["epochs"], recipe.reward["epochs"]) == (sft_passes, reward_passes)
    here = {"out": tmp_path, "pretraining": tmp_path, "policy": tmp_path, "reward": tmp_path, "prompts": tmp_path}
    PpoConfig(**here, **recipe.ppo)
    SftConfig(demonstrations=tmp_path, out=tmp_path, **recipe.sft)
    SampleConfig(model="x", prompts=tmp_path, out=tmp_path, **recipe.sample)
    RewardConfig(model="x", rankings=tmp_path, out=tmp_path, **recipe.reward)


# ---- the real thing --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("embedded_model")
def test_six_demonstrations_and_thirty_rankings_train_a_real_model(tmp_path: Path) -> None:
    """The studio's recipe on SmolLM2-135M: a round from six demonstrations, and one from thirty rankings of what it
    answered, by simulated labelers in the place of people."""
    workflow = workflows.load("support")
    folder = init(tmp_path / "studio", source="support").folder
    known = {p.id: p for p in workflow.prompts}
    mine = [p for p in workflow.prompts if p.split == "train"][:40] + [
        p for p in workflow.prompts if p.split == "test"
    ][:8]
    shown = [d for d in workflow.demonstrations if d.split == "train"][:6]
    for number in (1, 2):
        data = round_folder(folder, number) / "data"
        write_records(data / "prompts.jsonl", [replace(p, checks=()) for p in mine])
        write_records(data / "demonstrations.jsonl", shown)
    train(RoundConfig(folder=folder, number=1, judge_prompts=8))

    panel = labelers.labelers(workflow.rubric, "training", seed=1)[:2]
    offered = rows(round_folder(folder, 1) / "next.jsonl")
    assert len(offered) == 30
    ranked = [
        ranking
        for n, row in enumerate(offered)
        for ranking in labelers.rank_by(
            [panel[n % 2]],
            known[row["prompt_id"]],
            [from_dict(Response, r) for r in row["responses"]],
            rubric=workflow.rubric,
            seed=1,
        )
    ]
    write_records(round_folder(folder, 2) / "data" / "rankings.jsonl", ranked)
    found = train(RoundConfig(folder=folder, number=2, judge_prompts=8))

    print(json.dumps(found, indent=2))
    assert found["reward_model"]["accuracy"]["value"] > 0.5, "better than chance on prompts it has not seen"
    assert 0 < found["ppo"]["kl"] < 10, "it moved, and not far"
    ours = [r["text"] for row in rows(round_folder(folder, 2) / "judge.jsonl") for r in row["responses"][-1:]]
    assert len(set(ours)) >= 6, "it does not say one thing to everybody"
