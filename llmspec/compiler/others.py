"""Models that stand beside the one that a phase trains: frozen, and given the same tokens, such as a teacher.

What they are, whether they fit the trained one, and what they read, compute and hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmspec.compiler import walk
from llmspec.compiler.masks import RANGES, masks_of, padding_inputs, range_inputs
from llmspec.compiler.plan import Cost, ModelPlan, OtherPlan, PhasePlan
from llmspec.core.problems import Problem, either, one_of
from llmspec.parts.base import InputSpec
from llmspec.parts.others import Other, StartModel
from llmspec.parts.phases import Phase

Others = Mapping[str, OtherPlan]
"""By role."""


def resolved(
    phase: Phase, model: ModelPlan, planned: Sequence[PhasePlan], known: Others
) -> tuple[dict[str, OtherPlan], list[Problem]]:
    """(the models that stand beside `model`, what is wrong with them as seen from the phase).

    A phase's own is that of the phases that were `planned` before it; of a model that is there already, what is `known`
    of it, which is nothing before it was opened.
    """
    found, problems = dict[str, OtherPlan](), list[Problem]()
    for other in phase.others():
        made = next((p for p in planned if p.name == other.phase), None)
        if made is not None:
            if made.makes not in other.takes:
                # A reference that nobody names is what the phase starts from, of which the same is said.
                problems += [wrong_sort(other, made)] if getattr(phase, str(other.path[0])) is not None else []
                continue
            found[other.role] = OtherPlan(model=made.model, phase=made.name, once=other.once)
        elif other.phase and other.judges:
            problems.append(unmade(other, planned))
        elif isinstance(other.model, StartModel) and other.role in known:
            found[other.role] = known[other.role]
        if other.role in found:
            problems += unfit(other, found[other.role].model, model)
    return found, problems


def unmade(other: Other, planned: Sequence[PhasePlan]) -> Problem:
    """The problem of a name that no phase before this one has."""
    able = [p.name for p in planned if p.makes in other.takes]
    return Problem(
        f"no phase before this one is called `{other.phase}`",
        other.path,
        one_of(other.phase, able) if able else "a phase of kind reward, or `{model: FOLDER}`",
        "there would be no reward",
    )


def wrong_sort(other: Other, made: PhasePlan) -> Problem:
    """The problem of a phase that makes something else than is asked for."""
    role = other.role.rstrip("0123456789 ")  # of several of the same sort
    return Problem(
        f"{either([role])} is {either(other.takes)}, and {made.name} makes {either([made.makes])}",
        other.path,
        f"a phase that makes a {other.takes[0]}, or {{model: FOLDER}}",
        "what it says could not be compared",
    )


def unfit(other: Other, theirs: ModelPlan, model: ModelPlan) -> Iterator[Problem]:
    """Why a model cannot stand beside another one: it gives no logits of the same tokens at the same places."""
    wrong = ""
    if other.judges:  # it reads texts, outside of the graph
        return
    if theirs.encoder is not None or model.encoder is not None:
        wrong = f"the {other.role} and the model that is trained both have to be decoders, without an encoder"
    elif other.body and theirs.adapter is not None:
        wrong = f"the {other.role} is trained as a whole, and this model has an adapter beside weights that stay"
    elif other.body and theirs.context != model.context:
        wrong = (
            f"the {other.role} reads {theirs.context:,} tokens, and has to read {model.context:,} as this model does"
        )
    elif not other.body and not theirs.generates:
        wrong = f"the {other.role} has no logits of the next token"
    elif theirs.vocab != model.vocab:
        wrong = f"the {other.role} has a vocabulary of {theirs.vocab:,}, and this model one of {model.vocab:,}"
    elif theirs.context < model.context:
        wrong = f"the {other.role} reads {theirs.context:,} tokens, and rows of this phase have {model.context:,}"
    if wrong:
        yield Problem(
            wrong,
            other.path,
            f"another {other.role}; it may be of any size, with the tokenizer and at least the context of this model",
            "the two could not be compared, token by token",
        )


def models(others: Others) -> tuple[ModelPlan, ...]:
    """The models of those that are asked in every pass."""
    return tuple(other.model for other in others.values() if not other.once)


# -- what they read --------------------------------------------------------------------------------------------------
def declared_beside(rows: int, tokens: int, apart: bool, others: Others) -> dict[str, InputSpec]:
    """What they read of a batch beside its tokens, as llmspec.compiler.inputs declares it of the trained model."""
    declared = dict[str, InputSpec]()
    for model in models(others):
        for name, mask in masks_of(model).items():
            declared[RANGES + name] = InputSpec((rows if apart or not mask.causal else 1, tokens, 2), "int32")
        if apart or walk.follows_length(model, model.decoder):
            declared["positions"] = InputSpec((rows, tokens), "int32")
    return declared


def arrays_beside(
    others: Others, apart: bool, tokens: int, documents_BT: object, filled_B: object, prefix_BT: object = None
) -> dict[str, object]:
    """The same as numpy arrays."""
    made = dict[str, object]()
    for model in models(others):
        made |= range_inputs(model, apart, tokens, documents_BT, filled_B, prefix_BT)
        padding = padding_inputs(model, model.decoder, filled_B, tokens)
        made |= {name: array for name, array in padding.items() if name == "positions"}
    return made


# -- what they compute and hold --------------------------------------------------------------------------------------
def cost_beside(phase: Phase, context: int, others: Others) -> Cost:
    """FLOPs of one pass forward of all of them."""
    tokens, products, other = phase.micro_batch_size * context, 0.0, 0.0
    for model in models(others):
        head = model.generating_head
        assert head is not None, "it has logits"
        products += walk.forward_flops(model, head) * tokens
        other += walk.elementwise(model.model_copy(update={"dropout": 0.0}), head, 1.0).forward * tokens
    return Cost(products=products, other=other)
