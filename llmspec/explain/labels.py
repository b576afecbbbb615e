"""How well each label was told in the last validation of a run, and which was taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LabelScore:
    """One label's answers."""

    label: str
    texts: int
    """That have it: texts, words or entities."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class LabelTable:
    """A source's labels at one step."""

    source: str
    step: int
    scores: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, int, int], ...] = ()
    """(label that it is, label that was said, texts), by their places in `scores`; empty where texts have several."""
    of: str = "texts"
    """What has the labels."""


def label_tables(rows: Sequence[Mapping[str, Any]]) -> tuple[LabelTable, ...]:
    """The last table of each source, from rows {step, validation, tables}; what is damaged in them is left out."""
    found = dict[tuple[str, str], LabelTable]()
    for row in rows:
        tables = row.get("tables")
        for source, of, table in every(tables):
            try:
                labels = [str(label) for label in table["labels"]]
                scores = tuple(
                    LabelScore(label, int(n), float(p), float(r), float(f))
                    for label, (n, p, r, f) in zip(labels, table["scores"], strict=True)
                )
                cells = tuple((int(i), int(j), int(n)) for i, j, n in table.get("confusion", ()))
                if any(not (0 <= i < len(labels) and 0 <= j < len(labels)) for i, j, _ in cells):
                    continue
                found[source, of] = LabelTable(source, int(row["step"]), scores, cells, of)
            except (KeyError, TypeError, ValueError):
                continue
    return tuple(found.values())


def every(tables: Any) -> Iterator[tuple[str, str, Any]]:
    """(source, what has labels, table) of each source, those of the entities that words make behind those of words."""
    for source, table in tables.items() if isinstance(tables, dict) else ():
        of = table.get("of", "texts") if isinstance(table, dict) else "texts"
        yield str(source), str(of), table
        if isinstance(table, dict) and "entities" in table:
            yield str(source), "entities", table["entities"]
