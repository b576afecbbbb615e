"""What is checked of a plan before any training, and the evidence. A check that fails refuses the run.

Pure functions of the plan; what depends on the text is checked by llmspec/data/checks.py once it has been read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from llmspec.compiler import masks, walk
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.mask_proof import SOURCE, claim, examined, source_examined
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.problems import Problem, SpecError
from llmspec.parts.base import Frozen

RATES = 2000
"""Steps at which a learning rate is looked at, at most, evenly spread."""

COUNTED, BUDGETED = "every parameter is counted", "every budget can be met"
LEARNED, MARKED = "every block has a supervised token", "exactly the intended tokens count in the loss"
SPANNED = "texts and the spans that are left out of them are whole together"
HIDDEN, WHOLE = "only tokens of texts are hidden", "every document is read with its own label"
NUMBERED, UNSEEN = "packed documents are numbered separately", "no validation document is trained on"


class Check(Frozen):
    """A statement about a plan or its data, and whether it holds."""

    name: str
    """What holds, as a sentence."""
    holds: bool | None
    """None where it waits for the data, or where the spec does not ask for it."""
    evidence: str
    """How that was found, with counts; of what does not hold, the first counterexample."""
    hint: str = ""
    path: tuple[str, ...] = ()
    """Where in the spec it went wrong."""

    @property
    def problem(self) -> Problem:
        """What a check that fails says to the user."""
        return Problem(
            f"check failed: {self.name}. {self.evidence}",
            self.path,
            self.hint,
            "the run would not do what the spec says",
        )


def refuse(checks: Iterable[Check]) -> None:
    """Raises SpecError with a problem for each check that fails."""
    if failed := [check.problem for check in checks if check.holds is False]:
        raise SpecError(failed)


def plan_checks(plan: Plan) -> tuple[Check, ...]:
    """Everything that a plan shows by itself; more of a plan that its data have completed."""
    return (*mask_proofs(plan), parameter_check(plan.model), *((budget_check(plan),) if plan.phases else ()))


def pending(plan: Plan) -> tuple[Check, ...]:
    """The checks that wait for the data; none of a plan that trains nothing."""
    if not plan.phases:
        return ()
    asked = {
        MARKED: any(
            not (p.phase.objective.drawn or p.phase.objective.reads_whole or p.phase.cuts == "spans")
            for p in plan.phases
        ),
        SPANNED: any(phase.phase.cuts == "spans" for phase in plan.phases),
        WHOLE: any(phase.phase.objective.reads_whole for phase in plan.phases),
        NUMBERED: any(
            documents_apart(phase.model, phase.phase) and not phase.phase.objective.reads_whole for phase in plan.phases
        ),
        HIDDEN: any(phase.phase.objective.drawn for phase in plan.phases),
    }
    names = (LEARNED, *(name for name, wanted in asked.items() if wanted), UNSEEN)
    return tuple(Check(name=name, holds=None, evidence="checked when the data are read") for name in names)


# -- who may look at whom ------------------------------------------------------------------------------------------
def mask_proofs(plan: Plan) -> tuple[Check, ...]:
    """Of every mask in use: what it says of itself, documents apart, no padding seen, no row without a key."""
    model = plan.model
    apart = [p.name for p in plan.phases if documents_apart(model, p.phase)]
    across = [p.name for p in plan.phases if p.name not in apart]
    decoded = ["decoding"] if model.generates else []
    found = []
    for stack in model.stacks:
        for mask in masks.masks_of(model, stack).values():
            own = sum(len(stack.layers_of(i)) for i, b in enumerate(stack.blocks) if b.mask == mask)
            of = "encoder" if stack is model.encoder else "attention"
            layers = f"{own} {of} layer{'s' * (own > 1)}"
            for documents, users in ((False, [*across, *decoded]), (True, apart)):
                if users or not (documents or apart):
                    found.append(_mask_proof(masks.Relation(mask, documents), ", ".join([layers, *users])))
    if model.encoder is not None:
        found.append(_cross_proof(len(walk.cross_layers(model))))
    return tuple(found)


def _cross_proof(layers: int) -> Check:
    wrong, evidence = source_examined(masks.cross_ranges)
    return Check(
        name=SOURCE,
        holds=not wrong,
        evidence=f"{wrong or evidence} ({layers} layer{'s' * (layers > 1)} of cross-attention)",
        hint="the ranges in llmspec/compiler/masks.py are at fault, not your spec" if wrong else "",
    )


def _mask_proof(relation: masks.Relation, where: str) -> Check:
    wrong, evidence = examined(relation, type(relation).allows)
    return Check(
        name=claim(relation),
        holds=not wrong,
        evidence=f"{wrong or evidence} ({where})",
        hint="the relation in llmspec/parts/masks is at fault, not your spec" if wrong else "",
    )


# -- parameters ----------------------------------------------------------------------------------------------------
def parameter_check(model: ModelPlan) -> Check:
    """The tensor table holds what the parts ask for, each once, and no more."""
    of_layers, terms, expected = 0, list[str](), 0
    for piece in walk.walk(model):
        each = sum(math.prod(t.shape) for t in piece.part.tensors(piece.dims))
        expected += piece.copies * each
        if piece.layers:
            of_layers += piece.copies * each
        elif each:
            terms.append(f"{each:,} of {piece.path}")
    if of_layers:
        terms.insert(1, f"{of_layers:,} of {model.layers:,} layer{'s' * (model.layers > 1)}")
    names = [t.name for t in model.tensors]
    if twice := sorted({n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else ()):
        return Check(name=COUNTED, holds=False, evidence=f"the table has {twice[0]} twice")
    found = model.parameters
    relation = f"{' + '.join(terms)} = {expected:,}"
    return Check(
        name=COUNTED,
        holds=found == expected,
        evidence=f"{relation}, and the table of {len(names):,} tensors has {found:,}",
        hint="" if found == expected else "a part's `tensors` is at fault, not your spec",
    )


# -- budgets -------------------------------------------------------------------------------------------------------
def budget_check(plan: Plan) -> Check:
    """Of every phase: blocks fill its steps, no source is repeated beyond its cap, rates stay below their peak."""
    caps = {s.name: s.source.max_epochs for s in plan.sources}
    told, waiting = [], False
    for phase in plan.phases:
        for wrong, path in (*_lengths(phase, caps, plan.model.context + plan.model.encoder_context), *_rates(phase)):
            return Check(name=BUDGETED, holds=False, evidence=wrong, path=("phases", phase.name, *path))
        waiting |= not phase.exact
        if phase.steps is None:
            told.append(f"{phase.name}: {phase.phase.budget}")
            continue
        most = max(((s.epochs or 0.0, s.source) for s in phase.shares), default=(0.0, ""))
        repeats = f", {most[1]} most often: {most[0]:.3g} of {caps.get(most[1], 0):g} epochs" if phase.exact else ""
        told.append(f"{phase.name}: {phase.steps:,} steps, {phase.tokens or 0:,} tokens{repeats}")
    evidence = "; ".join(told) + ("; the rest is known when the data are read" if waiting else "")
    return Check(name=BUDGETED, holds=None if waiting else True, evidence=evidence)


Wrong = Iterator[tuple[str, tuple[str, ...]]]
"""What is wrong, and where below the phase."""


def _lengths(planned: PhasePlan, caps: dict[str, float], places: int) -> Wrong:
    if not planned.exact or planned.steps is None:
        return
    phase = planned.phase
    read = phase.by_rollouts(planned.steps) if phase.prompted else phase
    per_step = read.micro_batch_size * read.gradient_accumulation_steps
    all_of_them = read.micro_batch_size * read.batches.of(
        int(read.budget.amount) if read is not phase else planned.steps
    )
    blocks = sum(s.blocks or 0 for s in planned.shares)
    if planned.steps < 1 or blocks != all_of_them:
        yield f"{planned.steps:,} steps of {per_step} blocks are planned, and {blocks:,} blocks", ("budget",)
    if phase.budget.unit == "steps" and planned.steps != phase.budget.amount:
        yield f"{planned.steps:,} steps are planned of {phase.budget}", ("budget",)
    counted = next((s.blocks for s in planned.shares if s.source == phase.budget.source), 0) or 0
    for share in planned.shares:
        if not share.blocks or share.epochs is None:
            continue
        # Filling the last step, or the last block of a counted epoch, is not held against the source.
        filling = per_step + 1 + (share.blocks / counted if counted else 0)
        allowed = caps.get(share.source, 0.0) + filling * share.epochs / share.blocks
        if share.epochs > allowed * (1 + 1e-6):
            yield (
                f"{share.source} is read {share.epochs:.4g} times, and its max_epochs is {caps[share.source]:g}",
                ("mixture", share.source),
            )
        if (share.tokens_read or 0) > share.blocks * places or (share.tokens_supervised or 0) > (
            share.tokens_read or 0
        ):
            yield (
                (
                    f"{share.source}: {share.tokens_supervised} supervised of {share.tokens_read} tokens are more than "
                    f"{share.blocks} blocks hold"
                ),
                ("mixture", share.source),
            )


def _rates(planned: PhasePlan) -> Wrong:
    steps = planned.steps or 0
    every = max(1, steps // RATES)
    for step in range(0, steps, every):
        factor = planned.phase.schedule.factor(step, steps)
        if not 0 <= factor <= 1 + 1e-9:
            yield f"the learning rate of step {step + 1:,} is {factor:g} times its peak", ("schedule",)
            return
