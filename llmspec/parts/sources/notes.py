"""What reading a source left out or had to guess, and what is wrong with it: all counted, the first few said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmspec.core.problems import DataError, Problem

READ = "read: "
"""Begins a reason of what was read nevertheless: `read: files of markup, with their tags`."""
SHOWN = 5
"""Examples kept for a reason; the others are only counted."""
IN_SENTENCES = 2
"""Of those, named for each reason in a sentence."""


@dataclass
class Notes:
    """Counts by reason, with the first few names of each. One for a source: `source.documents(fetch.noting(notes))`.

    A reason is a plural: `empty files`, `folders of runs`, `links to files that are read already`. One of what was not
    left out, but read in a way that had to be guessed, begins with `READ`.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str = "", count: int = 1) -> None:
        """`count` more for a reason; `name` says which one."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        if name and len(shown := self.examples.setdefault(reason, [])) < SHOWN:
            shown.append(name)

    def said(self) -> Iterator[str]:
        """A sentence for each reason: `left out empty files (7): a.txt, b.txt, ...`, `read files of ... (1): c`."""
        for reason, count in self.counts.items():
            shown = self.examples.get(reason, [])
            more = ", ..." if shown and count > len(shown) else ""
            verb = "read" if reason.startswith(READ) else "left out"
            names = f": {', '.join(shown)}{more}" if shown else ""
            yield f"{verb} {reason.removeprefix(READ)} ({count:,}){names}"

    def reasons(self) -> str:
        """`7 empty (qa.jsonl:12; ...), 3 too long`, the largest number first."""
        told = []
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            places = self.examples.get(reason, [])[:IN_SENTENCES]
            more = "; ..." if count > len(places) else ""
            told.append(f"{count:,} {reason}" + (f" ({'; '.join(places)}{more})" if places else ""))
        return ", ".join(told)

    def dump(self) -> dict[str, Any]:
        """JSON-able: kept beside what was made of the source, since reading it again is not needed to say it again."""
        return {reason: [count, self.examples.get(reason, [])] for reason, count in self.counts.items()}

    @classmethod
    def parse(cls, dumped: Mapping[str, Any]) -> Notes:
        """The notes of a dump()."""
        return cls(
            {reason: int(found[0]) for reason, found in dumped.items()},
            {reason: list(found[1]) for reason, found in dumped.items() if found[1]},
        )


@dataclass
class Problems:
    """What is wrong with the files of a source: all counted, the first few kept."""

    first: list[Problem] = field(default_factory=list)
    count: int = 0
    files: int = 0
    """Files that have problems, as far as whoever adds them counts."""

    def add(self, *problems: Problem) -> None:
        self.count += len(problems)
        self.first += problems[: max(0, SHOWN - len(self.first))]

    def check(self) -> None:
        """Raise DataError where there are any."""
        if not self.count:
            return
        more = []
        if left := self.count - len(self.first):
            among = f", in {self.files:,} files altogether" if self.files > 1 else ""
            more = [
                Problem(
                    f"{left:,} more problem{'s' * (left > 1)} like {'these' if left > 1 else 'this'}{among}",
                    self.first[0].path,
                )
            ]
        raise DataError([*self.first, *more])
