"""Heads of labels and of numbers in config.json: `id2label`, `num_labels` and `problem_type`, read and written.

The head is called as the phase calls it that trains such a one, so that this phase goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmspec.compiler.plan import ModelPlan
from llmspec.formats.hf.family import Architecture, LabelledLayer
from llmspec.parts.heads import Head
from llmspec.parts.heads.labels import Labelled
from llmspec.parts.heads.score import Score

COUNT, NAMES, TYPE = "num_labels", "id2label", "problem_type"
FIELDS = (COUNT, NAMES, TYPE)
"""What config.json says of such a head."""
BACK = "label2id"
"""The reverse of `id2label`, which transformers computes nothing with."""
REGRESSION, SINGLE, MULTI = "regression", "single_label_classification", "multi_label_classification"
KINDS = {"text": {"classes": "classes", "score": "score", "reward": "score"}, "token": {"tokens": "tokens"}}
"""What outputs are of -> name of the head -> its kind."""
USUAL, MOST = 2, 1 << 20
"""Labels where nothing says how many, and the most that are believed."""


class Unreadable(ValueError):
    """Fields that make no head of ours: the message, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def placeholder(number: int) -> str:
    """What transformers calls a label without a name."""
    return f"LABEL_{number}"


def names_of(config: Mapping[str, Any]) -> list[str]:
    """The labels in the order of the outputs. Raises Unreadable."""
    given, count = config.get(NAMES), config.get(COUNT)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MOST):
        raise Unreadable(f"`{COUNT}` is {str(count)[:80]}, which is no number of labels")
    if given is None:
        return [placeholder(i) for i in range(count or USUAL)]
    if not isinstance(given, dict) or not given or len(given) > MOST:
        raise Unreadable(f"`{NAMES}` is no map of numbers to labels")
    names = {int(key): name for key, name in given.items() if key.isascii() and key.isdigit()}
    if sorted(names) != list(range(len(given))):
        raise Unreadable(f"`{NAMES}` does not number {len(given)} labels from 0 on", "a label for each output")
    if wrong := [name for name in names.values() if not isinstance(name, str) or not name]:
        raise Unreadable(f"`{NAMES}` has the label {str(wrong[0])[:80]!r}, which is no text")
    if count not in (None, len(names)):
        raise Unreadable(f"`{COUNT}` is {count}, and `{NAMES}` has {len(names)} labels", "remove one of them")
    return [names[i] for i in range(len(names))]


class Told(NamedTuple):
    """What config.json says of the head."""

    name: str
    settings: dict[str, Any]


def read(config: Mapping[str, Any], layer: LabelledLayer) -> Told:
    """The head of a config.json. Raises Unreadable."""
    names = names_of(config)
    how: dict[str, Any] = {"labels": names, "classes": len(names)}
    if layer.each == "token":
        return Told("tokens", how)
    said = config.get(TYPE)
    if said not in (None, REGRESSION, SINGLE, MULTI):
        raise Unreadable(f"`{TYPE}` is {str(said)[:80]!r}", f"known are: {SINGLE}, {MULTI}, {REGRESSION}")
    if said == REGRESSION and len(names) > 1:
        raise Unreadable(f"`{TYPE}` is {said} with {len(names)} numbers for a text, and heads here give one")
    if said == SINGLE and len(names) == 1:
        raise Unreadable(f"`{TYPE}` is {said}, and there is one label alone", f"`{TYPE}: {REGRESSION}` for a number")
    if said == REGRESSION:
        return Told("score", {"mean": 0.0, "std": 1.0})
    if said is None and len(names) == 1:
        return Told("reward", {})
    return Told("classes", {**how, "multi_label": said == MULTI})


def written(name: str, head: Head) -> dict[str, Any]:
    """The fields of a head."""
    count = head.classes or 0 if isinstance(head, Labelled) else 1
    labels = getattr(head, "labels", None) or [placeholder(i) for i in range(count)]
    said = {"score": REGRESSION, "classes": MULTI if getattr(head, "multi_label", False) else SINGLE}.get(name)
    found = {
        NAMES: {str(i): label for i, label in enumerate(labels)},
        BACK: {label: i for i, label in enumerate(labels)},
    }
    return {**found, TYPE: said} if said else found


def resolved(architecture: Architecture, name: str) -> Architecture:
    """The class with the head of this name as its settings and tensors; itself where its head is no such one."""
    layer = architecture.labelled
    if layer is None:
        return architecture
    own: dict[str, Any] = {"kind": KINDS[layer.each][name], "bias": layer.bias}
    own |= {"pooling": layer.pooling, "pooler": bool(layer.pooler)} if layer.each == "text" else {}
    tensors = {layer.layer: f"{name}_head", **({layer.pooler: f"{name}_head.pooler"} if layer.pooler else {})}
    settings = {f"heads.{name}.{key}": value for key, value in own.items()}
    return architecture.model_copy(
        update={
            "settings": {**architecture.settings, **settings},
            "tensors": {**architecture.tensors, **tensors},
            "labelled": None,
        }
    )


def advised(architecture: Architecture, name: str) -> str:
    """The head of this name that such a class has, as a spec says it."""
    layer = architecture.labelled
    assert layer is not None
    own = {"kind": KINDS[layer.each][name], **({"labels": "[…]"} if KINDS[layer.each][name] != "score" else {})}
    if layer.each == "text":
        own |= {"pooling": str(layer.pooling), "pooler": str(bool(layer.pooler)).lower()}
    return ", ".join(f"{key}: {value}" for key, value in {**own, "bias": str(layer.bias).lower()}.items())


def ending(config: Mapping[str, Any], of: Architecture) -> Architecture:
    """The class with the head that a config.json says, where it says one. Raises Unreadable."""
    if of.labelled is None:
        return of
    name, settings = read(config, of.labelled)
    found = resolved(of, name)
    more = {f"heads.{name}.{key}": value for key, value in settings.items()}
    return found.model_copy(update={"settings": {**found.settings, **more}})


def suits(architecture: Architecture, model: ModelPlan) -> Architecture | None:
    """The class as a model's head makes it; None where it has other heads than such a class."""
    heads = {name: head for name, head in model.heads.items() if isinstance(head, Labelled | Score)}
    if architecture.labelled is None:
        return None if heads else architecture
    kinds = KINDS[architecture.labelled.each]
    if len(model.heads) == 1:
        for name, head in heads.items():
            if kinds.get(name) == head.kind:
                return resolved(architecture, name)
    return None
