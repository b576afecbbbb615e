"""Models that phases start from: opened before the data are read, held against the spec, and known by a hash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmspec.compiler.linear_layers import may_stay_quantised
from llmspec.compiler.phase_model import sees_ahead
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.problems import Problem, RunError, SpecError
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES
from llmspec.formats.bases import digest_of, folder_of, model_in, weights_of, whole_weights
from llmspec.formats.hf.same_model import differences
from llmspec.parts.others import StartModel
from llmspec.parts.phases.base import OPENED, SPEAKING
from llmspec.parts.phases.labelled import UNKNOWN_LABELS
from llmspec.parts.tokenizers.special_tokens import EOS

__all__ = ["closed", "digest_of", "folder_of", "same_tokenizer", "weights_of"]

MOST = 4
"""Differences that are named, at most."""


def closed(plan: Plan, notice: Callable[[str], object] = lambda said: None) -> Plan:
    """The plan whose phases know the hash of the models that they start from.

    `notice` is told where such a model has settings that the spec's has not. Raises SpecError where there is none, its
    tensors or its tokenizer are not the spec's, or it is not the one that a `digest:` means.
    """
    phases, problems = list(plan.phases), list[Problem]()
    for i, planned in enumerate(phases):
        start = planned.phase.from_
        if not isinstance(start, StartModel):
            continue
        path = ("phases", planned.name, "from")
        try:
            wrong, found = _opened(plan, planned, start, notice)
        except RunError as error:
            wrong, found = [Problem(p.message, hint=p.hint, consequence=p.consequence) for p in error.problems], None
        problems += [p.at(*path) for p in wrong]
        if found is not None:
            phase = planned.phase.model_copy(update={"from_": found})
            phases[i] = planned.model_copy(update={"phase": phase})
    if problems:
        raise SpecError(problems)
    return plan.model_copy(update={"phases": tuple(phases)})


def _opened(
    plan: Plan, planned: PhasePlan, start: StartModel, notice: Callable[[str], object]
) -> tuple[list[Problem], StartModel | None]:
    folder = folder_of(plan, start)
    theirs = folder.plan()
    name, model = model_in(folder, theirs)
    if problems := [
        *shape_problems(planned, model, start),
        *head_problems(planned, theirs, start),
        *tokenizer_problems(plan, theirs, start),
    ]:
        return problems, None
    if apart := differences(plan.model, model):
        notice(f"{planned.name} starts from {start.said}, whose settings differ: {'; '.join(apart[:MOST])}")
    weights = whole_weights(folder, theirs, name)[1]
    digest = digest_of(weights)
    if problems := list(digest_problems(start, digest)):
        return problems, None
    return [], start.model_copy(update={"digest": digest, "bytes": held(plan, planned, weights)})


def held(plan: Plan, planned: PhasePlan, weights: Mapping[str, Any]) -> int | None:
    """Bytes that the weights which a phase adapts take in memory. None where all are float32."""
    return weights_held(plan, planned.model, weights) if planned.model.adapter is not None and on_cpu(plan) else None


def on_cpu(plan: Plan) -> bool:
    return plan.device.startswith("CPU")


def weights_held(plan: Plan, model: ModelPlan, weights: Mapping[str, Any]) -> int:
    """Bytes that weights which are only read take in memory: a CPU reads those of linear layers as they lie."""
    stay, found = may_stay_quantised(model) if on_cpu(plan) else (), 0
    for name, array in weights.items():
        packed = name in stay and isinstance(array, Quantised)
        found += TYPES[array.type].size(array.shape) if packed else 4 * math.prod(array.shape)
    return found


def digest_problems(start: StartModel, digest: str) -> Iterator[Problem]:
    """Weights that are not those that a `digest:` means."""
    if start.digest not in (None, digest):
        yield Problem(
            f"the weights of {start.said} are not those of this digest: they have {digest}",
            ("digest",),
            "put back the model that was meant, or leave `digest:` out",
            "training would use other weights",
        )


def shape_problems(planned: PhasePlan, model: ModelPlan, start: StartModel) -> Iterator[Problem]:
    """Tensors of the spec's model, but for heads that the phase adds, that are not there, or not of that shape."""
    heads = planned.phase.added_heads(model.heads, sees_ahead(planned.model))
    added, adapter = tuple(f"{head}_head." for head in heads), planned.model.adapter
    if model.adapter is not None:
        yield Problem(
            f"{start.said} is a model with an adapter beside it",
            ("model",),
            f"llmspec merge {start.said} --out FOLDER, and start from that; or `from:` its phase, in the same spec",
            "the adapter's tensors would have no place",
        )
        return
    own = [t for t in planned.model.tensors if not (adapter and adapter.owns(t.name))]
    wanted = {t.name: t.shape for t in own if not t.name.startswith(added or ("\0",))}
    there = {t.name: t.shape for t in model.tensors}
    wrong = [f"{n} is {list(there[n])}, not {list(s)}" for n, s in wanted.items() if n in there and there[n] != s]
    wrong += [f"{n} is not there" for n in wanted if n not in there]
    wrong += [f"{n} has no place" for n in there if n not in wanted]
    if wrong:
        more = f", and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        yield Problem(
            f"the model of {start.said} is another than the spec's: {'; '.join(wrong[:MOST])}{more}",
            ("model",),
            "`extends:` its spec.yaml, or write the same `model:`",
            "its weights would not fit",
        )


def head_problems(planned: PhasePlan, theirs: Plan, start: StartModel) -> Iterator[Problem]:
    """A head of the same name that the last model of a run has for other labels."""
    last, name = next((p for p in reversed(theirs.phases) if p.makes in OPENED), None), planned.phase.objective.head
    if last is None or last.makes in SPEAKING:
        return
    told, wanted = (getattr(model.heads.get(name), "labels", None) for model in (last.model, planned.model))
    if told and wanted and tuple(told) != tuple(wanted):
        unknown = tuple(wanted) == UNKNOWN_LABELS
        yield Problem(
            f"the head `{name}` of {start.said} tells {', '.join(told[:MOST])}, and "
            + ("this phase finds its labels in the data" if unknown else f"this phase {', '.join(wanted[:MOST])}"),
            ("model",),
            (f"labels: [{', '.join(told)}]" if unknown else "the same `labels:`")
            + f" goes on with it; `objective: {{head: {name}_2}}` begins a head of its own",
            "the weights of one label would be the start of another",
        )


def tokenizer_problems(plan: Plan, theirs: Plan, start: StartModel) -> Iterator[Problem]:
    """A tokenizer that cannot be the model's: one that is learned anew. Whether it is, `same_tokenizer` says later."""
    if plan.tokenizer.learns and plan.tokenizer.identity() != theirs.tokenizer.identity():
        yield Problem(
            f"the spec's tokenizer is not that of {start.said}",
            ("model",),
            f"{tokenizer_of(start, theirs)}, or `extends:` its spec.yaml",
            "the weights would read other ids than they know",
        )


def tokenizer_of(start: StartModel, theirs: Plan) -> str:
    """How a spec takes the tokenizer of a model: one that was learned here lies without files that name its tokens."""
    eos = f', eos: "{EOS}"' if theirs.tokenizer.learns else ""
    return f"tokenizer: {{kind: huggingface, file: {start.said}/tokenizer.json{eos}}}"


def same_tokenizer(plan: Plan, codec: Any) -> None:
    """Raises SpecError where a phase starts from a model, or one stands beside it, whose ids mean something else than
    the codec's."""
    problems = []
    for planned in plan.phases:
        named = [(("from",), planned.phase.from_), *((o.path, o.model) for o in planned.phase.others())]
        for path, start in named:
            if not isinstance(start, StartModel):
                continue
            folder = folder_of(plan, start)
            theirs = folder.plan()
            if folder.tokenizer(theirs).to_json() != codec.to_json():
                problems.append(
                    Problem(
                        f"the spec's tokenizer is not that of {start.said}",
                        ("phases", planned.name, *path, "model"),
                        tokenizer_of(start, theirs),
                        "the weights would read other ids than they know",
                    )
                )
    if problems:
        raise SpecError(problems)
