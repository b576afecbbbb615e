"""Whether what ends a phase, chooses its best checkpoint or skips its steps is something that there will be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmspec.compiler.draft import Draft
from llmspec.core.problems import Path, Problem, nearest
from llmspec.parts.phases import Phase
from llmspec.parts.phases.course import EarlyStopping, Keep
from llmspec.parts.sources import Source


def check_course(draft: Draft) -> Draft:
    """Early stopping and the keeping of the best on metrics that nobody computes, or on text that nobody kept."""
    sources, found = draft.sections.sources, list[Problem]()
    for name, phase in draft.sections.phases.items():
        found += [p.at("phases", name) for p in (*course_problems(phase, sources), *spike_problems(phase))]
    return draft.with_problems(found)


def spike_problems(phase: Phase) -> Iterator[Problem]:
    """A running mean over more steps than the phase has."""
    budget, spikes = phase.budget, phase.on_spike
    if spikes is not None and budget.unit == "steps" and budget.amount <= spikes.window:
        yield Problem(
            f"on_spike takes its mean over {spikes.window:,} steps, and the phase has {budget.amount:,.0f}",
            ("on_spike", "window" if "window" in spikes.model_fields_set else "above"),
            f"`window: {max(2, int(budget.amount) // 10)}`, or leave on_spike out",
            "no loss would ever be a spike",
        )


def course_problems(phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """What is wrong with when a phase ends and what it keeps."""
    keep, stopping = phase.keep, phase.early_stopping
    if keep is not None and not keep.best and (idle := [k for k in ("metric", "source") if getattr(keep, k)]):
        yield Problem(
            f"keep.{idle[0]} says which checkpoint is best, and none is kept for being it",
            ("keep", idle[0]),
            "add `best: 1` beside it, or leave it out",
            "it would do nothing",
        )
    if stopping is not None:
        yield from judge_problems(phase, stopping, ("early_stopping",), sources)
    if keep is not None and keep.best:
        yield from judge_problems(phase, keep, ("keep",), sources)
    if phase.judged and not phase.evaluate_every.interval(1 << 40):
        yield Problem(
            "the best checkpoint is chosen by validation, and this phase validates at its end alone",
            ("evaluate_every",),
            "evaluate_every: 5%, or leave early_stopping and keep.best out",
            "there would be nothing to choose from",
        )


def judge_problems(
    phase: Phase, chosen: EarlyStopping | Keep, path: Path, sources: Mapping[str, Source]
) -> Iterator[Problem]:
    """What is wrong with the metric and the source that choose."""
    known = phase.measured()
    if chosen.metric is not None and chosen.metric not in known:
        near = nearest(chosen.metric, known)
        there = ", ".join(f"`{name}`" for name in known)
        yield Problem(
            f"validation in a phase of kind {phase.kind} gives no `{chosen.metric}`",
            (*path, "metric"),
            (f"did you mean `{near}`? " if near else "") + f"it gives {there}",
            "no checkpoint would ever be better than another",
        )
    if any(name not in sources for name in phase.mixture):  # a source with a mistake of its own, which is told already
        return
    held_out = [s for s in phase.mixture if sources[s].validation is not None]
    if chosen.source is not None and chosen.source not in held_out:
        near = nearest(chosen.source, held_out)
        yield Problem(
            f"`{chosen.source}` is no source of this phase's mixture that keeps text for validation",
            (*path, "source"),
            (f"did you mean `{near}`? " if near else "")
            + (
                f"there is {', '.join(f'`{s}`' for s in held_out)}" if held_out else "`validation: tail 5%` at a source"
            ),
            "nothing would be measured",
        )
    elif not held_out:
        yield Problem(
            "validation chooses, and no source of this phase's mixture keeps text for it",
            path,
            "`validation: tail 5%` at one of its sources",
            "nothing would be measured",
        )
