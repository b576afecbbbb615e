"""Dialogues as prompts that a model answers: each up to its last answer, with the fields of its record beside it.

n dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmspec.core.problems import Problem
from llmspec.data.packing import DialogueLayout
from llmspec.data.tokens import damaged
from llmspec.data.turns import Spans
from llmspec.parts.sources import Document
from llmspec.parts.templates.base import Turn

if TYPE_CHECKING:
    from llmspec.data.tokens import TokenSet
    from llmspec.data.writing import Rows
    from llmspec.parts.phases import Phase
    from llmspec.parts.tokenizers import Codec

RECORDS = "records"
"""Name of the file of records."""
ASKED = 2
"""Changes when prompts are written in another way, so that old token files are not used."""


def asks_last(turns: Sequence[Turn]) -> bool:
    """Whether a dialogue ends with a question, and has no answer to it."""
    return bool(turns) and turns[-1].role == "user"


def starts_with_answer(turns: Sequence[Turn]) -> bool:
    """Whether a dialogue starts with the assistant, who answers nobody then."""
    return next((t.role for t in turns if t.role in ("user", "assistant")), "") == "assistant"


class Asked(NamedTuple):
    """A prompt."""

    ids: list[int]
    """Tokens up to where the answer begins."""
    codes: list[int]
    """Who says each of them, as `TokenSet.role_of_token` has it."""
    answer: list[int]
    """Tokens of the answer that its record has; of one without, the token that ends an answer."""
    document: int
    """Which dialogue of its source's side it is."""


class PromptLayout(DialogueLayout):
    """One dialogue a block, each with room for a drawn answer behind its prompt."""

    most = 1

    def __init__(self, data: TokenSet, phase: Any, context: int, end: int, names: tuple[object, ...] | None) -> None:
        """`names` seed the order of the dialogues; None keeps it."""
        self._answer = phase.max_tokens
        super().__init__(data, phase.train_on, context, end, phase.document_mask, names)
        lengths = self._from[self.kept] - data.offsets[self.kept]
        self.longest = int(lengths.max(initial=0))
        """Tokens of the longest prompt that is read."""

    def needs(self) -> np.ndarray:
        """(n,) places of a prompt with the longest answer that may be drawn; the written one is not read."""
        needed: np.ndarray = self._from - self._data.offsets[:-1] + self._answer
        return needed

    def _last_turns(self, found: Spans) -> np.ndarray:
        """Of a written answer that reaches beyond a row, what lies there is not counted."""
        supervised = super()._last_turns(found)
        beyond = found.end - (self._data.offsets[found.dialogue] + 1 + self._context)
        supervised[found.dialogue] -= np.maximum(0, beyond)
        return supervised

    def unanswered(self, codec: Codec) -> set[int]:
        """The documents of its side that have no answer: nothing stands behind their prompts but the token that ends
        one."""
        short = np.flatnonzero(self._data.offsets[1:] - self._from == 1)
        last = self._data.ids(self._from[short])
        return {int(i) for i, token in zip(short, last, strict=True) if not codec.decode([int(token)])}

    def asked(self, block: int) -> Asked:
        """The prompt of a block."""
        packed = int(self._order(block // self._blocks)[block % self._blocks])
        one = int(self._dialogue[self._first[packed]])
        begin, end, at = int(self._data.offsets[one]), int(self._data.offsets[one + 1]), int(self._from[one])
        ids = self._data.ids(np.arange(begin, end)).tolist()
        codes = self._data.codes(np.arange(begin, at)).tolist()
        return Asked(ids[: at - begin], codes, ids[at - begin :], one)


class RecordColumn:
    """The records of documents as they are written: a line of JSON each."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def add(self, document: Document) -> None:
        """The next document."""
        line = json.dumps(document.record or {}, ensure_ascii=False, default=str) + "\n"
        self._rows.append(np.frombuffer(line.encode("utf-8", "replace"), np.uint8))

    def close(self) -> dict[str, Any]:
        """Nothing is noted of them."""
        self._rows.close()
        return {}


def records_in(folder: Path, side: str, documents: int) -> list[Mapping[str, Any]]:
    """What a RecordColumn wrote of a side. Raises RunError where that is not what is there."""
    file = folder / f"{side}.{RECORDS}.npy"
    try:
        found = [json.loads(line) for line in np.load(file, allow_pickle=False).tobytes().split(b"\n")[:-1]]
    except (ValueError, EOFError, OSError, SyntaxError, OverflowError, MemoryError):
        raise damaged(file, "it holds no records") from None
    if len(found) != documents or not all(isinstance(record, dict) for record in found):
        raise damaged(file, f"it has {len(found)} records, and {documents} were written")
    return found


def unprompted(name: str, phase: Phase, spoken: Mapping[str, bool]) -> Iterator[Problem]:
    """Sources of a phase that answers prompts, whose records are no dialogues; `spoken` says which are."""
    for source, share in phase.mixture.items() if phase.prompted else ():
        if share.percent > 0 and not spoken.get(source, True):
            yield Problem(
                f"{name} answers the prompts of dialogues, and the records of {source} are none",
                ("phases", name, "mixture", source),
                f'at data.sources.{source} write `dialogue: {{user: "{{question}}", assistant: "{{answer}}"}}` with '
                "the fields that it has, or take it out of the mixture",
                "there would be nothing to answer",
            )
