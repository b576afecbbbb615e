"""The critic of a phase: a model with a body of its own that says values, and is trained in the same steps."""

from __future__ import annotations

from collections.abc import Mapping

from llmspec.compiler import walk
from llmspec.compiler.cost import share_read
from llmspec.compiler.dropped import undropped
from llmspec.compiler.phase_model import trained, with_heads
from llmspec.compiler.plan import ModelPlan, OtherPlan, PhasePlan
from llmspec.parts.objectives.value_function import CRITIC
from llmspec.parts.phases import Phase


def critic_phase(phase: Phase) -> Phase:
    """How a phase trains its critic: with its own batches, optimizer and schedule, all tensors alike."""
    from llmspec.parts.objectives.ppo import PPO
    from llmspec.parts.objectives.values import Values

    objective = phase.objective
    assert isinstance(objective, PPO), "it has values"
    value = objective.value
    values = Values(head=value.head, coefficient=value.coefficient, clip_range=value.clip_range)
    changes = {
        "objective": values,
        "adapter": None,
        "heads": {},
        "freeze": (),
        "unfreeze": {},
        "lr_multipliers": {"*": value.lr_multiplier} if value.lr_multiplier != 1 else {},
        "layerwise_lr_decay": 1.0,
        "ema": None,
    }
    return phase.model_copy(update=changes)


def critic_model(body: ModelPlan, phase: Phase) -> ModelPlan:
    """The body with a head for values alone: the one that it has, or a new one."""
    from llmspec.parts.heads.scalar import Scalar

    head = phase.objective.head
    known = body.heads.get(head)
    kept = {head: known} if known is not None and known.kind == Scalar().kind else {}
    bare = body.model_copy(update={"heads": kept})
    made = undropped(with_heads(bare, {} if kept else {head: Scalar(bias=True)}))
    tensors = tuple(trained(t, t.role != "buffer") for t in made.tensors)
    made = made.model_copy(update={"tensors": tensors})
    flops = walk.forward_flops(made, phase.objective.heads, share_read(made, phase))
    return made.model_copy(update={"flops_per_token": flops})


def critic_of(phase: Phase, others: Mapping[str, OtherPlan]) -> tuple[ModelPlan, Phase] | None:
    """(the model of a phase's critic, how that is trained); None where values are said by the policy's own body, or
    where nothing is known yet of the model that is to say them."""
    other = others.get(CRITIC)
    if other is None:
        return None
    how = critic_phase(phase)
    return critic_model(other.model, how), how


def critic_plan(planned: PhasePlan) -> PhasePlan | None:
    """The same as a phase by itself."""
    found = critic_of(planned.phase, planned.others)
    if found is None:
        return None
    return planned.model_copy(update={"model": found[0], "phase": found[1], "others": {}, "memory": None})
