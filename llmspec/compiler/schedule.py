"""Passes that resolve the phases: their order, their length and what they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from llmspec.compiler.budget import steps_of, tokens_of
from llmspec.compiler.cost import step_cost
from llmspec.compiler.critic import critic_of
from llmspec.compiler.draft import Draft
from llmspec.compiler.framing import framing_problems
from llmspec.compiler.inputs import NONE
from llmspec.compiler.lengths import row_problems, stages
from llmspec.compiler.masks import masks_of
from llmspec.compiler.memory import memory_model, memory_of
from llmspec.compiler.others import Others, cost_beside, resolved
from llmspec.compiler.pairs import pair_problems
from llmspec.compiler.phase_model import artifact, phase_models
from llmspec.compiler.plan import ModelPlan, PhasePlan, SharePlan
from llmspec.compiler.spans import span_problems, wrong_network
from llmspec.core.problems import Problem, either, nearest
from llmspec.parts.phases import TABLE as PHASES
from llmspec.parts.phases import Phase
from llmspec.parts.phases.base import MODEL, REWARD_MODEL
from llmspec.parts.phases.batches import SLACK
from llmspec.parts.phases.turns import Turns
from llmspec.parts.sources import Source
from llmspec.spec.messages import shown


def order_phases(draft: Draft) -> Draft:
    """Every phase after those that it needs; otherwise as written."""
    phases, order = draft.sections.phases, []
    waiting = list(phases)
    while waiting:
        ready = next((n for n in waiting if not set(phases[n].needs) & set(waiting)), None)
        if ready is None:  # circular: already reported when the spec was read
            return draft
        waiting.remove(ready)
        order.append(ready)
    return replace(draft, order=tuple(order))


def plan_phases(draft: Draft) -> Draft:
    """Length, shares and cost of each phase; exact where the data have been measured."""
    network, measured = draft.network, draft.measured
    assert network is not None
    models, problems = phase_models(network, draft.sections.phases, draft.order)
    plans = list[PhasePlan]()
    for name in draft.order:
        phase, model = draft.sections.phases[name], models[name]
        shares = measured.phases[name] if measured else planned_shares(phase, model)
        blocks = sum(s.blocks or 0 for s in shares)
        steps = (
            phase.batches.reaching(blocks / phase.micro_batch_size)
            if measured and not phase.prompted
            else steps_of(phase.budget, model, phase)
        )
        if measured and steps is None and phase.prompted:
            read = phase.by_rollouts(None)
            steps = phase.steps_per_rollout * read.batches.reaching(blocks / read.micro_batch_size)
        problems += [p.at("phases", name) for p in budget_problems(phase, draft.sections.sources)]
        problems += [p.at("phases", name) for p in pair_problems(phase, model, draft.sections.sources)]
        problems += [p.at("phases", name) for p in answer_problems(phase, draft.sections.sources)]
        problems += [p.at("phases", name) for p in row_problems(phase, model)]
        problems += [p.at("phases", name) for p in room_problems(phase, model)]
        problems += [p.at("phases", name) for p in span_problems(phase, model, draft.sections.tokenizer)]
        problems += [p.at("phases", name) for p in framing_problems(phase, model, draft.sections.tokenizer)]
        problems += source_problems(phase, draft.sections.sources)
        parent = next((p for p in plans if p.name == phase.parent), None)
        others, unfit = resolved(phase, model, plans, draft.opened.get(name, {}))
        if found := [*objective_problems(phase, model), *start_problems(phase, parent), *unfit]:
            problems += [p.at("phases", name) for p in found]
            continue
        problems += [p.at("phases", name) for p in prompt_problems(phase, model)]
        if steps is not None:
            problems += [p.at("phases", name, "schedule") for p in phase.schedule.check(steps)]
        places = None if steps is None else tokens_of(model, phase, steps)
        work = None if steps is None else whole_work(model, phase, others, steps)
        plans.append(
            PhasePlan(
                name=name,
                phase=phase,
                steps=steps,
                exact=measured is not None,
                tokens=sum(s.tokens_read or 0 for s in shares) if measured else places,
                shares=shares,
                model=model,
                makes=artifact(phase, model),
                flops=None if work is None else work[0],
                operations=None if work is None else work[1],
                memory=memory_of(model, phase, memory_model(draft.device, draft.sections.precision), others),
                others=others,
            )
        )
    return replace(draft, planned=tuple(plans)).with_problems(problems)


def whole_work(model: ModelPlan, phase: Phase, others: Others, steps: int) -> tuple[float, float]:
    """FLOPs of all steps of a phase with those of the models beside it: of products, and of everything."""
    products = total = 0.0
    for at in stages(model, phase, steps):
        cost, beside = step_cost(at.model, at.phase, at.passes), cost_beside(at.phase, at.model.context, others)
        products += at.steps * (cost.products + at.passes * beside.products)
        total += at.steps * (cost.total + at.passes * beside.total)
    if (critic := critic_of(phase, others)) is not None:
        own = whole_work(*critic, NONE, steps)
        products, total = products + own[0], total + own[1]
    return products, total


def budget_problems(phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """What can be said of a budget before any text is read: epochs that its own source does not allow.

    All other repetition is counted once the text is there, and refused then.
    """
    source = sources.get(phase.budget.source or "")
    if source is not None and phase.budget.amount > source.max_epochs * (1 + SLACK):
        yield Problem(
            f"the budget reads {phase.budget.source} {phase.budget.amount:g} times, and its max_epochs is "
            f"{source.max_epochs:g}",
            ("budget",),
            f"`{source.max_epochs:g} epochs of {phase.budget.source}`, or `max_epochs: {phase.budget.amount:g}` at the "
            "source",
            "the model would memorise it",
        )


def objective_problems(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """What hinders an objective: the head that it trains is not there, or tokens see what they are to predict."""
    objective = phase.objective
    if objective.predicts != phase.predicts:
        fit = [k for k, p in PHASES.items() if p.predicts == objective.predicts]
        yield Problem(
            f"{objective.kind} predicts {objective.predicts}, and a phase of kind {phase.kind} teaches to predict "
            f"{phase.predicts}",
            ("objective",),
            f"kind: {' or '.join(fit)}, or another objective",
            "its text, its samples and what it counts would be those of something else",
        )
        return
    if missing := [name for name in objective.heads if name not in model.heads]:
        names = list(model.heads)
        near = nearest(missing[0], names)
        yield Problem(
            f"the model has no head `{shown(missing[0])}`",
            ("objective", "head") if missing[0] == objective.head != "lm" else ("objective",),
            f"did you mean `{near}`?" if near else "it has " + ", ".join(f"`{n}`" for n in names),
            "there would be nothing to train",
        )
        return
    if (
        phase.document_mask
        and model.encoder is not None
        and not (phase.dialogues or phase.pairs or phase.cuts == "spans")
    ):
        yield Problem(
            "documents cannot be kept apart in rows that are cut in two, for an encoder and its decoder",
            ("document_mask",),
            "document_mask: false",
            "a decoder would be asked for a document whose beginning no encoder has read",
        )
    if wrong := [*head_problems(phase, model), *wrong_network(phase, model)]:
        yield from wrong
        return
    seeing = [m.name for m in masks_of(model).values() if not (m.causal or m.has_prefix)]
    hidden = [m.name for m in masks_of(model).values() if m.causal or m.has_prefix]
    if "bidirectional" in objective.needs and (hidden or model.encoder is not None):
        why = f"the mask {hidden[0]} hides what follows" if hidden else "this model is an encoder–decoder"
        yield Problem(
            f"{objective.kind} predicts a token from what stands on both sides of it, and {why}",
            ("objective",),
            "model.mask: {kind: bidirectional}, or kind: pretrain, which predicts the next token",
            "half of what it is to learn from could not be seen",
        )
    if "causal" in objective.needs and seeing:
        yield Problem(
            f"{objective.kind} predicts the next token, and the mask {seeing[0]} lets every token see its own next one",
            ("objective",),
            "kind: masked_lm, which hides what it asks for, or model.mask: {kind: causal}",
            "the loss would fall to nothing, and the model would have learned to copy",
        )


def head_problems(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """An objective that cannot be that of its head, or that of a model of this form."""
    objective = phase.objective
    if wrong := objective.wrong_head(model.heads[objective.head]):
        yield Problem(
            f"{objective.kind} cannot train the head `{objective.head}`: {wrong}",
            ("objective", "head") if "head" in objective.model_fields_set else ("objective",),
            "leave `head:` out, and the phase adds its own",
            "its loss would be of other numbers",
        )
    elif wrong := next(filter(None, (objective.wrong_beside(model.heads[name]) for name in objective.beside)), ""):
        yield Problem(
            f"{objective.kind} cannot read the head `{next(iter(objective.beside))}`: {wrong}",
            ("objective",),
            "another name for one of the two heads",
            "what it reads would be something else",
        )
    elif objective.reads_whole and (wrong := unfit_stack(model)):
        yield Problem(
            f"a phase of kind {phase.kind} reads whole documents by one stack, and {wrong}",
            ("kind",),
            "a model of one stack whose mask is causal or bidirectional",
            "no state would stand for a document",
        )


def unfit_stack(model: ModelPlan) -> str:
    """Why a model cannot read several documents a row and say one thing of each; '' where it can."""
    if model.encoder is not None:
        return "this model has an encoder and a decoder"
    prefixed = [m.name for m in masks_of(model).values() if m.has_prefix]
    return f"the mask {prefixed[0]} has a prefix" if prefixed else ""


FIELDS = {"tags": "ner_tags"}
"""Key of a source -> what its field is often called, where that is not the same."""


def source_problems(phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """Sources that do not say what a phase asks of their records, at the sources' own paths."""
    field = FIELDS.get(phase.reads, phase.reads)
    for name in phase.mixture if phase.reads else ():
        if (source := sources.get(name)) is None:
            continue
        if getattr(source, phase.reads) is None:
            yield Problem(
                f"a phase of kind {phase.kind} reads {name}, which has no `{phase.reads}:`",
                ("data", "sources", name),
                f'{phase.reads}: "{{{field}}}" names the field of its records, in braces',
                "there would be nothing to learn of its texts",
            )
        elif source.text is None and source.words is None:
            yield Problem(
                f"{name} has `{phase.reads}:`, and does not say which of its fields are the text",
                ("data", "sources", name),
                'text: "{text}" names them, in braces',
                f"the {phase.reads} might stand in the text itself",
            )


def answer_problems(phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """Sources that say what is asked, and nothing of what is answered, where a phase learns answers."""
    compares, pairs = phase.preferences or phase.thumbs, phase.pairs or phase.apart
    if phase.prompted or not (phase.dialogues or compares or pairs):
        return
    learned = () if compares or pairs else Turns.of(getattr(phase, "train_on", ())).roles
    for name in phase.mixture:
        source = sources.get(name)
        if source is None or not source.asks_alone or {role for role, _ in source.rounds} & set(learned):
            continue
        keys = "`chosen:` and `rejected:`" if phase.preferences else "`completion:` and `good:`"
        spoken = f'`dialogue: {{user: "{shown(source.prompt)}", assistant: "{{answer}}"}}` in place of `prompt:`'
        yield Problem(
            f"{name} has `prompt:` alone, and a phase of kind {phase.kind} learns "
            + ("which answers are better" if compares else "what is answered"),
            ("mixture", name),
            f"at data.sources.{name} write " + (f"{keys} beside it" if compares else spoken),
            "prompts without answers are for phases that draw them",
        )


def room_problems(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """Drawn answers that fill the context, whatever they answer."""
    from llmspec.parts.phases.rollouts import RolloutPhase

    if isinstance(phase, RolloutPhase) and phase.max_tokens >= model.context:
        yield Problem(
            f"answers of {phase.max_tokens:,} tokens leave no room for their prompts in a context of {model.context:,}",
            ("max_tokens",),
            f"fewer than {model.context:,}, less the longest prompt, or a larger `model.context`",
            "every prompt would be left out",
        )


def prompt_problems(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """Prompts of a phase that makes nothing to draw text from."""
    if phase.prompts and artifact(phase, model) in (MODEL, REWARD_MODEL):
        yield Problem(
            "this phase has prompts, and no text can be drawn from what it trains",
            ("prompts",),
            "leave them out; text is drawn from models with a causal mask and a head of kind lm",
            "nothing would answer them",
        )


def start_problems(phase: Phase, parent: PhasePlan | None) -> Iterator[Problem]:
    """What hinders a phase from starting where it says: the other one makes something else."""
    if parent is not None and parent.makes not in phase.takes:
        yield Problem(
            f"a phase of kind {phase.kind} starts from {either(phase.takes)}, and {parent.name} makes "
            f"{either([parent.makes])}",
            ("from",),
            "another phase to start from",
            "its weights would mean something else",
        )


def planned_shares(phase: Phase, model: ModelPlan) -> tuple[SharePlan, ...]:
    """What the mixture says before any data have been read."""
    return tuple(SharePlan(source=s, share=share.fraction) for s, share in phase.mixture.items())
