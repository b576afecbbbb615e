"""What a phase was to read of a source, and what it has read."""

from __future__ import annotations

from dataclasses import dataclass

COUNTED = ("tokens_read", "tokens_supervised", "tokens_repeated", "documents_dropped", "documents_contaminated")


@dataclass(frozen=True)
class LedgerRow:
    """What a phase was to read of a source and what it has read. Tokens or documents; None: not known."""

    source: str
    share: float
    epochs: float | None
    """Planned."""
    planned: dict[str, int | None]
    actual: dict[str, int | None]
    dropped: dict[str, int] | None
    """Training documents that are not read, by reason."""
    validation_dropped: dict[str, int] | None
    """The same of those kept for validation."""

    @property
    def differences(self) -> tuple[str, ...]:
        """What was counted and is not as planned."""
        return tuple(k for k, n in self.actual.items() if n is not None and self.planned.get(k) not in (None, n))
