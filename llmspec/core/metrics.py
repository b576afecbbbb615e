"""What is measured of a model as it trains: a number with its name, its unit and what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Metric:
    """One number. `loss` in nats/token and `loss` in nats/character are two metrics of one name."""

    name: str
    value: float
    unit: str = ""
    """What one of it is, such as `nats/token`; '' for a plain number."""
    source: str = ""
    """The validation source it was measured on; '' where it is of no single one."""
    better: Better = ""
    """Which direction is progress; '' where it only counts something."""

    @property
    def label(self) -> str:
        """Name and unit for a table; the unit alone says enough of a loss."""
        if self.name == "loss" and self.unit:
            return self.unit
        return f"{self.name} ({self.unit})" if self.unit and self.unit != self.name else self.name

    @property
    def shown(self) -> str:
        """The value for people: four places after the point, or four digits of what is larger; counts as they are."""
        if not self.better and self.value == int(self.value):
            return f"{int(self.value):,}"
        return f"{self.value:.4f}" if abs(self.value) < 10 else f"{self.value:.4g}"

    def of(self, source: str) -> Metric:
        """The same, measured on a source."""
        return replace(self, source=source)

    def dump(self) -> dict[str, Any]:
        """JSON-able form, without what is empty."""
        return {k: v for k, v in vars(self).items() if v != ""}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Metric:
        """The metric that `dump` wrote."""
        known = {k: v for k, v in saved.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "value": float(saved["value"])})
