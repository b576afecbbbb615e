"""The model of each phase: the spec's network with the heads that phases add, and what of it the phase trains.

A tensor is trained where the phase's objective reads it and no `freeze` pattern names it. Everything else keeps its
numbers: it has no gradient, no optimizer state and no part in clipping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from llmspec.compiler import walk
from llmspec.compiler.cost import share_read
from llmspec.compiler.draft import closed
from llmspec.compiler.dropped import undropped
from llmspec.compiler.linear_layers import adaptable, beside
from llmspec.compiler.plan import ModelPlan, TensorPlan
from llmspec.compiler.update_problems import nearest_names, update_problems
from llmspec.core.problems import Problem
from llmspec.parts.adapters.base import matches
from llmspec.parts.heads import Head
from llmspec.parts.phases import Phase
from llmspec.parts.phases.base import MODEL, POLICY


def phase_models(
    network: ModelPlan, phases: Mapping[str, Phase], order: Sequence[str]
) -> tuple[dict[str, ModelPlan], list[Problem]]:
    """(model of each phase by name, what is wrong with what phases add and freeze).

    A phase has the heads of the one that it starts from, and those that it adds; what was frozen there is not frozen
    here unless it says so, and what was not dropped there is dropped here.
    """
    models, dropping = dict[str, ModelPlan](), dict[str, ModelPlan]()
    problems: list[Problem] = []
    for name in order:
        phase = phases[name]
        dropping[name], found = phase_model(dropping.get(phase.parent, network), phase)
        models[name] = dropping[name] if phase.drops else undropped(dropping[name])
        problems += [p.at("phases", name) for p in found]
    return models, problems


def phase_model(base: ModelPlan, phase: Phase) -> tuple[ModelPlan, list[Problem]]:
    """(the model of a phase that starts from `base`, what is wrong with it)."""
    problems = [
        Problem(
            f"the model that this phase starts from has a head `{name}` already",
            ("heads", name),
            "another name, or leave it out to train on the head that is there",
            "two heads would write to the same tensors",
        )
        for name in phase.heads
        if name in base.heads
    ]
    added = phase.added_heads(base.heads, sees_ahead(base))
    model = with_heads(base, added) if added and not problems else base
    model, found = adapted(model, phase)
    problems += found
    names = [t.name for t in model.tensors]
    whole = not problems  # else tensors are lacking, and patterns of theirs would be called wrong
    problems += wrong_patterns(phase.freeze, names, ("freeze",), "it would freeze nothing")
    free = read_by(model, phase.objective.heads)
    if model.adapter is not None:
        own = tuple(f"{walk.head_path(name)}." for name in added)
        free = {name for name in free if model.adapter.owns(name) or name.startswith(own or ("\0",))}
    frozen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in phase.freeze)}
    nothing = not free - frozen
    if nothing and not problems:
        problems.append(
            Problem(
                f"all tensors that the head `{phase.objective.head}` reads are frozen"
                if model.adapter is None
                else "the model stays as it is beside an adapter, and all of the adapter is frozen, too",
                ("freeze",),
                "patterns that leave some of them out, or a head of its own in `heads:`",
                "there would be nothing to train",
            )
        )
    free -= {t.name for t in model.tensors if t.role == "buffer"}
    tensors = tuple(trained(t, t.name in free and t.name not in frozen) for t in model.tensors)
    heads = phase.objective.heads if phase.objective.head in model.heads else None
    flops = walk.forward_flops(model, heads, share_read(model, phase))
    made = model.model_copy(update={"tensors": tensors, "flops_per_token": flops})
    return made, [*problems, *(update_problems(made, phase) if whole and not nothing else ())]


def with_heads(base: ModelPlan, heads: Mapping[str, Head]) -> ModelPlan:
    """The model with the heads that a phase adds after its own."""
    dims, init = base.dims, base.init
    if init is None:
        raise ValueError("a phase adds a head, and the plan does not say how tensors start")
    added = {name: closed(head, head.defaults(dims)) for name, head in heads.items()}
    model = base.model_copy(update={"heads": {**base.heads, **added}})
    known = {t.name: t for t in base.tensors}
    tensors = (
        known.get(name) or TensorPlan(name=name, shape=t.shape, role=t.role, init=init.init(t, dims))
        for name, t in walk.tensor_specs(model)
    )
    return model.model_copy(update={"tensors": tuple(tensors)})


def adapted(base: ModelPlan, phase: Phase) -> tuple[ModelPlan, list[Problem]]:
    """(the model with the adapter that a phase adds, what is wrong with that)."""
    adapter = phase.adapter
    if adapter is None:
        return base, []
    if phase.from_ is None:
        wrong = Problem(
            "an adapter stands beside the weights of a trained model, and this phase starts from none",
            ("adapter",),
            "`from: PHASE` or `from: {model: FOLDER}`, or leave `adapter:` out to train all weights",
            "random weights would stay as they are",
        )
        return base, [wrong]
    if base.adapter is not None:
        wrong = Problem(
            "the model that this phase starts from has an adapter already",
            ("adapter",),
            "leave `adapter:` out to train that one on; or `llmspec merge` the run, and start from what that writes",
            "two adapters would write to the same tensors",
        )
        return base, [wrong]
    layers = adaptable(base)
    aim = ("adapter", "targets")
    wrong_targets = [
        problem
        for i, pattern in enumerate(adapter.targets)
        if not any(matches(layer, pattern) for layer in layers)
        for problem in wrong_patterns((pattern,), layers, aim, "it would adapt nothing", "linear layer", i)
    ]
    if wrong_targets:
        return base, wrong_targets
    return beside(base, adapter), []


def trained(tensor: TensorPlan, trainable: bool) -> TensorPlan:
    """The tensor, trained or not."""
    return tensor if tensor.trainable == trainable else tensor.model_copy(update={"trainable": trainable})


def read_by(model: ModelPlan, heads: Sequence[str]) -> set[str]:
    """Names of the tensors that a pass with these heads reads: all but those of other heads."""
    others = tuple(f"{walk.head_path(name)}." for name in model.heads if name not in heads)
    return {t.name for t in model.tensors if not t.name.startswith(others)}


def wrong_patterns(
    patterns: Sequence[str],
    names: Sequence[str],
    path: tuple[str, ...],
    consequence: str,
    what: str = "tensor",
    first: int = 0,
) -> Iterator[Problem]:
    """Patterns that no tensor's name matches, with the names that come nearest."""
    for i, pattern in enumerate(patterns, first):
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        yield Problem(
            f"no {what} of this phase's model matches `{pattern}`",
            (*path, i),
            nearest_names(pattern, names),
            consequence,
        )


def artifact(phase: Phase, model: ModelPlan) -> str:
    """The sort of artifact that a phase leaves: `model` where it should draw text and its head gives none."""
    draws = model.generates and phase.objective.head == model.generating_head
    return MODEL if phase.makes == POLICY and not draws else phase.makes


def sees_ahead(model: ModelPlan) -> bool:
    """Whether tokens see what follows them, in every block that the heads read."""
    return not any(block.mask.causal or block.mask.has_prefix for block in model.decoder.blocks)
