"""Steps whose loss is far above those of the steps before them: found out before their update is applied."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from llmspec.core.problems import RunError
from llmspec.parts.phases.course import OnSpike

IN_A_ROW = 10
"""Skipped steps after which a phase stops: the weights stay as they are between them, so that it is not the batch."""


class Spikes:
    """Judges the loss of each step before its update. All of it lies in every checkpoint."""

    def __init__(self, asked: OnSpike | None) -> None:
        self.asked = asked
        self.losses: deque[float] = deque(maxlen=asked.window if asked else 1)
        """Of the last steps that were applied."""
        self.skipped, self.row = 0, 0
        """Steps that were skipped, in all and since the last that was applied."""

    def why(self, loss: float) -> str:
        """Why the update of a step with this loss is not to be applied; '' where it is."""
        if self.asked is None:
            return ""
        if not math.isfinite(loss):  # which ends the run by itself, unless the step is skipped
            return f"its loss is {loss}" if self.asked.action == "skip" else ""
        if len(self.losses) < self.asked.window:
            return ""
        mean = math.fsum(self.losses) / len(self.losses)
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in self.losses) / len(self.losses))
        if not spread or loss - mean <= self.asked.above * spread:
            return ""
        return (
            f"its loss {loss:.4g} is {(loss - mean) / spread:.1f} standard deviations above {mean:.4g}, the mean of "
            f"the last {len(self.losses)} steps"
        )

    def stops(self) -> bool:
        """Whether one more spike ends the run."""
        return self.asked is not None and (self.asked.action == "stop" or self.row + 1 >= IN_A_ROW)

    def taken(self, loss: float, skipped: bool) -> None:
        """Counts a step."""
        if self.asked is None:
            return
        if skipped:
            self.skipped, self.row = self.skipped + 1, self.row + 1
        else:
            self.losses.append(loss)
            self.row = 0

    def dump(self) -> dict[str, Any]:
        """JSON-able form; empty where nothing is asked for."""
        if self.asked is None:
            return {}
        return {"spikes": {"losses": list(self.losses), "skipped": self.skipped, "row": self.row}}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `dump` gave. Raises RunError where it is damaged."""
        if self.asked is None:
            return
        found = saved.get("spikes")
        found = found if isinstance(found, dict) else {}
        losses, counts = found.get("losses"), [found.get(key) for key in ("skipped", "row")]
        if not isinstance(losses, list) or not all(isinstance(x, float) and math.isfinite(x) for x in losses):
            raise RunError("what it says of the losses before it is damaged", hint="remove it")
        if not all(type(n) is int and n >= 0 for n in counts):
            raise RunError("what it says of skipped steps is damaged", hint="remove it")
        self.losses.clear()
        self.losses.extend(losses)
        self.skipped, self.row = found["skipped"], found["row"]
