"""How good tags are: of words one by one, and of the entities that they make together.

n words, C labels; everything in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmspec.core.metrics import Metric
from llmspec.core.tag_schemes import entities

Row = tuple[int, float, float, float]
"""(how many there are, precision, recall, F1)."""


def entity_scores(true: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> tuple[Row, float, dict[str, Row]]:
    """(all entities together, mean F1 over their types, each type's) of the tags of sentences.

    An entity is right where one of the same type has the same first and last word, as in CoNLL-2003 and in seqeval;
    a share of nothing is 0.
    """
    there, given, right = (Counter[str]() for _ in range(3))
    for true_tags, said_tags in zip(true, said, strict=True):
        wanted, found = set(entities(true_tags)), set(entities(said_tags))
        there.update(kind for kind, _, _ in wanted)
        given.update(kind for kind, _, _ in found)
        right.update(kind for kind, _, _ in wanted & found)
    kinds = sorted({*there, *given})
    each = {kind: shares(right[kind], given[kind], there[kind]) for kind in kinds}
    macro = sum(row[3] for row in each.values()) / len(each) if each else 0.0
    return shares(right.total(), given.total(), there.total()), macro, each


def shares(right: int, given: int, there: int) -> Row:
    """How many there are, which share of those that were given is right, which share of those that are there, and the
    harmonic mean of both."""
    both = given + there
    return there, right / given if given else 0.0, right / there if there else 0.0, 2 * right / both if both else 0.0


def tag_scores(
    true: Sequence[np.ndarray], said: Sequence[np.ndarray], labels: tuple[str, ...]
) -> tuple[tuple[Metric, ...], dict[str, Any]]:
    """(metrics, JSON-able tables) of the numbers of tags (words,) of every sentence, as they are and as they were
    said."""
    named = [[[labels[i] for i in one.tolist()] for one in side] for side in (true, said)]
    overall, macro, kinds = entity_scores(named[0], named[1])
    are, were = (np.concatenate([np.zeros(0, np.int64), *side]).astype(np.int64) for side in (true, said))
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (are, were), 1)
    rows = [shares(int(counts[i, i]), int(counts[:, i].sum()), int(counts[i].sum())) for i in range(len(labels))]
    metrics = (
        Metric("accuracy", float((are == were).mean()) if len(are) else 0.0, better="higher"),
        Metric("precision", overall[1], better="higher"),
        Metric("recall", overall[2], better="higher"),
        Metric("F1 micro", overall[3], better="higher"),
        Metric("F1 macro", macro, better="higher"),
    )
    return metrics, {
        "of": "words",
        "labels": list(labels),
        "scores": [list(row) for row in rows],
        "confusion": [[int(i), int(j), int(counts[i, j])] for i, j in zip(*np.nonzero(counts), strict=True)],
        "entities": {"labels": list(kinds), "scores": [list(row) for row in kinds.values()]},
    }
