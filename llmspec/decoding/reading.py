"""Texts that are read whole, in batches of like length: what a head of a model says of each.

Shape letters: N texts, B rows of a batch, T tokens, D numbers that the head gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmspec.backends import owner
from llmspec.backends.backend import Graphs
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler.masks import padding_inputs, range_inputs
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError
from llmspec.model.buckets import SHORTEST
from llmspec.model.steps import Tensors
from llmspec.model.transformer import Transformer, block_context, graph_key
from llmspec.parts.ops import WeightLayout
from llmspec.parts.tokenizers.base import Codec

if TYPE_CHECKING:
    import numpy as np

ROWS = (1, 4, 16, 64)
"""How many texts are read at once: few numbers, since each has a graph of its own."""
TOKENS = 1 << 13
"""Tokens of a batch, padding included, at most."""
TEXTS = 1 << 14
"""Texts that are tokenised and sorted by length in one go."""
Progress = Callable[[int, int], None]
"""Told how many texts are done, and of how many."""


@dataclass(frozen=True)
class Embedded:
    """Texts as vectors: what a head says of each."""

    vectors: np.ndarray
    """(N, D) float32."""
    tokens: tuple[int, ...]
    """Of each text, special tokens around it included, as far as it was read."""
    cut: tuple[int, ...]
    """Which texts are longer than is read, by their index: only their beginnings count."""
    longest: int
    """Tokens of a text that are read, at most."""


def longest_read(model: ModelPlan, head: str) -> int:
    """Tokens of a text that a head reads, at most."""
    return min(model.context, getattr(model.heads[head], "max_tokens", None) or model.context)


class Reader:
    """A model and a head that says one thing of a text, with graphs for texts of any length."""

    def __init__(
        self,
        model: ModelPlan,
        head: str,
        backend: Backend,
        weights: Tensors,
        codec: Codec,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
    ) -> None:
        self.head = head
        part: Any = model.heads[head]
        self.longest = longest_read(model, head)
        self._plan, self._backend, self._weights, self._codec = model, backend, weights, codec
        self._model = Transformer(model, layouts)
        self._tables = tensors_from_numpy(**self._model.tables())
        key = graph_key(model, layouts, "read", self.head)
        self._graphs = Graphs(lambda: backend.jit(self._forward, key))
        self.look_at(part)

    def look_at(self, head: Any) -> None:
        """Keeps what this kind of reading has to know of its head."""

    def read(self, texts: Sequence[str], progress: Progress = lambda done, total: None) -> Embedded:
        """What the head says of texts; of each what it is alone, whatever stands beside it, but for rounding.

        Raises DataError for lone surrogates, LlmspecError for a text without tokens.
        """
        import numpy as np

        vectors = np.zeros((len(texts), self._width), np.float32)
        lengths, cut = np.zeros(len(texts), np.int64), list[int]()
        for begin in range(0, len(texts), TEXTS):
            rows, more = self._ids(texts, begin)
            cut += more
            lengths[begin : begin + len(rows)] = [len(row) for row in rows]
            told = lambda done, begin=begin: progress(begin + done, len(texts))
            vectors[begin : begin + len(rows)] = self.read_rows(rows, told)
        return Embedded(vectors, tuple(lengths.tolist()), tuple(cut), self.longest)

    def read_rows(self, rows: Sequence[Sequence[int]], told: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """(N, D) float32 of texts as ids, special tokens around them included; `told` how many are done."""
        import numpy as np

        vectors = np.zeros((len(rows), self._width), np.float32)
        for chosen in batches([len(row) for row in rows], self.longest):
            vectors[chosen] = self._batch([rows[i] for i in chosen])
            told(len(chosen))
        return vectors

    def of_row(self, row: Sequence[int]) -> np.ndarray:
        """(1, D) of a text as ids, or (T, D) where the head says something of each token."""
        found = self._batch([row])[0]
        return found[None] if found.ndim == 1 else found[: len(row)]

    @property
    def _width(self) -> int:
        return self._plan.heads[self.head].outputs(self._plan.dims)

    def _ids(self, texts: Sequence[str], begin: int) -> tuple[list[list[int]], list[int]]:
        """Ids of some texts as the model reads them whole, and which of the texts are cut."""
        special = self._codec.specials
        room = self.longest - len(special.before) - len(special.after)
        if room < 1:
            raise LlmspecError(f"{self.longest} tokens leave no room for a text between its special tokens")
        found, cut = list[list[int]](), list[int]()
        for i, ids in enumerate(self._codec.encode(texts[begin : begin + TEXTS]), begin):
            if len(ids) > room:
                cut.append(i)
            found.append([*special.before, *ids[:room], *special.after])
            if not found[-1]:
                raise LlmspecError(f"text {i + 1} is empty", "leave it out", "it has no token, and so no vector")
        return found, cut

    def _batch(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(B, D) of rows of like length."""
        import numpy as np

        longest = max(map(len, rows))
        tokens = min(self._plan.context, max(SHORTEST, 1 << (longest - 1).bit_length()))
        count = next(n for n in ROWS if n >= len(rows))
        ids, filled = np.zeros((count, tokens), np.int32), np.ones(count, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)], filled[i] = row, len(row)
        seen = (np.arange(tokens) < filled[:, None]).astype(np.int32)
        ranges = range_inputs(self._plan, False, tokens, filled_B=filled)
        ranges = {**ranges, **padding_inputs(self._plan, self._plan.decoder, filled, tokens), "filled": seen}
        with owner.turn():
            inputs = {**tensors_from_numpy(tokens=ids, **ranges), **self._backend.inputs}
            out = self._graphs[count, tokens].array(self._weights, self._tables, inputs)
            return np.array(out[: len(rows)], np.float32)

    def _forward(self, weights: Any, tables: Any, inputs: Any) -> Any:
        ops, context = self._backend.ops(inputs), block_context(inputs)
        tensors = {**weights, **tables}
        hidden = self._model.hidden(ops, tensors, inputs, context)
        return self._model.head(ops, tensors, hidden, self.head, context.filled).contiguous().realize()


R = TypeVar("R", bound=Reader)


@dataclass(frozen=True)
class Reading(Generic[R]):
    """A kind of reading: who reads, the head that it takes, and what is said of a model that has none."""

    reader: Callable[..., R]
    head: Callable[[ModelPlan], str | None]
    """Its name, None where a model has none."""
    lacks: str
    hint: str
    consequence: str

    def found(self, model: ModelPlan, trained: str = "") -> str | None:
        """The name of the head, that which was `trained` last before others; None where there is none."""
        alone = model.model_copy(update={"heads": {n: h for n, h in model.heads.items() if n == trained}})
        return self.head(alone) or self.head(model)

    def need(self, model: ModelPlan, trained: str = "") -> str:
        """The same. Raises LlmspecError where there is none."""
        if (name := self.found(model, trained)) is None:
            raise LlmspecError(self.lacks, hint=self.hint, consequence=self.consequence)
        return name


def batches(lengths: Sequence[int], longest: int) -> Iterator[list[int]]:
    """Indices of texts of like length, so that little of a batch is padding."""
    waiting = sorted(range(len(lengths)), key=lambda i: lengths[i])
    while waiting:
        tokens = max(SHORTEST, 1 << (lengths[waiting[-1]] - 1).bit_length())
        most = next(n for n in reversed(ROWS) if n == 1 or n * tokens <= TOKENS)
        fit = [i for i in waiting[-most:] if 2 * lengths[i] > tokens or tokens == SHORTEST]
        yield fit
        del waiting[-len(fit) :]
