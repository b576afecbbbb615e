"""An exported folder, read back by our own importer and, where it is installed, by transformers: the same ids, logits,
greedy text and chat rendering, or it is not done."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmspec.core.problems import Problem, RunError
from llmspec.decoding.language_model import LanguageModel, open_model
from llmspec.parts.base import Frozen

LARGEST = 2e-4
"""How far logits may be apart where another library computes them."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " 2 + 2 = 4; naïve café, 你好 мир 🙂\n\tindented",
    "def f(x):\n    return x ** 2  # a comment",
)
TURNS = (("user", "What is a comet?"), ("assistant", "A ball of ice."), ("user", "How large is one?"))
LENGTH, DRAWN, SECONDS = 24, 12, 900


class Compared(Frozen):
    """What one reader made of the folder, beside the model that was exported."""

    reader: str
    logits: float
    """Largest difference of a logit."""
    greedy: bool | None
    """Whether the most probable tokens after a prompt are the same; None where the model draws no text."""
    texts: bool
    """Whether texts have the same ids."""
    chat: bool | None
    """Whether a dialogue is written with the same ids; None where the model has no form for dialogues."""


def read_back(model: LanguageModel, folder: Path, architecture: str) -> list[Compared]:
    """What our importer and transformers, as the class `architecture`, make of a folder.

    Raises RunError where something differs, with everything that does."""
    network, ids = model.plan.model, probe(model, model.plan.model.context)
    encoder = probe(model, network.encoder_context) if network.encoder else None
    wanted = model.logits(ids, encoder)[0]
    prompt = (encoder or ids)[: max(1, len(encoder or ids) // 2)]
    draws, read = network.generates, 1 if encoder else len(ids)
    drawn = max(1, min(DRAWN, network.context - read)) if draws else 0
    greedy = _greedy(model, prompt, drawn)
    texts = [model.codec.encode([text])[0] for text in TEXTS]
    chat = model.tokens(list(TURNS)) if can_chat(model) else None
    again = open_model(folder)
    found = [
        Compared(
            reader="llmspec",
            logits=_apart(again.logits(ids, encoder)[0], wanted),
            greedy=_greedy(again, prompt, drawn) == greedy if draws else None,
            texts=[again.codec.encode([text])[0] for text in TEXTS] == texts,
            chat=None if chat is None or not again.chat else again.tokens(list(TURNS)) == chat,
        )
    ]
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        asked = {
            "architecture": architecture,
            "ids": ids,
            "encoder": encoder,
            "start": model.codec.specials.start_of(network.decoder_start),
            "prompt": prompt,
            "tokens": drawn,
            "limit": model.codec.vocab,
            "texts": list(TEXTS),
        }
        theirs, logits = ask(folder, asked)
        found.append(
            Compared(
                reader=f"transformers {theirs['version']}",
                logits=_apart(logits, wanted),
                greedy=theirs["greedy"] == greedy if draws else None,
                texts=theirs["ids"] == texts,
                chat=None if chat is None or theirs["chat"] is None else theirs["chat"] == chat,
            )
        )
    refuse(found, folder)
    return found


def probe(model: LanguageModel, context: int) -> list[int]:
    """Ids that logits are compared on: random ones, the same for the same model; fewer than `context`."""
    import numpy as np

    length = min(LENGTH, context - 1)
    return [int(i) for i in np.random.default_rng(0).integers(0, model.codec.vocab, max(1, length))]


def can_chat(model: LanguageModel) -> bool:
    """Whether the model's tokenizer has what its chat template needs."""
    return all(model.codec.specials.find(meaning) is not None for meaning in model.plan.chat_template.needs)


def refuse(found: list[Compared], folder: Path) -> None:
    """Raises RunError with everything that differs."""
    problems = []
    for one in found:
        most = 1e-5 if one.reader == "llmspec" else LARGEST
        wrong = [f"logits are {one.logits:.2g} apart, at most {most:g} is right"] if not one.logits <= most else []
        named = {"greedy text": one.greedy, "ids of texts": one.texts, "the form of dialogues": one.chat}
        wrong += [f"{what} differ{'s' if what[0] in 'gt' else ''}" for what, same in named.items() if same is False]
        problems += [Problem(f"{folder}, read back by {one.reader}: {what}") for what in wrong]
    if problems:
        raise RunError([*problems, Problem("the export is not the model", hint="delete the folder, and report this")])


def ask(folder: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """What transformers answers, and its logits. Raises RunError where it cannot read the folder."""
    import numpy as np

    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "logits")
        turns = [{"role": role, "content": text} for role, text in TURNS]
        text = json.dumps({**asked, "turns": turns, "logits": str(file)})
        command = [sys.executable, "-P", "-m", "llmspec.exchange.worker", str(folder.resolve())]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
            raise RunError(f"transformers cannot read {folder}: {said[0][:300]}")
        found = json.loads(done.stdout)
        return found, np.fromfile(file, "<f4").reshape(found["shape"])


def _greedy(model: LanguageModel, ids: list[int], count: int) -> list[int]:
    """The most probable tokens after a prompt, one by one."""
    if not count:
        return []
    cache, logits = model.decoder.prefill([ids])
    found: list[int] = []
    for i in range(count):
        found.append(int(logits[0, : model.codec.vocab].argmax()))
        if i + 1 < count:
            logits = model.decoder.step(cache, found[-1:])
    return found


def _apart(a: Any, b: Any) -> float:
    return float(abs(a - b).max())
