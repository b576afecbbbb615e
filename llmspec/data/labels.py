"""Labels of documents: read from their records, told apart, weighed, and what is wrong with them.

n documents, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmspec.core.problems import Problem, nearest
from llmspec.data.documents import Asked, Whole
from llmspec.data.fields import unfilled
from llmspec.data.layout import Labels
from llmspec.data.shaping import SEVERAL, UNLABELLED, UNLISTED, Dropped, field_text, filled
from llmspec.data.tokens import TokenSet
from llmspec.data.writing import Rows
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.template import parse

MOST = 1 << 16
"""Labels, or sets of labels, of a source, at most: more are no labels."""
SHOWN = 6
"""Labels that are named in a sentence."""

LabelSet = tuple[str, ...]
"""The labels of a document, sorted; mostly one."""


def labels_of(source: Source, document: Document) -> LabelSet | Dropped:
    """The labels of a document: of a template that is one field which holds a list, each of its entries."""
    if document.record is None or source.label is None:
        return Dropped(UNLABELLED, "plain text, without fields")
    pieces = parse(source.label)
    value = document.record.get(pieces[0].text) if len(pieces) == 1 and pieces[0].field else None
    if isinstance(value, list | tuple):
        texts = [field_text(entry) for entry in value]
        if any(text is None for text in texts):
            return Dropped(UNLABELLED, f"`{pieces[0].text}` holds an entry that is no text")
        return tuple(sorted({text.strip() for text in texts if text is not None}))
    found = filled(source.label, document.record)
    if isinstance(found, Dropped):
        return Dropped(UNLABELLED, found.detail)
    label = "".join(found).strip()
    return (label,) if label else Dropped(UNLABELLED, unfilled(source.label, document.record))


class LabelColumn:
    """The labels of documents as they are written: a number each, and what the numbers mean."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self._source, self._rows, self._numbers = source, rows, dict[LabelSet, int]()
        self.counts = dict[int, int]()

    def add(self, document: Document) -> Dropped | None:
        """The next document; why it is left out, where it is."""
        found = labels_of(self._source, document)
        if isinstance(found, Dropped):
            return found
        number = self._numbers.setdefault(found, len(self._numbers))
        self._rows.append(np.array([number], np.int32))
        self.counts[number] = self.counts.get(number, 0) + 1
        return None

    def close(self) -> dict[str, Any]:
        """What is noted of them: the sets of labels in the order of their numbers, and how many documents each has."""
        self._rows.close()
        return {"labels": [[list(labels), self.counts[number]] for labels, number in self._numbers.items()]}


def counted(about: Mapping[str, Any]) -> dict[LabelSet, int]:
    """How many documents of a side have each set of labels, by what was noted."""
    return {tuple(labels): count for labels, count in about.get("labels", ())}


def by_label(sides: Iterable[Mapping[LabelSet, int]]) -> dict[str, int]:
    """How many documents have each label, sorted by label."""
    found = dict[str, int]()
    for side in sides:
        for labels, count in side.items():
            for label in labels:
                found[label] = found.get(label, 0) + count
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class LabelAsking(Whole):
    """How a phase that classifies reads documents."""

    around: tuple[tuple[int, ...], tuple[int, ...]]
    longest: int
    truncation: bool
    documents: int
    labels: tuple[str, ...]
    multi: bool
    weights: np.ndarray
    """(C,) float32: how much a document of each label counts."""

    def of(self, data: TokenSet) -> Asked:
        """The labels of documents by their number in `labels`; those without a listed one are left out."""
        assert data.labels is not None, "these tokens have labels"
        known = {label: i for i, label in enumerate(self.labels)}
        sets, n = data.label_sets, len(data.labels)
        listed = np.array([all(label in known for label in labels) for labels in sets], bool)
        one = np.array([self.multi or len(labels) == 1 for labels in sets], bool)
        kept = (listed & one)[data.labels] if n else np.zeros(0, bool)
        dropped = {
            UNLISTED: int((~listed & one)[data.labels].sum()) if n else 0,
            SEVERAL: int((~one)[data.labels].sum()) if n else 0,
        }
        rows = np.zeros((len(sets), len(self.labels)), np.float32)
        for i, labels in enumerate(sets):
            rows[i, [known[label] for label in labels if label in known]] = 1
        if self.multi:
            return Asked(kept, rows[data.labels], np.ones(n, np.float32), dropped)
        first = rows.argmax(1).astype(np.int32) if len(sets) else np.zeros(0, np.int32)
        targets = first[data.labels]
        return Asked(kept, targets, self.weights[targets], dropped)

    def blank(self, rows: int) -> Labels:
        """Of rows without a document."""
        shape = (rows, self.documents)
        targets = np.zeros((*shape, len(self.labels)), np.float32) if self.multi else np.zeros(shape, np.int32)
        return Labels(targets, np.zeros(shape, np.float32))

    def named(self, target: Any) -> str:
        """The labels that a target stands for."""
        if not self.multi:
            return self.labels[int(target)]
        return (
            ", ".join(label for label, has in zip(self.labels, target.tolist(), strict=True) if has) or "none of them"
        )

    def identity(self) -> Any:
        """All of its fields."""
        return [list(map(list, self.around)), self.longest, self.truncation, self.labels, self.weights.tolist()]


def weights_by(phase: Any, labels: Sequence[str], counts: Mapping[str, int]) -> np.ndarray:
    """(C,) float32 weights of labels, of which `counts` training documents there are."""
    how = getattr(phase, "class_weights", None)
    if how is None:
        return np.ones(len(labels), np.float32)
    if how == "balanced":
        found = np.array([counts.get(label, 0) for label in labels], np.float64)
        return np.where(found > 0, found.sum() / (len(labels) * np.maximum(found, 1)), 0).astype(np.float32)
    return np.array([how.get(label, 1.0) for label in labels], np.float32)


# -- what is wrong, and what is worth saying -------------------------------------------------------------------------
def label_problems(
    phase: Any, labels: Sequence[str], classes: int, counts: Mapping[str, int], of: str = "document"
) -> Iterator[Problem]:
    """Labels that no training document has, and heads of another number of classes; below the phase's path. `of` is
    what has a label."""
    if len(labels) != classes:
        yield Problem(
            f"the training {of}s have {len(labels)} labels ({some(labels)}), and the head {classes} classes",
            ("labels",),
            f"classes: {len(labels)} at the head, or `labels:` with those that it is to tell apart",
            "labels and logits would not fit each other",
        )
        return
    for i, label in enumerate(labels):
        if not counts.get(label):
            near = nearest(label, [found for found in counts if found not in labels])
            path = ("labels", i) if phase.labels else ("labels",)
            yield Problem(
                f"no training {of} has the label `{label}`",
                path,
                f"did you mean `{near}`?" if near else f"the {of}s have {some(list(counts))}",
                "it would never be learned, and take a part of every probability",
            )
    for label in phase.class_weights if isinstance(phase.class_weights, dict) else ():
        if label not in labels:
            yield Problem(
                f"`{label}` has a weight, and is no label of the {of}s",
                ("class_weights", label),
                f"the labels are {some(list(labels))}",
                "the weight would do nothing",
            )


def label_notices(
    phase: str, given: bool, counts: Mapping[str, int], held: Mapping[str, int], of: str = "document"
) -> Iterator[str]:
    """What a person should know of a phase's labels: which were found, and which are hardly there."""
    if not given:
        yield f"{phase} has no `labels:`; found in its training {of}s: {some(list(counts), 20)}"
    if rare := [label for label, count in counts.items() if count == 1]:
        yield f"{phase} has one training {of} alone of {some(rare)}: too few to learn from"
    if held and (unseen := [label for label in counts if not held.get(label)]):
        yield f"{phase} is validated with no {of} of {some(unseen)}"


def some(labels: Sequence[str], most: int = SHOWN) -> str:
    """The first of some labels, in a sentence."""
    more = f", … ({len(labels):,} in all)" if len(labels) > most else ""
    return ", ".join(f"`{label}`" for label in labels[:most]) + more
