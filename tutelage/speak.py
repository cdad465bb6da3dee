"""The model host: a child process that answers prompts token by token, a JSON object a line in and out.

In:   {"id", "prompt", "models": [{"name", "path", "shots"?: [[prompt, response], ...]}], "temperature", "seed",
       "max_tokens", "reward": run folder or null}
      {"cancel": id}
Out:  {"id", "model", "loading": true}             a model is being read from the disk
      {"id", "model", "text"}                      the next piece of its answer
      {"id", "model", "done": true, "text", "tokens", "ended", "score"}
      {"id", "model", "error"}                     this model cannot answer; the others do
      {"id", "error"}                              there are no scores, or the request cannot be read
      {"id", "done": true, "cancelled": bool}      the request is over

Models are loaded when first asked and kept, the least recently used ones going first when memory runs short. The
process ends when its input does: it never outlives whoever started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from tutelage.evaluate.judge import score_answers
from tutelage.generate import Decoder
from tutelage.limits import Limits
from tutelage.loop import generator
from tutelage.model import Lm, folder_of, load
from tutelage.records import Prompt, Response, UserError
from tutelage.scalar import ScalarHead
from tutelage.score import open_reward
from tutelage.template import SEPARATOR, prompt_ids, response_ids, response_text

CUT = SEPARATOR.strip()
"""Where the answer of a prompted base model ends: the few-shot prefix shows it this way of ending."""

Send = Callable[[dict[str, Any]], None]
FAILURES = (UserError, OSError, RuntimeError, ValueError, MemoryError)
"""What one model's folder, or the machine's memory, may do to us: an error line for that model, never the end."""


class Stop(Exception):
    """The answer is over before its last token: it was cut or cancelled."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model on the shelf. size: bytes of its weights; stamp: which files it was read from."""

    lm: Lm
    decoder: Decoder | None
    network: ScalarHead | None
    size: int
    stamp: object


class Shelf:
    """Open models by path, at most `room` bytes of weights; at least the newest stays."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: OrderedDict[tuple[str, str], Opened] = OrderedDict()

    def policy(self, path: str, loading: Callable[[], None]) -> tuple[Lm, Decoder]:
        """A model ready to answer; `loading` is called before one is read. Raises UserError."""
        found = self._get(("policy", path), loading, lambda: _open_policy(path))
        assert found.decoder is not None
        return found.lm, found.decoder

    def reward(self, path: str, lm: Lm) -> tuple[Lm, ScalarHead]:
        """A reward run, on an open model of the same tokenizer. Raises UserError."""
        found = self._get(("reward", path), lambda: None, lambda: _open_reward(path, lm))
        assert found.network is not None
        return found.lm, found.network

    def paths(self) -> list[str]:
        """What is held, the least recently used first."""
        return [path for _, path in self._held]

    def _get(self, key: tuple[str, str], loading: Callable[[], None], read: Callable[[], Opened]) -> Opened:
        try:
            stamp = stamp_of(key[1])
        except UserError:
            self._held.pop(key, None)
            raise
        held = self._held.get(key)
        if held is None or held.stamp != stamp:
            self._held.pop(key, None)
            loading()
            held = self._held[key] = read()
        self._held.move_to_end(key)
        while len(self._held) > 1 and sum(one.size for one in self._held.values()) > self.room:
            self._held.popitem(last=False)
        return held


def stamp_of(path: str) -> object:
    """What tells a model's files from those that stand there after a new training. Raises UserError where none do."""
    if Path(path).is_absolute() and not Path(path).exists():
        raise UserError(f"{path}: the run is gone; it was deleted or moved")
    folder = Path(folder_of(path))
    weights = sorted(folder.glob("*.safetensors"))
    if Path(path).is_absolute() and not weights:
        raise UserError(f"{path}: the run has lost its weights")
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights]


def _open_policy(path: str) -> Opened:
    stamp = stamp_of(path)
    lm = load(path)
    return Opened(lm, Decoder(lm, lm.top, rows=1), None, 2 * _size(lm.model), stamp)  # as they are, and packed


def _open_reward(path: str, lm: Lm) -> Opened:
    stamp = stamp_of(path)
    lm, network = open_reward(Path(path), lm)
    return Opened(lm, None, network, _size(network), stamp)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


class Speaker:
    """Answers one request at a time; `cancel` may be called from another thread."""

    def __init__(self, shelf: Shelf, send: Send) -> None:
        self.shelf = shelf
        self.send = send
        self._cancelled: set[object] = set()
        self._ending = False

    def cancel(self, number: object) -> None:
        """Stop a request, now or before it begins."""
        self._cancelled.add(number)

    def end(self) -> None:
        """Stop everything: nobody listens any more."""
        self._ending = True

    def stopped(self, number: object) -> bool:
        """Whether a request is not wanted any more."""
        return self._ending or number in self._cancelled

    def answer(self, request: dict[str, Any]) -> None:
        """Answer a request with all its models, one after the other."""
        number = request.get("id")
        try:
            for model in request["models"]:
                if not self.stopped(number):
                    self._one(request, str(model["name"]), model)
        except (KeyError, TypeError, AttributeError) as error:
            self.send({"id": number, "error": f"not a request that can be answered ({error!r})"})
        self.send({"id": number, "done": True, "cancelled": self.stopped(number)})
        self._cancelled.discard(number)

    def _one(self, request: dict[str, Any], name: str, model: dict[str, Any]) -> None:
        """One model's answer, or its error line."""
        head = {"id": request["id"], "model": name}
        shots = [(str(p), str(r)) for p, r in model.get("shots", ())]
        try:
            lm, decoder = self.shelf.policy(str(model["path"]), lambda: self.send(head | {"loading": True}))
            asked = asked_ids(lm, str(request["prompt"]), shots, int(request["max_tokens"]))
            said = Said(lm, cut=bool(shots), show=lambda piece: self.send(head | {"text": piece}))
            self._sample(request, lm, decoder, asked, said)
        except FAILURES as error:
            self.send(head | {"error": one_line(error)})
            return
        if self.stopped(request["id"]):
            return
        score = self._score(request, lm, Response(id=name, text=said.text, ended=said.ended))
        result = {"text": said.text, "tokens": len(said.ids), "ended": said.ended, "score": score}
        self.send(head | {"done": True} | result)

    def _sample(self, request: dict[str, Any], lm: Lm, decoder: Decoder, asked: list[int], said: Said) -> None:
        limit = min(int(request["max_tokens"]), lm.room - len(asked))

        def on_token(token: int) -> None:
            if self.stopped(request["id"]):
                raise Stop
            said.take(token)

        with contextlib.suppress(Stop):
            decoder.sample(
                [asked],
                max_tokens=limit,
                temperature=float(request["temperature"]),
                uniforms=torch.rand(limit, 1, generator=generator(int(request["seed"]), "speak", request["prompt"])),
                on_token=on_token,
            )
        said.finish()

    def _score(self, request: dict[str, Any], lm: Lm, response: Response) -> float | None:
        """The reward model's score; None, and one line for the whole request, where there is none.

        Worked examples are left out: the reward model never saw any before a prompt.
        """
        if request.get("reward") is None:
            return None
        try:
            judge, network = self.shelf.reward(str(request["reward"]), lm)
            prompt = Prompt(id="", text=str(request["prompt"]))
            found = score_answers(judge, network, [prompt], {"": {response.id: response}}, cut=True)
            return round(found["", response.id], 3)
        except FAILURES as error:
            self.send({"id": request["id"], "error": f"no scores: {one_line(error)}"})
            request["reward"] = None
            return None


def asked_ids(lm: Lm, prompt: str, shots: list[tuple[str, str]], answer: int) -> list[int]:
    """Ids of a prompt behind as many worked examples as leave room for `answer` tokens; the longest go first.

    Raises UserError where not one of them does.
    """
    fitting = list(shots)
    while fitting:
        ids = prompt_ids(lm.tokenizer, prompt, shots=fitting)
        if len(ids) + answer <= lm.room:
            return ids
        fitting.remove(max(fitting, key=lambda shot: sum(map(len, shot))))
    if shots:
        raise UserError(f"{lm.name}: no worked example fits before this prompt in {lm.room} positions")
    return Limits(lm).prompt(prompt, "the prompt", ahead=1)


class Said:
    """An answer as it grows: ids in, pieces of text out."""

    def __init__(self, lm: Lm, *, cut: bool, show: Callable[[str], None]) -> None:
        self.lm = lm
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        self._cut = cut
        self._shown = ""
        self._show = show

    def take(self, token: int) -> None:
        """One more token. Raises Stop when the answer is over at its separator."""
        self.ids.append(token)
        text = response_text(self.lm.tokenizer, self.ids)
        if self._cut and CUT in text:
            raise Stop
        certain = text.rstrip(CUT).rstrip() if self._cut else text  # what could still become the separator is held back
        if certain.startswith(self._shown) and not certain.endswith("\ufffd"):
            self._say(certain)

    def finish(self) -> None:
        """The whole text, cut where it must be; what was held back is shown."""
        self.text = response_text(self.lm.tokenizer, self.ids)
        self.ended = bool(self.ids) and self.ids[-1] == self.lm.eos
        if self._cut and CUT in self.text:
            self.text, self.ended = self.text.split(CUT)[0].strip(), True
            self.ids = response_ids(self.lm.tokenizer, self.text)
        if self.text.startswith(self._shown):
            self._say(self.text)

    def _say(self, text: str) -> None:
        if len(text) > len(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text


def one_line(error: BaseException) -> str:
    """An error as one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def threads() -> int:
    """Threads for the models: one core is left to the web server, where there is more than one."""
    return max(1, torch.get_num_threads() - 1)


def listen(lines: Sequence[str] | IO[str], speaker: Speaker, asked: queue.Queue[dict[str, Any] | None]) -> None:
    """Sort the lines that come in; at their end everything ends."""
    for line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            speaker.send({"id": None, "error": f"not a request ({error})"})
            continue
        if "cancel" in row:
            speaker.cancel(row["cancel"])
        else:
            asked.put(row)
    speaker.end()
    asked.put(None)


def main() -> int:
    """Speak until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not land among our lines
    writing = threading.Lock()

    def send(row: dict[str, Any]) -> None:
        with writing:
            out.write(json.dumps(row) + "\n")
            out.flush()

    os.nice(5)
    torch.set_num_threads(threads())
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    speaker = Speaker(Shelf(half), send)
    asked: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=listen, args=(sys.stdin, speaker, asked), daemon=True).start()
    try:
        while (request := asked.get()) is not None:
            speaker.answer(request)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # nobody reads: nothing to flush at the end either
    return 0


if __name__ == "__main__":
    sys.exit(main())
