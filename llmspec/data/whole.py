"""What is checked of documents that are read whole: each stands in its row as the tokenizer has it, between its special
tokens, numbered apart, and what is asked of it is what its record says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llmspec.compiler.checks import WHOLE, Check
from llmspec.data.compared import ComparedAsking
from llmspec.data.documents import texts_read
from llmspec.data.layout import Batch
from llmspec.data.stream import PhaseStream
from llmspec.data.tags import TagAsking
from llmspec.data.tokens import TokenSet

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData


def reading_whole(prepared: PreparedData, drawn: Sequence[tuple[PhaseStream, str, Batch]]) -> tuple[Check, ...]:
    """The check over the blocks that were drawn; nothing where no phase reads documents so."""
    looked_at = 0
    for stream, source, batch in drawn:
        seen = known(stream, prepared.opened(stream.name, source))
        for row in range(len(batch.tokens)):
            found, wrong = mistake(stream, batch, row, seen)
            looked_at += found
            if wrong:
                evidence = f"in a block of {source} in {stream.name}, {wrong}"
                hint = "the layout in llmspec/data is at fault, not your spec"
                path = ("phases", stream.name, "mixture", source)
                return (Check(name=WHOLE, holds=False, path=path, evidence=evidence, hint=hint),)
    evidence = f"{looked_at:,} documents of sampled blocks, found again by their tokens"
    return (Check(name=WHOLE, holds=True, evidence=evidence),) if drawn else ()


def known(stream: PhaseStream, data: TokenSet) -> dict[bytes, list[bytes]]:
    """Tokens of every text as it is to be read, and what may be asked of it: equal texts may have other labels."""
    asking = stream.asking
    assert asking is not None and not isinstance(asking, ComparedAsking)
    asked, (before, after) = asking.of(data), asking.around
    classes = asking.classes(data) if isinstance(asking, TagAsking) else None
    texts, found = texts_read(asking, data, stream.context), dict[bytes, list[bytes]]()
    m, around = texts.whole.shape[1], len(before) + len(after)
    for i in np.flatnonzero(asked.kept & texts.fits).tolist():
        for j in range(m):
            begin, words = int(texts.begins[i, j]), int(texts.lengths[i, j]) - around
            ids = np.array([*before, *data.tokens[begin : begin + words].tolist(), *after], np.int32)
            wanted = np.asarray(asked.targets[i * m + j])
            if classes is not None:
                wanted = np.zeros(len(ids), np.int32)
                wanted[len(before) : len(before) + words] = classes[begin : begin + words]
            found.setdefault(ids.tobytes(), []).append(wanted.tobytes())
    return found


def mistake(stream: PhaseStream, batch: Batch, row: int, seen: dict[bytes, list[bytes]]) -> tuple[int, str]:
    """(documents of a row, what is wrong with one of them; '' where nothing is)."""
    filled, numbers = int(batch.filled[row]), batch.documents[row]
    begins = [0, *(np.flatnonzero(np.diff(numbers[:filled])) + 1).tolist(), filled]
    counting = batch.weights[row, filled:] if batch.labels is None else batch.labels.weights[row, len(begins) - 1 :]
    if np.count_nonzero(counting):
        return 0, f"more than its {len(begins) - 1} documents count"
    if filled < len(numbers) and int(numbers[filled:].min()) < len(begins) - 1:
        return 0, "padding counts as a document"
    for number, (begin, end) in enumerate(pairwise(begins)):
        if batch.positions[row, begin:end].tolist() != list(range(end - begin)):
            return number, f"the positions of document {number} do not count from its beginning"
        targets = seen.get(np.ascontiguousarray(batch.tokens[row, begin:end], np.int32).tobytes())
        if targets is None:
            return number, f"document {number} is none of the source's"
        if asked_of(batch, row, number, begin, end).tobytes() not in targets:
            return number, f"document {number} has the label of another one"
        once = batch.labels is None or batch.weights[row, begin:end].tolist() == [0] * (end - begin - 1) + [1]
        if numbers[begin] != number or not once:
            return number, f"document {number} does not count once, at its end"
    return len(begins) - 1, ""


def asked_of(batch: Batch, row: int, number: int, begin: int, end: int) -> np.ndarray:
    """What is asked of a document of a row; where that is something of its words, of each token 1 + its class, 0 where
    it does not count."""
    if batch.labels is not None:
        return np.ascontiguousarray(batch.labels.targets[row, number])
    counts = batch.weights[row, begin:end] > 0
    return np.where(counts, batch.targets[row, begin:end] + 1, 0).astype(np.int32)
