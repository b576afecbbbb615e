"""The key of a phase: the hash of everything that shapes its weights, and of nothing else.

Everything is hashed but what is named here, so that a setting that is added is hashed from its first day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmspec.compiler.draft import Draft
from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.core.hashing import digest
from llmspec.parts.base import revisions_of
from llmspec.parts.phases import Phase
from llmspec.parts.sources import Source

SHOWN_ONLY = ("prompts", "sample_every", "checkpoint_every", "evaluate_every", "generate_metrics", "validation_prompts")
"""Settings of a phase that change what is shown or saved on the way, never its weights."""
VALIDATING = ("evaluate_every", "generate_metrics", "validation_prompts")
"""Those of them that shape what validation says: they choose the weights where that does."""
DERIVED = ("flops_per_token",)
"""Fields of a model's plan that only say what its others cost."""


def address_phases(draft: Draft) -> Draft:
    """Each phase's key, parents included."""
    assert draft.network is not None and draft.sections.tokenizer is not None
    keys = dict[str, str]()
    for plan in draft.planned:
        keys[plan.name] = digest(
            {
                "phase": phase_identity(plan.phase),
                "parent": keys.get(plan.phase.parent),
                "model": model_identity(plan.model),
                "data": read_by(draft, plan),
                "seed": draft.sections.seed,
                "device": draft.device,
                "name": plan.name,
                "precision": draft.sections.precision,
                "beam": draft.sections.beam,
                **others_of(plan, keys),
                **({"continued": plan.continued.identity()} if plan.continued else {}),
            }
        )
    return replace(draft, planned=tuple(p.model_copy(update={"key": keys[p.name]}) for p in draft.planned))


def others_of(plan: PhasePlan, keys: Mapping[str, str]) -> dict[str, Any]:
    """The models that stand beside: the keys of their phases, and their settings; nothing where there are none."""
    found = {role: [keys.get(other.phase), model_identity(other.model)] for role, other in plan.others.items()}
    return {"others": found} if found else {}


def model_identity(model: ModelPlan) -> dict[str, Any]:
    """What the network computes and how it starts, as a JSON-able value."""
    return {
        "settings": model.model_dump(mode="json", by_alias=True, exclude=set(DERIVED)),
        "revisions": revisions_of(model),
    }


def phase_identity(phase: Phase) -> dict[str, Any]:
    """What a phase does to the weights it is given, as a JSON-able value."""
    settings = phase.model_dump(mode="json", by_alias=True)
    for (*path, last), model in phase.models():
        if model.digest is not None:
            within: Any = settings
            for step in path:
                within = within[step]
            within[last] = {"digest": model.digest}  # wherever the model lies
    shown = shown_only(phase)
    settings = {k: v for k, v in settings.items() if k not in shown}
    settings["keep"] = phase.judged and list(phase.judged)  # how many stay on disk shapes no weight
    return {"settings": settings, "revisions": revisions_of(phase)}


def shown_only(phase: Phase) -> tuple[str, ...]:
    """Settings of a phase that never change the weights it leaves: how it validates does where that chooses them."""
    return tuple(key for key in SHOWN_ONLY if key not in VALIDATING or phase.judged is None)


# -- what a phase reads ----------------------------------------------------------------------------------------------
def read_by(draft: Draft, plan: PhasePlan) -> dict[str, Any]:
    """What a phase reads: its very tokens once they are known, before that the settings that make them."""
    tokenizer, sources = draft.sections.tokenizer, draft.sections.sources
    assert tokenizer is not None
    own = {name: sources[name] for name in plan.phase.mixture if name in sources}
    revisions, template = revisions_of([tokenizer, own]), draft.sections.chat_template
    if draft.measured:
        return {
            "tokens": draft.measured.fingerprints[plan.name],
            "steps": plan.steps,
            "blocks": [s.blocks for s in plan.shares],
            "revisions": revisions,
        }
    used = used_by(draft.sections.phases, sources)
    return {
        "tokenizer": tokenizer.identity(),
        "chat template": template.identity() if template and plan.phase.templated else None,
        "sources": identities(own),
        "revisions": revisions,
        # What any source validates with is left out of training.
        "validated": identities({name: source for name, source in used.items() if source.validation}),
        "contamination": draft.sections.contamination == "allow",
        "trained on": [identities(used), first_mixtures(draft.sections.phases)] if tokenizer.learns else [],
    }


def identities(sources: Mapping[str, Source]) -> dict[str, Any]:
    """What shapes each source's text, by its name, in the order of the names."""
    return {name: source.identity() for name, source in sorted(sources.items())}


def used_by(phases: Mapping[str, Phase], sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources that some phase reads."""
    read = {name for phase in phases.values() for name, share in phase.mixture.items() if share.percent > 0}
    return {name: source for name, source in sources.items() if name in read}


def first_mixtures(phases: Mapping[str, Phase]) -> list[dict[str, str]]:
    """Mixtures of the phases that start from no other: a tokenizer learns from text in their proportions."""
    return [
        {name: str(share) for name, share in sorted(phase.mixture.items())}
        for phase in phases.values()
        if phase.from_ is None
    ]
