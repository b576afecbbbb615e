"""An exported folder, read back by our own importer and, where it is installed, by transformers: the same ids, logits,
greedy text and chat rendering, or it is not done."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import Problem, RunError
from llmspec.core.units import duration
from llmspec.decoding.language_model import LanguageModel, open_model
from llmspec.parts.base import Frozen

LARGEST = 2e-4
"""How far logits may be apart where another library computes them; of logits larger than USUAL so much more."""
EXACT = 1e-5
"""The same where we compute them ourselves, with weights that a unit of numbers may have been multiplied into."""
USUAL = 10.0
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " 2 + 2 = 4; naïve café, 你好 мир 🙂\n\tindented",
    "def f(x):\n    return x ** 2  # a comment",
)
TURNS = (("user", "What is a comet?"), ("assistant", "A ball of ice."), ("user", "How large is one?"))
LENGTH, DRAWN = 24, 12
SECONDS = 900
"""How long another library may take; of files of more than A_GIB, so long for each."""
A_GIB = 1 << 30


class Compared(Frozen):
    """What one reader made of the folder, beside the model that was exported."""

    reader: str
    logits: float
    """Largest difference of a logit."""
    scale: float = 1.0
    """How many times USUAL the largest logit is; 1 where it is less: float32's rounding grows with it."""
    greedy: bool | None
    """Whether the most probable tokens after a prompt are the same; None where the model draws no text."""
    texts: bool
    """Whether texts have the same ids."""
    chat: bool | None
    """Whether a dialogue is written with the same ids; None where the model has no form for dialogues."""
    nats: float | None = None
    """Nats per token of held-out text, where the reader was asked for it."""


class ReadBack(NamedTuple):
    """What came of reading an export back."""

    compared: list[Compared]
    unread: tuple[str, ...] = ()
    """Which other libraries are here and have not said what they make of it, in words."""


class NoAnswer(RunError):
    """Another library took too long, which says nothing of the export."""


class Answers(NamedTuple):
    """What a reader makes of the questions that all are asked."""

    logits: Any
    """(T, V) float32 of `Questions.ids`."""
    greedy: list[int] | None
    texts: list[list[int]]
    chat: list[int] | None


@dataclass(frozen=True)
class Questions:
    """What readers of an export are asked, and the model's own answers."""

    ids: list[int]
    encoder: list[int] | None
    """What an encoder reads beside them."""
    prompt: list[int]
    drawn: int
    """Tokens that are drawn after the prompt; 0 where the model draws none."""
    limit: int
    """Ids that text has."""
    wanted: Answers

    def compared(self, reader: str, found: Answers) -> Compared:
        """A reader's answers beside the model's own. A dialogue that one of both has no form for is not compared."""
        no_chat = self.wanted.chat is None or found.chat is None
        return Compared(
            reader=reader,
            logits=_apart(found.logits, self.wanted.logits),
            scale=max(1.0, float(abs(self.wanted.logits).max()) / USUAL),
            greedy=found.greedy == self.wanted.greedy if self.drawn else None,
            texts=found.texts == self.wanted.texts,
            chat=None if no_chat else found.chat == self.wanted.chat,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able form for a reader in another process."""
        turns = [{"role": role, "content": text} for role, text in TURNS]
        own = {"ids": self.ids, "encoder": self.encoder, "prompt": self.prompt, "tokens": self.drawn}
        return {**own, "limit": self.limit, "texts": list(TEXTS), "turns": turns}


def questions(model: LanguageModel) -> Questions:
    """The questions for a model's export, with its own answers."""
    network, ids = model.plan.model, probe(model, model.plan.model.context)
    encoder = probe(model, network.encoder_context) if network.encoder else None
    prompt = (encoder or ids)[: max(1, len(encoder or ids) // 2)]
    read = 1 if encoder else len(ids)
    drawn = max(1, min(DRAWN, network.context - read)) if network.generates else 0
    nothing = Answers(None, None, [], None)
    asked = Questions(ids, encoder, prompt, drawn, model.codec.vocab, nothing)
    return replace(asked, wanted=answers(model, asked, can_chat(model)))


def answers(model: LanguageModel, asked: Questions, chat: bool) -> Answers:
    """What a model of ours answers; with `chat` also to a dialogue."""
    return Answers(
        model.logits(asked.ids, asked.encoder)[0],
        _greedy(model, asked.prompt, asked.drawn) if asked.drawn else None,
        [model.codec.encode([text])[0] for text in TEXTS],
        model.tokens(TURNS[-1][1] if model.pairs else list(TURNS)) if chat else None,
    )


def read_back(model: LanguageModel, folder: Path, architecture: str) -> ReadBack:
    """What our importer and transformers, as the class `architecture`, make of a folder.

    Raises RunError where something differs, with everything that does."""
    asked = questions(model)
    again = open_model(folder)
    found, unread = [asked.compared("llmspec", answers(again, asked, again.chat))], list[str]()
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        start = model.codec.specials.start_of(model.plan.model.decoder_start)
        more = {"architecture": architecture, "start": start}
        with told(unread):
            theirs, answer = ask("transformers", "llmspec.exchange.worker", folder, {**asked.plain(), **more})
            found.append(asked.compared(f"transformers {theirs['version']}", answer))
    refuse(found, folder)
    return ReadBack(found, tuple(unread))


def probe(model: LanguageModel, context: int) -> list[int]:
    """Ids that logits are compared on: random ones, the same for the same model; fewer than `context`."""
    import numpy as np

    length = min(LENGTH, context - 1)
    return [int(i) for i in np.random.default_rng(0).integers(0, model.codec.vocab, max(1, length))]


def can_chat(model: LanguageModel) -> bool:
    """Whether the model's tokenizer has what its chat template needs, or that of pairs."""
    return model.pairs or all(
        model.codec.specials.find(meaning) is not None for meaning in model.plan.chat_template.needs
    )


def refuse(found: list[Compared], folder: Path) -> None:
    """Raises RunError with everything that differs."""
    problems = []
    for one in found:
        most = (EXACT if one.reader == "llmspec" else LARGEST) * one.scale
        wrong = [f"logits are {one.logits:.2g} apart, at most {most:.2g} is right"] if not one.logits <= most else []
        named = {"greedy text": one.greedy, "ids of texts": one.texts, "the form of dialogues": one.chat}
        wrong += [f"{what} differ{'s' if what[0] in 'gt' else ''}" for what, same in named.items() if same is False]
        problems += [Problem(f"{folder}, read back by {one.reader}: {what}") for what in wrong]
    if problems:
        raise RunError([*problems, Problem("the export is not the model", hint="delete the folder, and report this")])


def ask(reader: str, module: str, path: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], Answers]:
    """What another library answers, by a module that runs in a process of its own. Raises RunError where it cannot
    read the export, NoAnswer where it takes too long."""
    import numpy as np

    limit = seconds(path)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "logits")
        text = json.dumps({**asked, "logits": str(file)})
        command = [sys.executable, "-P", "-m", module, str(path.resolve())]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise NoAnswer(
                f"{reader} did not answer within {duration(limit)}, and what it makes of {path.name} is not known"
            ) from None
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
            raise RunError(f"{reader} cannot read {path}: {said[0][:300]}")
        found = json.loads(done.stdout)
        logits = np.fromfile(file, "<f4").reshape(found["shape"])
        return found, Answers(logits, found["greedy"] if asked["tokens"] else None, found["ids"], found["chat"])


@contextmanager
def told(unread: list[str]) -> Iterator[None]:
    """A library that takes too long is told in `unread`: what was written was read back by ourselves before, and
    stays, as where the library is not installed."""
    try:
        yield
    except NoAnswer as error:
        unread += [problem.message for problem in error.problems]


def seconds(path: Path) -> float:
    """How long another library may take for a file, or for the files of a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return SECONDS * max(1.0, sum(file.stat().st_size for file in files) / A_GIB)


def _greedy(model: LanguageModel, ids: list[int], count: int) -> list[int]:
    """The most probable tokens after a prompt, one by one."""
    cache, logits = model.decoder.prefill([ids])
    found: list[int] = []
    for i in range(count):
        found.append(int(logits[0, : model.codec.vocab].argmax()))
        if i + 1 < count:
            logits = model.decoder.step(cache, found[-1:])
    return found


def _apart(a: Any, b: Any) -> float:
    return float(abs(a - b).max())
