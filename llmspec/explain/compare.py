"""Two plans side by side: what differs, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmspec.compiler import unread
from llmspec.compiler.budget import learning_rates
from llmspec.compiler.keys import shown_only
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.compiler.plan_settings import by_path
from llmspec.core.units import count, size
from llmspec.explain.report import Report

Fate = Literal["reused", "retrained", "only in the first", "only in the second"]


@dataclass(frozen=True)
class PlanDifference:
    """One setting; None where a spec has no such key."""

    path: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Consequence:
    """One number that follows."""

    name: str
    first: float | None
    second: float | None
    first_text: str
    second_text: str

    @property
    def ratio(self) -> float | None:
        """The second over the first."""
        return self.second / self.first if self.first and self.second is not None else None


@dataclass(frozen=True)
class PhaseDifference:
    """What becomes of one phase when the second spec is run after the first, and its learning rates in both."""

    name: str
    fate: Fate
    why: str
    first_rates: tuple[float, ...]
    second_rates: tuple[float, ...]


@dataclass(frozen=True)
class DifferenceReport(Report):
    """What changes from one spec to another."""

    about: ClassVar[str] = "difference"
    first: str
    second: str
    differences: tuple[PlanDifference, ...]
    consequences: tuple[Consequence, ...]
    phases: tuple[PhaseDifference, ...]
    note: str = ""


def explain_difference(first: Plan, second: Plan, names: tuple[str, str], note: str = "") -> DifferenceReport:
    """The report of two plans; `names` is what to call them."""
    return DifferenceReport(
        *names,
        tuple(differences(first, second)),
        tuple(consequences(first, second)),
        tuple(phase_differences(first, second)),
        note,
    )


# -- settings ------------------------------------------------------------------------------------------------------
def settings_of(plan: Plan) -> dict[str, Any]:
    """Every setting of a plan by its path in a spec; nothing that is computed from others."""
    return dict(by_path(plan.settings()))


def differences(first: Plan, second: Plan) -> Iterator[PlanDifference]:
    """Settings that are not the same, in the order of the first spec, then those that only the second has."""
    a, b = settings_of(first), settings_of(second)
    for path in dict.fromkeys([*a, *b]):
        if a.get(path) != b.get(path):
            yield PlanDifference(path, a.get(path), b.get(path))


# -- what follows --------------------------------------------------------------------------------------------------
def consequences(first: Plan, second: Plan) -> Iterator[Consequence]:
    """Numbers of both plans, those that are the same among them."""
    rows: list[tuple[str, Callable[[Plan], float | None], Callable[[float], str]]] = [
        ("parameters", lambda p: p.model.parameters, lambda n: f"{n:,.0f}"),
        ("FLOPs a token, forward", lambda p: p.model.flops_per_token, count),
    ]
    if first.phases or second.phases:
        rows += [
            ("FLOPs of all training", lambda p: total(p, "flops"), count),
            ("tokens of all training", lambda p: total(p, "tokens"), count),
            ("memory at the peak", peak, size),
        ]
    rows += [
        (f"tokens of {name}", lambda p, name=name: tokens_of(p, name), count)  # type: ignore[misc]
        for name in dict.fromkeys(s.name for plan in (first, second) for s in plan.sources)
    ]
    for name, value, text in rows:
        a, b = value(first), value(second)
        yield Consequence(name, a, b, *("?" if n is None else text(n) for n in (a, b)))


def total(plan: Plan, key: str) -> float | None:
    """The sum over all phases; None where one is not known yet."""
    amounts = [getattr(p, key) for p in plan.phases]
    return None if None in amounts else sum(amounts)


def peak(plan: Plan) -> float | None:
    """The largest of all phases; None where an older plan does not say."""
    amounts = [p.memory.peak if p.memory else None for p in plan.phases]
    return max((a for a in amounts if a is not None), default=None) if None not in amounts else None


def tokens_of(plan: Plan, source: str) -> float | None:
    """Tokens that all phases read of a source: counted where the data have been read, else by its shares."""
    amounts = [
        share.tokens_read if share.tokens_read is not None else None if p.tokens is None else share.share * p.tokens
        for p in plan.phases
        for share in p.shares
        if share.source == source
    ]
    known = [a for a in amounts if a is not None]
    return sum(known) if len(known) == len(amounts) else None


def phase_differences(first: Plan, second: Plan) -> Iterator[PhaseDifference]:
    """Every phase of both: a phase with the same key is never trained twice."""
    if {p.exact for p in first.phases} != {p.exact for p in second.phases}:  # such keys hash different things
        first, second = unread(first), unread(second)
    a, b = ({p.name: p for p in plan.phases} for plan in (first, second))
    changed = [d.path for d in differences(first, second)]
    anew = {name for name in a if name in b and a[name].key != b[name].key}
    for name in dict.fromkeys([*a, *b]):
        one, other = a.get(name), b.get(name)
        fate: Fate = (
            "only in the second"
            if one is None
            else "only in the first"
            if other is None
            else "retrained"
            if name in anew
            else "reused"
        )
        why = reason(other, changed, anew) if name in anew and other is not None else ""
        if one is not None and other is not None and one.continued != other.continued:
            why = "; ".join(filter(None, (lineage(one, other), why if mine(other, changed) else "")))
        yield PhaseDifference(name, fate, why, *(rates(p) for p in (one, other)))


def lineage(one: PhasePlan, other: PhasePlan) -> str:
    """What two phases go on from, where that differs."""
    told = [
        f"{whose} goes on from step {p.continued.step:,} of {p.continued.key[:8]}"
        if p.continued
        else f"{whose} is trained from its beginning"
        for whose, p in (("the first", one), ("the second", other))
    ]
    return ", ".join(told)


def mine(phase: PhasePlan, changed: list[str]) -> list[str]:
    """Of the changed settings, the phase's own that shape its weights."""
    own = f"phases.{phase.name}."
    shown = tuple(own + key for key in shown_only(phase.phase))
    return [p for p in changed if p.startswith(own) and not p.startswith(shown)]


def rates(phase: PhasePlan | None) -> tuple[float, ...]:
    """The learning rates of a phase over its steps; none without a phase."""
    return tuple(rate for _, rate in learning_rates(phase)) if phase is not None else ()


def reason(phase: PhasePlan, changed: list[str], anew: set[str]) -> str:
    """Which of the changed settings shape the phase, the nearest first; `anew` are the phases that are retrained."""
    shared = ("model.", "tokenizer.", "seed", "device", "precision", "beam")
    sources = tuple(f"data.sources.{s}." for s in phase.phase.mixture)
    for found in (
        mine(phase, changed),
        [p for p in changed if p.startswith(shared)],
        [p for p in changed if p.startswith(sources)],
    ):
        if found:
            return listed(found)
    if again := [name for name in phase.phase.needs if name in anew]:
        return f"{again[0]} is trained again"
    # Text that any source validates with is left out, and a tokenizer learns from all of them.
    others = [p for p in changed if p.startswith("data.") or ".mixture." in p]
    return listed(others) if others else "the text it reads, or the version of llmspec"


def listed(paths: list[str]) -> str:
    """The first three of some paths, for a sentence."""
    return ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
