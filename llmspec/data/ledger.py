"""What a phase has really read, source by source, to be held against its plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmspec.core.problems import RunError

if TYPE_CHECKING:
    from llmspec.compiler.plan import SharePlan
    from llmspec.data.layout import Batch

COUNTED = ("blocks", "tokens_read", "tokens_supervised", "tokens_repeated")
DOCUMENTS = ("documents_dropped", "documents_contaminated")


class Ledger:
    """Counts per source, added up from the batches themselves, and a hash over every token in the order of reading."""

    def __init__(self, dropped: Mapping[str, int], contaminated: Mapping[str, int] | None = None) -> None:
        """`dropped`: source -> documents that its layout could not use, in the order of the stream's sources;
        `contaminated`: documents that are also in validation."""
        self.counts: dict[str, dict[str, int]] = {
            source: {
                **dict.fromkeys(COUNTED, 0),
                "documents_dropped": n,
                "documents_contaminated": (contaminated or {}).get(source, 0),
            }
            for source, n in dropped.items()
        }
        self.order = ""
        """sha256 (hex) over tokens, targets and weights so far: equal only where the order of reading was."""

    def add(self, batch: Batch) -> None:
        """Count one batch that was trained on."""
        import numpy as np

        n = len(self.counts)
        supervised = np.count_nonzero(batch.weights, axis=1)
        columns = (np.ones_like(batch.filled), batch.read, supervised, batch.repeated)
        for name, column in zip(COUNTED, columns, strict=True):
            sums = np.bincount(batch.source, column, n)
            for source, found in zip(self.counts.values(), sums.tolist(), strict=True):
                source[name] += int(found)
        link = hashlib.sha256(self.order.encode())
        read = () if batch.encoder_tokens is None else (batch.encoder_tokens,)
        for array in (
            batch.tokens,
            batch.targets,
            batch.weights,
            *read,
            *(a for a in batch.labels or () if a is not None),
        ):
            link.update(np.ascontiguousarray(array).data)
        self.order = link.hexdigest()

    def dump(self) -> dict[str, Any]:
        """JSON-able state, for checkpoints."""
        return {"counts": {source: dict(found) for source, found in self.counts.items()}, "order": self.order}

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Ledger:
        """The ledger that `dump` wrote. Raises RunError where it is none."""
        try:
            kept = [{source: int(found[name]) for source, found in saved["counts"].items()} for name in DOCUMENTS]
            ledger = cls(*kept)
            for source, found in saved["counts"].items():
                ledger.counts[source].update({name: int(found[name]) for name in COUNTED})
            ledger.order = str(saved["order"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RunError("the saved ledger cannot be read", "continue from an earlier checkpoint") from None
        return ledger

    def rows(self) -> list[dict[str, Any]]:
        """One row a source: its blocks, tokens and documents under the names of COUNTED and DOCUMENTS."""
        return [{"source": source, **found} for source, found in self.counts.items()]

    def differences(self, planned: Sequence[SharePlan]) -> list[str]:
        """Where what was read is not what was planned, in words; empty after a whole phase."""
        out = []
        for share in planned:
            found = self.counts.get(share.source, dict.fromkeys((*COUNTED, *DOCUMENTS), 0))
            for name in found:
                if (plan := getattr(share, name)) is not None and plan != found[name]:
                    out.append(f"{share.source}: {name.replace('_', ' ')} {found[name]:,}, planned {plan:,}")
        return out
