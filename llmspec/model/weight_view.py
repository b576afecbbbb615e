"""A model's tensors as its parts read them: by relative names, and linear layers as records."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tinygrad import Tensor

from llmspec.parts.adapters import Adapter
from llmspec.parts.ops import Linear, WeightLayout


class Weights(Mapping[str, Tensor]):
    """Tensors under a prefix, by relative name; notes every name that is read."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        prefix: str = "",
        read: set[str] | None = None,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
        frozen: frozenset[str] = frozenset(),
        adapter: Adapter | None = None,
    ) -> None:
        self._tensors, self._prefix, self._layouts = tensors, prefix, layouts
        self._frozen, self._adapter = frozen, adapter
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, name: str) -> Tensor:
        full = self._prefix + name
        self.read.add(full)
        return self._tensors[full]

    def __iter__(self) -> Any:
        return (n[len(self._prefix) :] for n in self._tensors if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def linear(self, name: str) -> Linear:
        """The linear layer of that name: its weight, its bias and its adapter if there are any."""
        at = f"{name}." if name else ""
        bias, full = f"{at}bias", f"{self._prefix}{at}weight"
        found = self[bias] if self._prefix + bias in self._tensors else None
        layer = Linear(self[f"{at}weight"], found, self._layouts.get(full), full in self._frozen)
        if self._adapter is None or not self._adapter.among(full, self._tensors):
            return layer
        return layer._replace(adapter=self._adapter.build(self.under(name)))

    def fresh(self) -> Weights:
        """The same, with nothing read."""
        return Weights(self._tensors, self._prefix, set(), self._layouts, self._frozen, self._adapter)

    def under(self, name: str) -> Weights:
        below = f"{self._prefix}{name}."
        return Weights(self._tensors, below, self.read, self._layouts, self._frozen, self._adapter)
