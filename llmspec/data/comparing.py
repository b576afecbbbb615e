"""What is checked of answers that are compared: each stands in its row as a whole dialogue that is its record's, the
better ones before the worse ones, and what counts of it is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llmspec.compiler.checks import WHOLE, Check
from llmspec.data.compared import ComparedAsking, ComparedLayout
from llmspec.data.layout import Batch
from llmspec.data.stream import PhaseStream
from llmspec.data.tokens import TokenSet

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData


def compares(stream: PhaseStream) -> bool:
    """Whether a phase reads answers that are compared."""
    return isinstance(stream.asking, ComparedAsking)


def reading_compared(prepared: PreparedData, drawn: Sequence[tuple[PhaseStream, str, Batch]]) -> tuple[Check, ...]:
    """The check over the rows that were drawn; nothing where no phase reads answers so."""
    looked_at = 0
    for stream, source, batch in drawn:
        data, layout = prepared.opened(stream.name, source), stream.layout(source)
        assert isinstance(layout, ComparedLayout)
        for row in range(len(batch.tokens)):
            found, wrong = mistake(prepared, layout, data, batch, row)
            looked_at += found
            if wrong:
                evidence = f"in a row of {source} in {stream.name}, {wrong}"
                hint = "the layout in llmspec/data is at fault, not your spec"
                path = ("phases", stream.name, "mixture", source)
                return (Check(name=WHOLE, holds=False, path=path, evidence=evidence, hint=hint),)
    evidence = f"{looked_at:,} answers of sampled rows, found again in their records by their tokens"
    return (Check(name=WHOLE, holds=True, evidence=evidence),) if drawn else ()


def mistake(prepared: PreparedData, layout: ComparedLayout, data: TokenSet, batch: Batch, row: int) -> tuple[int, str]:
    """(answers of a row, what is wrong with one of them; '' where nothing is)."""
    labels, entries = batch.labels, layout.entries()
    assert labels is not None and labels.records is not None and data.text_ends is not None and data.ranks is not None
    filled, numbers = int(batch.filled[row]), batch.documents[row]
    begins = [0, *(np.flatnonzero(np.diff(numbers[:filled])) + 1).tolist(), filled]
    if np.count_nonzero(labels.weights[row][len(begins) - 1 :]):
        return 0, f"more than its {len(begins) - 1} answers count"
    sides, before = dict[int, int](), -1
    for number, (begin, end) in enumerate(pairwise(begins)):
        record = int(labels.records[row, number])
        side = sides[record] = sides.get(record, -1) + 1
        if record < 0 or (side and record != before):
            return number, f"answer {number} does not stand beside those that it is compared with"
        text, before = int(entries.texts[record, side]), record
        stop = int(data.text_ends[text])
        if batch.tokens[row, begin:end].tolist() != data.tokens[stop - (end - begin) : stop].tolist():
            return number, f"answer {number} is not the one of its record"
        if side and data.ranks[text] < data.ranks[int(entries.texts[record, side - 1])]:
            return number, f"answer {number} is better than the one before it"
        if batch.positions[row, begin:end].tolist() != list(range(end - begin)):
            return number, f"the positions of answer {number} do not count from its beginning"
        spoken = prepared.template.speakers(prepared.codec.specials, batch.tokens[row, begin:end].tolist())
        wanted = None if spoken is None else last_turn([role == "assistant" for role in spoken[:-1]])
        found = (batch.weights[row, begin : end - 1] > 0).astype(int).tolist()
        if wanted is not None and wanted != found:
            return number, f"other tokens of answer {number} count than those of its last turn"
        if batch.targets[row, begin : end - 1].tolist() != batch.tokens[row, begin + 1 : end].tolist():
            return number, f"what follows in answer {number} is not what is to be predicted"
    return len(begins) - 1, ""


def last_turn(said: Sequence[bool]) -> list[int]:
    """Of places whose next token somebody says, those of the last stretch."""
    found, place = [0] * len(said), len(said) - 1
    while place >= 0 and not said[place]:
        place -= 1
    while place >= 0 and said[place]:
        found[place], place = 1, place - 1
    return found
