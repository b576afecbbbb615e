"""The passes in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmspec.compiler import course, files, fit, kept, keys, network, numbers, rates, schedule, special_tokens
from llmspec.compiler.checks import plan_checks, refuse
from llmspec.compiler.draft import Draft, Pass, sections_of
from llmspec.compiler.plan import Measured, PhasePlan, Plan, SourcePlan
from llmspec.core.problems import Problem, SpecError
from llmspec.parts.phases import Phase
from llmspec.spec.check import Sections
from llmspec.spec.schema import Spec

PASSES: tuple[Pass, ...] = (
    Pass("choose device", ("device",), network.choose_device),
    Pass("check device", ("device",), network.check_device),
    Pass("open files", (), files.open_files),
    Pass("resolve parts", ("any model",), network.resolve_parts),
    Pass("check parts", ("dims",), network.check_parts),
    Pass("check numbers", (), numbers.check_numbers),
    Pass("decide rates", ("phases",), rates.decide_rates),
    Pass("check course", ("phases",), course.check_course),
    Pass("check special tokens", ("tokenizer", "phases"), special_tokens.check_special_tokens),
    Pass("build tensor table", ("dims", "model", "tokenizer"), network.build_table),
    Pass("check start", ("network",), numbers.check_start),
    Pass("check KV cache", ("network", "decoding"), kept.check_kept),
    Pass("order phases", ("phases",), schedule.order_phases),
    Pass("plan phases", ("network", "order"), schedule.plan_phases),
    Pass("fit memory", ("model", "network", "planned"), fit.fit_memory),
    Pass("address phases", ("network", "planned"), keys.address_phases),
)


def run_passes(draft: Draft) -> Draft:
    """Every pass whose needs are met, in order."""
    for step in PASSES:
        if draft.having(*step.needs):
            draft = step.run(draft)
    return draft


def check_sections(sections: Sections, base: str = ".") -> tuple[Problem, ...]:
    """Problems of the sound sections of a spec, some of whose other sections may be broken; `base` is the folder in
    which relative paths start."""
    return run_passes(Draft(sections, base=base)).problems


def compile_spec(spec: Spec, measured: Measured | None = None, base: str | None = None) -> Plan:
    """The plan of a spec; with `measured`, every token count is exact.

    Relative paths start in `base`, or where it is left out in the folder that the spec was loaded from. Raises
    SpecError with every problem, and TypeError for what is no spec.
    """
    if not isinstance(spec, Spec):
        meant = "the `spec` of what load_spec returns" if hasattr(spec, "spec") else "llmspec.load_spec(path).spec"
        raise TypeError(f"llmspec.compile takes a Spec, {meant}, not {type(spec).__name__}")
    base = spec.folder if base is None else base
    draft = run_passes(Draft(sections_of(spec), measured, base=base))
    if draft.problems:
        raise SpecError(draft.problems)
    sections = draft.sections
    assert draft.network is not None and draft.device is not None
    assert sections.tokenizer is not None and sections.chat_template is not None
    plan = Plan(
        name=spec.name,
        seed=spec.seed,
        device=draft.device,
        precision=spec.precision,
        beam=spec.beam,
        model=draft.network,
        tokenizer=sections.tokenizer,
        chat_template=sections.chat_template,
        sources=measured.sources
        if measured
        else tuple(SourcePlan(name=n, source=s) for n, s in spec.data.sources.items()),
        phases=draft.planned,
        decoding=spec.decoding,
        decisions=draft.decisions,
        base=base,
        prompts=spec.prompts,
        contamination=spec.data.contamination,
        memory_limit=spec.memory_limit,
    )
    refuse(plan_checks(plan))
    return plan


def complete(plan: Plan, measured: Measured) -> Plan:
    """The plan with everything that only the data could tell: token counts, exact lengths, keys. Raises SpecError."""
    draft = planned_again(plan, measured)
    if draft.problems:
        raise SpecError(draft.problems)
    decisions = (*plan.decisions, *(d for d in measured.decisions if d not in plan.decisions))
    return plan.model_copy(update={"sources": measured.sources, "phases": draft.planned, "decisions": decisions})


def unread(plan: Plan) -> Plan:
    """The plan as it was before its data were read: its keys compare with those of a spec whose data are not here."""
    return plan.model_copy(update={"phases": planned_again(plan, None).planned})


def planned_again(plan: Plan, measured: Measured | None) -> Draft:
    """The phases of a plan, planned with other knowledge of the data."""
    sections = Sections(
        name=plan.name,
        seed=plan.seed,
        device=plan.device,
        precision=plan.precision,
        beam=plan.beam,
        model=None,
        tokenizer=plan.tokenizer,
        chat_template=plan.chat_template,
        sources={s.name: s.source for s in plan.sources},
        phases={p.name: named(p, measured) for p in plan.phases},
        decoding=plan.decoding,
        contamination=plan.contamination,
    )
    draft = Draft(sections, measured, plan.model.dims, plan.device, plan.model, tuple(p.name for p in plan.phases))
    draft = replace(draft, opened={p.name: p.others for p in plan.phases})
    draft = schedule.plan_phases(draft)
    found = (
        {p.name for p in plan.phases if p.labels_found} | {*measured.labels, *measured.spreads} if measured else set()
    )
    from_others = {p.name: p.continued for p in plan.phases}
    phases = tuple(
        p.model_copy(update={"continued": from_others[p.name], "labels_found": p.name in found}) for p in draft.planned
    )
    return keys.address_phases(replace(draft, planned=phases))


def named(planned: PhasePlan, measured: Measured | None) -> Phase:
    """The phase with the labels, or the spread of the numbers, that was found in its data, where the spec left them
    open; with none where the data count as not read."""
    phase = planned.phase
    if measured is None:
        unfound = {"labels": (), "mean": None, "std": None} if planned.labels_found else {}
        return phase.model_copy(update={key: v for key, v in unfound.items() if key in type(phase).model_fields})
    found: dict[str, Any] = {"labels": measured.labels[planned.name]} if planned.name in measured.labels else {}
    if spread := measured.spreads.get(planned.name):
        found |= {"mean": spread[0], "std": spread[1]}
    return phase.model_copy(update=found) if found else phase
