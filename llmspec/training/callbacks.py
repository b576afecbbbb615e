"""What a run tells whoever watches. The default watcher says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.metrics import Metric
from llmspec.core.problems import LlmspecError
from llmspec.training.stop import Stop

if TYPE_CHECKING:
    from llmspec.forecast.estimates import Forecast


@dataclass(frozen=True)
class Step:
    """One optimizer step. `metrics` are its numbers by name and unit, what is minimised first; `tokens` read,
    `seconds` wall time of the step, `flops` of its products; `skipped` steps so far whose update was not applied."""

    step: int
    steps: int
    metrics: tuple[Metric, ...]
    lr: float
    norm: float
    tokens: int
    seconds: float
    flops: float = 0.0
    skipped: int = 0

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.metrics[0].value


class Callback:
    """Override what you want to hear of."""

    def notice(self, text: str) -> None:
        """Something a person should know."""

    def progress(self, what: str, done: float, total: float) -> None:
        """Preparation: bytes, documents or tokens done of a total (0 if unknown)."""

    def expected(self, forecasts: Mapping[str, Forecast], peak_flops: float | None) -> None:
        """What phases are expected to take, and this machine's fastest product in FLOPs a second, as far as known."""

    def planned(self, plan: Plan, folder: Path) -> None:
        """The plan is complete and its folder written."""

    def reused(self, phase: PhasePlan) -> None:
        """This very phase was trained before; its weights are taken."""

    def phase_starts(self, phase: PhasePlan, step: int) -> None:
        """A phase starts, or goes on after `step`."""

    def stepped(self, step: Step) -> None:
        """A step was taken."""

    def validated(self, step: int, metrics: list[Metric]) -> None:
        """The validation sets were read once; of each source, what says how good the model is comes first."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """A sample of text was drawn."""

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint was written."""

    def phase_ends(self, phase: PhasePlan, ledger: list[dict[str, Any]]) -> None:
        """A phase is done; what it read, by source."""


class Shielded(Callback):
    """Passes everything on to another watcher; where that cannot write its output, the run saves and ends.

    A closed terminal, a pipe that nobody reads any more and a full disk behind it cost no step that was taken.
    """

    def __init__(self, inner: Callback, stop: Stop) -> None:
        def guarded(method: Callable[..., None]) -> Callable[..., None]:
            def told(*given: Any) -> None:
                if stop.broken:
                    return
                try:
                    method(*given)
                except (OSError, ValueError) as e:
                    if isinstance(e, ValueError) and "closed file" not in str(e):
                        raise
                    stop.broken, stop.status = True, 141 if isinstance(e, BrokenPipeError) else 2
                    stop.ask(f"its output could not be written: {getattr(e, 'strerror', None) or e}")
                    if not stop.unsaved:
                        raise stop.interrupted() from e

            return told

        for name in [n for n in vars(Callback) if not n.startswith("_")]:
            setattr(self, name, guarded(getattr(inner, name)))


@contextmanager
def only_noted(watcher: Callback, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is told, and ends nothing: for what a run is not made for."""
    try:
        yield
    except Exception as e:
        said = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
        watcher.notice(f"{what} ({said})")


@dataclass
class Recorder(Callback):
    """Keeps what it is told: for tests and notebooks."""

    steps: list[Step] = field(default_factory=list)
    metrics: list[tuple[int, list[Metric]]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def stepped(self, step: Step) -> None:
        self.steps.append(step)

    def validated(self, step: int, metrics: list[Metric]) -> None:
        self.metrics.append((step, metrics))

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def sampled(self, step: int, prompt: str, text: str) -> None:
        self.samples.append(text)

    def phase_starts(self, phase: PhasePlan, step: int) -> None:
        self.phases.append(phase.name)

    def reused(self, phase: PhasePlan) -> None:
        self.taken.append(phase.name)
