"""The report on a made-up loop folder: what must be there, what may be missing, what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_loop import make_loop

from tutelage import charts
from tutelage.records import UserError, write_json
from tutelage.report import clock, write_report


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
        assert self.open[-1:] == [tag]
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
        key = re.search(r"· (t\d+)</h3>", card)
        assert key is not None
        texts = [a["response"] for a in answers if a["prompt_id"] == key[1]]
        assert len(texts) == 5
        for text in texts:
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            escaped = escaped.replace('"', "&#34;").replace("'", "&#39;")
            assert f'<div class="said" dir="auto">{escaped}</div>' in card
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
        "not that it became better at language",
        "they agreed in 85% [83, 87] of pairs",
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
    for line in (
        "No reward model in this folder",
        "No training logs",
        "Not measured in this loop",
        "Not shown:",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: (p / "loop.json").unlink(), "not a finished loop"),
        (lambda p: (p / "summary.json").unlink(), "not finished"),
        (lambda p: (p / "summary.json").write_text("{"), "summary.json: cannot be read"),
        (lambda p: (p / "summary.json").write_text("[]"), "summary.json: is list"),
        (
            lambda p: (p / "evaluation" / "answers.jsonl").write_text('{"prompt_id": "x"}\n'),
            "line 1: field 'prompt'",
        ),
        (lambda p: (p / "evaluation" / "rankings.jsonl").unlink(), "rankings.jsonl: no such file"),
        (lambda p: (p / "loop.json").write_text('{"models": ["gpt"]}'), "names gpt, without any answer"),
        (lambda p: (p / "loop.json").write_text("{}"), "field 'models' must be"),
    ],
)
def test_a_folder_that_is_no_finished_loop_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    folder = make_loop(tmp_path / "l", prompts=4)
    spoil(folder)
    with pytest.raises(UserError) as caught:
        write_report(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_the_command_to_repeat_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/tutelage/cli.py", "demo", "--out", "a b"])
    page = write_report(make_loop(tmp_path / "l", prompts=4)).read_text()
    assert page.count("python -m tutelage.cli demo --out &#39;a b&#39;</code>") == 1


def test_text_that_is_no_unicode_is_shown_with_a_mark(tmp_path: Path) -> None:
    answers = make_loop(tmp_path / "l", prompts=4) / "evaluation" / "answers.jsonl"
    answers.write_text(answers.read_text().replace("sft says of t000", "\\ud800 broken"))
    assert "? broken" in write_report(tmp_path / "l").read_text(encoding="utf-8")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_the_same_folder_gives_the_same_bytes(folder: Path, html: str) -> None:
    assert write_report(folder).read_text() == html


def test_report_needs_no_torch() -> None:
    code = "import sys, tutelage.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("seconds", "said"), [(45.2, "45 s"), (725, "12 min 05 s"), (7380, "2 h 03 min")])
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said
