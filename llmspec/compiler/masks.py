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
