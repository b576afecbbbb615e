"""Answers side by side: rows of one KV cache, a prefill for those that begin, a step for those that go on.

Shape letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmspec.decoding.answer import Answer, Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS = 16
"""Answers that are drawn side by side at most: from here on a CPU is no faster, since it computes all the time."""
Notice = Callable[[str], object]


class Cache(Protocol):
    """What rows have read."""

    read: list[list[int]]
    """The tokens that each row has read."""

    def shorten(self, row: int, length: int) -> None:
        """Forget what a row has read beyond `length` tokens."""

    def reorder(self, parents: Sequence[int]) -> None:
        """Let each row r go on from what row parents[r] has read."""


class Decoder(Protocol):
    """A model that reads prompts into the rows of a cache, and then one token per row at a time."""

    @property
    def context(self) -> int:
        """Most tokens of one row, prompt included."""

    @property
    def encoder_context(self) -> int:
        """Most tokens of a prompt, where an encoder reads it; 0 where it stands in the row before its answer."""

    def fit(self, rows: int, tokens: int) -> tuple[int, int]:
        """How many rows, up to `rows`, memory holds side by side, and of how many places, at least `tokens`."""

    def worth(self, kept: int, tokens: int) -> bool:
        """Whether a row that holds `kept` of a prompt's tokens reads the rest faster than all, with the same logits."""

    def cache(self, rows: int, places: int) -> Any:
        """An empty Cache."""

    def prefill(
        self, prompts: Sequence[Sequence[int]], cache: Any, rows: Sequence[int], reuse: bool
    ) -> tuple[Any, NDArray[np.float32]]:
        """Read each prompt into a row of the cache: the cache, and logits (prompts, V) of what follows each.

        With `reuse`, a row that holds the beginning of its prompt goes on from there.
        """

    def step(self, cache: Any, tokens: Sequence[int], active: Sequence[bool]) -> NDArray[np.float32]:
        """Read one more token for each active row, R ids: logits (R, V) of the tokens after them."""


class Batch:
    """Draws answers, each in a row of a cache until it ends; then the next one takes the row.

    A prompt is read once for all of its answers: a row that begins with it, however far it has come, is copied. So is
    one whose prompt begins alike, where that saves time.
    """

    def __init__(
        self,
        decoder: Decoder,
        answers: Iterator[Answer],
        count: int,
        longest: int,
        shared: bool = False,
        notice: Notice | None = None,
        cache: Any = None,
    ) -> None:
        """`count` answers, of `longest` tokens at most, prompts included; `shared`: the prompts have a beginning in
        common that is worth reading first. A `cache` that is given is used, and what its rows have read is known."""
        self._decoder, self._answers, self._waiting, self._cache = decoder, answers, count, cache
        rows, self._places = decoder.fit(min(ROWS, 1 << (count - 1).bit_length()), longest) if count else (0, 0)
        rows = len(cache.read) if cache is not None else rows
        if notice and rows < (wanted := min(ROWS, count)):
            notice(f"memory holds the KV caches of {rows} answers at once, not of {wanted}: the others wait")
        self._rows: list[Answer | None] = [None] * rows
        self._holds: list[int | None] = [None] * rows
        """The prompt that each row's cache begins with, by its index."""
        self._held: list[Sequence[int]] = [()] * rows if cache is None else [list(read) for read in cache.read]
        """The same as token ids."""
        self._first = 1 if shared else rows
        """How many rows begin at first."""
        self._after: dict[int, Any] = {}
        """Logits (V,) after prompts that rows hold."""

    def events(self) -> Iterator[tuple[Answer, Event]]:
        """Every token as it is drawn, until all answers have ended."""
        import numpy as np

        if not self._rows:
            return
        cache = self._decoder.cache(len(self._rows), self._places) if self._cache is None else self._cache
        while self._waiting or any(self._rows):
            begun = self._begin(cache)
            going = [a is not None and row not in begun for row, a in enumerate(self._rows)]
            logits = dict(begun)
            if any(going):
                tokens = [a.last if a and on else 0 for a, on in zip(self._rows, going, strict=True)]
                stepped_RV = self._decoder.step(cache, tokens, going)
                logits |= {row: stepped_RV[row] for row, on in enumerate(going) if on}
            for row, answer in enumerate(self._rows):
                if answer is not None:
                    event = answer.draw(np.array(logits[row], dtype=np.float64))
                    if event.finish_reason:
                        self._rows[row] = None
                    yield answer, event

    def _begin(self, cache: Any) -> dict[int, NDArray[np.float32]]:
        """Gives free rows to those that wait; logits (V,) after the prompt of each row that was given away."""
        free = [row for row, answer in enumerate(self._rows) if answer is None]
        begun = {row: next(self._answers) for row in free[: min(self._waiting, self._first)]}
        self._waiting, self._first = self._waiting - len(begun), len(self._rows)
        held = {prompt: row for row, prompt in enumerate(self._holds)}
        parents, kept, read = dict[int, int](), dict[int, int](), dict[int, int]()
        for row, answer in begun.items():
            if answer.prompt in held:
                parents[row], kept[row] = held[answer.prompt], answer.places
            elif read.setdefault(answer.prompt, row) == row:
                parents[row], kept[row] = self._nearest(row, answer.ids)
        _copy(cache, parents, len(self._rows))
        for row, answer in begun.items():
            cache.shorten(row, kept.get(row, 0))
            self._rows[row], self._holds[row], self._held[row] = answer, answer.prompt, answer.ids
        self._after = {p: logits for p, logits in self._after.items() if p in self._holds}
        if read:
            prompts = [begun[row].ids for row in read.values()]
            _, logits = self._decoder.prefill(prompts, cache, list(read.values()), True)
            self._after |= dict(zip(read, logits, strict=True))
        _copy(cache, {row: read.get(answer.prompt, row) for row, answer in begun.items()}, len(self._rows))
        return {row: self._after[answer.prompt] for row, answer in begun.items()}

    def _nearest(self, row: int, ids: Sequence[int]) -> tuple[int, int]:
        """The row whose prompt begins most like this one, and how many of its tokens to keep; (row, 0) for none."""
        found = [min(shared_length(held, ids), len(ids) - 1) for held in self._held]
        best = max(range(len(found)), key=found.__getitem__)
        return (best, found[best]) if self._decoder.worth(found[best], len(ids)) else (row, 0)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _copy(cache: Cache, parents: dict[int, int], rows: int) -> None:
    """Rows take what their parents have read."""
    if any(row != parent for row, parent in parents.items()):
        cache.reorder([parents.get(row, row) for row in range(rows)])
