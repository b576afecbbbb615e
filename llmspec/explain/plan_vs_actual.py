"""Promises against facts: what a plan said of a phase, and what its run directory says came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmspec.compiler.plan import PhasePlan
from llmspec.core.units import size

Unit = Literal["tokens", "steps", "seconds", "bytes", "FLOPs", "joules"]


@dataclass(frozen=True)
class Fact:
    """One quantity of a phase; None where nothing was promised, or nothing is known yet."""

    what: str
    unit: Unit
    promised: float | None
    actual: float | None
    note: str = ""
    """How it was estimated or counted."""

    @property
    def off(self) -> float | None:
        """By what share of the promise the fact is larger (negative: smaller)."""
        if not self.promised or self.actual is None:
            return None
        return self.actual / self.promised - 1


def facts_of(
    planned: PhasePlan, about: Mapping[str, Any], steps: int, seconds: float, seen: int | None, peak_flops: float | None
) -> tuple[Fact, ...]:
    """Of a phase after `steps` recorded steps that took `seconds`; `about` is its phase.json, `seen` what its ledger
    counted (None before its end), `peak_flops` the machine's fastest product."""
    found, promise = about.get("facts") or {}, about.get("promise") or {}
    done = bool(about.get("done"))
    rows = [Fact("steps", "steps", planned.steps, steps)]
    if seen is not None or not done:
        rows.append(Fact("tokens", "tokens", planned.tokens, seen, "" if seen is not None else "counted at its end"))
    rows.append(_flops(planned, steps, seconds, peak_flops))
    rows.append(Fact("time in steps", "seconds", promise.get("steps"), seconds, str(promise.get("origin") or "")))
    spent = found.get("seconds") or {}
    beside = {
        "reference": "time before the first step",
        "validation": "time in validation",
        "samples": "time in samples",
    }
    for name, words in beside.items():
        if name in spent:
            rows.append(Fact(words, "seconds", promise.get(name), spent[name]))
    if planned.memory is not None and found.get("held_bytes"):
        process = f"the process grew by {size(found['process_bytes'])}" if found.get("process_bytes") else ""
        rows.append(Fact("memory at its peak", "bytes", planned.memory.peak, found["held_bytes"], process))
    if found.get("joules") is not None:
        rows.append(Fact("energy", "joules", None, found["joules"], "of the whole processor, other processes included"))
    return tuple(rows)


def _flops(planned: PhasePlan, steps: int, seconds: float, peak_flops: float | None) -> Fact:
    """Of all matrix products: every step computes the same."""
    done = planned.flops / planned.steps * steps if planned.flops and planned.steps else None
    share = done / seconds / peak_flops if done and seconds and peak_flops else None
    note = "" if share is None else f"{'less than 1%' if share < 0.01 else f'{share:.0%}'} of this machine's peak"
    return Fact("matrix products", "FLOPs", planned.flops, done, note)


def remarks_on(facts: tuple[Fact, ...]) -> list[str]:
    """Promises that were not kept, as far as a phase that is done shows them."""
    steps = next((f for f in facts if f.unit == "steps"), None)
    if steps is None or steps.promised != steps.actual:
        return []
    found = []
    for fact in facts:
        bound = {"bytes": 0.15, "seconds": 0.2, "tokens": 0.0, "FLOPs": 0.0}.get(fact.unit)
        if bound is None or fact.off is None or abs(fact.off) <= bound or (fact.actual or 0) < SMALL.get(fact.unit, 0):
            continue
        way = "more" if fact.off > 0 else "less"
        why = " Other work on the machine is the usual cause." if fact.unit == "seconds" and fact.off > 0 else ""
        found.append(f"{fact.what}: {abs(fact.off):.0%} {way} than estimated.{why}")
    return found


SMALL = {"bytes": 4 << 20, "seconds": 5.0}
"""Amounts below which a share says nothing."""
