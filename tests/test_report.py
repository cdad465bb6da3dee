"""The report on a made-up loop folder: what must be on the page, what may be missing, what must be refused."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tutelage import charts, findings
from tutelage.evaluate.agreement import likert_means
from tutelage.evaluate.intervals import Interval, clustered_mean
from tutelage.evaluate.winrate import win_rate
from tutelage.findings import percent
from tutelage.loopfolder import Answer, Loop, Snapshot, read_loop
from tutelage.records import (
    RATING_FLAGS,
    Prompt,
    Ranking,
    Rating,
    Response,
    UserError,
    write_json,
    write_records,
)
from tutelage.report import clock, write_report
from tutelage.run import Run
from tutelage.settings import PpoConfig, RewardConfig, SftConfig

QUALITY = {"base": 0.25, "prompted": 0.45, "sft": 0.62, "ppo": 0.7, "ppo_ptx": 0.78}
HOSTILE = "<script>alert('x')</script>\n  two  spaces & \"quotes\" <img src=x onerror=y>"


def make_loop(
    out: Path,
    *,
    models: tuple[str, ...] = ("base", "prompted", "sft", "ppo", "ppo_ptx"),
    people: bool = False,
    prompts: int = 24,
    seed: int = 0,
) -> Path:
    """A finished loop folder of made-up numbers: better models win more, PPO over-optimises at its end."""
    rng = random.Random(seed)
    tests = [
        Prompt(id=f"t{i:03}", text=f"Where is parcel {i}? Answer in one line.", split="test", use_case="chat")
        for i in range(prompts)
    ]
    tests[3] = replace(tests[3], text=HOSTILE, checks=({"kind": "max_words", "n": 9},))
    write_records(out / "data" / "prompts.jsonl", tests)
    answers = [_answer(rng, p, m, people) for p in tests for m in models]
    judged = [_ranking(rng, p, models, answers, labeler, people) for p in tests for labeler in range(3)]
    write_records(out / "evaluation" / "rankings.jsonl", judged)
    _lines(out / "evaluation" / "answers.jsonl", answers)
    ppo_runs = [m for m in models if m.startswith("ppo")]
    if not people:
        _lines(out / "evaluation" / "frontier.jsonl", [row for m in ppo_runs for row in _frontier(m)])
    _stages(out, rng, ppo_runs)
    seconds = {"model": 1.0, "sft": 61.5, "sample": 130.0, "reward": 95.0, "ppo_ptx": 700.0, "total": 3725.0}
    loop = {
        "workflow": {"name": "support", "title": "Replies of a shop", "description": "A customer writes."},
        "model": "tiny-model",
        "model_note": "Upstream was instruction-tuned by its makers.",
        "seed": 1,
        "preset": "demo",
        "models": list(models),
        "labelers": {"training": 5, "heldout": 3, "note": "" if people else "Simulated labelers: programs."},
        "seconds": seconds,
    }
    write_json(out / "loop.json", loop)
    write_json(out / "summary.json", _summary(models, judged, answers, people) | {"seconds": seconds})
    return out


def _answer(rng: random.Random, prompt: Prompt, model: str, people: bool) -> dict[str, object]:
    gold = min(1.0, max(0.0, rng.gauss(QUALITY[model], 0.15)))
    text = f"{model} says of {prompt.id}: on its way, {rng.random():.4f}."
    text = HOSTILE if (prompt.id, model) == ("t003", "sft") else text
    row = {"prompt_id": prompt.id, "prompt": prompt.text, "use_case": "chat", "model": model, "response": text}
    row |= {"tokens": rng.randint(5, 30), "ended": rng.random() < 0.9, "score": rng.gauss(4 * gold - 2, 0.7)}
    return row | {"gold": None if people else gold, "judgements": {}}


def _ranking(
    rng: random.Random, prompt: Prompt, models: tuple[str, ...], answers: list, labeler: int, people: bool
) -> Ranking:
    own = {a["model"]: a for a in answers if a["prompt_id"] == prompt.id}
    worth = {m: round(QUALITY[m] + rng.gauss(0, 0.2), 1) for m in models}
    order = sorted(set(worth.values()), reverse=True)
    flags = dict.fromkeys(RATING_FLAGS, False)
    return Ranking(
        prompt_id=prompt.id,
        prompt=prompt.text,
        responses=tuple(
            Response(id=f"{prompt.id}/{m}/0", text=own[m]["response"], model=m, sampling={"temperature": 1.0})
            for m in models
        ),
        ranks=tuple(1 + order.index(worth[m]) for m in models),
        ratings=tuple(
            Rating(
                likert=max(1, min(7, round(1 + 6 * worth[m]))),
                flags=flags | {"fails_instruction": worth[m] < 0.4, "satisfies_constraint": worth[m] > 0.5},
            )
            for m in models
        ),
        labeler=f"ann-{labeler}" if people else f"simulated-heldout-{labeler}",
        group="heldout",
        split="test",
    )


def _frontier(model: str) -> list[dict[str, object]]:
    return [
        {
            "model": model,
            "iteration": 5 * i,
            "kl": 0.9 * i,
            "gold": 0.62 + 0.08 * i - (0.025 * i * i if model == "ppo" else 0.008 * i * i),
            "score": 0.1 + 0.3 * i,
            "length": 20.0,
            "ended": 0.95,
            "n": 400,
        }
        for i in range(5)
    ]


def _stages(out: Path, rng: random.Random, ppo_runs: list[str]) -> None:
    data = out / "data"
    run = Run.start(out / "sft", "sft", SftConfig(demonstrations=data / "demonstrations.jsonl", out=out / "sft"))
    for step in range(30):
        held = {"loss/heldout": 2.5 / (1 + step / 9)} if step % 10 == 9 else {}
        run.log("metrics.jsonl", {"step": step, "epoch": step // 10, "loss/train": 3 / (1 + step / 9)} | held)
    run.finish(kept_epoch=3, kept_by="held-out loss", heldout_loss=1.1, n=48)
    write_records(out / "rankings" / "rankings.jsonl", [_taught(rng, i) for i in range(30)])
    config = RewardConfig(model="sft", rankings=out / "rankings" / "rankings.jsonl", out=out / "reward")
    run = Run.start(out / "reward", "reward", config)
    for step in range(20):
        row = {"step": step, "epoch": 0, "loss/train": 0.7 - step / 60, "accuracy/train": 0.5 + step / 60}
        run.log("metrics.jsonl", row)
    for i in range(300):
        gap = rng.gauss(0, 1.5)
        right = float(rng.random() < 1 / (1 + math.exp(-0.8 * gap)))
        pair = {"prompt_id": f"v{i % 20}", "group": ("training", "heldout")[i % 2], "labeler": "x"}
        run.log("pairs.jsonl", pair | {"difference": gap, "preferred": right})
    run.finish(accuracy={"training": 0.7}, n_pairs={"training": 150}, score_std=1.1, n_prompts=20, bias=0.1)
    for model in ppo_runs:
        known = {"policy": out / "sft", "reward": out / "reward", "prompts": data / "prompts.jsonl"}
        config = PpoConfig(**known, out=out / model, pretraining=data / "text.txt")
        run = Run.start(out / model, "ppo", config)
        for i in range(20):
            row = {"iteration": i, "score/mean": 0.1 + i / 10, "kl": i / 5, "entropy": 2 - i / 20, "length": 20.0}
            row |= {"ended": 0.9, "value/explained_variance": float("nan") if i == 0 else i / 30}
            run.log("metrics.jsonl", row | {"clip_fraction": 0.05, "loss/pretraining": 3.5})
        run.finish(kl=3.8, length=20.0, ended=0.9)


def _taught(rng: random.Random, i: int) -> Ranking:
    """One ranking the reward model learned from; of two responses the longer wins in two of three rankings."""
    texts = ("short", "a much longer response")
    return Ranking(
        prompt_id=f"r{i // 2}",
        prompt="Say something.",
        responses=tuple(Response(id=f"r{i}/{k}", text=text, model="sft") for k, text in enumerate(texts)),
        ranks=(1, 2) if i % 3 == 0 else (2, 1),
        labeler=f"simulated-training-{i % 2}",
        group="training",
        split="valid" if i < 12 else "train",
    )


def _summary(models: tuple[str, ...], judged: list[Ranking], answers: list, people: bool) -> dict[str, object]:
    pairs = [(a, b) for a in models for b in models if a != b]
    golds = {m: [(a["prompt_id"], a["gold"]) for a in answers if a["model"] == m] for m in models}
    return {
        "win_rate": {f"{a}_vs_{b}": win_rate(judged, a, b).to_dict() for a, b in pairs},
        "reward_model": {
            "accuracy": {"value": 0.76, "low": 0.71, "high": 0.8, "n": 20},
            "accuracy_heldout_labelers": {"value": 0.73, "low": 0.68, "high": 0.78, "n": 20},
            "n_pairs": 150,
            "score_std": 1.1,
            "calibration_error": 0.05,
        },
        "agreement": {"training": {"value": 0.73, "low": 0.7, "high": 0.76, "n": 20}},
        "kl": 3.8,
        "pretraining_loss": {m: 3.4 + i / 50 for i, m in enumerate(m for m in models if m != "prompted")},
        "likert": {m: i.to_dict() for m, i in likert_means(judged).items()},
        "gold": {} if people else {m: clustered_mean(items).to_dict() for m, items in golds.items()},
        "model": "tiny-model",
        "seed": 1,
        "workflow": "support",
    }


def _lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Page(HTMLParser):
    """The page's text per element, its attributes, and whether every tag is closed in order."""

    VOID = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_loop(tmp_path_factory.mktemp("loop") / "demo")


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return write_report(folder).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_whole_and_asks_nothing_of_the_network(html: str, page: Page) -> None:
    assert page.open == []
    assert len(html) < 1_500_000
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "srcset"):
                assert value is not None
                assert value.startswith("#")
    assert "url(" not in html
    assert "@import" not in html
    policy = [a.get("content") for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_links_within_the_page_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for t, a in page.tags if t == "a"} <= {f"#{name}" for name in ids}


def test_the_headline_holds_the_numbers_of_the_summary(folder: Path, html: str) -> None:
    rates = json.loads((folder / "summary.json").read_text())["win_rate"]
    sentence = re.search(r'id="headline">(.*?)</p>', html)
    assert sentence is not None
    found = re.findall(r"(\d+)% \[(\d+), (\d+)\]", sentence[1])
    expected = [rates[f"ppo_ptx_vs_{m}"] for m in ("sft", "base")]
    assert found == [tuple(f"{100 * r[k]:.0f}" for k in ("value", "low", "high")) for r in expected]
    assert f"{expected[0]['n']} prompts" in sentence[1]
    assert "Held-out simulated labelers prefer" in sentence[1]


def test_simulated_labelers_are_named_as_programs_at_the_top(page: Page) -> None:
    assert "programs" in page.text[: page.text.index("What was trained from what")]
    assert "Upstream was instruction-tuned" in page.text


def test_at_least_twelve_prompts_show_every_models_answer_verbatim(folder: Path, html: str) -> None:
    shown = html[html.index('id="samples"') : html.index("<details><summary>All ")]
    cards = shown.split('<article class="sample">')[1:]
    assert len(cards) >= 12
    answers = [json.loads(line) for line in (folder / "evaluation" / "answers.jsonl").read_text().splitlines()]
    for card in cards:
        key = re.search(r"· (t\d+)</p>", card)
        assert key is not None
        texts = [a["response"] for a in answers if a["prompt_id"] == key[1]]
        assert len(texts) == 5
        for text in texts:
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            escaped = escaped.replace('"', "&#34;").replace("'", "&#39;")
            assert f"<pre>{escaped}</pre>" in card
    rest = html[html.index("<details><summary>All ") :]
    assert rest.count('<article class="sample">') == 24


def test_hostile_text_stays_text(html: str) -> None:
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\n  two  spaces &amp;") >= 2


def test_every_chart_has_a_name_and_readable_text(html: str, page: Page) -> None:
    drawn = [a for t, a in page.tags if t == "svg"]
    assert len(drawn) >= 14
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
        assert float(attributes["font-size"] or 0) >= 12
        assert float(attributes["width"] or 0) == charts.WIDTH
    assert "min-width: 340px" in html
    assert "nan" not in " ".join(re.findall(r'points="[^"]*"', html))


def test_plain_words_and_counts_are_there(page: Page) -> None:
    for words in (
        "Who is preferred to whom",
        "Gold has turned",
        "Nobody picked them by hand",
        "Always picking the longer response",
        "Settings of every stage",
        "Limits and caveats",
        "Keeps the stated limits",
        "temperature 1 for every model",
        "1 h 02 min",
    ):
        assert words in page.text


def test_a_loop_without_ppo_and_prompted_says_so_in_a_line(tmp_path: Path) -> None:
    page = Page(write_report(make_loop(tmp_path / "l", models=("base", "sft", "ppo_ptx"))).read_text())
    assert "Not in this loop: the prompted base model" in page.text
    assert "Not in this loop: plain PPO" in page.text
    assert "What the pretraining mix of PPO-ptx saves cannot be seen here" in page.text


def test_a_loop_judged_by_people_has_no_gold_and_is_not_called_simulated(tmp_path: Path) -> None:
    text = Page(write_report(make_loop(tmp_path / "l", people=True)).read_text()).text
    assert "Held-out labelers prefer the trained assistant" in text
    assert "are people" in text
    assert "simulated" not in text[: text.index("What was trained")].lower()
    assert "No gold score" in text
    assert "it needs gold scores at several checkpoints" in text
    assert "12 held-out prompts with every model's answer" in text


def test_records_alone_make_a_report(tmp_path: Path) -> None:
    """A loop whose stages ran elsewhere: summary, answers and rankings, nothing more."""
    made, bare = make_loop(tmp_path / "made"), tmp_path / "bare"
    (bare / "evaluation").mkdir(parents=True)
    for file in ("loop.json", "summary.json", "evaluation/rankings.jsonl", "evaluation/answers.jsonl"):
        (bare / file).write_text((made / file).read_text())
    write_json(bare / "summary.json", {})
    text = Page(write_report(bare).read_text()).text
    assert "No verdict" in text
    for line in ("No reward model in this folder", "No training logs", "Not measured in this loop", "Not shown:"):
        assert line in text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: (p / "loop.json").unlink(), "not a finished loop"),
        (lambda p: (p / "summary.json").unlink(), "not finished"),
        (lambda p: (p / "summary.json").write_text("{"), "summary.json: cannot be read"),
        (lambda p: (p / "summary.json").write_text("[]"), "summary.json: is list"),
        (lambda p: (p / "evaluation" / "answers.jsonl").write_text('{"prompt_id": "x"}\n'), "line 1: field 'prompt'"),
        (lambda p: (p / "evaluation" / "rankings.jsonl").unlink(), "rankings.jsonl: no such file"),
        (lambda p: (p / "loop.json").write_text('{"models": ["gpt"]}'), "names gpt, without any answer"),
        (lambda p: (p / "loop.json").write_text("{}"), "field 'models' must be"),
    ],
)
def test_a_folder_that_is_no_finished_loop_is_refused_in_one_line(tmp_path: Path, spoil, said: str) -> None:
    folder = make_loop(tmp_path / "l", prompts=4)
    spoil(folder)
    with pytest.raises(UserError) as caught:
        write_report(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_the_same_folder_gives_the_same_bytes(folder: Path, html: str) -> None:
    assert write_report(folder).read_text() == html


def test_report_needs_no_torch() -> None:
    code = "import sys, tutelage.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- findings -------------------------------------------------------------------------------------------------------


def _with_rate(loop: Loop, value: float, low: float, high: float) -> Loop:
    rates = {"ppo_ptx_vs_sft": {"value": value, "low": low, "high": high, "n": 100}}
    return replace(loop, summary={"win_rate": rates})


def test_the_verdict_follows_the_interval_not_the_value(folder: Path) -> None:
    loop = read_loop(folder)
    assert findings.verdict(_with_rate(loop, 0.6, 0.51, 0.7)).kind == "good"
    unclear = findings.verdict(_with_rate(loop, 0.6, 0.49, 0.7))
    assert unclear.kind == "unclear"
    assert "includes 50%" in unclear.text
    assert findings.verdict(_with_rate(loop, 0.4, 0.3, 0.49)).kind == "bad"


def test_percent_never_rounds_onto_what_decides() -> None:
    assert percent(Interval(0.71, 0.63, 0.78, 144)) == "71% [63, 78]"
    assert percent(Interval(0.55, 0.504, 0.6, 9)) == "55.0% [50.4, 60.0]"
    assert percent(0.998) == "99.8%"
    assert percent(1.0) == "100%"


def _run(golds: list[float], scores: list[float]) -> list[Snapshot]:
    rows = zip(golds, scores, strict=True)
    return [Snapshot("ppo", i, float(i), g, s, 400) for i, (g, s) in enumerate(rows)]


@pytest.mark.parametrize(
    ("golds", "kind", "said"),
    [
        ([0.6, 0.7, 0.8, 0.9], "good", "still rising"),
        ([0.6, 0.9, 0.8, 0.7], "bad", "over-optimisation"),
        ([0.6, 0.9, 0.9, 0.89], "unclear", "within chance"),
        ([0.6, 0.9, 0.9, 0.9], "unclear", "levelled off"),
        ([0.9, 0.8, 0.7, 0.6], "bad", "turned"),
    ],
)
def test_the_reading_of_a_trajectory(golds: list[float], kind: str, said: str) -> None:
    found = findings.trajectory(_run(golds, [0.0, 1.0, 2.0, 3.0]), spread=0.2)
    assert found.kind == kind
    assert said in found.text


def test_longer_wins_counts_held_out_pairs_of_the_group_only() -> None:
    rankings = [_taught(random.Random(0), i) for i in range(30)]
    found = findings.longer_wins(rankings, "training")
    assert found is not None
    interval, pairs = found
    assert pairs == 12
    assert interval.value == pytest.approx(8 / 12)
    assert findings.longer_wins(rankings, "heldout") is None


def _answers(golds: dict[str, float], scores: dict[str, float]) -> list[Answer]:
    return [Answer(k, k, "chat", "ppo_ptx", "r", 3, True, golds[k], scores[k]) for k in golds]


def test_samples_are_fixed_positions_worst_and_overrated() -> None:
    keys = [f"p{i:02}" for i in range(60)]
    golds = {k: 0.5 + i / 200 for i, k in enumerate(keys)}
    scores = {k: float(i) for i, k in enumerate(keys)}
    golds["p50"], scores["p50"] = 0.1, 100.0  # worst by gold and best by score
    chosen = findings.chosen_samples(_answers(golds, scores), "ppo_ptx")
    why = {c.prompt_id: c.why for c in chosen}
    assert len(chosen) >= 12
    # Six positions, four worst and one overrated (itself a worst) are ten: two more positions make twelve.
    assert [k for k in why if why[k][0].startswith("fixed")][:2] == ["p03", "p11"]
    assert len(why["p50"]) == 2
    assert {"p00", "p01", "p02"} <= set(why)


def test_all_prompts_are_samples_where_there_are_few() -> None:
    keys = [f"p{i}" for i in range(5)]
    chosen = findings.chosen_samples(_answers(dict.fromkeys(keys, 0.5), dict.fromkeys(keys, 0.0)), "ppo_ptx")
    assert {c.prompt_id for c in chosen} == set(keys)


# ---- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.2, 7.7), (0.001, 0.0042), (0.0, 123456.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_charts_escape_their_words_and_survive_odd_numbers() -> None:
    odd = [charts.Bar('<b>"&', 0.5, 0.5, 0.5, 'x"', "<i>")]
    assert "<b>" not in charts.bars("<t>", odd)
    for points in ([], [(0.0, 1.0)], [(0.0, math.nan)], [(1.0, 2.0), (1.0, 2.0)], [(0.0, -1e9), (1.0, 1e9)]):
        drawn = charts.lines("t", [charts.Series("s", points)], x_label="x")
        assert "nan" not in drawn
        assert drawn.endswith("</svg>")
    assert charts.histograms("t", [charts.Series("s", [(1.0, 0.0)] * 3)], x_label="x").count("<rect") == 1
    stop = charts.Stop(0.0, 0.5, 0.5, "0")
    assert charts.trails("t", [charts.Trail("s", [stop])], x_label="x", upper="a", lower="b").count("<circle") >= 2


def test_bars_are_as_long_as_their_values() -> None:
    drawn = charts.bars("t", [charts.Bar("a", 0.25), charts.Bar("b", 0.5)], high=1.0)
    short, long = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert long == pytest.approx(2 * short, abs=0.2)


def test_long_lines_are_thinned_without_losing_their_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(1000)]
    thin = charts.thinned(points)
    assert len(thin) <= charts.MOST_POINTS
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / 1000, abs=0.02)


@pytest.mark.parametrize(("seconds", "said"), [(45.2, "45 s"), (725, "12 min 05 s"), (7380, "2 h 03 min")])
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said
