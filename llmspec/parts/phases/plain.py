"""What phases have in common whose rows are plain text from end to end, which may be cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from llmspec.core.problems import Problem
from llmspec.parts.phases.base import Phase
from llmspec.parts.phases.lengths import RowLengths, SequenceLength, length_problems


class PlainText(Phase):
    """A phase that reads plain text in full rows."""

    sequence_length: SequenceLength | None = None
    """Shorter rows at the phase's beginning; null: all rows are as long as the context."""

    def row_lengths(self, context: int) -> RowLengths:
        return RowLengths.of(context, self.sequence_length)

    def together(self) -> Iterator[Problem]:
        yield from super().together()
        yield from length_problems(self.sequence_length, self.budget)
