"""Records as two texts that are read each by itself: what a phase asks that compares them, and what is wrong with it.

n records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmspec.core.problems import Problem
from llmspec.data.documents import Asked
from llmspec.data.layout import Labels
from llmspec.data.shaping import CODES
from llmspec.data.tokens import TokenSet

SIDES = ("source", "target")
"""The texts of a record, as they stand in a row."""
FEWEST = 2
"""Pairs of a pass, on average, with which there is anything to compare."""


@dataclass(frozen=True)
class PairAsking:
    """How a phase reads pairs of texts; what it asks of each text is only which side of a pair it is."""

    around: tuple[tuple[int, ...], tuple[int, ...]]
    longest: int
    truncation: bool
    documents: int

    def texts(self, data: TokenSet) -> tuple[np.ndarray, np.ndarray]:
        """The words of the user, then those of the assistant: as pairs are written, nothing stands between them."""
        assert data.tokens_per_role is not None, "these tokens have two texts each"
        asks, answers = (data.tokens_per_role[:, CODES[role] - 1] for role in ("user", "assistant"))
        begins = data.offsets[:-1]
        return np.stack([begins, begins + asks], 1), np.stack([asks, answers], 1)

    def of(self, data: TokenSet) -> Asked:
        """The sides of each pair; all are kept."""
        n = len(data.lengths)
        sides = np.tile(np.arange(len(SIDES), dtype=np.int32), n)
        return Asked(np.ones(n, bool), sides, np.ones(len(sides), np.float32), {})

    def blank(self, rows: int) -> Labels:
        """Of rows without a pair."""
        shape = (rows, self.documents)
        return Labels(np.zeros(shape, np.int32), np.zeros(shape, np.float32))

    def named(self, target: Any) -> str:
        """Which side a text is."""
        return SIDES[int(target)]

    def identity(self) -> Any:
        """All of its fields."""
        return ["apart", list(map(list, self.around)), self.longest, self.truncation, self.documents]


def lonely(rows: int, texts: int, blocks: int) -> Iterator[Problem]:
    """A phase whose passes of `rows` blocks hold hardly a pair each, of `texts` in `blocks`: nothing is compared."""
    pairs = rows * texts / len(SIDES)
    if blocks and pairs < FEWEST * blocks:
        yield Problem(
            f"a pass holds {pairs / blocks:.1f} pairs on average, and a pair is compared with the others of its pass "
            "alone",
            ("micro_batch_size",),
            "a larger micro_batch_size, or a longer model.context; gradient_accumulation_steps give no negatives",
            "there would be nothing to tell a text's counterpart from, and the loss would be 0",
        )


def repeated(data: TokenSet, asking: PairAsking) -> dict[str, int]:
    """By side: how many texts of some pairs are equal to an earlier one's, by their tokens."""
    begins, lengths = asking.texts(data)
    found = {}
    for j, side in enumerate(SIDES):
        seen = {
            data.tokens[begin : begin + length].tobytes()
            for begin, length in zip(begins[:, j].tolist(), lengths[:, j].tolist(), strict=True)
        }
        found[side] = len(begins) - len(seen)
    return found
