"""The KV cache: keys and values of what rows have read, each row at a position of its own.

Shape letters: R rows, S places of a row, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad import Tensor

from llmspec.backends import owner
from llmspec.backends.tensors import memory, tensors_from_numpy
from llmspec.model.ids import whole
from llmspec.model.steps import Tensors

CROSS = "cross_"
"""What the names of tensors begin with that hold keys and values of an encoder's states."""
SCALES = ".scales"
"""What the names of tensors end with that hold the scales of others."""
KINDS = {"f32": "float32", "f16": "float16", "q8_0": "int8"}
"""What a cache may hold, and numpy's type of its numbers."""


class KVCache:
    """Keys and values (R, S, K, d) of each layer, and of an encoder's states, rounded to what `kind` says. A Decoder
    fills it; it goes with its owner.

    Several caches of one decoder do not know of each other. Each is used by one thread at a time.
    """

    def __init__(self, tensors: Tensors, rows: int, places: int, model: str, kind: str = "f32") -> None:
        self.tensors, self.rows, self.places, self.model, self.kind = tensors, rows, places, model, kind
        self.read: list[list[int]] = [[] for _ in range(rows)]
        """The tokens that each row has read; what lies beyond them in the tensors is nobody's."""
        self.sources: list[list[int]] = [[] for _ in range(rows)]
        """The tokens of the text that an encoder has read for each row; of a model without one, none."""

    def __del__(self) -> None:
        owner.drop(self.tensors)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has read: its position."""
        return [len(tokens) for tokens in self.read]

    def shorten(self, row: int, length: int) -> None:
        """Forgets what a row has read beyond `length` tokens."""
        del self.read[row][length:]

    def reorder(self, parents: Sequence[int]) -> None:
        """Each row r goes on from what row parents[r] has read: for beams, and for several answers to one prompt.

        Raises ValueError where `parents` does not name a row for each row.
        """
        parents = [whole("a parent", p, 0, self.rows - 1) for p in parents]
        if len(parents) != self.rows:
            raise ValueError(f"a cache of {self.rows} rows has as many parents, not {len(parents)}")
        moved = [row for row, parent in enumerate(parents) if row != parent]
        with owner.turn():
            for name, tensor in self.tensors.items():
                held = self.sources if name.startswith(CROSS) else self.read
                if longest := max((len(held[parents[row]]) for row in moved), default=0):
                    _reorder(tensor, parents, moved, longest)
        self.read = [list(self.read[p]) for p in parents]
        self.sources = [list(self.sources[p]) for p in parents]


def _reorder(tensor: Tensor, parents: list[int], moved: list[int], longest: int) -> None:
    """Rows of a tensor take their parents' first `longest` places."""
    import numpy as np

    held = memory(tensor)
    if held is None:
        index = tensors_from_numpy(parents=np.array(parents, np.int32))["parents"].to(tensor.device)
        tensor.assign(tensor[index].contiguous()).realize()
    else:
        held[moved, :longest] = held[[parents[row] for row in moved], :longest]
