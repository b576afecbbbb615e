"""The peak of a phase in bytes, item by item, as a plan holds it."""

from __future__ import annotations

from llmspec.parts.base import Frozen


class MemoryPlan(Frozen):
    """What one device holds when a phase holds most. Unit: bytes."""

    weights: int
    optimizer: int
    """State of the optimizer."""
    sums: int
    """Gradients summed over the passes of a step; 0 where a step has one pass."""
    batch: int
    """Inputs of a step, and tables of positions."""
    activations: int
    """What the forward pass keeps for the backward pass, and what a block works with."""
    logits: int
    gradients: int
    """Those held at the peak, when activations may not have made room for all of them yet."""
    evaluation: int
    """What validation works with; a captured step keeps its place."""
    decoding: int
    """The cache of keys and values that samples are drawn with."""
    others: int = 0
    """Weights of the models that stand beside the trained one."""
    moment: str
    """When a step holds most."""

    @property
    def items(self) -> dict[str, int]:
        """The parts of the peak by name, largest first."""
        named = {k: v for k, v in self if isinstance(v, int) and v}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    @property
    def peak(self) -> int:
        """All of them together."""
        return sum(self.items.values())
