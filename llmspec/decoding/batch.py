"""Answers side by side: rows of one KV cache, prompts that are read piece by piece between the steps of those that go
on.

Shape letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmspec.compiler.decoding_cost import ROWS
from llmspec.decoding.answer import Answer, Event
from llmspec.decoding.sampler import weigh

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READ = 128
"""Tokens of prompts, padding included, that are read between two steps, so that no answer waits long for the next."""
READ_FIRST = 2048
"""The same where no answer has begun."""
PIECE = 512
"""Tokens of one prompt that are read at once where somebody may stop it, as far as what is made of them is the same."""
LEAST = 16
"""Tokens to which the shortest prompts are padded."""
Notice = Callable[[str], object]
Stopped = Callable[[], bool]


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

    def fit(self, rows: int, tokens: int, kind: str) -> tuple[int, int]:
        """How many rows, up to `rows`, memory holds side by side, and of how many places, at least `tokens`; `kind` is
        what a cache holds."""

    def worth(self, kept: int, tokens: int) -> bool:
        """Whether a row that holds `kept` of a prompt's tokens reads the rest faster than all, with the same logits."""

    def cache(self, rows: int, places: int, kind: str) -> Any:
        """An empty Cache."""

    def prefill(
        self, prompts: Sequence[Sequence[int]], cache: Any, rows: Sequence[int], reuse: bool
    ) -> tuple[Any, NDArray[np.float32]]:
        """Read each prompt into a row of the cache: the cache, and logits (prompts, V) of what follows each.

        With `reuse`, a row that holds the beginning of its prompt goes on from there.
        """

    def step(self, cache: Any, tokens: Sequence[int], active: Sequence[bool]) -> NDArray[np.float32]:
        """Read one more token for each active row, R ids: logits (R, V) of the tokens after them."""


@dataclass
class Row:
    """A row of the cache, and the answer that it is given to."""

    answer: Answer | None = None
    begun: bool = False
    """Whether it has been decided what the answer's prompt goes on from."""
    read: int = 0
    """How many tokens of the prompt were read."""
    prompt: int | None = None
    """The prompt with which all of the row's cache begins, by its index."""

    @property
    def reads(self) -> bool:
        """Whether its prompt is being read."""
        return self.answer is not None and self.begun and self.read < len(self.answer.ids)

    @property
    def goes(self) -> bool:
        """Whether its answer is being drawn."""
        return self.answer is not None and self.begun and self.read >= len(self.answer.ids)


class Batch:
    """Draws answers, each in a row of a cache until it ends; then the next one takes the row.

    What prompts begin with in common is read once, where that saves time: a row that holds it, however far it has come,
    is copied, and a prompt waits for another one that is being read. Where answers are being drawn, no more than READ
    tokens of prompts are read between two of their tokens.
    """

    def __init__(
        self,
        decoder: Decoder,
        answers: Iterator[Answer],
        count: int,
        longest: int,
        rows: int = ROWS,
        notice: Notice | None = None,
        cache: Any = None,
        kind: str = "f32",
        stopped: Stopped | None = None,
    ) -> None:
        """`count` answers, of `longest` tokens at most, prompts included, up to `rows` of them at once. A `cache` that
        is given is used, and what its rows have read is known; another holds what `kind` says. Once `stopped` holds,
        nothing more is read or drawn."""
        self._decoder, self._answers, self._waiting, self._cache, self._kind = decoder, answers, count, cache, kind
        there, self._places = decoder.fit(min(rows, 1 << (count - 1).bit_length()), longest, kind) if count else (0, 0)
        if notice and there < (wanted := min(rows, count)):
            notice(f"memory holds the KV caches of {there} answers at once, not of {wanted}: the others wait")
        self._rows = [Row() for _ in range(there if cache is None else len(cache.read))]
        self._stopped, self._stoppable = stopped or (lambda: False), stopped is not None
        self._after: dict[int, Any] = {}
        """Logits (V,) after prompts that rows hold."""

    def events(self) -> Iterator[tuple[Answer, Event]]:
        """Every token as it is drawn, until all answers have ended."""
        import numpy as np

        if not self._rows or not self._waiting:
            return
        cache = self._cache
        if cache is None:
            cache = self._decoder.cache(len(self._rows), self._places, self._kind)
        while not self._stopped() and (self._waiting or any(row.answer for row in self._rows)):
            going = [row.goes for row in self._rows]
            logits = self._read(cache)
            if any(going):
                tokens = [r.answer.last if r.answer and on else 0 for r, on in zip(self._rows, going, strict=True)]
                stepped_RV = self._decoder.step(cache, tokens, going)
                logits |= {row: stepped_RV[row] for row, on in enumerate(going) if on}
            drawing = [(row, row.answer, logits[n]) for n, row in enumerate(self._rows) if row.answer and n in logits]
            if not drawing or self._stopped():
                continue
            vocab = drawing[0][1].vocab
            logits_RV = np.array([after_V[:vocab] for *_, after_V in drawing], dtype=np.float64)
            for (row, answer, _), logits_V, weighed in zip(drawing, logits_RV, weigh(logits_RV), strict=True):
                event = answer.draw(logits_V, weighed)
                if event.finish_reason:
                    row.answer = None
                yield answer, event

    def _read(self, cache: Any) -> dict[int, Any]:
        """Gives free rows to those that wait, and reads of their prompts what is to be read before the next step;
        logits (V,) after each prompt that is read now."""
        for row in self._rows:
            if row.answer is None and self._waiting:
                row.answer, row.begun, self._waiting = next(self._answers), False, self._waiting - 1
        going, logits = any(row.goes for row in self._rows), dict[int, Any]()
        room, read = READ if going else READ_FIRST, False
        while True:
            logits |= self._begin(cache)
            chosen, room = self._chosen(room, going, must=not read)
            if not chosen or (read and self._stopped()):
                return logits
            read = True
            prompts = [self._ids(row)[:end] for row, end in chosen]
            _, after_BV = self._decoder.prefill(prompts, cache, [row for row, _ in chosen], True)
            for (number, end), after_V in zip(chosen, after_BV, strict=True):
                row = self._rows[number]
                row.read = end
                if row.goes and row.answer:
                    row.prompt = row.answer.prompt
                    logits[number] = self._after[row.prompt] = after_V

    def _chosen(self, room: int, going: bool, must: bool) -> tuple[list[tuple[int, int]], int]:
        """Which rows read their prompts up to which token, the shortest rests first, and how much room is left then.

        Where answers go on (`going`), or it may be stopped, long prompts are read in pieces, if the decoder can. With
        `must`, one is read whatever it takes.
        """
        chosen = list[tuple[int, int]]()
        reading = [number for number, row in enumerate(self._rows) if row.reads]
        for number in sorted(reading, key=lambda n: len(self._ids(n)) - self._rows[n].read):
            ids, read = self._ids(number), self._rows[number].read
            piece = READ if going else PIECE if self._stoppable else len(ids)
            most = piece if self._decoder.worth(len(ids) - 1, len(ids)) else len(ids)
            end = min(len(ids), read + most)
            cost = max(LEAST, 1 << (end - read - 1).bit_length())
            if cost <= room or (must and not chosen):
                chosen.append((number, end))
                room -= cost
        return chosen, room

    def _begin(self, cache: Any) -> dict[int, Any]:
        """Decides what prompts go on from that have not begun; logits (V,) of those that a row has read already."""
        held = {row.prompt: number for number, row in enumerate(self._rows) if row.prompt in self._after}
        reading = [row.answer for row in self._rows if row.reads and row.answer]
        parents, kept, whole = dict[int, int](), dict[int, int](), dict[int, Any]()
        for number, row in enumerate(self._rows):
            if (answer := row.answer) is None or row.begun:
                continue
            if answer.prompt in held:
                parents[number], whole[number] = held[answer.prompt], self._after[answer.prompt]
            elif all(answer.prompt != other.prompt for other in reading):
                parent, there = self._nearest(cache, number, answer.ids)
                if not self._soon(answer.ids, there, reading):
                    parents[number], kept[number] = parent, there
                    reading.append(answer)
        if any(number != parent for number, parent in parents.items()):
            cache.reorder([parents.get(number, number) for number in range(len(self._rows))])
        for number in parents:
            row = self._rows[number]
            assert row.answer is not None
            cache.shorten(number, row.answer.places if number in whole else kept[number])
            row.begun, row.read = True, len(row.answer.ids) if number in whole else kept[number]
            row.prompt = row.answer.prompt if number in whole else None
        prompts = {row.prompt for row in self._rows}
        self._after = {prompt: logits for prompt, logits in self._after.items() if prompt in prompts}
        return whole

    def _nearest(self, cache: Any, number: int, ids: Sequence[int]) -> tuple[int, int]:
        """The row that begins most like this prompt, and how many of its tokens to keep; (this row, 0) for none."""
        found = [min(shared_length(read, ids), len(ids) - 1) for read in cache.read]
        best = max(range(len(found)), key=found.__getitem__)
        return (best, found[best]) if self._decoder.worth(found[best], len(ids)) else (number, 0)

    def _soon(self, ids: Sequence[int], there: int, reading: Sequence[Answer]) -> bool:
        """Whether it saves time to wait for a prompt that is being read, where a row holds `there` tokens already."""
        most = max((min(shared_length(other.ids, ids), len(ids) - 1) for other in reading), default=0)
        return (
            most > there and self._decoder.worth(most, len(ids)) and self._decoder.worth(most - there, len(ids) - there)
        )

    def _ids(self, number: int) -> list[int]:
        """The prompt of a row's answer."""
        answer = self._rows[number].answer
        assert answer is not None
        return answer.ids


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with in common."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # they differ before `high`, and not before `low`
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
