"""What every phase of a run shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmspec.compiler.plan import Plan
from llmspec.training.callbacks import Callback
from llmspec.training.stop import Stop

if TYPE_CHECKING:
    from llmspec.backends.plain.backend import Backend
    from llmspec.data.prepare import PreparedData


@dataclass
class RunContext:
    """The plan, what was read for it, the device's operations, and who is told."""

    plan: Plan
    prepared: PreparedData
    backend: Backend
    watcher: Callback
    stop: Stop
    restore: Callable[[], None] = lambda: None
    """Writes what stands in the run's folder beside its phases, again."""
