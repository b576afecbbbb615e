"""How fast a model draws text on this machine: what the memory's rate allows, and what was measured before."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from llmspec.backends.workers import ToolchainError
from llmspec.compiler.decoding_cost import weight_bytes
from llmspec.compiler.plan import ModelPlan
from llmspec.core.hashing import digest
from llmspec.core.units import count, size
from llmspec.forecast.machine import RATE
from llmspec.forecast.measurements import Kept, machine_key
from llmspec.parts.base import Frozen

DRAWN = Kept("decoding.json")
ENOUGH = 16
"""Tokens of one text from which on their speed is kept."""


class DecodingSpeed(Frozen):
    """What a token of one text reads, and how fast tokens come."""

    bytes: float
    """Of weights, a token."""
    memory_rate: float | None
    """Bytes of weights a second that this machine reads in a product with one row; None where nobody has measured."""
    measured: float | None
    """Tokens a second, the fastest that this model has drawn on this machine; None where it has drawn none."""

    @property
    def most(self) -> float | None:
        """Tokens a second that the memory's rate allows, of weights that no cache keeps; None where it is not known."""
        return self.memory_rate / self.bytes if self.memory_rate and self.bytes else None

    @property
    def sentence(self) -> str:
        """All of it in words."""
        read = f"a drawn token reads {size(self.bytes)} of weights"
        if self.most is None or self.memory_rate is None:
            return f"{read}; --time says how fast"
        bound = f"at the memory's {self.memory_rate / 1e9:.1f} GB/s that is {count(self.most)} tokens/s"
        share = self.share()
        drawn = f"; {count(self.measured)} were drawn, {share:.0%} of it" if self.measured and share else ""
        return f"{read}: {bound}{drawn}"

    def share(self, tokens_per_second: float | None = None) -> float | None:
        """The share of the memory's rate that a speed uses, the measured one where none is given."""
        speed = tokens_per_second or self.measured
        return speed / self.most if speed and self.most else None


def speed(model: ModelPlan, device: str, types: Mapping[str, str] = MappingProxyType({})) -> DecodingSpeed | None:
    """From what is kept of this machine: nothing is measured. `types` are those of weights in memory, by name. None for
    a model that draws no text."""
    if not model.generates:
        return None
    rate = drawn = None
    if RATE.there() or DRAWN.there():
        try:
            machine = machine_key(device)
            rate, drawn = RATE.number(machine), DRAWN.number(f"{machine}/{_key(model, types)}")
        except ToolchainError:  # a model can be explained where none can be run
            pass
    return DecodingSpeed(bytes=weight_bytes(model, types), memory_rate=rate, measured=drawn)


def remember_speed(model: ModelPlan, device: str, types: Mapping[str, str], tokens: int, seconds: float) -> None:
    """Keeps how fast `tokens` were drawn of one text, where they are ENOUGH and no faster are known."""
    if tokens >= ENOUGH and seconds > 0:
        DRAWN.keep_highest(f"{machine_key(device)}/{_key(model, types)}", tokens / seconds)


def _key(model: ModelPlan, types: Mapping[str, str]) -> str:
    return digest([model.model_dump(mode="json"), sorted(types.items())])
