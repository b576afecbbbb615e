"""An exported model with a head of labels or numbers, read back: the same labels, the same outputs for the same ids,
texts whose ids are the same with the special tokens around them, and the form of dialogues of a reward model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from llmspec.core.problems import Problem, RunError
from llmspec.decoding.language_model import LanguageModel, open_model
from llmspec.exchange.ending import REWARD, Ending
from llmspec.exchange.read_back import TEXTS, TURNS, Answers, Questions, ReadBack, ask, can_chat, probe, refuse, told


def read_back_labels(model: LanguageModel, end: Ending, folder: Path, architecture: str) -> ReadBack:
    """What our importer and transformers, as the class `architecture`, make of a folder. Numbers are compared in units
    of their spread: float32 holds those of some hundreds less exactly than those around 0.

    Raises RunError where something differs, with everything that does."""
    chat = end.head == REWARD and can_chat(model)
    texts = framed(model, end.own)
    rows = [*texts, probed(model)]
    wanted = Answers(
        model.outputs(end.own, rows) + end.offset / end.scale,
        None,
        texts,
        model.tokens(list(TURNS), chat=True) if chat else None,
    )
    asked = Questions([], None, [], 0, model.codec.vocab, wanted)
    again = open_model(folder)
    answer = Answers(
        again.outputs(end.head, rows) / end.scale,
        None,
        framed(again, end.head),
        again.tokens(list(TURNS), chat=True) if chat and again.chat else None,
    )
    found, unread = [asked.compared("llmspec", answer)], list[str]()
    same_labels(folder, "llmspec", labels_of(end), list(getattr(again.plan.model.heads[end.head], "labels", ())))
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        more = {"architecture": architecture, "rows": rows}
        with told(unread):
            theirs, answer = ask("transformers", "llmspec.exchange.worker", folder, {**asked.plain(), **more})
            answer = answer._replace(logits=answer.logits / end.scale)
            reader = f"transformers {theirs['version']}"
            found.append(asked.compared(reader, answer if chat else answer._replace(chat=None)))
            if labels := labels_of(end):
                same_labels(folder, reader, labels, theirs["labels"])
    refuse(found, folder)
    return ReadBack(found, tuple(unread))


def framed(model: LanguageModel, head: str) -> list[list[int]]:
    """Ids of texts with the special tokens around them, as far as the model's head reads texts."""
    special, network = model.codec.specials, model.plan.model
    room = (
        (getattr(network.heads[head], "max_tokens", None) or network.context) - len(special.before) - len(special.after)
    )
    return [[*special.before, *model.codec.encode([text])[0][:room], *special.after] for text in TEXTS]


def probed(model: LanguageModel) -> list[int]:
    """Drawn ids, the last of which is no padding."""
    ids = probe(model, model.plan.model.context)
    return [*ids[:-1], 1 if ids[-1] != 1 and model.codec.specials.pad == ids[-1] else ids[-1]]


def labels_of(end: Ending) -> list[str]:
    """The names of the outputs; none of a number's."""
    return list(getattr(end.plan.model.heads[end.head], "labels", None) or ())


def same_labels(folder: Path, reader: str, wanted: list[str], found: list[Any]) -> None:
    """Raises RunError where they differ."""
    if wanted != found:
        problem = Problem(f"{folder}, read back by {reader}: labels are {found[:5]}, and not {wanted[:5]}")
        raise RunError([problem, Problem("the export is not the model", hint="delete the folder, and report this")])
