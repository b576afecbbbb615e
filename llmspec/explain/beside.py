"""What a phase has beside its model and its new text, in sentences: other models, such as a teacher, and text of the
phases before it that is read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmspec.compiler.others import cost_beside
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.units import Share
from llmspec.explain.report import described
from llmspec.parts.others import StartModel

_NOTHING = Share(0)


def others_said(plan: Plan, planned: PhasePlan) -> tuple[str, ...]:
    """Of each model beside the trained one: which it is, what is learned of it, and what it costs a step."""
    return tuple(_others(plan, planned))


def _others(plan: Plan, planned: PhasePlan) -> Iterator[str]:
    phase = planned.phase
    how = described(phase.objective, "kind", "head", "label_smoothing", "z_loss", *(o.role for o in phase.others()))
    for other in phase.others():
        if isinstance(other.model, StartModel):
            which = other.model.said + (f", {other.model.digest[:12]}" if other.model.digest else "")
        else:
            made = next((p for p in plan.phases if p.name == other.phase), None)
            which = f"what {other.phase} leaves" + (f", {made.key[:12]}" if made is not None else "")
        found = planned.others.get(other.role)
        if found is None:
            yield f"{other.role}: {which}, which is opened before training; {how}"
            continue
        if other.judges:
            yield f"{other.role}: {which}, {found.model.parameters:,} parameters, asked what each answer is worth"
            continue
        if other.body:
            said = "a copy of its body says values, and is trained beside"
            yield f"{other.role}: {which}, {found.model.parameters:,} parameters; {said}"
            continue
        passes = phase.gradient_accumulation_steps
        cost = cost_beside(phase, planned.model.context, {other.role: found}).products * passes
        of_step = planned.flops / planned.steps if planned.flops and planned.steps else None
        share = f", {cost / of_step:.0%} of it" if of_step else ""
        yield (
            f"{other.role}: {which}, {found.model.parameters:,} parameters; its passes are {cost / 1e9:,.2f} GFLOPs a "
            f"step{share}; {how}"
        )


def before(plan: Plan, planned: PhasePlan) -> tuple[str, ...]:
    """The phases whose weights a phase goes on from, the nearest first."""
    found, by_name = list[str](), {p.name: p for p in plan.phases}
    name = planned.phase.parent
    while name in by_name and name not in found:
        found.append(name)
        name = by_name[name].phase.parent
    return tuple(found)


def replayed(plan: Plan, planned: PhasePlan, read: Mapping[str, int | None] | None = None) -> tuple[str, ...]:
    """Of each source that a phase before it has read, too: how much of it is read again. `read` are the tokens that
    were, by source; what is planned if omitted."""
    earlier, said = before(plan, planned), list[str]()
    phases = {p.name: p for p in plan.phases}
    tokens = {s.source: s.tokens_read for s in planned.shares} if read is None else read
    total = sum(n or 0 for n in tokens.values())
    for share in planned.shares:
        by = [n for n in earlier if n in phases and phases[n].phase.mixture.get(share.source, _NOTHING).percent > 0]
        if not by or not share.share or len([s for s in planned.shares if s.share]) < 2:
            continue
        number = tokens.get(share.source)
        much = f"{number:,} of {total:,} tokens" if number is not None and total else f"{share.share:.0%} of the tokens"
        epochs = f", {share.epochs:.2g} epochs" if share.epochs and read is None else ""
        said.append(f"replays {share.source}, which {' and '.join(by)} read: {much}{epochs}")
    return tuple(said)
