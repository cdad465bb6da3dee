"""Settings from words, from a run's config.json, and back; mistakes in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest

from tutelage import settings
from tutelage.config import fail, load, parse
from tutelage.records import UserError
from tutelage.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
    """A stage."""

    out: Path
    """Where."""
    layers: int | Literal["all"] = 10
    """How many."""
    more: tuple[Path, ...] = ()
    """More files."""
    names: tuple[str, ...] = ("a",)
    """Names."""
    text: Path | None = None
    """Text."""
    lr: float = 0.1
    """Rate."""
    flag: bool = False
    """Yes or no."""


def saved(folder: Path, value: Any) -> Path:
    path = folder / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


CONFIGS = (
    settings.SftConfig(
        demonstrations=Path("d.jsonl"),
        out=Path("o"),
        pretraining=Path("t.txt"),
        trainable_layers="all",
        lr=1e-5,
    ),
    settings.SampleConfig(model="m", prompts=Path("p.jsonl"), out=Path("o"), temperatures=(1.0, 0.5), split="test"),
    settings.RankConfig(samples=Path("s"), workflow="support", out=Path("o"), labelers=3),
    settings.RewardConfig(model="m", rankings=Path("r.jsonl"), out=Path("o"), groups=("training", "extra")),
    settings.PpoConfig(policy=Path("s"), reward=Path("r"), prompts=Path("p"), out=Path("o"), pretraining=Path("t")),
    settings.PpoConfig(policy=Path("s"), reward=Path("r"), prompts=Path("p"), out=Path("o"), ptx_coef=0.0),
    settings.EvaluateConfig(
        answers=(Path("a"), Path("b")),
        workflow="support",
        policy=Path("s"),
        reward=Path("r"),
        out=Path("o"),
        ppo=(Path("x"),),
        text_models=("base=m",),
    ),
    settings.LoopConfig(out=Path("runs/x"), with_ppo=True, seed=3),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_every_stages_config_survives_its_run_folder(tmp_path: Path, config: Any) -> None:
    Run.start(tmp_path / "run", "any", config)
    path = tmp_path / "run" / "config.json"
    assert load(type(config), path) == config
    assert parse(type(config), ["--config", str(path)], "tutelage") == config


def test_words_become_fields() -> None:
    words = "--out runs/x --layers all --more a b --names p q --text t --lr 3e-4 --flag"
    found = parse(Small, words.split(), "x")
    assert found == Small(
        out=Path("runs/x"),
        layers="all",
        more=(Path("a"), Path("b")),
        names=("p", "q"),
        text=Path("t"),
        lr=3e-4,
        flag=True,
    )
    assert parse(Small, ["--out", "y", "--layers", "3"], "x") == Small(out=Path("y"), layers=3)


def test_words_win_over_the_config_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {"out": "a", "layers": "all", "lr": 0.5})
    found = parse(Small, ["--lr", "0.25", "--config", str(path), "--names", "z"], "x")
    assert parse(Small, ["--lr", "0.25", f"--config={path}", "--names", "z"], "x") == found
    assert found == Small(out=Path("a"), layers="all", lr=0.25, names=("z",))


def test_the_callers_words_are_left_alone(tmp_path: Path) -> None:
    words = ["--config", str(saved(tmp_path, {"out": "a"}))]
    parse(Small, words, "x")
    assert words[0] == "--config"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "out"),
        ("--out x --no-such 1", "--no-such"),
        ("--out x --lr fast", "fast"),
        ("--out x --layers b", "layers"),
        ("--out x stray", "stray"),
    ],
)
def test_wrong_words_are_one_line(words: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        parse(Small, words.split(), "tutelage x")
    assert "\n" not in str(caught.value)
    assert "tutelage x --help" in str(caught.value)


def test_help_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Small, ["--help"], "tutelage x")
    assert stopped.value.code == 0
    assert "How many." in capsys.readouterr().out


def test_a_config_without_a_file_is_one_line() -> None:
    with pytest.raises(UserError, match="--config needs a file"):
        parse(Small, ["--out", "x", "--config"], "x")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"out": "a", "learning_rate": 1}, "field 'learning_rate' is not a setting of Small"),
        ({"lr": 0.1}, "missing .*'out'"),
        ("{", "not readable as JSON"),
        ("[1]", "expected an object"),
        ("null", "expected an object"),
        (None, "no such file"),
    ],
)
def test_a_wrong_config_file_is_one_line_that_names_it(tmp_path: Path, value: Any, problem: str) -> None:
    path = tmp_path / "config.json" if value is None else saved(tmp_path, value)
    with pytest.raises(UserError, match=problem) as caught:
        load(Small, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changed", "problem"),
    [
        (settings.SftConfig, {"epochs": 0}, "epochs must be more than 0"),
        (settings.SftConfig, {"pretraining_share": 1.0}, "pretraining_share must be"),
        (settings.SampleConfig, {"temperatures": [1.0, -0.5]}, "temperatures must be"),
        (settings.PpoConfig, {"episodes": 50, "ptx_coef": 0.0}, "multiple of minibatch"),
        (settings.PpoConfig, {"ema": 1.0, "ptx_coef": 0.0}, "ema must be"),
        (settings.PpoConfig, {"ema": 0.0, "keep": "ema", "ptx_coef": 0.0}, "no weight average to keep"),
        (settings.PpoConfig, {}, "ptx_coef is set but no pretraining text"),
        (settings.EvaluateConfig, {"answers": ["a"]}, "at least two"),
    ],
)
def test_settings_that_cannot_be_meant_are_one_line(
    tmp_path: Path, kind: type[Any], changed: dict[str, Any], problem: str
) -> None:
    needed = {f.name: "x" for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    path = saved(tmp_path, needed | changed)
    for act in (lambda: load(kind, path), lambda: parse(kind, ["--config", str(path)], "x")):
        with pytest.raises(UserError, match=problem):
            act()


def test_a_users_mistake_is_one_line_and_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(UserError("rows.jsonl, line 3: field 'text' is empty")) == 2
    assert capsys.readouterr().err == "tutelage: rows.jsonl, line 3: field 'text' is empty\n"
