"""Which query may look at which key: one relation, used to build the graph, to draw it and to test it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Mask(NamedTuple):
    """A relation on (query, key) places of a block and their documents.

    `allows` uses only comparison and `&`, so that the same lines serve numpy arrays and graph tensors.
    """

    documents: bool = False
    """Whether a key must belong to the query's document."""

    def allows(self, query: Any, key: Any, query_document: Any = None, key_document: Any = None) -> Any:
        """Broadcasts over its arguments; True where the query may see the key."""
        seen = key <= query
        return seen & (query_document == key_document) if self.documents else seen

    def spans(self, tokens: int, documents_BT: Any = None) -> Any:
        """The relation as keys first … end - 1 of each query: int32 (B or 1, T, 2), a numpy array.

        That is all of the relation, since a document's tokens stand side by side in a block.
        """
        import numpy as np

        place = np.arange(tokens, dtype=np.int32)
        if not self.documents:
            return np.stack([np.zeros_like(place), place + 1], axis=-1)[None]
        begins = np.ones(documents_BT.shape, bool)
        begins[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        first = np.maximum.accumulate(np.where(begins, place, 0), axis=1).astype(np.int32)
        return np.stack([first, np.broadcast_to(place + 1, first.shape)], axis=-1)
