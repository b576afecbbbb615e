"""`run --continue-from`: phases that go on from a checkpoint of other settings instead of from nothing.

Which checkpoint it was is part of the phase's key (llmspec/compiler/continued.py); what will not be equal to a run from
the beginning is said, and kept in the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from llmspec.compiler import Plan, complete
from llmspec.compiler.continued import Continued
from llmspec.compiler.plan import PhasePlan
from llmspec.core import run_names
from llmspec.core.disk import explained, reading
from llmspec.core.hashing import digest
from llmspec.core.problems import Problem, RunError, nearest
from llmspec.core.visible import command
from llmspec.data.prepare import PreparedData
from llmspec.model.steps import state_shapes
from llmspec.runs import aside, checkpoint, tensors
from llmspec.runs.checkpoint import Checkpoint, Damaged
from llmspec.runs.files import read_json
from llmspec.runs.run import PhaseFolder, RunFolder
from llmspec.runs.trained_with import TrainedWith
from llmspec.training import unequal
from llmspec.training.selection import Selection, chosen, found

LAST = "last"
"""Asks for the newest checkpoint that the run itself has of a phase, whatever its settings were."""
NAMED = 4
"""Tensors that are named, at most."""


class Begun(NamedTuple):
    """What a phase begins with that goes on from other settings."""

    weights: dict[str, Any]
    state: dict[str, Any] | None
    """Of the optimizer; None where it starts anew."""


class Origin(NamedTuple):
    """A checkpoint that a phase might go on from."""

    place: PhaseFolder
    saved: Checkpoint


def resolved(
    plan: Plan,
    prepared: PreparedData,
    folder: RunFolder,
    asked: str,
    selection: Selection,
    notice: Callable[[str], object] = lambda said: None,
) -> Plan:
    """The complete plan whose phases know what they go on from: those whose weights are not there yet, and whose start
    has not changed. `asked` is LAST, or the path of a run, of its phase, or of a checkpoint.

    Raises RunError where there is nothing to go on from, or where it does not fit; everything that is wrong at once.
    """
    problems, anew, taken = list[Problem](), set[str](), 0
    check_path(plan, asked)
    for name in chosen(plan, selection):
        planned = plan.phase(name)
        there = found(folder, plan, planned, selection.reuse)
        if there.state != "nothing":
            anew |= {name} if there.state == "begun" else set()
            taken += 1
            continue
        if again := before(plan, prepared, folder.phase(name)) if asked == LAST else None:
            plan, taken = again, taken + 1
            anew.add(name)
            continue
        origin = None if set(planned.phase.needs) & anew else newest(origins(asked, folder, name))
        anew.add(name)
        if origin is None:
            why = "what it starts from is trained anew" if set(planned.phase.needs) & anew else "there is nothing of it"
            notice(f"{name} does not go on from anything: {why}")
            continue
        went_on, wrong = held_against(plan, planned, prepared, origin)
        problems += [p.at("phases", name) for p in wrong]
        if went_on is not None:
            plan, taken = with_continued(plan, prepared, name, went_on), taken + 1
            for said in (f"it goes on from {origin.saved.folder}", *went_on.said):
                notice(f"{name}: {said}")
    if problems:
        raise RunError(Problem(p.message, hint=p.hint, consequence=p.consequence) for p in problems)
    if not taken:
        raise RunError(
            f"there is no checkpoint to go on from in {folder.path if asked == LAST else asked}",
            hint="leave --continue-from out, which trains from the beginning",
            consequence="nothing would go on",
        )
    return plan


def with_continued(plan: Plan, prepared: PreparedData, name: str, went_on: Continued) -> Plan:
    """The plan in which a phase goes on from something, with the keys that follow from that."""
    phases = (p.model_copy(update={"continued": went_on}) if p.name == name else p for p in plan.phases)
    return complete(plan.model_copy(update={"phases": tuple(phases)}), prepared.measured)


def before(plan: Plan, prepared: PreparedData, place: PhaseFolder) -> Plan | None:
    """The plan in which a phase is what it was when it went on earlier with these very settings; None where it never
    did."""
    for kept in (place, *aside.kept_aside(place)):
        about = kept.about
        try:
            went_on = Continued.model_validate_json(json.dumps(about.get("continued")))
        except ValidationError:
            continue
        trial = with_continued(plan, prepared, place.folder.name, went_on)
        if trial.phase(place.folder.name).key == about.get("key"):
            return trial
    return None


# -- where it may be -------------------------------------------------------------------------------------------------
def check_path(plan: Plan, asked: str) -> None:
    """Raises RunError for a path that is neither a run, nor a phase of one, nor a checkpoint of a phase of the plan."""
    path = Path(asked)
    if asked == LAST or (path / "plan.json").is_file():
        return
    place = phase_of(path)
    if place is None:
        raise RunError(
            f"{asked} is no run, no phase of a run, and no checkpoint",
            hint=f"--continue-from {LAST}, or a folder such as runs/NAME or runs/NAME/PHASE/step_100",
            consequence="there would be nothing to go on from",
        )
    names = [p.name for p in plan.phases]
    if not any(of_phase(place, name) for name in names):
        near = nearest(place.name, names)
        raise RunError(
            f"{asked} is of a phase {place.name}, which this spec has not",
            hint=f"did you mean the phase `{near}`?" if near else f"it has {', '.join(names)}",
            consequence="no phase would go on from it",
        )


def phase_of(path: Path) -> Path | None:
    """The folder of a phase that a path means, or lies in; None where it is none."""
    folder = path.parent if (path / checkpoint.CURSOR).is_file() else path
    return folder if (folder / "phase.json").is_file() else None


def of_phase(folder: Path, name: str) -> bool:
    """Whether a folder is that of a phase, in its place or set aside."""
    return folder.name == name or run_names.is_aside(folder.name, name)


def origins(asked: str, folder: RunFolder, name: str) -> Iterator[Origin]:
    """The newest sound checkpoint of each folder that may be meant, or the very one that is."""
    path = Path(asked)
    if asked != LAST and (path / checkpoint.CURSOR).is_file():
        if of_phase(path.parent, name):
            yield Origin(PhaseFolder(path.parent), sound(path))
        return
    place = folder.phase(name)
    if asked == LAST:
        places = [place, *aside.kept_aside(place)]
    elif (path / "plan.json").is_file():
        places = [RunFolder(path).phase(name)]
    else:
        places = [PhaseFolder(path)] if of_phase(path, name) else []
    for one in places:
        saved = one.checkpoint(str(one.about.get("key") or ""))[0] if one.about else None
        if saved is not None and saved.step > 0:
            yield Origin(one, saved)


def sound(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises RunError where it is damaged."""
    number = path.name.removeprefix("step_")
    saved = Checkpoint(path, int(number) if number.isascii() and number.isdigit() else 0)
    try:
        saved.belongs("")
        saved.check()
    except Damaged as e:
        raise RunError(f"{path} is damaged: {e}", hint="name another checkpoint") from None
    return saved


def newest(origins: Iterator[Origin]) -> Origin | None:
    """The one that was written last; None where there is none."""
    written = [(os.stat(o.saved.folder / checkpoint.MANIFEST).st_mtime_ns, -i, o) for i, o in enumerate(origins)]
    return max(written)[2] if written else None


def begun(planned: PhasePlan, folder: RunFolder, asked: str) -> Begun | None:
    """What a phase begins with that goes on from other settings; None where it does not, or has a checkpoint of its
    own. Raises RunError where what it goes on from is not there any more."""
    went_on, place = planned.continued, folder.phase(planned.name)
    if went_on is None or found_own(place, planned.key):
        return None
    every = [place, *aside.kept_aside(place)] if asked in ("", LAST) else places_below(Path(asked), planned.name)
    for one in every:
        saved = Checkpoint(one.folder / f"step_{went_on.step}", went_on.step)
        if (saved.folder / checkpoint.MANIFEST).is_file() and digest_of(saved) == went_on.digest:
            weights = saved.weights({t.name: t.shape for t in planned.model.stored})
            state = saved.state(state_shapes(planned.model, planned.phase)) if went_on.state else None
            return Begun(weights, state)
    raise RunError(
        f"step {went_on.step:,} of {went_on.key[:8]}, from which {planned.name} goes on, is not there any more",
        hint=f"put it back, or run without --continue-from: {command('run')} SPEC",
        consequence="it would begin with other weights",
    )


def places_below(path: Path, name: str) -> list[PhaseFolder]:
    """The folder of a phase that a path means."""
    return [RunFolder(path).phase(name)] if (path / "plan.json").is_file() else [PhaseFolder(phase_of(path) or path)]


def found_own(place: PhaseFolder, key: str) -> bool:
    """Whether there is a checkpoint of these very settings, in its place or set aside."""
    kept = (one for one in (place, *aside.kept_aside(place)) if one.about.get("key") == key)
    return any(one.checkpoint(key)[0] is not None for one in kept)


def digest_of(saved: Checkpoint) -> str:
    """Hash of a checkpoint's files."""
    return digest(read_json(saved.folder / checkpoint.MANIFEST))


# -- whether it fits -------------------------------------------------------------------------------------------------
def held_against(
    plan: Plan, planned: PhasePlan, prepared: PreparedData, origin: Origin
) -> tuple[Continued | None, list[Problem]]:
    """(what the phase goes on from, everything that hinders it)."""
    place, saved = origin
    earlier = TrainedWith.read(place)
    if earlier is None:
        why = f"{place.folder} does not say what it was trained with: an earlier version wrote it"
        return None, [Problem(why, hint="train it from the beginning, without --continue-from")]
    now = TrainedWith.of(plan, planned, digest(prepared.codec.to_json()), prepared.measured.fingerprints[planned.name])
    first = saved.step * earlier.tokens // now.tokens
    if problems := [*misfits(planned, saved, earlier, now), *too_short(planned, saved, earlier, now, first)]:
        return None, problems
    state = same_optimizer(planned, saved, earlier)
    cursor, about = saved.cursor(), place.about
    before = about.get("continued") or {}
    skipped = int(((cursor.get("course") or {}).get("spikes") or {}).get("skipped") or 0)
    updates = int(before.get("updates") or 0) + saved.step - int(before.get("first") or 0) - skipped
    went_on = Continued(
        key=str(about.get("key") or ""),
        step=saved.step,
        digest=digest_of(saved),
        first=first,
        updates=updates if state else 0,
        state=state,
    )
    stream = prepared.stream(planned.name)
    lines = unequal.lines(planned, earlier, now, went_on, cursor, stream)
    return went_on.model_copy(update={"said": tuple(lines)}), []


def misfits(planned: PhasePlan, saved: Checkpoint, earlier: TrainedWith, now: TrainedWith) -> Iterator[Problem]:
    """Weights that mean something else, or have no place."""
    kind = earlier.phase.get("kind")
    if kind != planned.phase.kind:
        yield Problem(
            f"{saved.folder} is of a phase of kind {kind}, and {planned.name} is of kind {planned.phase.kind}",
            hint="`from:` starts a phase from the weights of another kind",
            consequence="what it kept of its course would mean something else",
        )
    if earlier.tokenizer != now.tokenizer:
        yield Problem(
            f"{saved.folder} was trained with another tokenizer than this spec's",
            hint="bring back what the tokenizer was learned from and with, or train from the beginning",
            consequence="the weights would read other ids than they know",
        )
    if earlier.parent != now.parent:
        yield Problem(
            f"{saved.folder} began with other weights than {planned.name} does now: those of another "
            f"{planned.phase.parent or 'start'}",
            hint="train it from the beginning, without --continue-from",
            consequence="what it starts from would have no part in it",
        )
    wanted = {t.name: t.shape for t in planned.model.stored}
    try:
        with reading(saved.folder / checkpoint.WEIGHTS) as f:
            there = {name: entry.shape for name, entry in tensors.table(f).items()}
    except OSError as e:
        raise RunError(explained(e, saved.folder)) from e
    except tensors.WrongTensors as e:
        raise RunError(f"{saved.folder / checkpoint.WEIGHTS} is damaged: {e}") from None
    wrong = [f"{n} is {list(there[n])}, not {list(s)}" for n, s in wanted.items() if n in there and there[n] != s]
    wrong += [f"{n} is not there" for n in wanted if n not in there]
    wrong += [f"{n} has no place" for n in there if n not in wanted]
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        yield Problem(
            f"the tensors of {saved.folder} are not those of {planned.name}: {'; '.join(wrong[:NAMED])}{more}",
            hint="bring back the `model:` that it was trained with, or train from the beginning",
            consequence="its weights would not fit",
        )


def too_short(
    planned: PhasePlan, saved: Checkpoint, earlier: TrainedWith, now: TrainedWith, first: int
) -> Iterator[Problem]:
    """A budget that is used up already, or does not say how much of it is."""
    if planned.phase.budget.unit == "minutes":
        yield Problem(
            "a budget in minutes does not say how much of it the steps before count for",
            hint=f"`budget: {2 * saved.step} steps`, of which {first:,} count as taken",
            consequence="nobody could tell when it ends",
        )
    elif first >= (planned.steps or 0):
        yield Problem(
            f"{saved.folder} has read as much as {first:,} steps of {planned.name} do, and its budget is "
            f"{planned.steps or 0:,}",
            hint="a longer budget: it counts from the beginning, what was read before included",
            consequence="no step would be left",
        )


def same_optimizer(planned: PhasePlan, saved: Checkpoint, earlier: TrainedWith) -> bool:
    """Whether the state of the optimizer that the checkpoint has means the same now."""
    if (earlier.phase.get("optimizer") or {}).get("kind") != planned.phase.optimizer.kind:
        return False
    with reading(saved.folder / checkpoint.STATE) as f:
        there = {name: entry.shape for name, entry in tensors.table(f).items()}
    return there == dict(state_shapes(planned.model, planned.phase))
