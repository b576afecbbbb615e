"""Constants of the positions, made as far as somebody reads.

A model of 32,768 places whose heads are 256 wide has 64 MiB of cosines and sines for each base of its angles, of which
a text of 300 tokens reads a hundredth.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmspec.backends import owner
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import Settled, memory, refill, tensors_from_numpy
from llmspec.parts.base import Dims
from llmspec.parts.positions import Position
from llmspec.parts.positions.base import STRETCH


class PositionTables:
    """The tables of a model's positions by full name, `tensors`: inputs of every step, never trained. Their shapes are
    those of the whole context; rows that nobody has asked `reach` for may be 0 still."""

    def __init__(self, positions: Mapping[str, tuple[Position, Dims]], backend: Backend) -> None:
        """`positions` are a Transformer's."""
        with owner.turn():
            self._made, self._rows = 0, dict[str, tuple[Position, Dims, dict[str, str]]]()
            whole, shapes = dict[str, object](), dict[str, tuple[tuple[int, ...], str]]()
            for name, (part, dims) in positions.items():
                if none := part.table_rows(dims, 0, 0):
                    self._rows[name] = part, dims, {key: f"{name}.{key}" for key in none}
                    shapes |= {f"{name}.{k}": ((dims.context, *v.shape[1:]), v.dtype.name) for k, v in none.items()}
                else:
                    whole |= {f"{name}.{key}": table for key, table in part.tables(dims).items()}
            self.tensors = Settled({**tensors_from_numpy(**whole), **backend.zeros(shapes)})
            if any(memory(self.tensors[name]) is None for name in shapes):  # another device's: all at once
                for part, dims, names in self._rows.values():
                    for key, table in part.tables(dims).items():
                        refill(self.tensors[names[key]], table)
                self._rows.clear()

    def reach(self, count: int) -> None:
        """Makes what positions below `count` read."""
        if count <= self._made:
            return
        begin, self._made = self._made, -(-count // STRETCH) * STRETCH
        with owner.turn():
            for part, dims, names in self._rows.values():
                rows = slice(min(begin, dims.context), min(self._made, dims.context))
                for key, table in part.table_rows(dims, rows.start, rows.stop).items():
                    memory(self.tensors[names[key]])[rows] = table
