"""`llmspec run`: data, plan, phases in order; what was trained before is taken, what was cut short goes on."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmspec.backends import guest, workers
from llmspec.compiler import Plan, complete, plan_checks, refuse
from llmspec.core import devices
from llmspec.core.hashing import digest
from llmspec.core.problems import Problem, SpecError
from llmspec.data.checks import data_checks
from llmspec.data.notices import notices
from llmspec.data.prepare import PreparedData, prepare
from llmspec.forecast import estimates
from llmspec.forecast.machine import known_peak, peak_flops
from llmspec.model.device import getting_ready, open_device, search
from llmspec.parts.others import StartModel
from llmspec.runs.aside import put_in_place
from llmspec.runs.claim import check_room, checkpoint_bytes
from llmspec.runs.elsewhere import taken_in
from llmspec.runs.lock import Lock, differences, refused
from llmspec.runs.run import RunFolder
from llmspec.runs.trained_with import TrainedWith
from llmspec.training import continuing, minutes, other_models, start_models
from llmspec.training.callbacks import Callback, Shielded, only_noted
from llmspec.training.course import check_course
from llmspec.training.prompts import rehearse
from llmspec.training.selection import ALL, Selection, ancestors, check_ancestors, chosen, elsewhere_of, finished
from llmspec.training.stop import Stop, on_signals

if TYPE_CHECKING:
    from llmspec.compiler.plan import PhasePlan
    from llmspec.training.artifacts import Artifact
    from llmspec.training.context import RunContext


def run(
    plan: Plan,
    out: Path | str,
    *,
    files: Mapping[str, str] | None = None,
    watcher: Callback | None = None,
    offline: bool = False,
    locked: Path | None = None,
    selection: Selection = ALL,
    continue_from: Path | str = "",
) -> RunFolder:
    """Runs a plan's phases into a folder, or goes on where an earlier run of it stopped.

    `files` are the spec's texts by name, kept in the folder. `locked` names a lock, or a run directory with one: any
    difference from it is refused before the folder is touched. `selection` names the phases that run where not all
    do; those that they start from have to be trained. `continue_from` is `last`, or the path of a run, of its phase or
    of a checkpoint, from which phases go on that have changed. Raises DataError, RunError, SpecError, ToolchainError,
    and Interrupted once a stop that was asked for has saved.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"llmspec.run takes a Plan, llmspec.compile(llmspec.load_spec(path).spec), not {type(plan).__name__}"
        )
    if not plan.phases:
        raise SpecError(
            Problem(
                "this spec has no phases: it describes a model that nothing trains",
                ("phases",),
                "add `data:` with its sources, and `phases:` such as `pretrain: {kind: pretrain, mixture: {SOURCE: "
                "100%}, budget: 20M tokens}`; `llmspec new FILES` writes a whole spec",
                "there would be no weights",
            )
        )
    folder = RunFolder(Path(out))
    with on_signals() as stop:
        watcher = Shielded(watcher or Callback(), stop)
        wanted = Lock.read(locked) if locked else None
        # What would end the run late is found before the data are read.
        chosen(plan, selection)
        folder.accept(plan)
        with folder.alone() as notices, getting_ready(plan.device), workers.kept(), guest.visit():
            for notice in notices:
                watcher.notice(notice)
            check_room(folder.path, plan)
            other_models.download(plan, offline, watcher.progress)
            plan = minutes.resolved(other_models.closed(plan, watcher.notice), folder, watcher.notice)
            prepared = prepare(plan, offline=offline, progress=watcher.progress)
            plan, asked = complete(plan, prepared.measured), str(continue_from)
            if asked:
                plan = continuing.resolved(plan, prepared, folder, asked, selection, watcher.notice)
            train(folder, plan, prepared, dict(files or {}), watcher, stop, wanted, selection, asked)
        if stop.broken:
            raise stop.interrupted()
    return folder


def train(
    folder: RunFolder,
    plan: Plan,
    prepared: PreparedData,
    files: dict[str, str],
    watcher: Callback,
    stop: Stop,
    wanted: Lock | None,
    selection: Selection,
    asked: str = "",
) -> None:
    """A complete plan's phases, in a folder that nobody else writes to."""
    checks = (*plan_checks(plan), *data_checks(prepared))
    refuse(checks)
    start_models.same_tokenizer(plan, prepared.codec)
    check_course(plan, prepared)
    notices = rehearse(plan, prepared)
    check_room(folder.path, plan)
    check_ancestors(folder, plan, selection)
    lock = partial(Lock.of, plan, prepared.contents, prepared.codec.to_json())
    if wanted and (found := differences(wanted, lock())):
        raise refused(found)
    bench = set_up(plan, prepared, watcher, stop)
    for notice in notices:
        watcher.notice(notice)
    watcher.notice(f"checked before step 0: {'; '.join(check.name for check in checks if check.holds)}")
    bench.restore = partial(
        folder.begin, plan, files, resolved(plan), prepared.codec.to_json(), sources_of(plan), lock(), checks
    )
    bench.restore()
    promises = estimates.expected(plan)
    watcher.expected(promises, known_peak(plan.device))
    watcher.planned(plan, folder.path)
    run_phases(bench, folder, promises, selection, asked)
    # Only now, since measuring would have delayed the start.
    with only_noted(watcher, "this machine's peak could not be measured"):
        folder.note_facts(peak_flops=peak_flops(plan.device))


def set_up(plan: Plan, prepared: PreparedData, watcher: Callback, stop: Stop) -> RunContext:
    """The device, the operations on it, and notices about both."""
    for said in notices(prepared):
        watcher.notice(said)
    search.say = watcher.notice
    open_device(plan.device, plan.beam)
    from llmspec.backends.backend import backend
    from llmspec.model.completeness import assert_complete
    from llmspec.model.transformer import Transformer
    from llmspec.training.context import RunContext

    for i, planned in enumerate(plan.phases):
        if planned.model not in [p.model for p in plan.phases[:i]]:  # phases mostly share one
            assert_complete(Transformer(planned.model))
    bench = RunContext(plan, prepared, backend(plan.device, precision=plan.precision), watcher, stop)
    if plan.device.startswith("CPU") and bench.backend.name.startswith("plain"):
        watcher.notice(f"matrix multiplication runs in plain tinygrad, many times slower: {bench.backend.name}")
    for said in (*devices.remarks(), *others_at_work()):
        watcher.notice(said)
    return bench


def run_phases(
    bench: Any,
    folder: RunFolder,
    promises: Mapping[str, estimates.Forecast],
    selection: Selection = ALL,
    asked: str = "",
) -> None:
    """The phases that are asked for, and those that they start from, in the plan's order, each from the weights of the
    one it names."""
    from llmspec.training import answers
    from llmspec.training.artifacts import Artifact, start_weights
    from llmspec.training.engine import Engine

    made: dict[str, Artifact] = {}
    names = chosen(bench.plan, selection)
    names += ancestors(bench.plan, names)
    if left := [p.name for p in bench.plan.phases if p.name not in names]:
        bench.watcher.notice(
            f"{selection.said}: {', '.join(left)} {'stays as it is' if len(left) == 1 else 'stay as they are'}"
        )
    for phase in (p for p in bench.plan.phases if p.name in names):
        if bench.stop.asked:
            raise bench.stop.interrupted()
        place = folder.phase(phase.name)
        begun = continuing.begun(phase, folder, asked)  # before what it goes on from is moved
        if said := moves(phase.name, *put_in_place(place, phase.key)):
            bench.watcher.notice(said)
        other = elsewhere_of(folder, bench.plan, phase) if selection.reuse and not place.folder.exists() else None
        if said := taken_in(place, other):
            bench.watcher.notice(said)
        parent = started_from(bench.plan, phase, made)
        if finished(place, phase, checkpoint_bytes(bench.plan, phase)[1]):
            bench.watcher.reused(phase)
            made[phase.name] = Artifact.kept(phase, place, parent)
            answers.keep(bench, place, made[phase.name])
            continue
        promise = promises.get(phase.name)
        went_on = phase.continued
        estimate = promise.model_dump(mode="json") if promise else None
        if estimate and went_on and phase.steps:  # the steps that are left
            left = 1 - went_on.first / phase.steps
            estimate |= {name: estimate[name] * left for name in ("steps", "validation", "samples")}
        # A phase that goes on was promised as a whole when it began.
        place.note(key=phase.key, done=False, promise=place.about.get("promise", estimate))
        if went_on:
            place.note(continued=went_on.model_dump(mode="json"))
        TrainedWith.of(
            bench.plan, phase, digest(bench.prepared.codec.to_json()), bench.prepared.measured.fingerprints[phase.name]
        ).write(place)
        others = other_models.weights(bench.plan, phase, {name: one.weights for name, one in made.items()})
        # Nobody else keeps what it starts with, which the trainer has copied once it is there.
        engine = Engine(bench, phase, place, start_weights(phase.model, bench.plan.seed, parent), others, begun)
        del begun
        made[phase.name] = Artifact.trained(phase, engine.run(), parent)
        del engine
        gc.collect()  # a phase's graphs hold each other, and with them all its memory
        answers.keep(bench, place, made[phase.name])
    if search.kernels:
        bench.watcher.notice(search.told())


def started_from(plan: Plan, phase: PhasePlan, made: Mapping[str, Artifact]) -> Artifact | None:
    """What a phase starts from: what another has made, or a model that was there before; None where it starts anew."""
    from llmspec.training.artifacts import Artifact

    first = phase.phase.from_
    if isinstance(first, StartModel):
        return Artifact(phase, partial(start_models.weights_of, plan, first, phase.model.adapter is not None))
    return made.get(phase.phase.parent)


def moves(name: str, moved: Path | None, back: Path | None) -> str:
    """What `put_in_place` did to a phase's folder, for people; '' for nothing."""
    kept = f"what was trained with other settings is kept in {moved}" if moved else ""
    if back:
        return f"{name} was trained with these settings before: it is restored from {back}" + (
            f"; {kept}" if kept else ""
        )
    return f"{name} has changed: {kept}" if kept else ""


def others_at_work() -> list[str]:
    """A notice where other processes keep the cores busy; none where they do not, or the system does not say."""
    import os

    load, cores = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0), os.cpu_count() or 1
    if load < 0.75 * cores:
        return []
    return [f"other processes are running (load {load:.1f} on {cores} cores): they slow this run down"]


def resolved(plan: Plan) -> str:
    """The plan's settings as one YAML text, every default written out."""
    import yaml

    return yaml.safe_dump(plan.settings(), sort_keys=False, allow_unicode=True, width=120)


def sources_of(plan: Plan) -> dict[str, Any]:
    """sources.json: licence, attribution and size of each source."""
    return {
        s.name: {
            "kind": s.source.kind,
            "license": s.source.license,
            "attribution": s.source.attribution,
            "documents": s.documents,
            "tokens": s.train_tokens,
        }
        for s in plan.sources
    }
