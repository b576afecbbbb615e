"""`run --certify`: each phase on a short budget, once at a stretch and once stopped and resumed, bit by bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmspec.backends import guest, workers
from llmspec.compiler import Plan, complete
from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import RunError
from llmspec.core.run_names import CERTIFYING
from llmspec.core.units import Budget, Share
from llmspec.data.prepare import PreparedData, prepare
from llmspec.model.device import getting_ready
from llmspec.parts.phases import Phase
from llmspec.parts.schedules.base import Span
from llmspec.runs import checkpoint
from llmspec.runs.certificate import Certificate, PhaseCertificate
from llmspec.runs.files import disk_errors
from llmspec.runs.lock import Lock
from llmspec.runs.run import RunFolder
from llmspec.training import minutes, other_models
from llmspec.training.callbacks import Callback, Step
from llmspec.training.run import resolved, sources_of, train
from llmspec.training.selection import ALL
from llmspec.training.stop import Interrupted, Stop, on_signals

STEPS = 8
"""Of the short budget."""
STOPS = 2
"""How often each phase is stopped."""


def certify(
    plan: Plan,
    out: Path | str,
    *,
    files: Mapping[str, str] | None = None,
    notice: Callable[[str], None] = lambda said: None,
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
    offline: bool = False,
    chance: random.Random | None = None,
) -> Certificate:
    """Trains each phase of a plan for a few steps, stops it at points drawn by `chance`, and writes what came of it
    into the run's folder; what that holds of phases stays as it is. Raises what `run` raises."""
    folder = RunFolder(Path(out))
    with on_signals():
        folder.accept(plan)
        with folder.alone() as notices, getting_ready(plan.device), workers.kept(), guest.visit():
            for said in notices:
                notice(said)
            other_models.download(plan, offline, progress)
            plan = minutes.resolved(other_models.closed(plan, notice), folder, notice)
            whole = prepare(plan, offline=offline, progress=progress)
            full = complete(plan, whole.measured)
            short = shortened(plan)
            prepared = prepare(short, offline=offline, progress=progress)
            short = complete(short, prepared.measured)
            if not (folder.path / "plan.json").exists():
                lock = Lock.of(full, whole.contents, whole.codec.to_json())
                text = whole.codec.to_json()
                folder.begin(full, dict(files or {}), resolved(full), text, sources_of(full), lock)
            found = _certified(folder, full, short, prepared, notice, chance or random.SystemRandom())
            found.write(folder.path)
    return found


def _certified(
    folder: RunFolder,
    full: Plan,
    short: Plan,
    prepared: PreparedData,
    notice: Callable[[str], None],
    chance: random.Random,
) -> Certificate:
    aside = folder.path / CERTIFYING
    _removed(aside)
    try:
        straight, stopped = RunFolder(aside / "straight"), RunFolder(aside / "stopped")
        notice(f"each phase is trained for {STEPS} steps at a stretch")
        _trained(straight, short, prepared, {})
        taken = {p.name: len([r for r in straight.phase(p.name).metrics.read() if "lr" in r]) for p in short.phases}
        points = {name: drawn(steps, chance) for name, steps in taken.items()}
        for name, steps in points.items():
            notice(f"{name} is stopped after step {' and '.join(map(str, steps)) or '0'}, and resumed")
        waiting = {name: list(steps) for name, steps in points.items()}
        for _ in range(sum(map(len, waiting.values())) + 1):
            _trained(stopped, short, prepared, waiting)
        phases = tuple(
            _compared(straight, stopped, planned, full.phase(planned.name).key, taken[planned.name], points)
            for planned in short.phases
        )
    finally:
        _removed(aside)
    lock = Lock.of(full, prepared.contents, prepared.codec.to_json())
    return Certificate(
        device=full.device, products=lock.products, version=lock.packages.get("llmspec", ""), phases=phases
    )


def drawn(steps: int, chance: random.Random) -> tuple[int, ...]:
    """Steps to stop after, before the last."""
    before = range(1, steps)
    return tuple(sorted(chance.sample(before, min(STOPS, len(before)))))


def shortened(plan: Plan) -> Plan:
    """The plan whose phases have a few steps each, in which everything happens that happens in a phase."""
    phases = tuple(p.model_copy(update={"phase": short_phase(p), "steps": STEPS, "exact": False}) for p in plan.phases)
    return plan.model_copy(update={"phases": phases, "prompts": ()})


def short_phase(planned: PhasePlan) -> Phase:
    """The phase for a few steps: spans in steps that would not end become shares."""
    phase = planned.phase
    every = {key: Span(Budget(n, "steps")) for key, n in (("evaluate_every", 2.0), ("sample_every", 3.0))}
    schedule = phase.schedule
    if schedule.warmup.steps(STEPS) >= STEPS:
        schedule = schedule.model_copy(update={"warmup": Span(Share(25.0))})
    asked = {
        "budget": Budget(float(STEPS), "steps"),
        "schedule": schedule,
        "checkpoint_every": Span(Share(0.0)),  # so that it goes on from where it was stopped, and from nowhere else
        # A window that these few steps fill, and spikes that are found in them.
        "on_spike": phase.on_spike and phase.on_spike.model_copy(update={"window": 2, "above": 1.0, "action": "skip"}),
        **{key: span for key, span in every.items() if getattr(phase, key).interval(1 << 40)},
    }
    return phase.model_copy(update=asked)


@dataclass
class _Halting(Callback):
    """Asks to stop after the steps that wait for it."""

    stop: Stop
    waiting: dict[str, list[int]]
    phase: str = ""

    def phase_starts(self, phase: PhasePlan, step: int) -> None:
        self.phase = phase.name

    def stepped(self, step: Step) -> None:
        left = self.waiting.get(self.phase, [])
        if left and step.step >= left[0]:
            left.pop(0)
            self.stop.ask("to see whether it goes on bit for bit")


def _trained(folder: RunFolder, plan: Plan, prepared: PreparedData, waiting: dict[str, list[int]]) -> None:
    """Runs, or goes on, to the next stop that waits, or to the end."""
    stop = Stop()
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        train(folder, plan, prepared, {}, _Halting(stop, waiting), stop, None, ALL)
    except Interrupted:
        if not stop.asked:
            raise


def _compared(
    straight: RunFolder,
    stopped: RunFolder,
    planned: PhasePlan,
    key: str,
    steps: int,
    points: dict[str, tuple[int, ...]],
) -> PhaseCertificate:
    """Every file of the last checkpoints and the rows, byte by byte."""
    places = [run.phase(planned.name) for run in (straight, stopped)]
    newest = [place.checkpoint(planned.key)[0] for place in places]
    if newest[0] is None:
        raise RunError(f"{planned.name} has left no checkpoint to compare")
    compared, differing = 0, []
    for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR, checkpoint.TASK):
        first = _bytes(newest[0].folder / name)
        compared += len(first)
        if newest[1] is None or first != _bytes(newest[1].folder / name):
            differing.append(name)
    for rows in ("metrics.jsonl", "samples.jsonl"):
        one, other = (_bytes(place.folder / rows) for place in places)
        compared += len(one)
        differing += [rows] if one != other else []
    return PhaseCertificate(
        name=planned.name,
        kind=planned.phase.kind,
        key=key,
        steps=steps,
        stopped_after=points[planned.name],
        compared=compared,
        differing=tuple(differing),
    )


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _removed(path: Path) -> None:
    with disk_errors(path):
        if path.exists():
            shutil.rmtree(path)
